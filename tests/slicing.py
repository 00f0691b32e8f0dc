"""Stored chains that a provider lied about, and the truth fetched again in slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from ledger import CHAIN_ID, Ledger
from msgspec import structs
from simulator.chain import SimChain
from workload import DEPLOYMENT, Workload

from indexer.core.types import Batch, BlockRange, Proof, RawLog
from indexer.store.encoding import encode_rows
from indexer.store.leases import Lease
from indexer.store.slices import Slice, Slices, Swapped

EVERY = DEPLOYMENT.addresses


def mined(seed: int, blocks: int, most: int = 8) -> SimChain:
    """Mine a chain of random blocks, of up to `most` actions each."""
    workload, chain = Workload(seed), SimChain(seed=seed)
    for _ in range(blocks):
        chain.mine(workload.block(most))
    return chain


def batch_of(chain: SimChain, first: int, last: int, *, proof: Proof = "logs") -> Batch:
    """Fetch blocks of the simulated chain as the source does."""
    within = BlockRange(first, last)
    blocks = tuple(block.ref for n in range(first, last + 1) if (block := chain.block(n)) is not None)
    return Batch(within, blocks, tuple(chain.logs(within=within)), proof)


def whole(chain: SimChain, *, proof: Proof = "logs") -> Batch:
    """Fetch all of it."""
    return batch_of(chain, chain.start, chain.head.number, proof=proof)


def slices_of(ledger: Ledger, lease: Lease | None = None) -> Slices:
    """Open what corrects the ledger's chain."""
    return Slices(ledger.database, CHAIN_ID, ledger.builder, lease)


async def swap(slices: Slices, batch: Batch, addresses: Sequence[bytes] = EVERY, *, announce: bool = False) -> Swapped:
    """Swap a batch in, with everything that it removes confirmed."""
    fetched = Slice(batch, tuple(addresses), await slices.version())
    removable = frozenset(one.position for one in await slices.compare(fetched) if one.removes)
    return await slices.swap(fetched, removable=removable, announce=announce)


def distorted(batch: Batch, random: Random, *, lost: float = 0.2, altered: float = 0.0) -> Batch:
    """Tell it as a liar does: without some blocks and single logs, and with some logs that were never emitted."""
    silent = {block.number for block in batch.blocks if random.random() < lost}
    told = [log for log in batch.logs if log.block_number not in silent and random.random() >= lost]
    for place, log in enumerate(told):
        if random.random() < altered:
            other = random.choice(batch.logs)
            told[place] = structs.replace(log, address=other.address, topics=other.topics, data=other.data)
    last = {log.block_number: log for log in told}
    invented = [
        structs.replace(random.choice(batch.logs), **_place_after(log))
        for log in last.values()
        if random.random() < altered
    ]
    return replace(batch, logs=tuple(sorted([*told, *invented], key=lambda log: (log.block_number, log.log_index))))


def _place_after(log: RawLog) -> dict[str, object]:
    return {
        "block_number": log.block_number,
        "block_hash": log.block_hash,
        "timestamp": log.timestamp,
        "log_index": log.log_index + 100,
    }


async def commit(ledger: Ledger, batch: Batch, *, announce: bool = False, finalized: int | None = None) -> None:
    """Commit a batch as the worker does at the head."""
    parent = ledger.tip.hash if ledger.tip else None
    rows = encode_rows(ledger.builder.build(batch.logs))
    await ledger.writer.commit(batch, rows, parent=parent, state="live", announce=announce, finalized=finalized)
    ledger.tip = batch.blocks[-1]


async def commit_parts(ledger: Ledger, batch: Batch, size: int) -> None:
    """Commit a batch in pieces of `size` blocks."""
    for first in range(batch.range.from_block, batch.range.to_block + 1, size):
        part = BlockRange(first, min(first + size - 1, batch.range.to_block))
        inside = range(part.from_block, part.to_block + 1)
        blocks = tuple(block for block in batch.blocks if block.number in inside)
        await commit(ledger, Batch(part, blocks, tuple(log for log in batch.logs if log.block_number in inside)))
