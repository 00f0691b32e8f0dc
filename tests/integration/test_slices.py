"""Correcting what is stored: whatever was lost or invented, swapping the truth in gives what a straight run gives."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from indexing import grown
from ledger import CHAIN_ID, Ledger
from simulator.chain import SimChain
from workload import DEPLOYMENT

from indexer.core.differences import Position
from indexer.core.types import Batch, BlockRange, Proof
from indexer.store.database import Database
from indexer.store.slices import Slice, Slices, Swapped


def batch_of(chain: SimChain, first: int, last: int, *, proof: Proof = "logs") -> Batch:
    """Fetch blocks of the simulated chain as the source does."""
    within = BlockRange(first, last)
    blocks = tuple(block.ref for n in range(first, last + 1) if (block := chain.block(n)) is not None)
    return Batch(within, blocks, tuple(chain.logs(within=within)), proof)


def slices_of(ledger: Ledger) -> Slices:
    return Slices(ledger.database, CHAIN_ID, ledger.builder)


async def swap(slices: Slices, batch: Batch, *, announce: bool = False) -> Swapped:
    """Swap a batch in, with everything that it removes confirmed."""
    fetched = Slice(batch, DEPLOYMENT.addresses, await slices.rewrites())
    removable = frozenset(one.position for one in await slices.compare(fetched) if one.removes)
    return await slices.swap(fetched, removable=removable, announce=announce)


def lossy(chain: SimChain, random: Random) -> frozenset[Position]:
    """Draw what a lying provider kept to itself: whole blocks, and single logs wherever they stand."""
    logs = chain.logs()
    blocks = {block.ref.number for block in chain.blocks if random.random() < 0.2}
    return frozenset(
        (log.block_number, log.log_index) for log in logs if log.block_number in blocks or random.random() < 0.2
    )


async def commit_without(ledger: Ledger, chain: SimChain, lost: frozenset[Position], size: int) -> None:
    """Index the whole chain but for the logs that were lost."""
    for first in range(chain.start, chain.head.number + 1, size):
        whole = batch_of(chain, first, min(first + size - 1, chain.head.number))
        logs = tuple(log for log in whole.logs if (log.block_number, log.log_index) not in lost)
        await commit(ledger, replace(whole, logs=logs))


async def commit(ledger: Ledger, batch: Batch) -> None:
    parent = ledger.tip.hash if ledger.tip else None
    rows = ledger.builder.build(batch.logs)
    await ledger.writer.commit(batch, rows, parent=parent, state="live", announce=False, finalized=None)
    ledger.tip = batch.blocks[-1]


@pytest.mark.parametrize("seed", range(8))
async def test_the_truth_swapped_in_by_random_slices_gives_the_rows_of_a_straight_run(
    database: Database, clean: Database, seed: int
) -> None:
    chain, _ = grown(seed, 40, 8)
    random = Random(seed)
    ledger = await Ledger.open(database)
    lost = lossy(chain, random)
    await commit_without(ledger, chain, lost, 7)
    slices = slices_of(ledger)

    starts = sorted({chain.start, *random.sample(range(chain.start, chain.head.number + 1), 6)})
    parts = list(zip(starts, [*(start - 1 for start in starts[1:]), chain.head.number], strict=True))
    random.shuffle(parts)
    done = [await swap(slices, batch_of(chain, *part)) for part in parts]

    straight = await Ledger.open(clean)
    await straight.index(chain)
    assert {change.position for one in done for change in one.changes} == lost
    assert await ledger.tables() == await straight.tables()
