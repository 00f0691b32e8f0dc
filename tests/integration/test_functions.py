"""The functions of the schema erc8004 against the contracts' own algorithms, written a second time in Python."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger import CHAIN_ID, Ledger, decoder
from simulator.chain import SimChain
from simulator.logs import form_log
from workload import DEPLOYMENT, IDENTITY, REPUTATION, VALIDATIONS, ZERO

from indexer.core.rows import RowBuilder, agent_uuid
from indexer.core.types import Deployment
from indexer.store.database import Database
from indexer.store.queries import queries

ALICE, BOB, CAROL = (bytes([n]) * 20 for n in (0xA1, 0xB2, 0xC3))
CLIENTS = (ALICE, BOB, CAROL)
OTHER = Deployment(b"\x90" * 20, b"\x91" * 20, (b"\x92" * 20,), 0)
SOME_HASH = b"\x11" * 32
NOWHERE = b"\xee" * 20
WHEN = datetime(2026, 2, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Feedback:
    """What getSummary looks at."""

    client: bytes
    value: int
    decimals: int
    tag1: str = ""
    tag2: str = ""
    revoked: bool = False


def summary_of(
    given: Sequence[Feedback], clients: Sequence[bytes], tag1: str = "", tag2: str = ""
) -> tuple[int, int, int]:
    """Do what the contract's getSummary does, in its order and with its integers."""
    found = [
        feedback
        for client in clients or dict.fromkeys(feedback.client for feedback in given)
        for feedback in given
        if feedback.client == client and not feedback.revoked
        if not tag1 or feedback.tag1.encode() == tag1.encode()
        if not tag2 or feedback.tag2.encode() == tag2.encode()
    ]
    if not found:
        return (0, 0, 0)
    total = sum(feedback.value * 10 ** (18 - feedback.decimals) for feedback in found)
    counts = Counter(feedback.decimals for feedback in found)
    mode = min(counts, key=lambda decimals: (-counts[decimals], decimals))
    result = truncated(truncated(total, len(found)), 10 ** (18 - mode))
    return (len(found), (result + 2**127) % 2**128 - 2**127, mode)


def truncated(dividend: int, divisor: int) -> int:
    """Divide as Solidity does, toward zero."""
    return abs(dividend) // divisor * (1 if dividend >= 0 else -1)


def text(address: bytes) -> str:
    return "0x" + address.hex()


@pytest.fixture
async def reader(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield a session that may do what readers may, and sees what is committed after it began."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("SET ROLE erc8004_reader; SET search_path = erc8004")
    yield connection
    await connection.close()


@pytest.fixture
async def writer(database: Database, database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield a session that may write anywhere, in a database that knows the chain's contracts."""
    await Ledger.open(database)
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def call(reader: asyncpg.Connection, name: str, *arguments: object) -> tuple[Any, ...]:
    kinds = ("bigint", "numeric", "text[]", "text", "text", "text") if name == "erc8004_summary" else {
        "erc8004_validation_summary": ("bigint", "numeric", "text[]", "text", "text"),
        "erc8004_agent_at": ("bigint", "numeric", "bigint", "text"),
    }[name]  # fmt: skip
    marks = ", ".join(f"${n}::{kind}" for n, kind in enumerate(kinds[: len(arguments)], 1))
    return tuple(await reader.fetchrow(f"SELECT * FROM {name}({marks})", *arguments))


async def summary(
    reader: asyncpg.Connection, agent: int | None, *arguments: object, chain: int | None = CHAIN_ID
) -> Any:
    return await call(reader, "erc8004_summary", chain, agent, *arguments)


def rated(
    agent: int,
    client: bytes,
    index: int,
    value: int,
    decimals: int,
    tag1: str | bytes = "",
    tag2: str | bytes = "",
    *,
    registry: bytes = REPUTATION,
) -> Any:
    return form_log(
        registry, "reputation/new_feedback", agent, client, index, value, decimals, tag1, tag1, tag2, "", "", bytes(32)
    )


async def index(database: Database, *blocks: Sequence[Any], deployment: Deployment = DEPLOYMENT) -> Ledger:
    chain = SimChain()
    for logs in blocks:
        chain.mine(logs)
    ledger = await Ledger.open(database, deployment=deployment)
    await ledger.index(chain)
    return ledger


# ---------------------------------------------------------------- erc8004_summary

values = st.one_of(
    st.integers(-200, 200),
    st.sampled_from([10**38, -(10**38), 10**38 - 1, 1, -1, 0, 2**63, -(2**63)]),
    st.integers(-(10**38), 10**38),
)
tags = st.sampled_from(["", "speed", "Speed", "speed ", "ä"])
feedback_lists = st.lists(
    st.builds(
        Feedback,
        client=st.sampled_from(CLIENTS),
        value=values,
        decimals=st.one_of(st.sampled_from([0, 2, 18]), st.integers(0, 18)),
        tag1=tags,
        tag2=tags,
        revoked=st.booleans(),
    ),
    max_size=12,
)


agents = count(1_000)  # each example is an agent of its own in one database


async def insert(connection: asyncpg.Connection, agent: int, given: Sequence[Feedback]) -> None:
    """Write feedback and its kept sums as the projections leave them."""
    uuid = agent_uuid(CHAIN_ID, IDENTITY, agent)
    rows = [
        (CHAIN_ID, agent, n, WHEN, uuid, REPUTATION, f.client, n, True, f.value, f.decimals, f.tag1, f.tag2, "",
         bytes(32), int(f.revoked), WHEN if f.revoked else None)
        for n, f in enumerate(given)
    ]  # fmt: skip
    columns = ("chain_id", "block_number", "log_index", "block_timestamp", "agent_uuid", "registry", "client",
               "feedback_index", "has_index", "value_raw", "value_decimals", "tag1", "tag2", "file_uri", "file_hash",
               "standing", "revoked_at")  # fmt: skip
    await connection.copy_records_to_table("feedback", records=rows, columns=columns, schema_name="erc8004_data")
    sums: dict[int, list[int]] = {}
    for f in given:
        part = sums.setdefault(f.decimals, [0, 0])
        part[0] += not f.revoked
        part[1] += 0 if f.revoked else f.value
    kept = [(uuid, REPUTATION, decimals, CHAIN_ID, *part) for decimals, part in sums.items()]
    await connection.copy_records_to_table("agent_values", records=kept, schema_name="erc8004_data")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(feedback_lists, st.lists(st.sampled_from((*CLIENTS, NOWHERE)), max_size=4), tags, tags)
async def test_summary_is_the_contracts_getsummary(
    writer: asyncpg.Connection,
    reader: asyncpg.Connection,
    given: list[Feedback],
    clients: list[bytes],
    tag1: str,
    tag2: str,
) -> None:
    agent = next(agents)
    await insert(writer, agent, given)

    listed = [text(client) for client in clients]
    assert await summary(reader, agent, listed, tag1, tag2) == summary_of(given, clients, tag1, tag2)
    assert await summary(reader, agent, [], tag1) == summary_of(given, [], tag1)
    assert await summary(reader, agent) == summary_of(given, [])


@pytest.mark.parametrize(
    ("given", "clients", "expected"),
    [
        ([(10**38, 0), (1, 18), (1, 18)], [ALICE], (3, -886533759346574857640019685980940970, 18)),
        ([(10**38, 0), (1, 18), (1, 18)], [], (3, -886533759346574857640019685980940970, 18)),
        ([(80, 0), (9550, 2)], [ALICE], (2, 87, 0)),
        ([(-1, 0), (0, 0)], [ALICE], (2, 0, 0)),
        ([(-3, 0), (0, 0)], [ALICE], (2, -1, 0)),
        ([(-195, 1), (-15, 2), (0, 1)], [ALICE], (3, -65, 1)),
        ([(1, 2), (1, 2), (7, 0), (7, 0)], [ALICE], (4, 3, 0)),
        ([(1, 0)], [ALICE, ALICE], (2, 1, 0)),
        ([], [ALICE], (0, 0, 0)),
        ([(5, 0)], [BOB], (0, 0, 0)),
    ],
    ids=["int128 wraps", "int128 wraps over all", "cut to the mode", "toward zero", "not floored", "cut twice",
         "ties go to the smallest decimals", "a client listed twice counts twice", "nothing", "not this client"],
)  # fmt: skip
async def test_summary_of_known_cases(
    writer: asyncpg.Connection,
    reader: asyncpg.Connection,
    given: list[tuple[int, int]],
    clients: list[bytes],
    expected: Any,
) -> None:
    await insert(writer, 1, [Feedback(ALICE, value, decimals) for value, decimals in given])

    assert await summary(reader, 1, [text(client) for client in clients]) == expected


async def test_summary_compares_tags_as_bytes(database: Database, reader: asyncpg.Connection) -> None:
    await index(
        database,
        [
            rated(1, ALICE, 1, 10, 0, "speed"),
            rated(1, ALICE, 2, 20, 0, b"\xff"),
            rated(1, ALICE, 3, 30, 0, "\N{REPLACEMENT CHARACTER}"),
            rated(1, ALICE, 4, 40, 0, "", "day"),
        ],
    )

    assert await summary(reader, 1, None, "speed") == (1, 10, 0)
    assert await summary(reader, 1, None, "\N{REPLACEMENT CHARACTER}") == (1, 30, 0)
    assert await summary(reader, 1, [text(ALICE)], "\N{REPLACEMENT CHARACTER}") == (1, 30, 0)
    assert await summary(reader, 1, None, "", "day") == (1, 40, 0)
    assert await summary(reader, 1, None, "speed", "day") == (0, 0, 0)


async def test_summary_leaves_revoked_feedback_and_older_epochs_out(
    database: Database, reader: asyncpg.Connection
) -> None:
    revoked = form_log(REPUTATION, "reputation/feedback_revoked", 0, ALICE, 2)
    await index(
        database,
        [rated(0, ALICE, 1, 10, 0), rated(0, ALICE, 2, 20, 0), rated(0, BOB, 1, 60, 0), revoked],
        [rated(0, BOB, 1, 90, 0)],
    )

    assert await summary(reader, 0) == (2, 50, 0)
    assert await summary(reader, 0, [text(ALICE), text(BOB)]) == (2, 50, 0)


@pytest.mark.parametrize(
    "name", [IDENTITY, REPUTATION, *VALIDATIONS], ids=["identity", "reputation", "first", "second"]
)
async def test_any_contract_names_its_deployment(database: Database, reader: asyncpg.Connection, name: bytes) -> None:
    await index(database, [rated(7, ALICE, 1, 80, 0), form_log(IDENTITY, "identity/transfer", ZERO, ALICE, 7)])

    assert await summary(reader, 7, None, "", "", text(name)) == (1, 80, 0)
    assert await call(reader, "erc8004_agent_at", CHAIN_ID, 7, 1, text(name)) == (text(ALICE), None, None)


async def test_the_first_deployment_answers_unless_another_is_named(
    database: Database, reader: asyncpg.Connection
) -> None:
    ledger = await index(database, [rated(7, ALICE, 1, 80, 0)])
    await add_deployment(database, OTHER, position=10)
    ledger.builder = RowBuilder(CHAIN_ID, [DEPLOYMENT, OTHER], decoder())
    chain = SimChain()
    chain.mine([rated(7, ALICE, 1, 80, 0)])
    chain.mine([rated(7, BOB, 1, 20, 0, registry=OTHER.reputation)])
    await ledger.index(chain)

    assert await summary(reader, 7) == (1, 80, 0)
    assert await summary(reader, 7, None, "", "", text(REPUTATION)) == (1, 80, 0)
    assert await summary(reader, 7, None, "", "", text(OTHER.identity)) == (1, 20, 0)
    assert await summary(reader, 7, None, "", "", text(OTHER.reputation)) == (1, 20, 0)


async def test_a_replaced_reputation_registry_answers_when_named(
    database: Database, reader: asyncpg.Connection
) -> None:
    """One registry answers at a time, as one contract does."""
    newer = b"\x95" * 20
    both = Deployment(IDENTITY, newer, (), 0)
    ledger = await index(database, [rated(7, ALICE, 1, 80, 0)])
    async with database.transaction() as connection:
        await connection.execute("UPDATE registries SET active = false WHERE kind = 'reputation'")
    await add_deployment(database, both, position=0)
    ledger.builder = RowBuilder(CHAIN_ID, [DEPLOYMENT, both], decoder())
    chain = SimChain()
    chain.mine([rated(7, ALICE, 1, 80, 0)])
    chain.mine([rated(7, ALICE, 1, 20, 0, registry=newer)])
    await ledger.index(chain)

    for arguments in ([], [text(ALICE)]):
        assert await summary(reader, 7, arguments) == (1, 20, 0)
        assert await summary(reader, 7, arguments, "", "", text(IDENTITY)) == (1, 20, 0)
        assert await summary(reader, 7, arguments, "", "", text(REPUTATION)) == (1, 80, 0)


async def add_deployment(database: Database, deployment: Deployment, position: int) -> None:
    async with database.transaction() as connection:
        roles = ((deployment.identity, "identity"), (deployment.reputation, "reputation"))
        for n, (address, kind) in enumerate((*roles, *((address, "validation") for address in deployment.validation))):
            row = (CHAIN_ID, address, kind, deployment.identity, position + n, 0)
            await connection.execute(queries()["upsert_registry"], *row)


# ---------------------------------------------------------------- all of them: arguments


async def test_addresses_may_be_written_in_any_case(database: Database, reader: asyncpg.Connection) -> None:
    await index(database, [rated(1, ALICE, 1, 80, 0), *asked(1, VALIDATIONS[0], SOME_HASH, BOB, 60)])

    for form in (str.upper, str.lower, lambda address: "0x" + address[2:].upper()):
        client, validator, registry = form(text(ALICE)), form(text(BOB)), form(text(IDENTITY))
        assert await summary(reader, 1, [client], "", "", registry) == (1, 80, 0)
        assert await call(reader, "erc8004_validation_summary", CHAIN_ID, 1, [validator], "", registry) == (1, 60)


SLIPS = ("", "0x", "0x12", "a1" * 20, "0x" + "a1" * 21, "0x" + "g1" * 20, "alice.eth", " 0x" + "a1" * 20)


@pytest.mark.parametrize("chain", [CHAIN_ID, 99], ids=["known chain", "unknown chain"])
async def test_what_is_no_address_is_an_error(database: Database, reader: asyncpg.Connection, chain: int) -> None:
    await index(database, [rated(1, ALICE, 1, 80, 0)])

    for slip in SLIPS:
        for name, *wrong in (
            ("erc8004_summary", chain, 1, [text(ALICE), slip]),
            ("erc8004_summary", chain, 1, None, "", "", slip),
            ("erc8004_validation_summary", chain, 1, [slip]),
            ("erc8004_validation_summary", chain, 1, None, "", slip),
            ("erc8004_agent_at", chain, 1, 1, slip),
        ):
            with pytest.raises(asyncpg.InvalidParameterValueError, match="not an address: '" + re.escape(slip)):
                await call(reader, name, *wrong)


async def test_the_unknown_is_empty(database: Database, reader: asyncpg.Connection) -> None:
    await index(database, [rated(1, ALICE, 1, 80, 0), *asked(1, VALIDATIONS[0], SOME_HASH, BOB, 60)])

    for chain, agent, registry in (
        (CHAIN_ID, 2, None), (99, 1, None), (CHAIN_ID, 1, text(NOWHERE)), (CHAIN_ID, Decimal("1.5"), None),
        (CHAIN_ID, -1, None), (CHAIN_ID, Decimal("NaN"), None), (None, 1, None), (CHAIN_ID, None, None),
    ):  # fmt: skip
        assert await summary(reader, agent, None, "", "", registry, chain=chain) == (0, 0, 0)
        assert await call(reader, "erc8004_validation_summary", chain, agent, None, "", registry) == (0, 0)
        assert await call(reader, "erc8004_agent_at", chain, agent, 9, registry) == (None, None, None)


async def test_null_is_like_left_out(database: Database, reader: asyncpg.Connection) -> None:
    await index(database, [rated(1, ALICE, 1, 80, 0, "t", "u"), *asked(1, VALIDATIONS[0], SOME_HASH, BOB, 60)])

    assert await summary(reader, 1, None, None, None, None) == (1, 80, 0)
    assert await summary(reader, 1, [None]) == (0, 0, 0)
    assert await call(reader, "erc8004_validation_summary", CHAIN_ID, 1, None, None, None) == (1, 60)
    assert await call(reader, "erc8004_agent_at", CHAIN_ID, 1, None) == (None, None, None)


async def test_an_agent_id_may_have_a_point(database: Database, reader: asyncpg.Connection) -> None:
    await index(database, [rated(2**255, ALICE, 1, 80, 0)])

    assert await summary(reader, Decimal(f"{2**255}.000")) == (1, 80, 0)


# ---------------------------------------------------------------- erc8004_validation_summary


def asked(agent: int, registry: bytes, request: bytes, validator: bytes, *answers: int, tag: str = "") -> list[Any]:
    return [
        form_log(registry, "validation/validation_request", validator, agent, "uri", request),
        *(
            form_log(registry, "validation/validation_response", validator, agent, request, answer, "", bytes(32), tag)
            for answer in answers
        ),
    ]


async def validated(reader: asyncpg.Connection, agent: int, *arguments: object) -> tuple[Any, ...]:
    return await call(reader, "erc8004_validation_summary", CHAIN_ID, agent, *arguments)


async def test_validation_summary_means_the_latest_answers(database: Database, reader: asyncpg.Connection) -> None:
    first, second = VALIDATIONS
    await index(
        database,
        asked(0, first, b"\1" * 32, ALICE, 100, 0, tag="soft"),
        asked(0, first, b"\2" * 32, BOB, 51, tag="hard"),
        asked(0, first, b"\3" * 32, BOB),
        asked(0, second, b"\1" * 32, CAROL, 100, tag="hard"),
        asked(1, first, b"\4" * 32, ALICE, 7),
    )

    assert await validated(reader, 0) == (3, 50)
    assert await validated(reader, 0, [], "", text(IDENTITY)) == (3, 50)
    assert await validated(reader, 0, [], "", text(first)) == (2, 25)
    assert await validated(reader, 0, [], "", text(second)) == (1, 100)
    assert await validated(reader, 0, [text(BOB)]) == (1, 51)
    assert await validated(reader, 0, [text(ALICE), text(ALICE)]) == (1, 0)
    assert await validated(reader, 0, [], "hard") == (2, 75)
    assert await validated(reader, 0, [text(CAROL)], "soft") == (0, 0)


# ---------------------------------------------------------------- erc8004_agent_at


async def test_agent_at_tells_the_end_of_each_block(database: Database, reader: asyncpg.Connection) -> None:
    def wallet(value: bytes) -> Any:
        return form_log(IDENTITY, "identity/metadata_set", 0, "agentWallet", "agentWallet", value)

    await index(
        database,
        [],
        [
            form_log(IDENTITY, "identity/transfer", ZERO, ALICE, 0),
            form_log(IDENTITY, "identity/registered", 0, "", ALICE),
            wallet(ALICE),
        ],
        [
            form_log(IDENTITY, "identity/uri_updated", 0, "one", ALICE),
            form_log(IDENTITY, "identity/uri_updated", 0, "two", ALICE),
        ],
        [wallet(b""), form_log(IDENTITY, "identity/transfer", ALICE, BOB, 0)],
    )

    at = [await call(reader, "erc8004_agent_at", CHAIN_ID, 0, block) for block in range(6)]
    assert at == [
        (None, None, None),
        (None, None, None),
        (text(ALICE), text(ALICE), ""),
        (text(ALICE), text(ALICE), "two"),
        (text(BOB), None, "two"),
        (text(BOB), None, "two"),
    ]
