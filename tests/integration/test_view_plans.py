"""Lookups on a chain as big as the real ones: which plan they get, and how much of the tables they touch."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
import large
import pytest
from conftest import _execute, _run, _with_database

from indexer.core.rows import agent_uuid
from indexer.embedded.locks import hold
from indexer.store.database import Database
from indexer.store.migrations import migrate

pytestmark = pytest.mark.timeout(300)  # the first of a worker may wait for the large database
SMALL_TABLES = {"chains", "heads", "registries", "coverage", "chain_totals"}
AGENT = 20  # transferred once, with wallet, approval, feedback, validation
IDENTITY = bytes.fromhex(large.contract(large.CHAIN_ID, 0)[2:])
UUID = f"'{agent_uuid(large.CHAIN_ID, IDENTITY, AGENT)}'"
BUSY_UUID = f"'{agent_uuid(large.CHAIN_ID, IDENTITY, large.BUSY_AGENT)}'"
KNOWN_UUID = f"'{agent_uuid(large.CHAIN_ID, IDENTITY, large.KNOWN_AGENT)}'"
OWNER = f"'{large.person(AGENT // 10 * 3)}'"
WALLET = f"'{large.person(AGENT * 7)}'"
CLIENT = f"'{large.person(1 + AGENT * 13)}'"
BUSY_CLIENT = f"'{large.person(0)}'"
VALIDATOR = f"'{large.person(AGENT)}'"
REQUEST = "'0x" + sha256(AGENT.to_bytes(8, "big")).hexdigest() + "'"
TX = "'0x" + sha256((large.CHAIN_ID * 10_000_000 + 300_000).to_bytes(8, "big")).hexdigest() + "'"
ID = f"chain_id = {large.CHAIN_ID} AND agent_id = {AGENT}"

BY_AGENT = (
    "erc8004_agents", "erc8004_agent_metadata", "erc8004_reputation", "erc8004_feedback_responses",
    "erc8004_validations", "erc8004_validation_responses", "erc8004_agent_owners", "erc8004_agent_uris",
    "erc8004_agent_wallets", "erc8004_agent_operators", "erc8004_events", "v_erc8004_agent_reputation",
    "v_erc8004_agent_stats", "v_erc8004_tag_stats",
)  # fmt: skip
BY_COLUMN: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "owner_address": (
        OWNER,
        ("erc8004_agents", "erc8004_agent_owners", "v_erc8004_agent_reputation", "v_erc8004_agent_stats"),
    ),
    "agent_wallet": (WALLET, ("erc8004_agents", "erc8004_agent_wallets")),
    "client_address": (
        CLIENT,
        ("erc8004_reputation", "erc8004_feedback_responses", "v_erc8004_client_stats"),
    ),
    "validator_address": (
        VALIDATOR,
        ("erc8004_validations", "erc8004_validation_responses", "v_erc8004_validator_stats"),
    ),
    "tx_hash": (
        TX,
        (
            "erc8004_reputation", "erc8004_feedback_responses", "erc8004_validations", "erc8004_validation_responses",
            "erc8004_agent_owners", "erc8004_agent_uris", "erc8004_agent_wallets", "erc8004_events",
        ),
    ),
    "created_tx_hash": (TX, ("erc8004_agents",)),
    "request_hash": (REQUEST, ("erc8004_validations", "erc8004_validation_responses")),
}  # fmt: skip
LOOKUPS = {
    **{f"{view} by agent_uuid": (view, f"agent_uuid = {UUID}") for view in BY_AGENT},
    **{f"{view} by agent_id": (view, ID) for view in BY_AGENT},
    **{
        f"{view} by {column}": (view, f"{column} = {value}")
        for column, (value, views) in BY_COLUMN.items()
        for view in views
    },
    **{
        f"{view} by chain and {column}": (view, f"chain_id = {large.CHAIN_ID} AND {column} = {value}")
        for column, (value, views) in BY_COLUMN.items()
        for view in views
    },
    "v_erc8004_indexer_status by chain": ("v_erc8004_indexer_status", f"chain_id = {large.CHAIN_ID}"),
    "v_erc8004_daily_stats by day": ("v_erc8004_daily_stats", f"chain_id = {large.CHAIN_ID} AND day = '2026-02-06'"),
}
PAGES = {
    f"{view} by {column} {order}{' of ' + chain if chain else ''}": (
        f"SELECT * FROM erc8004.{view} {f'WHERE chain_id = {number}' if number else ''} "
        f"ORDER BY {column} {order} LIMIT 50"
    )
    for view, columns in {
        "v_erc8004_agent_stats": ("total_feedback", "reputation_score", "registered_at", "last_activity_at"),
        "v_erc8004_agent_reputation": ("total_feedback", "average_score"),
        "erc8004_agents": ("feedback_count", "created_at", "last_activity_at"),
    }.items()
    for column in columns
    for order in ("ASC", "DESC", "ASC NULLS FIRST", "DESC NULLS LAST")
    for chain, number in {"": 0, "the big chain": large.CHAIN_ID, "the small chain": large.SMALL_CHAIN_ID}.items()
}
BUSY = f"agent_uuid = {BUSY_UUID}"
BUSY_FEEDBACK = f"FROM erc8004.erc8004_reputation WHERE client_address = {BUSY_CLIENT}"
# A query on what one client gave one agent 41,331 times, and the most pages of 8 kB that it may touch.
BUSY_QUERIES = {
    "page by time": (f"SELECT * {BUSY_FEEDBACK} ORDER BY created_at DESC LIMIT 50", 1_000),
    "page by position": (f"SELECT * {BUSY_FEEDBACK} ORDER BY block_number DESC, log_index DESC LIMIT 50", 5_000),
    "page by index": (f"SELECT * {BUSY_FEEDBACK} AND {BUSY} ORDER BY feedback_index DESC LIMIT 50", 5_000),
    "one feedback": (f"SELECT * {BUSY_FEEDBACK} AND {BUSY} AND feedback_index = 40000", 100),
    "count": (f"SELECT count(*) {BUSY_FEEDBACK}", 5_000),
    "median": (f"SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY value) {BUSY_FEEDBACK}", 5_000),
    "medians of tags": (f"SELECT * FROM erc8004.v_erc8004_tag_stats WHERE {BUSY}", 5_000),
    "median of a tag": (f"SELECT median FROM erc8004.v_erc8004_tag_stats WHERE {BUSY} AND tag1 = 'tag3'", 5_000),
    "client": (f"SELECT * FROM erc8004.v_erc8004_client_stats WHERE client_address = {BUSY_CLIENT}", 100),
    "page of events": (f"SELECT * FROM erc8004.erc8004_events WHERE {BUSY} ORDER BY block_number DESC LIMIT 50", 1_000),
}
# What a function touches is not in the plan of its caller, but in its buffers.
SUMMARIES = {
    "of the client": (f"{large.CHAIN_ID}, {large.BUSY_AGENT}, ARRAY[{BUSY_CLIENT}]", 5_000),
    "of a tag": (f"{large.CHAIN_ID}, {large.BUSY_AGENT}, NULL, 'tag3'", 5_000),
    "over all": (f"{large.CHAIN_ID}, {large.BUSY_AGENT}", 100),
    "over all of the known agent": (f"{large.CHAIN_ID}, {large.KNOWN_AGENT}", 100),
    "of one of many clients": (f"{large.CHAIN_ID}, {large.KNOWN_AGENT}, ARRAY[{CLIENT}]", 200),
}
POLL = f"FROM erc8004.erc8004_changes WHERE chain_id = {large.CHAIN_ID} AND cursor > 15000 ORDER BY cursor LIMIT 100"


@pytest.fixture(scope="session")
def large_url(postgres_url: str, servers: Path, worker_name: str) -> Iterator[str]:
    """Yield the DSN of the large database, built by the first worker, dropped by the last; read it only."""
    name = f"large_{servers.name.rpartition('-')[2]}"
    url, users = _with_database(postgres_url, name), servers / "large"

    async def enter() -> None:
        async with hold(servers / "large.lock"):
            if not users.exists():
                await _execute(postgres_url, f'CREATE DATABASE "{name}"')
                await migrate(url)
                database = await Database.open(url, size=1)
                await large.build(database)
                await database.close()
                users.mkdir()
            (users / worker_name).touch()

    async def leave() -> None:
        async with hold(servers / "large.lock"):
            (users / worker_name).unlink()
            if not list(users.iterdir()) and "TEST_DATABASE_URL" in os.environ:
                users.rmdir()
                await _execute(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')

    _run(enter())
    yield url
    _run(leave())


@pytest.fixture
async def reader(large_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(large_url)
    await connection.execute("SET ROLE erc8004_reader")
    yield connection
    await connection.close()


async def explain(connection: asyncpg.Connection, query: str) -> dict[str, Any]:
    """Run the query and return its plan."""
    answer = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {query}")
    return dict(json.loads(answer)[0]["Plan"])


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def scanned(plan: Mapping[str, Any]) -> set[str]:
    """Return the big tables that are read from end to end."""
    tables = {node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan" and node["Actual Loops"]}
    return tables - SMALL_TABLES


def pages(plan: Mapping[str, Any]) -> int:
    """Return how many pages of 8 kB were touched."""
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


@pytest.mark.parametrize(("view", "condition"), LOOKUPS.values(), ids=LOOKUPS)
async def test_a_lookup_uses_an_index(reader: asyncpg.Connection, view: str, condition: str) -> None:
    plan = await explain(reader, f"SELECT * FROM erc8004.{view} WHERE {condition}")

    assert not scanned(plan)
    assert pages(plan) < 100 + 12 * plan["Actual Rows"]


@pytest.mark.parametrize("query", PAGES.values(), ids=PAGES)
async def test_a_sorted_page_touches_little(reader: asyncpg.Connection, query: str) -> None:
    plan = await explain(reader, query)

    assert plan["Actual Rows"] == 50
    assert not scanned(plan)
    assert pages(plan) < 1500


@pytest.mark.parametrize(("query", "limit"), BUSY_QUERIES.values(), ids=BUSY_QUERIES)
async def test_a_busy_client_is_read_by_its_index(reader: asyncpg.Connection, query: str, limit: int) -> None:
    plan = await explain(reader, query)

    assert plan["Actual Rows"] > 0
    assert not scanned(plan)
    assert pages(plan) < limit


@pytest.mark.parametrize(("arguments", "limit"), SUMMARIES.values(), ids=SUMMARIES)
async def test_a_summary_touches_little(reader: asyncpg.Connection, arguments: str, limit: int) -> None:
    await reader.execute(f"SELECT * FROM erc8004.erc8004_summary({arguments})")  # reads the catalog once
    plan = await explain(reader, f"SELECT * FROM erc8004.erc8004_summary({arguments})")

    assert pages(plan) < limit


async def test_the_feed_is_read_from_where_the_reader_stands(reader: asyncpg.Connection) -> None:
    plan = await explain(reader, f"SELECT * {POLL}")

    assert plan["Actual Rows"] == 100
    assert not scanned(plan)
    assert pages(plan) < 2_000


async def test_the_state_of_the_large_chain_is_what_its_rows_say(reader: asyncpg.Connection, large_url: str) -> None:
    """The plans are worth nothing if the data are not like real ones."""
    owner = await asyncpg.connect(large_url)
    counted = await owner.fetchrow("""
        SELECT count(*) AS feedback, count(*) FILTER (WHERE standing = 1) AS revoked,
               count(DISTINCT client) FILTER (WHERE standing = 0) AS clients
        FROM erc8004_data.feedback WHERE chain_id = $1""", large.CHAIN_ID)  # fmt: skip
    await owner.close()
    totals = await reader.fetchrow("SELECT * FROM erc8004.v_erc8004_chain_stats WHERE chain_id = $1", large.CHAIN_ID)
    busy = await reader.fetchrow(f"SELECT * FROM erc8004.v_erc8004_client_stats WHERE client_address = {BUSY_CLIENT}"
                                 f" AND chain_id = {large.CHAIN_ID}")  # fmt: skip

    assert counted["feedback"] == large.FEEDBACK
    assert totals["agents"] == large.AGENTS
    assert totals["feedback"] == counted["feedback"] - counted["revoked"]
    assert totals["clients"] == counted["clients"]
    assert busy["feedback"] + busy["revoked"] == large.BUSY_FEEDBACK
