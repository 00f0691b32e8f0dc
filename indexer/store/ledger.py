"""Rows of the table `logs`, back to what the node gave."""

from __future__ import annotations

import asyncpg

from indexer.core.types import RawLog


def raw_log(row: asyncpg.Record) -> RawLog:
    """Return the log of a row that has at least its raw columns."""
    topics: bytes = row["topics"]
    return RawLog(
        block_number=row["block_number"],
        log_index=row["log_index"],
        block_hash=row["block_hash"],
        tx_hash=row["tx_hash"],
        tx_index=row["tx_index"],
        address=row["address"],
        topics=tuple(topics[start : start + 32] for start in range(0, len(topics), 32)),
        data=row["data"],
        timestamp=int(row["block_timestamp"].timestamp()),
    )
