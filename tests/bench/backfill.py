"""`python -m bench.backfill`: a whole backfill by the real daemon, from a prepared node into all tables.

The rows are counted and summed before a figure is told. The floor is measured in the same run, on the same server:
binary COPY of the same ledger and typed rows, in batches as large, into tables with the same columns and indexes. With
`--after` the projections are rebuilt from the ledger, Valkey is filled again, and 64 blocks are rolled back.
Prints a JSON line each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
from bench.mix import CHAIN_ID, FIRST_BLOCK, LOGS_A_BLOCK, block_hashes, block_ref, expected
from processes import Program, Programs, chain_table
from workload import DEPLOYMENT

from indexer.core.rows import COLUMNS
from indexer.embedded.postgres import EmbeddedPostgres, postgres
from indexer.store.chains import Chains
from indexer.store.database import SCHEMA, Database
from indexer.store.leases import Leases
from indexer.store.writer import Writer

DEADLINE_S: Final = 3600.0
REORG_BLOCKS: Final = 64
FLOOR_BATCH: Final = 10_000  # rows a COPY, as the daemon's batches have

_FOUND: Final = f"""
SELECT (SELECT count(*) FROM {SCHEMA}.logs) AS logs,
       t.agents, (SELECT count(*) FROM {SCHEMA}.feedback) AS feedback,
       (SELECT sum(value_raw) FROM {SCHEMA}.feedback)::bigint AS feedback_sum,
       t.revoked, t.feedback AS standing, t.responses, t.validations, t.answered, t.undecodable
FROM {SCHEMA}.chain_totals t
"""


_SIZES: Final = f"""
SELECT relname, pg_table_size(oid) AS heap, pg_indexes_size(oid) AS indexes
FROM pg_class
WHERE relnamespace = '{SCHEMA}'::regnamespace AND relkind = 'r' AND pg_total_relation_size(oid) > 1000000
ORDER BY pg_total_relation_size(oid) DESC
"""
_VACUUMS: Final = f"""
SELECT relname, autovacuum_count AS vacuums, autoanalyze_count AS analyzes, n_dead_tup AS dead
FROM pg_stat_user_tables
WHERE schemaname = '{SCHEMA}'
ORDER BY relname
"""


@asynccontextmanager
async def node(blocks: int, *, latency_ms: float, timed: bool, drawn: bool) -> AsyncIterator[str]:
    """Run the node as a process of its own; yields its address."""
    words = ["--blocks", str(blocks), "--latency-ms", str(latency_ms)]
    words += [word for word, wanted in (("--untimed", not timed), ("--drawn", drawn)) if wanted]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.node", *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


async def figures_of(url: str) -> dict[str, Any]:
    """Return what the node spent and was asked."""
    question = {"jsonrpc": "2.0", "id": 1, "method": "bench_figures", "params": []}
    async with aiohttp.ClientSession() as session, session.post(url, json=question) as answer:
        return (await answer.json())["result"]  # type: ignore[no-any-return]


async def held_by(program: Program) -> tuple[int, float]:
    """Return the most resident memory of a process until it ends, in bytes, and its seconds of CPU.

    The memory is the sum of what it and the process beside it have had at most; Valkey, a child as well, has its own.
    """
    most, spent_s = 0, 0.0
    while program.process.returncode is None:
        try:
            both = [program.pid, *filter(_is_python, _children(program.pid))]
            held = sum(map(_peak_bytes, both))
            spent_s = max(spent_s, sum(map(cpu_s, both)))
        except (FileNotFoundError, ProcessLookupError, IndexError):
            break
        most = max(most, held)
        await asyncio.sleep(0.2)
    return most, spent_s


def _children(pid: int) -> list[int]:
    return [int(one) for path in Path(f"/proc/{pid}/task").glob("*/children") for one in path.read_text().split()]


def _is_python(pid: int) -> bool:
    return Path(f"/proc/{pid}/exe").resolve() == Path(sys.executable).resolve()


def _peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def cpu_s(pid: int) -> float:
    """Return the seconds of CPU that a process took, and those of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def postgres_cpu_s(folder: Path) -> float:
    """Return the seconds of CPU of the server in `folder`: its main process and all others."""
    main = EmbeddedPostgres(folder).pid()
    assert main is not None
    return sum(map(cpu_s, [main, *_children(main)]))


async def backfill(
    folder: Path, database_url: str, logs: int, *, latency_ms: float, timed: bool, drawn: bool
) -> dict[str, Any]:
    """Index `logs` logs into an empty database, and hold the tables against what the history has."""
    blocks = logs // LOGS_A_BLOCK
    async with (
        node(blocks, latency_ms=latency_ms, timed=timed, drawn=drawn) as url,
        Programs(folder, DATABASE_URL=database_url) as programs,
    ):
        programs.configure(chain_table("local", url, chain_id=CHAIN_ID, start_block=FIRST_BLOCK))
        began, postgres_began = time.monotonic(), postgres_cpu_s(folder)
        program = await programs.start("run", "--until", "head", "--json")
        held = asyncio.create_task(held_by(program))
        code = await program.ended(DEADLINE_S)
        seconds = time.monotonic() - began
        assert code == 0, program.stderr[-5:]
        postgres_s = postgres_cpu_s(folder) - postgres_began
        spent = await figures_of(url)
        commits = [one for one in program.events if one["event"] == "batch_committed"]
    (chain,) = program.document["chains"]
    assert await found(database_url) == expected(blocks), (await found(database_url), expected(blocks))
    rss, daemon_s = await held
    return {
        "logs": chain["logs"],
        "seconds": round(chain["seconds"], 2),
        "logs_per_second": round(chain["logs"] / chain["seconds"]),
        "process_seconds": round(seconds, 2),
        "commits": len(commits),
        "commit_ms": round(sum(one["duration_ms"] for one in commits)),
        "us_per_log_by_tenth": _costs(commits),
        "peak_rss_mb": round(rss / 2**20),
        "cpu_us_per_log": {
            name: round(seconds / logs * 1e6, 1)
            for name, seconds in (("daemon", daemon_s), ("postgres", postgres_s), ("node", spent["cpu_s"]))
        },
        "http_per_block": round(spent["http"] / blocks, 5),
        "calls_per_block": round(sum(spent["calls"].values()) / blocks, 5),
    }


def _costs(commits: list[dict[str, Any]]) -> list[float]:
    """Return the time a log took in each tenth of the commits, in microseconds, from the times of the log lines."""
    costs = []
    bounds = [at * (len(commits) - 1) // 10 for at in range(11)]
    for began, ended in pairwise(bounds):
        part = commits[began + 1 : ended + 1]
        if part:
            first, last = (datetime.fromisoformat(commits[at]["timestamp"]) for at in (began, ended))
            costs.append(round((last - first).total_seconds() / sum(one["rows"] for one in part) * 1e6, 1))
    return costs


async def sizes(url: str) -> dict[str, Any]:
    """Return what the tables take on disk, bytes a log, and what vacuum did to the largest."""
    connection = await asyncpg.connect(url)
    try:
        logs = await connection.fetchval(f"SELECT count(*) FROM {SCHEMA}.logs")
        found = await connection.fetch(_SIZES)
        vacuums = await connection.fetch(_VACUUMS)
        bloat = {row["relname"]: row["dead"] for row in vacuums if row["dead"]}
    finally:
        await connection.close()
    per_log = {row["relname"]: [round(row["heap"] / logs, 1), round(row["indexes"] / logs, 1)] for row in found}
    total = round(sum(row["heap"] + row["indexes"] for row in found) / logs, 1)
    runs = {row["relname"]: [row["vacuums"], row["analyzes"]] for row in vacuums if row["vacuums"] or row["analyzes"]}
    return {"bytes_per_log": total, "heap_and_indexes": per_log, "vacuums_and_analyzes": runs, "dead_rows": bloat}


async def found(url: str) -> dict[str, int]:
    """Count and sum what the tables say."""
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow(_FOUND)
    finally:
        await connection.close()
    return dict(row)


async def after(folder: Path, database_url: str) -> None:
    """Time what reads all there is, projections from the ledger and Valkey from the projections; then a rollback."""
    async with Programs(folder, DATABASE_URL=database_url) as programs:
        for bench, words, rows in (
            ("rebuild", ("reindex", "--rebuild"), "logs"),
            ("publish", ("publish", "--rebuild"), "agents"),
        ):
            began = time.monotonic()
            program = await programs.start(*words)
            code = await program.ended(DEADLINE_S)
            seconds = time.monotonic() - began
            assert code == 0, program.stderr[-5:]
            count = (await found(database_url))[rows]
            told = {rows: count, "process_seconds": round(seconds, 2), f"{rows}_per_second": round(count / seconds)}
            print(json.dumps({"bench": bench, **told}), flush=True)
    await roll_back(database_url)


async def roll_back(url: str) -> None:
    """Time a reorganisation of the newest blocks: their rows archived, the state of their agents made anew."""
    database = await Database.open(url, size=2)
    lease = await Leases(database, "bench").acquire(CHAIN_ID)
    assert lease is not None
    head = (await Chains(database).standing(CHAIN_ID)).checkpoint_block
    ancestor = block_ref(block_hashes(head - FIRST_BLOCK + 1), head - REORG_BLOCKS)
    began = time.perf_counter()
    done = await Writer(database, lease, DEPLOYMENT.addresses).rollback(ancestor)
    seconds = time.perf_counter() - began
    await database.close()
    told = {"of_logs": (head - FIRST_BLOCK + 1) * LOGS_A_BLOCK, "logs": done.logs, "agents": done.agents}
    print(json.dumps({"bench": "rollback", "blocks": REORG_BLOCKS, **told, "ms": round(seconds * 1000, 1)}), flush=True)


async def floor(url: str) -> dict[str, Any]:
    """COPY the rows that are there now into empty twins of their tables, batch by batch; seconds of COPY alone."""
    connection = await asyncpg.connect(url, timeout=60)
    try:
        await connection.execute("DROP SCHEMA IF EXISTS floor CASCADE; CREATE SCHEMA floor")
        rows, seconds = 0, 0.0
        for table, columns in COLUMNS.items():
            await connection.execute(f"CREATE TABLE floor.{table} (LIKE {SCHEMA}.{table} INCLUDING ALL)")
            rows_of_table, spent = await _copy(connection, table, columns)
            rows, seconds = rows + rows_of_table, seconds + spent
        logs = await connection.fetchval("SELECT count(*) FROM floor.logs")
        await connection.execute("DROP SCHEMA floor CASCADE")
    finally:
        await connection.close()
    return {"logs": logs, "rows": rows, "seconds": round(seconds, 2), "logs_per_second": round(logs / seconds)}


async def _copy(connection: asyncpg.Connection, table: str, columns: tuple[str, ...]) -> tuple[int, float]:
    bounds = await connection.fetchrow(f"SELECT min(block_number), max(block_number), count(*) FROM {SCHEMA}.{table}")
    if bounds is None or not bounds[2]:
        return 0, 0.0
    first, last, count = bounds
    step = max(1, (last - first + 1) * FLOOR_BATCH // count)
    seconds = 0.0
    names = ", ".join(columns)
    for start in range(first, last + 1, step):
        parts: list[bytes] = []

        async def keep(data: bytes, parts: list[bytes] = parts) -> None:
            parts.append(data)

        query = f"SELECT {names} FROM {SCHEMA}.{table} WHERE block_number >= $1 AND block_number < $2"
        await connection.copy_from_query(query, start, start + step, output=keep, format="binary")

        async def give(parts: list[bytes] = parts) -> AsyncIterator[bytes]:
            yield b"".join(parts)

        began = time.perf_counter()
        await connection.copy_to_table(table, source=give(), columns=columns, schema_name="floor", format="binary")
        seconds += time.perf_counter() - began
    return count, seconds


async def run(
    logs: int,
    *,
    latency_ms: float = 0,
    timed: bool = True,
    drawn: bool = False,
    floored: bool = True,
    more: bool = False,
) -> None:
    """Measure on a new database."""
    how = {"latency_ms": latency_ms, "timed": timed, "drawn": drawn}
    with tempfile.TemporaryDirectory(prefix="erc8004-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # where we are root, PostgreSQL may run as nobody
        async with postgres(folder) as url:
            outcome = await backfill(folder, url, logs, latency_ms=latency_ms, timed=timed, drawn=drawn)
            told = {"bench": "backfill", **how, **outcome}
            print(json.dumps({"bench": "sizes", "logs": logs, **await sizes(url)}), flush=True)
            if floored:
                least = await floor(url)
                told |= {"floor": least, "of_floor": round(outcome["logs_per_second"] / least["logs_per_second"], 3)}
            print(json.dumps(told), flush=True)
            if more:
                await after(folder, url)


def main() -> None:
    """Measure one size."""
    parser = argparse.ArgumentParser(prog="bench.backfill", description=__doc__)
    parser.add_argument("--logs", type=int, default=200_000)
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--untimed", action="store_true", help="logs without blockTimestamp: headers are asked for")
    parser.add_argument("--drawn", action="store_true", help="the node draws its answers, for very many logs")
    parser.add_argument("--no-floor", action="store_true")
    parser.add_argument("--after", action="store_true", help="rebuild, publish and roll back, too")
    args = parser.parse_args()
    how = {"latency_ms": args.latency_ms, "timed": not args.untimed, "drawn": args.drawn}
    asyncio.run(run(args.logs, floored=not args.no_floor, more=args.after, **how))


if __name__ == "__main__":
    main()
