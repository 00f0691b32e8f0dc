"""`make bench`: what everything costs on this machine, one JSON line each; `bench.table` makes a table of them.

Everything is real but the chain: PostgreSQL from the wheel with fsync on, the tables of today, events as the newest
registries emit them. Backfills and live blocks come over HTTP from a node on this machine, which takes its share of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import tempfile
import time
from itertools import islice
from pathlib import Path

from bench import backfill, live, publisher, views
from bench.feedback import chain
from ledger import Ledger, decoder

from indexer.core.types import Batch, BlockRange
from indexer.embedded.postgres import postgres
from indexer.store.database import Database
from indexer.store.encoding import encode_rows
from indexer.store.migrations import migrate

DECODED_LOGS = 100_000
BACKFILL_BATCHES, BACKFILL_BLOCKS, BACKFILL_LOGS = 50, 100, 10  # a batch is 100 blocks of 10 logs
LIVE_BLOCKS, LIVE_LOGS = 500, 3
ROLES = frozenset({"reputation"})


def report(bench: str, logs: int, seconds: float, **more: object) -> None:
    """Print one result."""
    figures = {"bench": bench, "logs": logs, "seconds": round(seconds, 3), "logs_per_second": round(logs / seconds)}
    print(json.dumps(figures | more), flush=True)


def bench_decode() -> None:
    """Decode logs to events, on one core."""
    logs = [log for _, block in islice(chain(100), DECODED_LOGS // 100) for log in block]
    decode = decoder().decode
    started = time.perf_counter()
    for log in logs:
        decode(log, ROLES)
    report("decode", len(logs), time.perf_counter() - started, event="NewFeedback")


async def bench_commit(url: str, bench: str, *, batches: int, blocks: int, logs: int, live: bool) -> None:
    """Decode, make rows and commit, batch by batch, on a chain of its own."""
    database = await Database.open(url)
    ledger = await Ledger.open(database, chain_id=2 if live else 1, name=bench)
    drawn, parent, durations_ms = chain(logs), None, []
    for _ in range(batches):
        taken = list(islice(drawn, blocks))
        headers, found = tuple(block for block, _ in taken), tuple(log for _, some in taken for log in some)
        started = time.perf_counter()
        batch = Batch(BlockRange(headers[0].number, headers[-1].number), headers, found)
        rows = encode_rows(ledger.builder.build(found))
        state = "live" if live else "backfilling"
        final = headers[-1].number - 64 if live else headers[-1].number
        await ledger.writer.commit(batch, rows, parent=parent, state=state, announce=live, finalized=final)
        durations_ms.append((time.perf_counter() - started) * 1000)
        parent = headers[-1].hash
    await database.close()
    durations_ms.sort()
    middle, slow = (round(durations_ms[int(len(durations_ms) * part)], 2) for part in (0.5, 0.99))
    figures = {"commits": batches, "logs_per_commit": blocks * logs, "median_ms": middle, "p99_ms": slow}
    report(bench, batches * blocks * logs, sum(durations_ms) / 1000, **figures)


async def bench_commits(folder: Path) -> None:
    """Backfill and live commits, on a new database in `folder`."""
    async with postgres(folder) as url:
        await migrate(url)
        backfill = {"batches": BACKFILL_BATCHES, "blocks": BACKFILL_BLOCKS, "logs": BACKFILL_LOGS}
        await bench_commit(url, "commit_backfill", **backfill, live=False)
        await bench_commit(url, "commit_live", batches=LIVE_BLOCKS, blocks=1, logs=LIVE_LOGS, live=True)


async def bench_backfills(logs: int) -> None:
    """Backfill from a quick node, a usual one and a slow one, and from one whose logs tell no time."""
    for latency_ms in (0, 20, 100):
        await backfill.run(logs, latency_ms=latency_ms, timed=True, floored=not latency_ms, more=not latency_ms)
    await backfill.run(logs, latency_ms=0, timed=False, floored=False, more=False)


def main() -> None:
    """Run all of them, the machine first."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--logs", type=int, default=200_000, help="of each backfill (default 200000)")
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "commit": commit.stdout.strip()}
    print(json.dumps({"bench": "machine", **machine}), flush=True)
    bench_decode()
    with tempfile.TemporaryDirectory(prefix="erc8004-bench-") as folder:
        Path(folder).chmod(0o755)  # where we are root, PostgreSQL may run as nobody
        asyncio.run(bench_commits(Path(folder)))
    asyncio.run(live.main())
    asyncio.run(publisher.main())
    asyncio.run(views.main())
    asyncio.run(bench_backfills(args.logs))


if __name__ == "__main__":
    main()
