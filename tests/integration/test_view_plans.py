"""Lookups on a chain as big as the real ones: which plan they get, and how much of the tables they touch."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import large
import pytest
from databases import execute, run_apart, with_database
from large_queries import BUSY_CLIENT, BUSY_QUERIES, LOOKUPS, PAGES, POLL, SUMMARIES

from indexer.embedded.locks import hold
from indexer.store.database import Database
from indexer.store.migrations import migrate

pytestmark = pytest.mark.timeout(300)  # the first of a worker may wait for the large database
SMALL_TABLES = {"chains", "heads", "registries", "coverage", "chain_totals"}


@pytest.fixture(scope="session")
def large_url(postgres_url: str, servers: Path, worker_name: str) -> Iterator[str]:
    """Yield the DSN of the large database, built by the first worker, dropped by the last; read it only."""
    name = f"large_{servers.name.rpartition('-')[2]}"
    url, users = with_database(postgres_url, name), servers / "large"

    async def enter() -> None:
        async with hold(servers / "large.lock"):
            if not users.exists():
                await execute(postgres_url, f'CREATE DATABASE "{name}"')
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
                await execute(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')

    run_apart(enter())
    yield url
    run_apart(leave())


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
