"""`python -m bench.publisher`: how soon a backlog of the change feed is in Valkey; one JSON line.

The changes are live logs of `bench.mix`, one each in the feed; PostgreSQL and Valkey are real, and the publisher is the
daemon's own, in this process, which is tuned as the daemon is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Final

import structlog
from bench.mix import CHAIN_ID, FIRST_BLOCK, LOGS_A_BLOCK, block_hashes, block_logs, block_ref
from ledger import Ledger

from indexer.chain import codec
from indexer.core.types import Batch, BlockRange
from indexer.embedded.postgres import postgres
from indexer.embedded.valkey import valkey
from indexer.publisher import Publisher
from indexer.store.database import Database
from indexer.store.encoding import encode_rows
from indexer.store.migrations import migrate
from indexer.tuning import tune

CHANGES: Final = 100_000
BATCH_BLOCKS: Final = 100


class History:
    """Commits the history of `bench.mix` batch by batch, as a chain that is live."""

    def __init__(self, ledger: Ledger, blocks: int) -> None:
        self._ledger = ledger
        self._hashes = block_hashes(blocks)
        self._done = 0

    async def commit(self, blocks: int) -> None:
        """Commit the next blocks."""
        while blocks > 0:
            part = min(blocks, BATCH_BLOCKS)
            first = FIRST_BLOCK + self._done
            headers = tuple(block_ref(self._hashes, number) for number in range(first, first + part))
            texts = [block_logs(one.number, one.hash.hex(), timed=True) for one in headers]
            logs = tuple(codec.raw_logs(codec.LOGS.decode(f"[{','.join(texts)}]".encode()) or []))
            batch = Batch(BlockRange(headers[0].number, headers[-1].number), headers, logs)
            parent = headers[0].parent_hash if self._done else None
            await self._ledger.writer.commit(
                batch,
                encode_rows(self._ledger.builder.build(logs)),
                parent=parent,
                state="live",
                announce=True,
                finalized=headers[-1].number,
            )
            self._done += part
            blocks -= part


async def main(changes: int = CHANGES) -> None:
    """Let a backlog pile up, then publish it."""
    tune()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="erc8004-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # where we are root, PostgreSQL may run as nobody
        async with postgres(folder) as url, valkey(folder) as valkey_url:
            await migrate(url)
            database = await Database.open(url)
            blocks = changes // LOGS_A_BLOCK + BATCH_BLOCKS
            history = History(
                await Ledger.open(database, chain_id=CHAIN_ID, name="mix", start_block=FIRST_BLOCK), blocks
            )
            async with Publisher(database, valkey_url, chain_ids=[CHAIN_ID], stream_maxlen=changes) as publisher:
                await history.commit(BATCH_BLOCKS)
                before = await publisher.catch_up(CHAIN_ID)
                await history.commit(blocks - BATCH_BLOCKS)
                began = time.perf_counter()
                published = await publisher.catch_up(CHAIN_ID) - before
                seconds = time.perf_counter() - began
            await database.close()
    told = {"changes": published, "seconds": round(seconds, 2), "changes_per_second": round(published / seconds)}
    print(json.dumps({"bench": "publisher", **told}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
