"""Swaps among errors and other writers: all of a slice is there or nothing, and nobody overwrites anybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest
from faulty import EXPECTED, Fault, FaultyDatabase, Kind, Observer, Pause
from ledger import CHAIN_ID, Ledger
from simulator.chain import SimChain
from slicing import EVERY, batch_of, commit, commit_parts, distorted, mined, slices_of, swap, whole
from workload import Workload

from indexer.core.types import Batch, BlockRange, BlockRef
from indexer.errors import LeaseLost, StoreUnavailable
from indexer.store.chains import Chains
from indexer.store.coverage import Coverage
from indexer.store.database import Database
from indexer.store.leases import Leases
from indexer.store.marks import ReindexMark
from indexer.store.slices import Slice, SliceMoved, Slices, Swapped
from indexer.store.writer import CheckpointMoved

HEAD = 20


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[FaultyDatabase]:
    database = await FaultyDatabase.open(database_url, size=6)
    yield database
    await database.close()


@pytest.fixture
async def observer(database_url: str) -> AsyncIterator[Observer]:
    observer = await Observer.open(database_url)
    yield observer
    await observer.connection.close()


async def distorted_ledger(database: Database, chain: SimChain, seed: int) -> Ledger:
    ledger = await Ledger.open(database)
    await commit_parts(ledger, distorted(whole(chain), Random(seed), lost=0.1, altered=0.1), 7)
    return ledger


async def swap_all(slices: Slices, chain: SimChain) -> Swapped:
    """Swap the whole truth in, at a better level, with a mark."""
    fetched = Slice(whole(chain, proof="receipts"), EVERY, await slices.version())
    removable = frozenset(one.position for one in await slices.compare(fetched) if one.removes)
    return await slices.swap(fetched, removable=removable, announce=True, mark=ReindexMark(0, None, HEAD + 1))


@pytest.mark.parametrize("kind", ["refused", "cancelled", "killed"])
async def test_an_error_at_any_statement_leaves_no_trace_and_the_next_try_succeeds(
    database: FaultyDatabase, observer: Observer, clean: Database, kind: Kind
) -> None:
    chain = mined(3, 8, 12)
    ledger = await distorted_ledger(database, chain, 3)
    slices = slices_of(ledger)
    fetched = Slice(whole(chain, proof="receipts"), EVERY, await slices.version())
    removable = frozenset(one.position for one in await slices.compare(fetched) if one.removes)
    before = await observer.tables()
    observer.heard.clear()

    statements = 0
    while True:
        fault = Fault(kind, statements + 1, observer.connection)
        database.before = fault.before
        attempt = asyncio.create_task(
            slices.swap(fetched, removable=removable, announce=True, mark=ReindexMark(0, None, HEAD + 1))
        )
        await asyncio.wait([attempt])
        if fault.seen < fault.at:
            break
        statements += 1
        with pytest.raises(EXPECTED[kind]):
            attempt.result()
        assert await observer.tables() == before, f"traces of statement {statements}"
        assert not observer.heard

    assert statements > 50
    done = attempt.result()
    assert {change.removes for change in done.changes} == {True, False}
    assert await observer.tables() != before  # by then the notification has come too
    assert observer.heard == [f"{CHAIN_ID}:{done.cursor}"]
    database.before = None
    straight = await Ledger.open(clean)
    await straight.index(chain)
    assert await ledger.tables() == await straight.tables()


async def test_a_swap_whose_answer_got_lost_is_refused_again_and_found_done_when_fetched_anew(
    database: FaultyDatabase, observer: Observer
) -> None:
    chain = mined(3, HEAD)
    slices = slices_of(await distorted_ledger(database, chain, 3))
    fetched = Slice(whole(chain), EVERY, await slices.version())
    removable = frozenset(one.position for one in await slices.compare(fetched))
    database.lost_answer = True
    with pytest.raises(StoreUnavailable):
        await slices.swap(fetched, removable=removable, announce=True)
    database.lost_answer = False
    after = await observer.tables()

    with pytest.raises(SliceMoved):
        await slices.swap(fetched, removable=removable, announce=True)
    again = await swap(slices, whole(chain))

    assert again.changes == ()
    assert await observer.tables() == after


@pytest.mark.parametrize("at", [1, 2, 5, 30], ids=lambda at: f"at statement {at}")
async def test_a_swap_frozen_inside_its_transaction_is_ended_by_whoever_takes_over(
    database: FaultyDatabase, observer: Observer, clean: Database, at: int
) -> None:
    chain = mined(3, HEAD, 12)
    ledger = await distorted_ledger(database, chain, 3)
    lease = ledger.writer._lease
    slices = slices_of(ledger, lease)
    fetched = Slice(whole(chain), EVERY, await slices.version())
    removable = frozenset(one.position for one in await slices.compare(fetched))
    pause = Pause(at)
    database.before = pause.before
    frozen = asyncio.create_task(slices.swap(fetched, removable=removable, announce=True))
    await asyncio.wait_for(pause.reached.wait(), 5)
    database.before = None

    await observer.connection.execute("UPDATE erc8004_data.leases SET expires_at = now() - interval '1 s'")
    successor = await Leases(database, "another").acquire(CHAIN_ID)
    async with asyncio.timeout(5):  # else it waits for the frozen one's lock
        assert (await swap(slices_of(ledger, successor), whole(chain))).changes
    pause.go_on.set()
    await asyncio.wait([frozen])

    with pytest.raises(LeaseLost if at == 1 else StoreUnavailable):
        frozen.result()
    straight = await Ledger.open(clean)
    await straight.index(chain)
    assert await ledger.tables() == await straight.tables()


# --- beside other writers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_swaps_take_turns_with_commits_and_rollbacks(
    database: FaultyDatabase, clean: Database, seed: int
) -> None:
    """Two correctors and one writer, at once: nothing is lost between them."""
    random, workload = Random(seed), Workload(seed)
    chain = mined(seed, 2 * HEAD)
    ledger = await distorted_ledger(database, chain, seed)

    async def write() -> None:
        for _ in range(5):
            depth = random.randrange(1, 6)
            ancestor = chain.reorg(depth, [workload.block() for _ in range(depth + 2)])
            await ledger.rollback(ancestor)
            for number in range(ancestor.number + 1, chain.head.number + 1):
                await commit(ledger, batch_of(chain, number, number), announce=True)

    async def correct() -> None:
        refused = 0
        for _ in range(30):
            first = random.randrange(2 * HEAD)
            last = min(first + random.randrange(1, 12), 2 * HEAD)
            try:
                await swap(slices_of(ledger), batch_of(chain, first, last), announce=True)
            except SliceMoved:
                refused += 1
        assert refused < 30

    async with asyncio.timeout(30):
        await asyncio.gather(write(), correct(), correct())
    await swap(slices_of(ledger), whole(chain))

    straight = await Ledger.open(clean)
    await straight.index(chain)
    assert await ledger.tables() == await straight.tables()
    async with database.transaction() as connection:
        cursors = await connection.fetch("SELECT cursor FROM changes ORDER BY cursor")
    assert [row["cursor"] for row in cursors] == list(range(1, len(cursors) + 1))


async def test_of_two_swaps_of_one_slice_one_wins_and_the_other_is_told(
    database: FaultyDatabase, clean: Database
) -> None:
    chain = mined(4, HEAD)
    ledger = await distorted_ledger(database, chain, 4)

    ends = await asyncio.gather(*(swap_all(slices_of(ledger), chain) for _ in range(2)), return_exceptions=True)

    winners = [end for end in ends if isinstance(end, Swapped) and end.changes]
    assert len(winners) == 1
    assert all(isinstance(end, SliceMoved) or not end.changes for end in ends if end not in winners)  # type: ignore[union-attr]
    straight = await Ledger.open(clean)
    await straight.index(chain)
    assert await ledger.tables() == await straight.tables()


async def test_a_reader_of_an_old_snapshot_sees_nothing_of_a_swap(database: FaultyDatabase) -> None:
    chain = mined(4, HEAD)
    ledger = await distorted_ledger(database, chain, 4)
    count = "SELECT (SELECT count(*) FROM logs), (SELECT sum(feedback) FROM agent_stats)"
    async with database.transaction(snapshot=True) as connection:
        before = await connection.fetchrow(count)
        done = await swap(slices_of(ledger), whole(chain))

        assert done.changes
        assert await connection.fetchrow(count) == before


# --- the halt -------------------------------------------------------------------------------------------------------


async def bookkeeping(database: Database) -> tuple[object, ...]:
    async with database.transaction() as connection:
        row = await connection.fetchrow(
            "SELECT state, halt_reason, checkpoint_block, proven_final, announced_final, reorgs, rewrites FROM chains"
        )
    assert row is not None
    return tuple(row)


async def halted(database: Database, chain: SimChain) -> Ledger:
    """Index the chain, all but two blocks of it final, and halt it."""
    ledger = await Ledger.open(database)
    await commit(ledger, whole(chain), announce=True, finalized=HEAD - 2)
    await ledger.writer.halt("reorganised below its finalized block")
    return ledger


async def test_a_lifted_chain_goes_on_above_the_ancestor(database: FaultyDatabase, clean: Database) -> None:
    chain = mined(6, HEAD)
    ledger = await halted(database, chain)
    ancestor = chain.blocks[8].ref
    chain.reorg(HEAD - 8, [Workload(60 + n).block() for n in range(HEAD)])

    done = await ledger.writer.lift(ancestor)

    assert done.logs > 0
    assert await bookkeeping(database) == ("live", None, 8, 8, 8, 1, 1)
    standing = await Chains(database).standing(CHAIN_ID)
    assert standing.halt_reason is None
    assert (standing.checkpoint_hash, standing.held) == (ancestor.hash, (ancestor,))
    ledger.tip = ancestor
    await ledger.index(chain, (5,))
    straight = await Ledger.open(clean)
    await straight.index(chain)
    assert await ledger.tables() == await straight.tables()


async def test_a_lift_to_before_the_first_block_begins_anew(database: FaultyDatabase, clean: Database) -> None:
    chain = mined(6, HEAD)
    ledger = await halted(database, chain)

    await ledger.writer.lift(BlockRef(-1, b"", b"", 0))

    assert await bookkeeping(database) == ("live", None, -1, -1, -1, 1, 1)
    ledger.tip = None
    await ledger.index(chain, (5,))
    straight = await Ledger.open(clean)
    await straight.index(chain)
    assert await ledger.tables() == await straight.tables()


async def test_a_chain_that_was_never_live_goes_on_as_it_was(database: FaultyDatabase) -> None:
    ledger = await Ledger.open(database)
    await commit(ledger, whole(mined(6, HEAD)), finalized=HEAD - 2)
    await ledger.writer.halt("for a test")

    await ledger.writer.lift(BlockRef(-1, b"", b"", 0))

    assert (await bookkeeping(database))[0] == "backfilling"


async def test_a_lift_at_the_checkpoint_takes_nothing_back(database: FaultyDatabase) -> None:
    chain = mined(6, HEAD)
    ledger = await halted(database, chain)
    before = await ledger.tables()

    done = await ledger.writer.lift(chain.head)

    assert (done.logs, done.agents) == (0, 0)
    assert await bookkeeping(database) == ("live", None, HEAD, HEAD - 2, HEAD - 2, 0, 0)
    assert await ledger.tables() == before


async def test_only_a_halted_chain_can_be_lifted_and_only_by_its_holder(
    database: FaultyDatabase, observer: Observer
) -> None:
    chain = mined(6, HEAD)
    ledger = await Ledger.open(database)
    await commit(ledger, whole(chain))
    before = await observer.tables()
    with pytest.raises(CheckpointMoved):
        await ledger.writer.lift(chain.blocks[8].ref)
    assert await observer.tables() == before

    await ledger.writer.halt("for a test")
    before = await observer.tables()
    await Leases(database, "test").acquire(CHAIN_ID)
    with pytest.raises(LeaseLost):
        await ledger.writer.lift(chain.blocks[8].ref)
    assert await observer.tables() == before


@pytest.mark.parametrize("kind", ["refused", "killed"])
async def test_an_error_at_any_statement_of_a_lift_leaves_the_chain_halted_and_whole(
    database: FaultyDatabase, observer: Observer, kind: Kind
) -> None:
    chain = mined(6, HEAD)
    ledger = await halted(database, chain)
    before = await observer.tables()

    at = 1
    while True:
        fault = Fault(kind, at, observer.connection)
        database.before = fault.before
        attempt = asyncio.create_task(ledger.writer.lift(chain.blocks[8].ref))
        await asyncio.wait([attempt])
        if fault.seen < fault.at:
            break
        at += 1
        with pytest.raises(EXPECTED[kind]):
            attempt.result()
        assert await observer.tables() == before
    assert attempt.result().logs > 0


async def test_a_commit_writes_its_level_beside_intervals_of_others(database: FaultyDatabase) -> None:
    """What the keeper raised, and then a reorg cut, is lengthened by the next batch of the same level alone."""
    chain = mined(6, HEAD)
    ledger = await Ledger.open(database)
    await commit(ledger, batch_of(chain, 0, 9))
    await swap(slices_of(ledger), batch_of(chain, 5, 9, proof="receipts"))
    await ledger.rollback(chain.blocks[7].ref)
    await commit(ledger, batch_of(chain, 8, 8, proof="receipts"))
    await commit(ledger, batch_of(chain, 9, 12, proof="logs"))

    async with database.transaction() as connection:
        rows = await connection.fetch("SELECT DISTINCT from_block, to_block, proof FROM coverage ORDER BY 1")

    assert [tuple(row) for row in rows] == [(0, 4, "logs"), (5, 8, "receipts"), (9, 12, "logs")]


async def test_what_was_learned_of_providers_is_read_again(database: FaultyDatabase) -> None:
    chain = mined(6, 2)
    await Ledger.open(database)
    books = Chains(database)
    assert await books.learned(CHAIN_ID) == []

    await books.observe(CHAIN_ID, chain.head, None, [{"host": "node", "max_range": 1000}])

    assert await books.learned(CHAIN_ID) == [{"host": "node", "max_range": 1000}]
    assert await books.learned(7) == []


async def test_a_first_block_that_moves_down_is_where_a_chain_begins_anew(database: FaultyDatabase) -> None:
    for start_block in (10, 3, 5):
        await Ledger.open(database, start_block=start_block)

    assert (await Chains(database).standing(CHAIN_ID)).start_block == 3


async def test_a_first_block_that_moves_down_moves_the_checkpoint_only_while_nothing_is_stored(
    database: FaultyDatabase,
) -> None:
    """One above the head would keep the chain waiting for it; later, what lies below is a gap."""
    chain = mined(6, 12)
    for start_block in (1000, 5):
        ledger = await Ledger.open(database, start_block=start_block)
        assert (await Chains(database).standing(CHAIN_ID)).checkpoint_block == start_block - 1
    await commit(ledger, batch_of(chain, 5, 9))
    await Ledger.open(database, start_block=2)

    standing = await Chains(database).standing(CHAIN_ID)
    assert (standing.start_block, standing.checkpoint_block) == (2, 9)
    assert [gap.range for gap in await Coverage(database, CHAIN_ID).gaps("off")] == [BlockRange(2, 4)]


@pytest.mark.parametrize(
    ("number", "header_hash", "parent_hash", "expected"),
    [
        (5, "h5", "h4", False),
        (5, "other", "h4", True),
        (4, "h4", "h3", False),
        (4, "other", "h3", True),
        (7, "h7", "h6", False),
        (7, "h7", "other", True),
        (8, "other", "other", False),
    ],
    ids=["a header", "another one", "the parent", "another parent", "a child", "a child of another", "unrelated"],
)
def test_a_held_header_tells_a_slice_of_another_branch(
    number: int, header_hash: str, parent_hash: str, expected: bool
) -> None:
    blocks = tuple(BlockRef(n, f"h{n}".encode(), f"h{n - 1}".encode(), 0) for n in (5, 6))
    fetched = Slice(Batch(BlockRange(5, 6), blocks, ()), EVERY, 0)

    assert fetched.contradicts(number, header_hash.encode(), parent_hash.encode()) is expected


def test_a_slice_hears_its_own_contracts_alone() -> None:
    chain = mined(6, HEAD)
    batch = whole(chain)

    logs = Slice(batch, EVERY[:1], 0).logs

    assert logs == tuple(log for log in batch.logs if log.address == EVERY[0])
    assert Slice(batch, EVERY, 0).logs == batch.logs
