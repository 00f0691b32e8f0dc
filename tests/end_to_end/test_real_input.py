"""Recorded logs of Ethereum and Base through the daemon: every row says what the recording says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
import real_input
from processes import Programs, chain_table
from real_input import hexed
from simulator.chain import SimChain
from simulator.node import SimNode

from indexer.core.chains import MAINNET
from indexer.core.types import RawLog

pytestmark = pytest.mark.skipif(
    not real_input.FOLDER.is_dir(), reason="the recorded data is not part of the project and does not lie beside it"
)
ETHEREUM, BASE = 1, 8453
Rows = list[asyncpg.Record]


def ethereum() -> SimChain:
    uris = real_input.ethereum_uris()
    return SimChain.from_logs([*real_input.mints(uris), *(one.log for one in uris)], chain_id=ETHEREUM)


def base() -> SimChain:
    return SimChain.from_logs(real_input.base_logs(), chain_id=BASE)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url, server_settings={"search_path": "erc8004"})
    yield connection
    await connection.close()


async def index(programs: Programs) -> dict[str, dict[str, Any]]:
    """Run the daemon over the chains until their heads; return what it printed, by chain."""
    async with (
        SimNode(ethereum(), max_range=10_000) as first,
        SimNode(base(), max_range=100_000, max_addresses=10, block_timestamp=False) as second,
    ):
        programs.configure(
            # Recorded blocks have hashes of headers that nobody recorded.
            f'[[chain]]\nname = "ethereum"\nrpc = ["{first.url}"]\nproof = "off"\nmax_block_range = 20000\n',
            chain_table(
                "base",
                second.url,
                chain_id=BASE,
                deployment=real_input.base_deployment(),
                start_block=real_input.BASE_START_BLOCK,
                proof="off",
                max_block_range=1_000_000,
            ),
        )
        code, program = await programs.run("run", "--until", "head", "--json")
    assert code == 0, program.stderr[-20:]
    return {one["name"]: one for one in program.document["chains"]}


async def test_two_real_chains_at_once_tell_what_was_recorded(programs: Programs, database: asyncpg.Connection) -> None:
    done = await index(programs)

    for name, chain in (("ethereum", ethereum()), ("base", base())):
        assert done[name]["to_block"] == chain.head.number
        assert done[name]["logs"] == len(chain.logs())
        await expect_ledger(database, chain)
    await expect_agents(database)
    await expect_uri_history(database)
    await expect_catalog(database)
    await expect_validations(database)
    await expect_validation_responses(database)
    await expect_revocations(database)
    await expect_healthy(database)


async def expect_ledger(database: asyncpg.Connection, chain: SimChain) -> None:
    rows = await database.fetch(
        "SELECT * FROM erc8004_events WHERE chain_id = $1 ORDER BY block_number, log_index", chain.chain_id
    )
    assert [raw_of(row) for row in rows] == [told(log) for log in chain.logs()]
    assert not [row["defect"] for row in rows if row["event"] is None]
    assert {row["block_timestamp"] for row in rows} == {time_of(log.timestamp) for log in chain.logs()}


def raw_of(row: asyncpg.Record) -> tuple[object, ...]:
    names = ("block_number", "log_index", "block_hash", "tx_hash", "block_timestamp", "address", "topics", "data")
    return tuple(row[name] for name in names)


def told(log: RawLog) -> tuple[object, ...]:
    place = (log.block_number, log.log_index, hexed(log.block_hash), hexed(log.tx_hash), time_of(log.timestamp))
    return (*place, hexed(log.address), [hexed(topic) for topic in log.topics], log.data)


def time_of(seconds: int | str) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)


async def expect_agents(database: asyncpg.Connection) -> None:
    """Hold the 126 agents on Ethereum against eth-abi's reading of their logs; 17 were recorded by an update alone."""
    uris = real_input.ethereum_uris()
    minted = {int.from_bytes(log.topics[3]): hexed(log.topics[2][12:]) for log in real_input.mints(uris)}
    registered = {one.agent_id: one for one in uris if one.is_registration}
    latest = {one.agent_id: one for one in uris}

    rows = await database.fetch("SELECT * FROM erc8004_agents WHERE chain_id = $1", ETHEREUM)

    assert {int(row["agent_id"]) for row in rows} == latest.keys()
    assert len(rows) == 126
    for row in rows:
        agent = int(row["agent_id"])
        birth = registered.get(agent)
        assert row["registry_address"] == hexed(MAINNET.identity)
        assert row["owner_address"] == minted.get(agent)
        assert (row["token_uri"].encode(), row["token_uri_raw"]) == (latest[agent].uri, None)
        assert row["status"] == ("registered" if birth else "partial")
        assert row["created_block"] == (birth.log.block_number if birth else None)
        assert row["created_tx_hash"] == (hexed(birth.log.tx_hash) if birth else None)
        if birth:
            assert row["owner_address"] == birth.actor
    await expect_partial_agents_on_base(database)


async def expect_partial_agents_on_base(database: asyncpg.Connection) -> None:
    """None of their registrations was recorded: they are known by what was said of them."""
    rows = await database.fetch("SELECT * FROM erc8004_agents WHERE chain_id = $1", BASE)
    named = [*real_input.base_requests(), *real_input.base_responses(), *real_input.base_revocations()]
    assert sorted(int(row["agent_id"]) for row in rows) == sorted({int(row["agentId"]) for row in named})
    unknown = ("owner_address", "agent_wallet", "token_uri", "created_at", "created_block", "created_tx_hash")
    assert {(row["status"], *(row[name] for name in unknown)) for row in rows} == {("partial", *[None] * len(unknown))}


async def expect_uri_history(database: asyncpg.Connection) -> None:
    rows = await database.fetch(
        "SELECT * FROM erc8004_agent_uris WHERE chain_id = $1 ORDER BY from_block, log_index", ETHEREUM
    )
    assert [
        (int(row["agent_id"]), row["token_uri"].encode(), row["from_block"], row["log_index"], row["tx_hash"])
        for row in rows
    ] == [
        (one.agent_id, one.uri, one.log.block_number, one.log.log_index, hexed(one.log.tx_hash))
        for one in real_input.ethereum_uris()
    ]


async def expect_catalog(database: asyncpg.Connection) -> None:
    """Hold first blocks and transactions against a catalogue that others made from the same chain."""
    known = real_input.catalog()
    rows = await database.fetch(
        "SELECT * FROM erc8004_agents WHERE chain_id = $1 AND created_block IS NOT NULL", ETHEREUM
    )
    both = [(row, known[int(row["agent_id"])]) for row in rows if int(row["agent_id"]) in known]
    assert len(both) == 81
    for row, told_there in both:
        assert (row["created_block"], row["created_tx_hash"]) == (told_there["registeredBlock"], told_there["txHash"])


async def expect_validations(database: asyncpg.Connection) -> None:
    latest = {(row["contract"], row["requestHash"]): row for row in in_order(real_input.base_responses())}
    rows = await database.fetch("SELECT * FROM erc8004_validations WHERE chain_id = $1", BASE)
    found = {(row["validation_registry"], row["request_hash"]): row for row in rows}
    requests = real_input.base_requests()
    assert len(found) == len(rows) == len(requests)
    assert {registry for registry, _ in found} == {hexed(one) for one in real_input.base_deployment().validation}
    for asked in requests:
        row = found[asked["contract"], asked["requestHash"]]
        assert placed(row) == placed_in_file(asked)
        assert row["request_uri"] == asked["requestURI"]
        assert row["requested_at"] == time_of(asked["timestamp"])
        answer = latest.get((asked["contract"], asked["requestHash"]))
        assert row["status"] == ("completed" if answer else "pending")
        if answer:
            assert row["response"] == int(answer["response"])
            assert row["responded_at"] == time_of(answer["timestamp"])
            assert (row["response_uri"], row["tag"]) == (answer["responseURI"], answer["tag"])
            assert row["response_hash"] == answer["responseHash"]


async def expect_validation_responses(database: asyncpg.Connection) -> None:
    rows = await database.fetch(
        "SELECT * FROM erc8004_validation_responses WHERE chain_id = $1 ORDER BY block_number, log_index", BASE
    )
    answers = in_order(real_input.base_responses())
    assert len(rows) == len(answers)
    for row, answer in zip(rows, answers, strict=True):
        assert placed(row) == placed_in_file(answer)
        assert (row["validation_registry"], row["request_hash"]) == (answer["contract"], answer["requestHash"])
        assert (row["response"], row["tag"]) == (int(answer["response"]), answer["tag"])
        assert (row["response_uri"], row["response_hash"]) == (answer["responseURI"], answer["responseHash"])
        assert row["created_at"] == time_of(answer["timestamp"])


def in_order(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return sorted(rows, key=lambda row: (int(row["blockNumber"]), int(row["logIndex"])))


def placed(row: asyncpg.Record) -> tuple[object, ...]:
    return (int(row["agent_id"]), row["validator_address"], row["block_number"], row["log_index"], row["tx_hash"])


def placed_in_file(row: dict[str, str]) -> tuple[object, ...]:
    place = (int(row["blockNumber"]), int(row["logIndex"]), row["txHash"])
    return (int(row["agentId"]), row["validatorAddress"], *place)


async def expect_revocations(database: asyncpg.Connection) -> None:
    """Their feedback was not recorded: the ledger has them, and no feedback is made up."""
    rows = await database.fetch(
        "SELECT agent_id::text, args->>'clientAddress' AS client, args->>'feedbackIndex' AS index, block_number::text,"
        " tx_hash FROM erc8004_events WHERE chain_id = $1 AND event = 'FeedbackRevoked'",
        BASE,
    )
    expected = [tuple(row.values()) for row in real_input.base_revocations()]
    assert sorted(tuple(row) for row in rows) == sorted(expected)
    assert await database.fetchval("SELECT count(*) FROM erc8004_reputation") == 0
    assert await database.fetchval("SELECT sum(revoked_feedback) FROM v_erc8004_agent_reputation") == 0


async def expect_healthy(database: asyncpg.Connection) -> None:
    rows: Rows = await database.fetch("SELECT * FROM v_erc8004_indexer_status ORDER BY chain_id")
    assert [row["chain"] for row in rows] == ["ethereum", "base"]
    for row in rows:
        assert (row["gap_blocks"], row["undecodable_logs"], row["lag_blocks"]) == (0, 0, 0)
        assert (row["state"], row["proof"]) == ("live", "off")
