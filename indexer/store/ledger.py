"""Rows of the table `logs`, back to what the node gave."""

from __future__ import annotations

from operator import itemgetter
from typing import Final

import asyncpg

from indexer.core.types import RawLog

# In the order of RawLog's fields.
_RAW: Final = itemgetter(
    "block_number", "log_index", "block_hash", "tx_hash", "tx_index", "address", "topics", "data", "block_timestamp"
)


def raw_log(row: asyncpg.Record) -> RawLog:
    """Return the log of a row that has at least its raw columns."""
    number, index, block_hash, tx_hash, tx_index, address, topics, data, at = _RAW(row)
    words = tuple([topics[start : start + 32] for start in range(0, len(topics), 32)])
    return RawLog(number, index, block_hash, tx_hash, tx_index, address, words, data, int(at.timestamp()))
