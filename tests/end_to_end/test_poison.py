"""Ten thousand logs, nasty in every way, through the daemon: the good ones exact, the bad ones marked, no byte lost."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from itertools import groupby
from typing import Any

import asyncpg
import pytest
from indexing import index
from ledger import CHAIN_ID, tables_of
from poison import Case, Poisons
from processes import Programs, chain_table
from redis.asyncio import Redis
from simulator.chain import SimChain
from simulator.node import SimNode

from indexer.store.database import Database

LOGS, LOGS_A_BLOCK = 10_000, 90
Position = tuple[int, int]
_VIEWS_BY_CHANGE = ("erc8004_agent_owners", "erc8004_agent_uris", "erc8004_agent_wallets")


class World:
    """A chain of poison, and what is to come of it."""

    def __init__(self, seed: int) -> None:
        self.poisons = Poisons(seed)
        rare = self.poisons.rare()
        # Oddities leave their own agents behind; what is drawn after them goes on with these.
        cases = rare + self.poisons.cases(LOGS - len(rare))
        self.chain = SimChain(seed=seed)
        self.by_position: dict[Position, Case] = {}
        for block in _blocks(cases):
            # Blocks of sub-second chains share their time; some come hours late.
            step = self.poisons.random.choice((0, 0, 1, 12, 10_000))
            number = self.chain.mine([case.log for case in block], timestamp_step=step).number
            self.by_position |= {(number, log_index): case for log_index, case in enumerate(block)}
            if self.poisons.random.random() < 0.1:
                self.chain.mine_empty(3)
        self.chain.mine_empty(10)

    @property
    def undecodable(self) -> int:
        return sum(case.event is None for case in self.by_position.values())


def _blocks(cases: Sequence[Case]) -> list[list[Case]]:
    """Fill blocks without dividing a transaction."""
    blocks: list[list[Case]] = [[]]
    for tx_hash, group in groupby(cases, key=lambda case: case.log.tx_hash):
        for part in [list(group)] if tx_hash else [[case] for case in group]:
            if len(blocks[-1]) >= LOGS_A_BLOCK:
                blocks.append([])
            blocks[-1] += part
    return blocks


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url, server_settings={"search_path": "erc8004"})
    await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    yield connection
    await connection.close()


async def test_nothing_that_is_emitted_stops_the_daemon_or_spoils_a_row(
    programs: Programs, database: asyncpg.Connection, database_url: str, another_database_url: str, valkey_url: str
) -> None:
    world = World(1)
    async with SimNode(world.chain) as node:
        programs.configure(chain_table("local", node.url, max_block_range=7))
        program = await programs.start("run", "--until", "head", "--json", ERC8004_PUBLISH_BACKFILL="true")
        code = await program.ended(60)
        assert code == 0, program.stderr[-20:]
        assert program.document["chains"][0]["logs"] == len(world.by_position) >= LOGS

        await expect_ledger(database, world)
        await expect_rows(database, world)
        await expect_agents(database, world)
        await expect_metadata(database, world)
        await expect_every_view_readable(database)
        await expect_changes(database, world)
        await expect_stream(valkey_url, world)
        assert program.count("process_crashed") == program.count("chain_restarted") == 0
        await expect_verified(programs)
        await expect_the_same_in_other_batches(database_url, another_database_url, node)


async def expect_ledger(database: asyncpg.Connection, world: World) -> None:
    """Compare every byte with the node's truth, and what was made of it with what was meant."""
    rows = await database.fetch("SELECT * FROM erc8004_events ORDER BY block_number, log_index")
    truth = world.chain.logs()
    assert len(rows) == len(truth) == len(world.by_position)
    for row, log in zip(rows, truth, strict=True):
        case = world.by_position[log.block_number, log.log_index]
        assert (row["block_number"], row["log_index"], row["data"]) == (log.block_number, log.log_index, log.data)
        assert (row["address"], row["topics"]) == (f"0x{log.address.hex()}", [f"0x{t.hex()}" for t in log.topics])
        assert (row["tx_hash"], row["block_hash"]) == (f"0x{log.tx_hash.hex()}", f"0x{log.block_hash.hex()}")
        assert row["block_timestamp"].timestamp() == log.timestamp
        assert (row["event"], row["defect"]) == (case.event, case.defect)
        expect_args(row["args"], case.args)
    status = await database.fetchrow("SELECT * FROM v_erc8004_indexer_status")
    assert status is not None
    assert (status["undecodable_logs"], status["gap_blocks"]) == (world.undecodable, 0)


def expect_args(found: dict[str, Any] | None, expected: dict[str, object] | None) -> None:
    if expected is None or found is None:
        assert found is expected
        return
    assert {name.removesuffix("_raw") for name in found} == expected.keys()
    for name, value in expected.items():
        if isinstance(value, bytes):
            raw = found.get(f"{name}_raw")
            expect_text(found[name], None if raw is None else bytes.fromhex(raw[2:]), value)
        else:
            assert found[name] == value


def expect_text(text: str | None, raw: bytes | None, expected: bytes) -> None:
    """Text says all that PostgreSQL can hold; what it cannot is whole beside it, and only then."""
    assert text is not None
    if raw is None:
        assert text.encode() == expected
    else:
        assert raw == expected
        assert "\N{REPLACEMENT CHARACTER}" in text
        assert b"\x00" in raw or raw.decode(errors="ignore").encode() != raw


async def expect_rows(database: asyncpg.Connection, world: World) -> None:
    """Each view has the rows of the good logs, exact to the last digit, and no others."""
    for view in {case.view for case in world.by_position.values() if case.view}:
        block = "from_block" if view in _VIEWS_BY_CHANGE else "block_number"
        rows = {(row[block], row["log_index"]): row for row in await database.fetch(f"SELECT * FROM {view}")}
        expected = {position: case for position, case in world.by_position.items() if case.view == view}
        assert rows.keys() == expected.keys(), view
        for position, case in expected.items():
            expect_columns(rows[position], case.columns)


def expect_columns(row: asyncpg.Record, columns: dict[str, object]) -> None:
    for name, value in columns.items():
        if isinstance(value, bytes):
            expect_text(row[name], row[f"{name}_raw"], value)
        else:
            assert row[name] == value, (name, dict(row))


async def expect_agents(database: asyncpg.Connection, world: World) -> None:
    rows = {int(row["agent_id"]): row for row in await database.fetch("SELECT * FROM erc8004_agents")}
    assert rows.keys() == world.poisons.agents.keys()
    for agent, known in world.poisons.agents.items():
        row = rows[agent]
        assert row["status"] == ("registered" if known.registered else "partial")
        assert row["owner_address"] == (None if known.owner is None else f"0x{known.owner.hex()}")
        assert row["agent_wallet"] == (None if known.wallet is None else f"0x{known.wallet.hex()}")
        if known.uri is None:
            assert row["token_uri"] is row["token_uri_raw"] is None
        else:
            expect_text(row["token_uri"], row["token_uri_raw"], known.uri)


async def expect_metadata(database: asyncpg.Connection, world: World) -> None:
    rows = await database.fetch("SELECT * FROM erc8004_agent_metadata")
    found = {
        (int(row["agent_id"]), row["key"].encode() if row["key_raw"] is None else row["key_raw"]): row for row in rows
    }
    expected = {
        (agent, key): value for agent, known in world.poisons.agents.items() for key, value in known.metadata.items()
    }
    assert found.keys() == expected.keys()
    assert len(rows) == len(found)
    for key, value in expected.items():
        row = found[key]
        expect_text(row["key"], row["key_raw"], key[1])
        assert row["value"] == value
        assert row["value_text"] == text_or_none(value)


def text_or_none(value: bytes) -> str | None:
    try:
        return None if b"\x00" in value else value.decode()
    except UnicodeDecodeError:
        return None


async def expect_every_view_readable(database: asyncpg.Connection) -> None:
    names = [row[0] for row in await database.fetch("SELECT viewname FROM pg_views WHERE schemaname = 'erc8004'")]
    assert len(names) >= 20
    for name in names:
        assert await database.fetch(f"SELECT * FROM {name}"), name
    # JSON and text reach a reader through other functions, too.
    assert await database.fetchval("SELECT count(to_jsonb(e)::text) FROM erc8004_events e")
    assert await database.fetchval("SELECT count(v::text) FROM erc8004_reputation v WHERE value = value_raw * 1")


async def expect_changes(database: asyncpg.Connection, world: World) -> None:
    rows = await database.fetch("SELECT * FROM erc8004_changes WHERE kind = 'event' ORDER BY cursor")
    assert [(row["block_number"], row["log_index"]) for row in rows] == sorted(world.by_position)
    for row in rows:
        case = world.by_position[row["block_number"], row["log_index"]]
        assert row["event"] == case.event
        expect_args(row["args"], case.args)


async def expect_stream(valkey_url: str, world: World) -> None:
    """Expect one entry a change in the stream, its arguments JSON that says the same."""
    async with Redis.from_url(valkey_url, decode_responses=True) as client:
        entries = [fields for _, fields in await client.xrange(f"erc8004:{{{CHAIN_ID}}}:changes")]
    events = [fields for fields in entries if fields["kind"] == "event"]
    assert len(events) == len(world.by_position)
    for fields in events:
        case = world.by_position[int(fields["block_number"]), int(fields["log_index"])]
        assert fields.get("event", "") == (case.event or "")
        expect_args(json.loads(fields["args"]) if fields.get("args") else None, case.args)


async def expect_the_same_in_other_batches(url: str, other_url: str, node: SimNode) -> None:
    tables = []
    for one in (url, other_url):
        database = await Database.open(one, size=4)
        if one == other_url:
            await index(database, [node.url], span=31)
        tables.append(await tables_of(database))
        await database.close()
    assert {name: len(rows) for name, rows in tables[0].items()} == {
        name: len(rows) for name, rows in tables[1].items()
    }
    assert tables[0] == tables[1]


async def expect_verified(programs: Programs) -> None:
    """Have every projection computed anew from the ledger: it is what the daemon left."""
    _, program = await programs.run("verify", "--sample", "1", "--json")
    assert program.document["differences"] == 0, program.stdout[:2000]
    assert program.document["checked"] > 2 * LOGS
