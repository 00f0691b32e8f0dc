"""Feedback as the newest registry emits it, drawn without end."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from typing import Final

from simulator.logs import form_log
from workload import REPUTATION

from indexer.core.types import BlockRef, RawLog

AGENTS: Final = 500
CLIENTS: Final = 211


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
