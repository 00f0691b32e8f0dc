"""`make bench`: what decoding and committing cost on this machine, one JSON line each.

Everything is real but the chain: PostgreSQL from the wheel with fsync on, the tables of today, feedback as the newest
registry emits it. Nothing is fetched, so these are ceilings: a provider is usually slower.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

from ledger import Ledger, decoder
from simulator.logs import form_log
from workload import REPUTATION

from indexer.core.types import Batch, BlockRange, BlockRef, RawLog
from indexer.embedded.postgres import postgres
from indexer.store.database import Database
from indexer.store.migrations import migrate

DECODED_LOGS = 100_000
BACKFILL_BATCHES, BACKFILL_BLOCKS, BACKFILL_LOGS = 50, 100, 10  # a batch is 100 blocks of 10 logs
LIVE_BLOCKS, LIVE_LOGS = 500, 3
AGENTS, CLIENTS = 500, 211
ROLES = frozenset({"reputation"})


def feedback() -> Iterator[tuple[tuple[bytes, ...], bytes]]:
    """Draw topics and data of NewFeedback without end; the index of each pair ascends as the contract's does."""
    texts = ("quality", "quality", "latency", "https://agent.example/x", "ipfs://bafybeigdyrzt5sfp7udm7hu76uh7y26nf3")
    model = form_log(REPUTATION, "reputation/new_feedback", 0, bytes(20), 0, 87, 0, *texts, bytes(range(32)))
    for n in count():
        index = 1 + n // (AGENTS * CLIENTS)
        agent, client = (n % AGENTS).to_bytes(32), (1 + n % CLIENTS).to_bytes(32)
        value = (n * 7 % 101).to_bytes(32)
        topics = (model.topics[0], agent, client, model.topics[3])
        yield topics, index.to_bytes(32) + value + model.data[64:]


def chain(logs_per_block: int) -> Iterator[tuple[BlockRef, list[RawLog]]]:
    """Draw blocks from 0 on without end, each with its logs."""
    drawn = feedback()
    for number in count():
        block = BlockRef(number, _hash(number + 1), _hash(number), 1_700_000_000 + 12 * number)
        logs = [
            RawLog(
                number, index, block.hash, _hash(number << 20 | index), index, REPUTATION, topics, data, block.timestamp
            )
            for index, (topics, data) in enumerate(islice(drawn, logs_per_block))
        ]
        yield block, logs


def _hash(number: int) -> bytes:
    return number.to_bytes(32)


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
        rows = ledger.builder.build(found)
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


def main() -> None:
    """Run all of them, the machine first."""
    print(json.dumps({"bench": "machine", "cpus": os.cpu_count(), "python": platform.python_version()}))
    bench_decode()
    with tempfile.TemporaryDirectory(prefix="erc8004-bench-") as folder:
        Path(folder).chmod(0o755)  # where we are root, PostgreSQL may run as nobody
        asyncio.run(bench_commits(Path(folder)))


if __name__ == "__main__":
    main()
