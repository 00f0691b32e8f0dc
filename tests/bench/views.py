"""`PYTHONPATH=tests python -m bench.views`: how long the views take on a chain as big as the real ones; one JSON line.

PostgreSQL from the wheel as the daemon starts it; what a reader waits for, the way to Python included. Milliseconds,
the median of several runs, so of data that lie in memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import asyncpg
import large
from large_queries import BUSY_QUERIES, BY_AGENT, ID, LOOKUPS, PAGES, POLL, SUMMARIES, UUID

from indexer.embedded.postgres import postgres
from indexer.store.database import Database
from indexer.store.migrations import migrate

RUNS = 7
ONE_ROW = [
    view for view in BY_AGENT if view in {"erc8004_agents", "v_erc8004_agent_reputation", "v_erc8004_agent_stats"}
]
GROUPS: Mapping[str, Mapping[str, str]] = {
    "row_of_an_agent": {
        f"{view} by {name}": f"SELECT * FROM erc8004.{view} WHERE {condition}"
        for view in ONE_ROW
        for name, condition in {"agent_uuid": f"agent_uuid = {UUID}", "agent_id": ID}.items()
    },
    "lookup": {
        name: f"SELECT * FROM erc8004.{view} WHERE {condition} LIMIT 50" for name, (view, condition) in LOOKUPS.items()
    },
    "sorted_page": PAGES,
    "busy_client": {
        **{name: query for name, (query, _) in BUSY_QUERIES.items()},
        **{
            f"summary {name}": f"SELECT * FROM erc8004.erc8004_summary({given})"
            for name, (given, _) in SUMMARIES.items()
        },
    },
    "changes": {"poll": f"SELECT * {POLL}"},
    "whole_chain": {
        view: f"SELECT * FROM erc8004.{view} WHERE chain_id = {large.CHAIN_ID}"
        for view in ("v_erc8004_chain_stats", "v_erc8004_daily_stats", "v_erc8004_indexer_status")
    },
}


async def measure(connection: asyncpg.Connection, query: str) -> float:
    """Return the median time of a query in milliseconds."""
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        await connection.fetch(query)
        times.append((time.perf_counter() - started) * 1000)
    return median(times)


async def main() -> None:
    """Build, measure, print."""
    with tempfile.TemporaryDirectory(prefix="erc8004-bench-") as folder:
        Path(folder).chmod(0o755)
        async with postgres(Path(folder)) as url:
            await migrate(url)
            database = await Database.open(url, size=1)
            started = time.perf_counter()
            await large.build(database)
            built = time.perf_counter() - started
            await database.close()
            connection = await asyncpg.connect(url)
            await connection.execute("SET ROLE erc8004_reader")
            figures = {name: await slowest(connection, queries) for name, queries in GROUPS.items()}
            await connection.close()
    size = {"agents": large.AGENTS, "feedback": large.FEEDBACK, "build_seconds": round(built, 1)}
    print(json.dumps({"bench": "views", **size, "cpus": os.cpu_count(), "slowest_ms": figures}))


async def slowest(connection: asyncpg.Connection, queries: Mapping[str, str]) -> dict[str, float]:
    """Return the three slowest queries of a group."""
    times = {name: round(await measure(connection, query), 2) for name, query in queries.items()}
    return dict(sorted(times.items(), key=lambda item: -item[1])[:3])


if __name__ == "__main__":
    asyncio.run(main())
