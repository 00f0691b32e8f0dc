"""Correcting what is stored: whatever was lost or invented, swapping the truth in gives what a straight run gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from ledger import CHAIN_ID, COMPARED, Ledger
from msgspec import structs
from simulator.chain import SimChain
from simulator.logs import form_log
from slicing import EVERY, batch_of, commit, commit_parts, distorted, mined, slices_of, swap, whole
from workload import DEPLOYMENT, IDENTITY, REPUTATION, VALIDATIONS, ZERO, Workload

from indexer.core.coverage import Interval
from indexer.core.types import BlockRange, Deployment, Proof
from indexer.errors import LeaseLost, SettingsError
from indexer.store.coverage import Coverage
from indexer.store.database import Database
from indexer.store.leases import Lease
from indexer.store.marks import Marks, ReindexMark
from indexer.store.slices import Slice, SliceMoved, Slices, Unconfirmed, Version

HEAD = 40


async def versions(database: Database, *tables: str) -> set[tuple[str, Any, Any]]:
    """Return which version of each row there is: it changes with every write, also with one of the same values."""
    found = set()
    async with database.transaction() as connection:
        for table in tables:
            for row in await connection.fetch(f"SELECT ctid, xmin::text AS xmin FROM {table}"):
                found.add((table, row["ctid"], row["xmin"]))
    return found


async def expect_straight(ledger: Ledger, clean: Database, chain: SimChain) -> None:
    """Compare every table with those of a run that saw only the truth."""
    straight = await Ledger.open(clean)
    await straight.index(chain)
    assert await ledger.tables() == await straight.tables()


def cut(chain: SimChain, random: Random, pieces: int = 6) -> list[tuple[int, int]]:
    """Cut the chain into slices at random, in random order."""
    last = chain.head.number
    starts = sorted({chain.start, *random.sample(range(chain.start, last + 1), pieces)})
    parts = list(zip(starts, [*(start - 1 for start in starts[1:]), last], strict=True))
    random.shuffle(parts)
    return parts


@pytest.mark.parametrize("altered", [0.0, 0.1], ids=["lost", "lost and invented"])
@pytest.mark.parametrize("seed", range(5))
async def test_the_truth_swapped_in_by_random_slices_gives_the_rows_of_a_straight_run(
    database: Database, clean: Database, seed: int, altered: float
) -> None:
    chain, random = mined(seed, HEAD), Random(seed)
    ledger = await Ledger.open(database)
    told = distorted(whole(chain), random, altered=altered)
    await commit_parts(ledger, told, 7)

    done = [await swap(slices_of(ledger), batch_of(chain, *part)) for part in cut(chain, random)]

    changed = {change.position for one in done for change in one.changes}
    wrong = {(log.block_number, log.log_index) for log in {*chain.logs()} ^ {*told.logs}}
    assert changed == wrong
    await expect_straight(ledger, clean, chain)


async def test_blocks_filled_from_the_lowest_on_carry_agents_on_without_their_history(
    database: Database, clean: Database
) -> None:
    chain = mined(9, HEAD)
    ledger = await Ledger.open(database)
    await commit(ledger, replace(whole(chain), logs=()))
    async with database.transaction() as connection:
        await connection.execute("DELETE FROM coverage")
    slices = slices_of(ledger)

    for first in range(0, HEAD, 10):
        await swap(slices, batch_of(chain, first, min(first + 9, HEAD)))
    await swap(slices, batch_of(chain, HEAD, HEAD))

    await expect_straight(ledger, clean, chain)


async def test_logs_that_someone_deleted_from_the_ledger_alone_come_back_and_count_once(
    database: Database, clean: Database
) -> None:
    chain = mined(10, HEAD)
    ledger = await Ledger.open(database)
    await ledger.index(chain)
    async with database.transaction() as connection:
        await connection.execute("DELETE FROM logs WHERE block_number > 20 AND event IS NOT NULL")

    done = await swap(slices_of(ledger), batch_of(chain, 15, HEAD))

    assert done.changes
    await expect_straight(ledger, clean, chain)


@pytest.mark.parametrize("lost", range(5))
async def test_a_log_lost_in_the_middle_of_a_mint_decides_again_what_applies(
    database: Database, clean: Database, lost: int
) -> None:
    owner, wallet = b"\xaa" * 20, b"\xbb" * 20
    logs = [
        form_log(IDENTITY, "identity/transfer", ZERO, owner, 1),
        form_log(IDENTITY, "identity/uri_updated", 1, "called back", owner),
        form_log(IDENTITY, "identity/metadata_set", 1, "agentWallet", "agentWallet", wallet),
        form_log(IDENTITY, "identity/registered", 1, "", owner),
        form_log(IDENTITY, "identity/metadata_set", 1, "agentWallet", "agentWallet", owner),
    ]
    chain = SimChain(seed=3)
    chain.mine([replace(log, tx_hash=b"\x01" * 32) for log in logs])
    ledger = await Ledger.open(database)
    truth = whole(chain)
    await commit(ledger, replace(truth, logs=truth.logs[:lost] + truth.logs[lost + 1 :]))

    done = await swap(slices_of(ledger), truth)

    assert [change.position for change in done.changes] == [(1, lost)]
    await expect_straight(ledger, clean, chain)


async def test_agents_that_nothing_changed_keep_their_rows_as_they_are(database: Database) -> None:
    chain = SimChain(seed=1)
    logs = [form_log(IDENTITY, "identity/transfer", ZERO, b"\xaa" * 20, agent) for agent in range(5)]
    chain.mine(logs)
    ledger = await Ledger.open(database)
    truth = whole(chain)
    await commit(ledger, replace(truth, logs=truth.logs[:4]))
    before = await versions(database, "agents", "agent_stats", "transfers", "logs")

    done = await swap(slices_of(ledger), truth)

    assert done.agents == 1
    assert before < await versions(database, "agents", "agent_stats", "transfers", "logs")


async def test_swapping_in_what_is_there_writes_no_row(database: Database) -> None:
    chain = mined(2, HEAD)
    ledger = await Ledger.open(database)
    await commit_parts(ledger, whole(chain), 7)
    everything = (*COMPARED, "chains", "coverage", "changes", "reverted_logs", "blocks")
    before = await versions(database, *everything)
    version = await slices_of(ledger).version()

    for part in cut(chain, Random(2)):
        done = await swap(slices_of(ledger), batch_of(chain, *part), announce=True)
        assert (done.changes, done.agents) == ((), 0)

    assert await versions(database, *everything) == before
    assert await slices_of(ledger).version() == version


async def test_a_better_proof_of_the_same_logs_moves_coverage_alone(database: Database) -> None:
    chain = mined(2, HEAD)
    ledger = await Ledger.open(database)
    await commit_parts(ledger, whole(chain), 7)
    rest = (*COMPARED, "chains", "changes", "reverted_logs", "blocks")
    before = await versions(database, *rest)
    slices = slices_of(ledger)

    await swap(slices, batch_of(chain, 10, 19, proof="receipts"))
    await swap(slices, batch_of(chain, 15, 25, proof="off"))

    assert await versions(database, *rest) == before
    intervals = [(0, 9, "logs"), (10, 19, "receipts"), (20, HEAD, "logs")]
    expected = [Interval(BlockRange(first, last), proof) for first, last, proof in intervals]
    assert await Coverage(database, CHAIN_ID).intervals() == dict.fromkeys(EVERY, expected)


async def test_nothing_is_removed_or_replaced_that_was_not_confirmed(database: Database) -> None:
    chain = mined(4, HEAD)
    ledger = await Ledger.open(database)
    told = distorted(whole(chain), Random(4), altered=0.1)
    await commit_parts(ledger, told, 7)
    slices = slices_of(ledger)
    fetched = Slice(whole(chain), EVERY, await slices.version())
    removed = [change.position for change in await slices.compare(fetched) if change.removes]
    assert {change.fetched is None for change in await slices.compare(fetched) if change.removes} == {True, False}
    before = await ledger.tables()

    for missing in (removed[0], removed[-1]):
        with pytest.raises(Unconfirmed) as caught:
            await slices.swap(fetched, removable=frozenset(removed) - {missing}, announce=True)
        assert caught.value.positions == (missing,)

    assert await ledger.tables() == before
    done = await slices.swap(fetched, removable=frozenset(removed), announce=True)
    assert {change.position for change in done.changes if change.removes} == set(removed)


async def test_a_log_of_another_contract_at_the_same_place_is_replaced_only_if_confirmed(
    database: Database, clean: Database
) -> None:
    chain = SimChain(seed=6)
    chain.mine([form_log(IDENTITY, "identity/uri_updated", 1, "x", bytes(20))])
    ledger = await Ledger.open(database)
    truth = whole(chain)
    foreign = Workload(1)._feedback()[0]
    lie = structs.replace(truth.logs[0], address=REPUTATION, topics=foreign.topics, data=foreign.data)
    await commit(ledger, replace(truth, logs=(lie,)))
    slices = slices_of(ledger)

    with pytest.raises(Unconfirmed):
        await slices.swap(Slice(truth, (IDENTITY,), await slices.version()), removable=frozenset(), announce=False)
    await swap(slices, truth, (IDENTITY,))

    await expect_straight(ledger, clean, chain)


# --- what moved meanwhile -------------------------------------------------------------------------------------------


@pytest.fixture
async def repaired(database: Database) -> tuple[Ledger, SimChain, Slices, Slice]:
    """Store a chain that lacks logs, and fetch a slice that has them."""
    chain = mined(5, HEAD)
    ledger = await Ledger.open(database)
    await commit_parts(ledger, distorted(whole(chain), Random(5)), 7)
    slices = slices_of(ledger)
    return ledger, chain, slices, Slice(batch_of(chain, 5, 20), EVERY, await slices.version())


async def expect_moved(slices: Slices, fetched: Slice) -> None:
    with pytest.raises(SliceMoved):
        await slices.compare(fetched)
    with pytest.raises(SliceMoved):
        await slices.swap(fetched, removable=frozenset(), announce=True)


async def test_a_slice_fetched_before_a_rollback_is_refused(repaired: tuple[Ledger, SimChain, Slices, Slice]) -> None:
    ledger, chain, slices, fetched = repaired
    await ledger.rollback(chain.blocks[30].ref)
    await commit_parts(ledger, batch_of(chain, 31, HEAD), 5)

    await expect_moved(slices, fetched)


async def finalize(ledger: Ledger, chain: SimChain, final: int) -> None:
    chain.mine()
    await commit(ledger, batch_of(chain, chain.head.number, chain.head.number), finalized=final)


async def test_a_reorg_above_what_was_final_refuses_only_the_slices_that_it_reached(
    repaired: tuple[Ledger, SimChain, Slices, Slice],
) -> None:
    ledger, chain, slices, fetched = repaired
    await finalize(ledger, chain, 20)
    version = await slices.version()
    await ledger.rollback(chain.blocks[25].ref)
    ledger.tip = chain.blocks[25].ref
    await commit_parts(ledger, batch_of(chain, 26, chain.head.number), 5)
    await finalize(ledger, chain, 30)  # what the reorg reached is final by now

    await expect_moved(slices, Slice(batch_of(chain, 18, 21), EVERY, version))
    done = await slices.swap(replace(fetched, version=version), removable=frozenset(), announce=True)
    assert done.changes
    assert (await slices.version()).rewrites == version.after(done).rewrites


async def test_a_halt_lifted_below_what_was_final_refuses_every_slice_fetched_before(
    repaired: tuple[Ledger, SimChain, Slices, Slice],
) -> None:
    ledger, chain, slices, fetched = repaired
    await finalize(ledger, chain, 20)
    fetched = replace(fetched, version=await slices.version())
    await ledger.writer.halt("for a test")
    await ledger.writer.lift(chain.blocks[10].ref)
    ledger.tip = chain.blocks[10].ref
    await commit_parts(ledger, batch_of(chain, 11, HEAD), 5)

    await expect_moved(slices, fetched)


async def test_a_slice_fetched_before_another_swap_is_refused(repaired: tuple[Ledger, SimChain, Slices, Slice]) -> None:
    _, chain, slices, fetched = repaired
    await swap(slices, whole(chain))

    await expect_moved(slices, fetched)


async def test_a_slice_above_the_checkpoint_is_refused(repaired: tuple[Ledger, SimChain, Slices, Slice]) -> None:
    _, chain, slices, fetched = repaired
    chain.mine()

    await expect_moved(slices, replace(fetched, batch=batch_of(chain, 30, HEAD + 1)))


async def test_a_slice_of_a_halted_chain_is_refused(repaired: tuple[Ledger, SimChain, Slices, Slice]) -> None:
    ledger, _, slices, fetched = repaired
    await ledger.writer.halt("for a test")

    await expect_moved(slices, fetched)


@pytest.mark.parametrize(
    ("first", "last", "headers"),
    [(35, HEAD, "all"), (30, 36, "all"), (36, 36, "all"), (20, 35, "none"), (36, 38, "none")],
    ids=["its last blocks", "its end", "one block", "the parent of the block above", "the blocks of its logs"],
)
async def test_a_slice_of_another_branch_is_refused(database: Database, first: int, last: int, headers: str) -> None:
    chain = mined(7, HEAD, 12)
    ledger = await Ledger.open(database)
    await commit_parts(ledger, distorted(whole(chain), Random(7)), 7)
    other = chain.fork()
    workload = Workload(70)
    other.reorg(HEAD - 34, [[*workload._feedback(), *workload.block()] for _ in range(HEAD - 34)])
    slices = slices_of(ledger)
    batch = batch_of(other, first, last)
    if headers == "none":
        batch = replace(batch, blocks=batch.blocks[-1:] if last == 35 else ())

    await expect_moved(slices, Slice(batch, EVERY, await slices.version()))


async def test_a_lost_lease_writes_nothing_and_none_is_needed_beside_its_holder(
    repaired: tuple[Ledger, SimChain, Slices, Slice],
) -> None:
    ledger, _, slices, fetched = repaired
    with pytest.raises(LeaseLost):
        await slices_of(ledger, Lease(CHAIN_ID, "test", 0)).swap(fetched, removable=frozenset(), announce=True)

    assert (await slices.swap(fetched, removable=frozenset(), announce=True)).changes


async def test_an_unknown_chain_is_told(database: Database) -> None:
    ledger = await Ledger.open(database)
    slices = Slices(database, 7, ledger.builder)

    with pytest.raises(SettingsError, match="chain 7"):
        await slices.version()
    with pytest.raises(SettingsError, match="chain 7"):
        await slices.swap(Slice(whole(mined(1, 2)), EVERY, Version(0, 0, -1)), removable=frozenset(), announce=True)


# --- the feed -------------------------------------------------------------------------------------------------------


async def feed_after(database: Database, cursor: int) -> list[tuple[str, int, int | None, str | None]]:
    async with database.transaction() as connection:
        rows = await connection.fetch(
            "SELECT x.kind, x.block_number, x.log_index, c.args FROM changes x "
            "LEFT JOIN erc8004.erc8004_changes c USING (chain_id, cursor) WHERE x.cursor > $1 ORDER BY x.cursor",
            cursor,
        )
    return [tuple(row) for row in rows]


async def test_the_feed_takes_back_what_was_wrong_and_tells_only_what_is_new(database: Database) -> None:
    chain = SimChain(seed=8)
    for agent in (1, 2, 3):
        chain.mine([form_log(IDENTITY, "identity/uri_updated", agent, "right", ZERO)])
    truth = whole(chain)
    wrong = form_log(IDENTITY, "identity/uri_updated", 2, "wrong", ZERO)
    ledger = await Ledger.open(database)
    told = (truth.logs[0], structs.replace(truth.logs[1], data=wrong.data))
    await commit(ledger, replace(truth, logs=told), announce=True)

    done = await swap(slices_of(ledger), truth, announce=True)

    feed = await feed_after(database, len(told))
    told_now = [(kind, block, index, "wrong" in (args or "")) for kind, block, index, args in feed]
    assert told_now == [("revert", 2, 0, True), ("event", 2, 0, False), ("event", 3, 0, False)]
    assert done.cursor == len(told) + 3


async def test_a_quiet_swap_tells_the_publisher_alone_of_what_is_new(database: Database) -> None:
    chain = SimChain(seed=8)
    for agent in (1, 2, 3):
        chain.mine([form_log(IDENTITY, "identity/uri_updated", agent, "right", ZERO)])
    ledger = await Ledger.open(database)
    await commit(ledger, replace(whole(chain), logs=()), announce=True)

    await swap(slices_of(ledger), whole(chain))

    assert await feed_after(database, 0) == [("refresh", 3, None, None)]
    async with database.transaction() as connection:
        change = await connection.fetchrow("SELECT * FROM changes")
        agents = await connection.fetch("SELECT agent_uuid FROM agents ORDER BY agent_uuid")
    assert change["from_block"] == 1
    assert sorted(change["agents"]) == [row["agent_uuid"] for row in agents]
    assert len(agents) == 3


async def test_the_mark_of_a_reindex_moves_with_its_slice_and_never_alone(database: Database) -> None:
    chain = mined(5, HEAD)
    ledger = await Ledger.open(database)
    await commit_parts(ledger, distorted(whole(chain), Random(5), altered=0.1), 7)
    slices, marks = slices_of(ledger), Marks(database, CHAIN_ID)
    fetched = Slice(whole(chain), EVERY, await slices.version())
    assert await marks.read() is None
    await marks.write(ReindexMark(0, None, 0))

    with pytest.raises(Unconfirmed):
        await slices.swap(fetched, removable=frozenset(), announce=True, mark=ReindexMark(0, 40, 41))
    assert await marks.read() == ReindexMark(0, None, 0)
    removable = frozenset(one.position for one in await slices.compare(fetched))
    await slices.swap(fetched, removable=removable, announce=True, mark=ReindexMark(0, 40, 41))
    assert await marks.read() == ReindexMark(0, 40, 41)
    await marks.clear()
    assert await marks.read() is None


# --- contracts that come and go -------------------------------------------------------------------------------------


def only(batch_addresses: Sequence[bytes], chain: SimChain, first: int, last: int, proof: Proof = "logs") -> Any:
    batch = batch_of(chain, first, last, proof=proof)
    return replace(batch, logs=tuple(log for log in batch.logs if log.address in batch_addresses))


async def test_a_contract_added_in_the_settings_is_filled_without_touching_the_rest(
    database: Database, clean: Database
) -> None:
    chain = mined(11, HEAD)
    few = Deployment(IDENTITY, REPUTATION, (), 0)
    ledger = await Ledger.open(database, deployment=few, start_block=10)
    ledger.tip = chain.blocks[9].ref
    for first in range(10, 32, 7):
        await commit(ledger, only(few.addresses, chain, first, first + 6))
    before = await versions(database, "logs", "uris", "revocations")

    ledger = await Ledger.open(database, deployment=DEPLOYMENT, start_block=3)
    coverage = Coverage(database, CHAIN_ID)
    gaps = await coverage.gaps("logs")
    assert [(gap.range, set(gap.addresses), gap.proof) for gap in gaps] == [
        (BlockRange(3, 9), set(EVERY), None),
        (BlockRange(10, 37), set(VALIDATIONS), None),
    ]
    ledger.tip = chain.blocks[37].ref
    await commit(ledger, batch_of(chain, 38, HEAD))
    for gap in await coverage.gaps("logs"):
        fetched = only(gap.addresses, chain, gap.range.from_block, gap.range.to_block)
        await swap(slices_of(ledger), fetched, gap.addresses)

    assert await coverage.gaps("logs") == []
    assert before < await versions(database, "logs", "uris", "revocations")
    straight = await Ledger.open(clean, start_block=3)
    straight.tip = chain.blocks[2].ref
    await straight.index(chain)
    assert await ledger.tables() == await straight.tables()


async def test_what_is_below_the_wanted_level_comes_after_what_is_missing(database: Database) -> None:
    chain = mined(11, HEAD)
    ledger = await Ledger.open(database)
    await commit(ledger, batch_of(chain, 0, 19, proof="off"))
    await commit(ledger, batch_of(chain, 20, 29, proof="receipts"))
    await commit(ledger, batch_of(chain, 30, HEAD, proof="logs"))
    async with database.transaction() as connection:
        await connection.execute("DELETE FROM coverage WHERE address = $1 AND from_block = 20", IDENTITY)

    async def gaps_of(wanted: Proof, to_block: int | None = None) -> list[tuple[int, int, int, str | None]]:
        gaps = await Coverage(database, CHAIN_ID).gaps(wanted, to_block=to_block)
        return [(gap.range.from_block, gap.range.to_block, len(gap.addresses), gap.proof) for gap in gaps]

    missing = (20, 29, 1, None)
    assert await gaps_of("off") == [missing]
    assert await gaps_of("logs") == [missing, (0, 19, 4, "off")]
    assert await gaps_of("receipts") == [missing, (0, 19, 4, "off"), (30, HEAD, 4, "logs")]
    assert await gaps_of("receipts", 24) == [(20, 24, 1, None), (0, 19, 4, "off")]
    async with database.transaction() as connection:
        assert await connection.fetchval("SELECT proof FROM chains") == "logs"
