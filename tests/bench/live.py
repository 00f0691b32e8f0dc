"""`python -m bench.live`: how soon a new block's rows are visible, from the answer with the head on.

The worker follows a simulated node in this process; NOTIFY tells of the commit, and the rows are then read from a view.
Prints a JSON line for each size of blocks.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
import time
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any, Final

import asyncpg
import structlog
from bench.feedback import feedback
from indexing import open_worker
from simulator import SimChain, SimLog, SimNode
from workload import REPUTATION

from indexer.embedded.postgres import postgres
from indexer.store.database import Database
from indexer.store.migrations import migrate

SIZES: Final = {1: 200, 100: 200, 2_000: 20}  # logs a block, or up to an eighth more, and how many such blocks
DEADLINE_S: Final = 30.0

_VISIBLE: Final = "SELECT count(*) FROM erc8004.erc8004_reputation WHERE chain_id = $1 AND block_number = $2"


class Watch:
    """Knows when the head was told first, and when a commit was heard of."""

    def __init__(self, node: SimNode) -> None:
        self._answer = node.answer
        node.answer = self._noting  # type: ignore[method-assign]  # in place of the real one
        self.told: dict[int, float] = {}
        self.committed = asyncio.Event()

    def _noting(self, method: str, params: list[Any]) -> Any:
        answer = self._answer(method, params)
        if method == "eth_getBlockByNumber" and params[0] == "latest":
            self.told.setdefault(int(answer["number"], 16), time.perf_counter())
        return answer

    def hear(self, *_: object) -> None:
        """Take a notification."""
        self.committed.set()


async def measure(url: str, chain_id: int, logs: int, blocks: int) -> None:
    """Mine blocks of `logs` logs one by one, each when the one before is visible.

    Some have more: answers of one size again and again look cut, and would be held against the receipts each time.
    """
    chain, drawn = SimChain(seed=chain_id, chain_id=chain_id), feedback()
    database = await Database.open(url)
    reader = await asyncpg.connect(url)
    took_ms = []
    async with (
        SimNode(chain) as node,
        open_worker(
            database, [node.url], chain_id=chain_id, name=str(chain_id), until=None, announce_backfill=True
        ) as worker,
    ):
        watch = Watch(node)
        await reader.add_listener("erc8004_changes", watch.hear)
        following = asyncio.create_task(worker.run())
        for block in range(blocks):
            size = logs + block * 7 % (1 + logs // 8)
            watch.committed.clear()
            number = chain.mine([SimLog(REPUTATION, topics, data) for topics, data in islice(drawn, size)]).number
            async with asyncio.timeout(DEADLINE_S):
                while await reader.fetchval(_VISIBLE, chain_id, number) != size:
                    await watch.committed.wait()
                    watch.committed.clear()
            took_ms.append((time.perf_counter() - watch.told[number]) * 1000)
        asked = node.calls["eth_getLogs"] / blocks
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    await reader.close()
    await database.close()
    took_ms.sort()
    middle, slow = (round(took_ms[ceil(blocks * part) - 1], 1) for part in (0.5, 0.99))
    told = {"bench": "live", "logs_per_block": logs, "blocks": blocks, "p50_ms": middle, "p99_ms": slow}
    print(json.dumps(told | {"logs_requests_per_block": round(asked, 2)}), flush=True)


async def main() -> None:
    """Measure every size."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="erc8004-bench-") as folder:
        Path(folder).chmod(0o755)  # where we are root, PostgreSQL may run as nobody
        async with postgres(Path(folder)) as url:
            await migrate(url)
            for chain_id, (logs, blocks) in enumerate(SIZES.items(), 1):
                await measure(url, chain_id, logs, blocks)


if __name__ == "__main__":
    asyncio.run(main())
