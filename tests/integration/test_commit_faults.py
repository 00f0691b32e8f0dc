"""The commit and the rollback: whatever goes wrong at whichever statement, all of it is there or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
from faulty import EXPECTED, Fault, FaultyDatabase, Kind, Observer, Pause
from ledger import CHAIN_ID, Ledger, decoder
from simulator.chain import SimChain
from workload import DEPLOYMENT, Workload

from indexer.core.rows import COLUMNS, RowBuilder, Rows
from indexer.core.types import Batch, BlockRange, RawLog
from indexer.errors import LeaseLost, StoreUnavailable
from indexer.store.database import Database
from indexer.store.encoding import encode_rows
from indexer.store.leases import Lease, Leases
from indexer.store.writer import CheckpointMoved, Committed, RolledBack, Writer

Step = Callable[[Ledger, SimChain], Awaitable[Committed | RolledBack]]

HEAD, ANCESTOR, FINAL = 20, 10, 5


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[FaultyDatabase]:
    database = await FaultyDatabase.open(database_url, size=4)
    yield database
    await database.close()


@pytest.fixture
async def observer(database_url: str) -> AsyncIterator[Observer]:
    observer = await Observer.open(database_url)
    yield observer
    await observer.connection.close()


@pytest.fixture(scope="module")
def chain() -> SimChain:
    """Blocks so mixed that the commit of the last ones and their rollback run every statement there is."""
    return next(chain for seed in count() if has_everything(chain := grown(seed)))


def grown(seed: int) -> SimChain:
    workload, chain = Workload(seed), SimChain(seed=seed)
    while chain.head.number < HEAD:
        chain.mine(workload.block())
    return chain


def has_everything(chain: SimChain) -> bool:
    rows = built(chain.logs(within=BlockRange(ANCESTOR + 1, HEAD)))
    return rows.undecodable > 0 and all(rows[table] for table in COLUMNS)


def built(logs: Iterable[RawLog]) -> Rows:
    return RowBuilder(CHAIN_ID, [DEPLOYMENT], decoder()).build(logs)


def batch_of(chain: SimChain, first: int, last: int) -> Batch:
    within = BlockRange(first, last)
    blocks = tuple(block.ref for n in range(first, last + 1) if (block := chain.block(n)))
    return Batch(within, blocks, tuple(chain.logs(within=within)))


async def commit(ledger: Ledger, chain: SimChain, *, writer: Writer | None = None, **changed: Any) -> Committed:
    """Commit the blocks above ANCESTOR, as the worker does near the head."""
    batch = batch_of(chain, ANCESTOR + 1, HEAD)
    parent = chain.blocks[ANCESTOR].ref.hash
    options = {"parent": parent, "state": "live", "announce": True, "finalized": FINAL} | changed
    return await (writer or ledger.writer).commit(batch, encode_rows(built(batch.logs)), **options)


async def rollback(ledger: Ledger, chain: SimChain) -> RolledBack:
    return await ledger.writer.rollback(chain.blocks[ANCESTOR].ref)


async def prepare(ledger: Ledger, chain: SimChain, step: Step) -> None:
    await ledger.commit(chain, 0, ANCESTOR)
    if step is rollback:
        await commit(ledger, chain)


@dataclass(frozen=True)
class Clean:
    """What a run that nothing disturbed returned and left in the tables, by step."""

    done: dict[Step, Committed | RolledBack]
    tables: dict[Step, list[tuple[str, str]]]


@pytest.fixture(scope="module")
def clean(postgres_url: str, template_database: str, chain: SimChain) -> Clean:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, undisturbed(postgres_url, template_database, chain)).result()


async def undisturbed(postgres_url: str, template: str, chain: SimChain) -> Clean:
    name = f"clean_{uuid4().hex}"
    admin = await asyncpg.connect(postgres_url)
    await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    try:
        return await _undisturbed(urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}")), chain)
    finally:
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        await admin.close()


async def _undisturbed(url: str, chain: SimChain) -> Clean:
    clean = Clean({}, {})
    database, observer = await Database.open(url, size=2), await Observer.open(url)
    ledger = await Ledger.open(database)
    await prepare(ledger, chain, commit)
    for step in (commit, rollback):
        clean.done[step] = await step(ledger, chain)
        clean.tables[step] = await observer.tables(stamps=False)
    await observer.connection.close()
    await database.close()
    return clean


@pytest.mark.parametrize("kind", ["refused", "cancelled", "killed"])
@pytest.mark.parametrize("step", [commit, rollback], ids=["commit", "rollback"])
async def test_an_error_at_any_statement_leaves_no_trace_and_the_next_try_succeeds(
    database: FaultyDatabase,
    observer: Observer,
    clean: Clean,
    chain: SimChain,
    step: Step,
    kind: Kind,
) -> None:
    ledger = await Ledger.open(database)
    await prepare(ledger, chain, step)
    before = await observer.tables()
    observer.heard.clear()

    statements = 0
    while True:
        fault = Fault(kind, statements + 1, observer.connection)
        database.before = fault.before
        attempt = asyncio.create_task(step(ledger, chain))
        await asyncio.wait([attempt])
        if fault.seen < fault.at:
            break
        statements += 1
        with pytest.raises(EXPECTED[kind]):
            attempt.result()
        assert await observer.tables() == before, f"traces of statement {statements}"
        assert not observer.heard

    assert statements > 30
    assert attempt.result() == clean.done[step]
    assert await observer.tables(stamps=False) == clean.tables[step]
    assert observer.heard == [f"{CHAIN_ID}:{clean.done[step].cursor}"]


async def test_a_commit_whose_answer_got_lost_is_there_and_cannot_be_repeated(
    database: FaultyDatabase, observer: Observer, chain: SimChain
) -> None:
    ledger = await Ledger.open(database)
    await prepare(ledger, chain, commit)
    database.lost_answer = True
    with pytest.raises(StoreUnavailable):
        await commit(ledger, chain)
    after = await observer.tables()
    database.lost_answer = False

    with pytest.raises(CheckpointMoved):
        await commit(ledger, chain)

    assert await observer.tables() == after
    assert await observer.connection.fetchval("SELECT checkpoint_block FROM erc8004_data.chains") == HEAD


async def test_a_rollback_whose_answer_got_lost_takes_nothing_more_back_when_repeated(
    database: FaultyDatabase, observer: Observer, chain: SimChain
) -> None:
    ledger = await Ledger.open(database)
    await prepare(ledger, chain, rollback)
    database.lost_answer = True
    with pytest.raises(StoreUnavailable):
        await rollback(ledger, chain)
    after = await observer.tables()
    database.lost_answer = False

    again = await rollback(ledger, chain)

    assert (again.logs, again.agents) == (0, 0)
    assert await observer.tables() == after


@pytest.mark.parametrize("turns", [0, 1, 5, 50])
async def test_a_cancellation_in_the_middle_of_commit_leaves_all_or_nothing(
    database: FaultyDatabase, observer: Observer, clean: Clean, chain: SimChain, turns: int
) -> None:
    """`turns` of the event loop after COMMIT was sent."""
    ledger = await Ledger.open(database)
    await prepare(ledger, chain, commit)
    before = await observer.tables(stamps=False)

    attempt = asyncio.create_task(commit(ledger, chain))
    cancelling: list[asyncio.Task[None]] = []
    database.at_commit = lambda: cancelling.append(asyncio.create_task(cancel_in(turns, attempt)))
    await asyncio.wait([attempt])
    await asyncio.wait(cancelling)

    assert await observer.tables(stamps=False) in (before, clean.tables[commit])


async def cancel_in(turns: int, task: asyncio.Task[Any]) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()


@pytest.mark.parametrize(
    ("first", "last", "parent"),
    [(ANCESTOR + 1, HEAD, bytes(32)), (ANCESTOR + 2, HEAD, None), (ANCESTOR, HEAD, None), (5, ANCESTOR, None)],
    ids=["another parent", "a gap", "an overlap", "a replay"],
)
async def test_a_batch_that_does_not_continue_the_checkpoint_is_refused(
    database: FaultyDatabase, observer: Observer, chain: SimChain, first: int, last: int, parent: bytes | None
) -> None:
    ledger = await Ledger.open(database)
    await prepare(ledger, chain, commit)
    before = await observer.tables()
    batch = batch_of(chain, first, last)

    with pytest.raises(CheckpointMoved):
        await ledger.writer.commit(
            batch,
            encode_rows(built(batch.logs)),
            parent=parent or chain.blocks[first - 1].ref.hash,
            state="live",
            announce=True,
            finalized=None,
        )

    assert await observer.tables() == before


async def test_a_batch_of_another_branch_is_refused_after_a_rollback_moved_the_checkpoint(
    database: FaultyDatabase, observer: Observer, chain: SimChain
) -> None:
    """The batch was fetched before a reorg; its range fits, its parent does not."""
    ledger = await Ledger.open(database)
    await prepare(ledger, chain, commit)
    stale = batch_of(chain, ANCESTOR + 1, HEAD)
    await ledger.rollback(chain.blocks[ANCESTOR - 3].ref)
    other = chain.fork()
    other.reorg(HEAD - ANCESTOR + 3, [()] * 3)
    await ledger.commit(other, ANCESTOR - 2, ANCESTOR)
    before = await observer.tables()

    with pytest.raises(CheckpointMoved):
        await commit(ledger, chain)

    assert stale.blocks[0].number == ANCESTOR + 1
    assert await observer.tables() == before


# --- two writers ----------------------------------------------------------------------------------------------------


async def take_over(database: Database, observer: Observer, holder: str) -> Lease:
    """Take the lease as another process does once the holder has been silent for too long."""
    await observer.connection.execute("UPDATE erc8004_data.leases SET expires_at = now() - interval '1 s'")
    lease = await Leases(database, holder).acquire(CHAIN_ID)
    assert lease is not None
    return lease


def writer_of(database: Database, lease: Lease) -> Writer:
    return Writer(database, lease, DEPLOYMENT.addresses)


@pytest.mark.parametrize("holder", ["another", "test"], ids=["taken by another", "taken again by the same"])
@pytest.mark.parametrize("step", [commit, rollback], ids=["commit", "rollback"])
async def test_a_writer_with_a_stale_epoch_writes_nothing(
    database: FaultyDatabase, observer: Observer, chain: SimChain, step: Step, holder: str
) -> None:
    ledger = await Ledger.open(database)
    await prepare(ledger, chain, step)
    before = await observer.tables()
    await take_over(database, observer, holder)

    with pytest.raises(LeaseLost):
        await step(ledger, chain)
    with pytest.raises(LeaseLost):
        await ledger.writer.halt("stale")

    assert await observer.tables() == before


async def test_a_writer_without_any_lease_row_writes_nothing(
    database: FaultyDatabase, observer: Observer, chain: SimChain
) -> None:
    ledger = await Ledger.open(database)
    await observer.connection.execute("DELETE FROM erc8004_data.leases")
    before = await observer.tables()

    with pytest.raises(LeaseLost):
        await ledger.commit(chain, 0, ANCESTOR)

    assert await observer.tables() == before


@pytest.mark.parametrize("at", [1, 2, 4, 25], ids=lambda at: f"at statement {at}")
@pytest.mark.parametrize("step", [commit, rollback], ids=["commit", "rollback"])
async def test_a_writer_frozen_inside_its_transaction_is_ended_by_the_one_that_takes_over(
    database: FaultyDatabase,
    observer: Observer,
    clean: Clean,
    chain: SimChain,
    step: Step,
    at: int,
) -> None:
    ledger = await Ledger.open(database)
    await prepare(ledger, chain, step)
    pause = Pause(at)
    database.before = pause.before
    frozen = asyncio.create_task(step(ledger, chain))
    await asyncio.wait_for(pause.reached.wait(), 5)
    database.before = None

    lease = await take_over(database, observer, "another")
    successor = Ledger(database, writer_of(database, lease), ledger.builder, CHAIN_ID)
    async with asyncio.timeout(5):  # else it waits for the frozen one's lock
        assert await step(successor, chain) == clean.done[step]
    pause.go_on.set()
    await asyncio.wait([frozen])

    with pytest.raises(LeaseLost if at == 1 else StoreUnavailable):
        frozen.result()
    assert await observer.tables(stamps=False) == clean.tables[step]


@pytest.mark.parametrize("writers", ["one lease", "two leases"])
async def test_of_two_writers_at_once_exactly_one_wins(
    database: FaultyDatabase, observer: Observer, clean: Clean, chain: SimChain, writers: str
) -> None:
    ledger = await Ledger.open(database)
    await prepare(ledger, chain, commit)
    lease = ledger.writer._lease
    first = ledger.writer
    second = writer_of(database, lease)
    if writers == "two leases":
        second = writer_of(database, await take_over(database, observer, "another"))

    ends = await asyncio.gather(
        *(commit(ledger, chain, writer=writer) for writer in (first, second)), return_exceptions=True
    )

    assert sum(isinstance(end, Committed) for end in ends) == 1
    loss = CheckpointMoved if writers == "one lease" else LeaseLost
    assert sum(isinstance(end, loss) for end in ends) == 1
    assert await observer.tables(stamps=False) == clean.tables[commit]
