"""One chain's supervisor over leases and work that fail on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from structlog.testing import capture_logs

from indexer import supervisor as module
from indexer import trouble
from indexer.chain.refusals import Inconsistent, Transport
from indexer.errors import BeyondFinality, LeaseLost, SettingsError, StoreUnavailable
from indexer.store.leases import Lease
from indexer.supervisor import Supervisor
from indexer.trouble import Trouble

AWAY = Transport("h.example", "refused")
NO_STORE = StoreUnavailable("the database at h does not answer")


@dataclass
class FakeLeases:
    """Leases that a test gives and takes away."""

    held_by_other: bool = False
    renewal: Callable[[], bool] = lambda: True
    epoch: int = 0
    halt: str | None = None
    released: list[Lease] = field(default_factory=list)

    async def acquire(self, chain_id: int) -> Lease | None:
        if self.held_by_other:
            return None
        self.epoch += 1
        return Lease(chain_id, "me", self.epoch)

    async def renew(self, _lease: Lease) -> bool:
        return self.renewal()

    async def release(self, lease: Lease) -> None:
        await asyncio.sleep(0)
        self.released.append(lease)

    async def holder_of(self, _chain_id: int) -> str | None:
        return "other" if self.held_by_other else None

    async def halt_of(self, _chain_id: int) -> str | None:
        return self.halt


class Script:
    """Work that ends as told, one entry a call: an error, None for done, or `wait` for ever."""

    def __init__(self, *ends: object) -> None:
        self.ends = list(ends)
        self.calls = 0

    async def __call__(self, *_: object) -> None:
        self.calls += 1
        end = self.ends.pop(0)
        if isinstance(end, Exception):
            raise end
        if end == "wait":
            await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "_LOOK_S": 0.01,
        "_ASK_S": 0.01,
        "_FINISH_S": 0.05,
        "_ABANDON_S": 0.1,
        "_CANCEL_AGAIN_S": 0.02,
        "RENEW_EVERY_S": 0.01,
        "LOST_AFTER_S": 0.05,
    }.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(trouble, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(trouble, "_SOONEST_RESTART_S", 0.0)
    monkeypatch.setattr(trouble, "_LONGEST_PAUSE_S", 0.004)


@pytest.fixture
def told() -> Iterator[list[Any]]:
    with capture_logs() as logs:
        yield logs


def supervise(leases: FakeLeases, work: Any, *, ready: Any = None, **options: Any) -> Supervisor:
    return Supervisor(5, "local", leases, ready or Script(*[None] * 50), work, **options)  # type: ignore[arg-type]


def events(told: list[Any]) -> list[str]:
    return [one["event"] for one in told if not one["event"].startswith("lease_acquired")]


@asynccontextmanager
async def running(supervisor: Supervisor) -> AsyncIterator[asyncio.Task[Any]]:
    task = asyncio.create_task(supervisor.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.001)


async def test_work_that_ends_is_done_and_gives_the_lease_back(told) -> None:
    leases = FakeLeases()
    supervisor = supervise(leases, Script(None))

    assert await supervisor.run() == "done"
    assert leases.released == [Lease(5, "me", 1)]
    assert events(told) == []


@pytest.mark.parametrize(
    ("error", "lost", "found"),
    [(AWAY, "provider_failed", "provider_recovered"), (NO_STORE, "database_lost", "database_recovered")],
    ids=["provider", "database"],
)
async def test_a_fault_that_repeats_is_told_once_and_its_end_too(told, error: Exception, lost: str, found: str) -> None:
    supervisor = supervise(FakeLeases(), Script(error, error, error, "wait"))
    async with running(supervisor):
        await until(lambda: supervisor.work.calls == 4)  # type: ignore[attr-defined]
        reasons = supervisor.trouble.reasons
        supervisor.trouble.end()

    assert str(error) in reasons[0]
    assert supervisor.trouble.reasons == ()
    assert events(told) == [lost, found]


def test_pauses_grow_up_to_a_limit_and_begin_anew_after_a_recovery() -> None:
    faults = Trouble()
    pauses = []
    for _ in range(5):
        faults.begin("provider", AWAY)
        pauses.append(faults.pause_s)
    faults.end()
    faults.begin("provider", AWAY)

    assert pauses == [0.001, 0.002, 0.004, 0.004, 0.004]
    assert faults.pause_s == 0.001


def test_the_pause_after_a_very_long_outage_is_still_a_number() -> None:
    assert Trouble(failures=100_000).pause_s == 0.004


async def test_an_error_that_nobody_foresaw_restarts_the_chain_and_is_told_whole(told) -> None:
    supervisor = supervise(FakeLeases(), Script(ZeroDivisionError("s3cret"), None))

    assert await supervisor.run() == "done"
    assert events(told) == ["chain_restarted"]
    assert next(one for one in told if one["event"] == "chain_restarted")["exc_info"]
    assert supervisor.trouble.reasons == ("internal error: ZeroDivisionError",)


@pytest.mark.parametrize("where", ["ready", "work"])
async def test_what_cannot_be_mended_leaves(where: str) -> None:
    bad = SettingsError("chain id 5 is set")
    leases = FakeLeases()
    supervisor = supervise(leases, Script(bad), ready=Script(bad) if where == "ready" else None)

    with pytest.raises(SettingsError, match="chain id 5"):
        await supervisor.run()
    assert len(leases.released) == (where == "work")


async def test_a_reorg_beyond_finality_halts_the_chain(told) -> None:
    leases = FakeLeases()
    supervisor = supervise(leases, Script(BeyondFinality("below block 7; look at it")), retry=False)

    assert await supervisor.run() == "halted"
    assert supervisor.halted == "below block 7; look at it"
    assert events(told) == ["chain_halted"]
    assert leases.released


async def test_a_held_chain_is_waited_for_and_told_once(told) -> None:
    leases = FakeLeases(held_by_other=True)
    supervisor = supervise(leases, Script(None))
    async with running(supervisor) as task:
        await asyncio.sleep(0.05)
        assert not task.done()
        leases.held_by_other = False
        assert await task == "done"

    assert events(told) == ["lease_waiting"]
    assert told[0]["holder"] == "other"


async def test_a_held_chain_is_not_waited_for_where_that_is_not_wanted() -> None:
    work = Script(None)
    supervisor = supervise(FakeLeases(held_by_other=True), work, wait=False)

    assert await supervisor.run() == "held"
    assert work.calls == 0


async def test_work_ends_when_another_instance_takes_over_and_begins_again_later(told) -> None:
    answers = iter([True, False])
    leases = FakeLeases(renewal=lambda: next(answers, True))
    work = Script("wait", None)

    assert await supervise(leases, work).run() == "done"
    assert work.calls == 2
    assert events(told) == ["lease_lost"]
    assert [lease.epoch for lease in leases.released] == [1, 2]


async def test_a_fence_that_closes_is_no_fault_of_provider_or_database(told) -> None:
    work = Script(LeaseLost("chain 5 is written by another instance now"), None)

    assert await supervise(FakeLeases(), work, retry=False).run() == "done"
    assert events(told) == ["lease_lost"]


async def test_a_lease_that_cannot_be_renewed_for_long_is_not_believed_in(told) -> None:
    def away() -> bool:
        raise NO_STORE

    work = Script("wait", None)

    assert await supervise(FakeLeases(renewal=away), work).run() == "done"
    assert events(told) == ["lease_lost"]


async def test_a_lease_that_fails_to_be_renewed_once_is_kept(told) -> None:
    tries = []

    def shaky() -> bool:
        tries.append(1)
        if len(tries) % 2:
            raise NO_STORE
        return True

    work = Script("wait")
    async with running(supervise(FakeLeases(renewal=shaky), work)) as task:
        await until(lambda: len(tries) > 8)
        assert not task.done()

    assert work.calls == 1
    assert events(told) == []


async def test_refused_credentials_at_a_renewal_are_not_kept_quiet() -> None:
    def refused() -> bool:
        raise SettingsError("the server refuses")

    with pytest.raises(SettingsError):
        await supervise(FakeLeases(renewal=refused), Script("wait")).run()


@pytest.mark.parametrize("error", [AWAY, NO_STORE], ids=["provider", "database"])
async def test_a_run_that_shall_end_gives_up_at_once_what_it_never_reached(error: Exception) -> None:
    ready = Script(error)

    with pytest.raises(type(error)):
        await supervise(FakeLeases(), Script(), ready=ready, retry=False).run()
    assert ready.calls == 1


async def test_a_run_that_shall_end_bears_faults_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = Inconsistent("h.example", "blocks changed while being read")

    assert await supervise(FakeLeases(), Script(AWAY, NO_STORE, *[moved] * 9, None), retry=False).run() == "done"
    monkeypatch.setattr(module, "_PATIENCE_S", 0.05)
    work = Script(*[moved] * 1000)
    with pytest.raises(Inconsistent):
        await supervise(FakeLeases(), work, retry=False).run()
    assert 1 < work.calls < 1000


async def test_a_run_that_shall_end_ends_at_an_error_that_nobody_foresaw() -> None:
    with pytest.raises(ZeroDivisionError):
        await supervise(FakeLeases(), Script(ZeroDivisionError()), retry=False).run()


async def test_the_lease_is_given_back_when_the_supervisor_is_cancelled() -> None:
    leases, work = FakeLeases(), Script("wait")
    async with running(supervise(leases, work)):
        await until(lambda: work.calls)
    await until(lambda: leases.released)

    assert leases.released == [Lease(5, "me", 1)]


# --- halts, turns and silence ---------------------------------------------------------------------------------------


async def test_a_halted_chain_goes_on_by_itself_once_the_halt_is_lifted(told) -> None:
    leases = FakeLeases(halt="below block 7")
    supervisor = supervise(leases, Script(BeyondFinality("below block 7"), None))
    async with running(supervisor) as task:
        await until(lambda: supervisor.halted)
        await asyncio.sleep(0.05)
        assert not task.done()
        assert supervisor.reasons == ()  # `status` says that it is halted
        assert not supervisor.is_able
        leases.halt = None
        assert await task == "done"

    assert supervisor.halted is None
    assert events(told) == ["chain_halted", "chain_resumed"]


async def test_a_chain_that_halts_in_another_instance_counts_as_halted_here_too() -> None:
    leases = FakeLeases(held_by_other=True)
    halts = []
    supervisor = supervise(leases, Script(), halting=lambda: halts.append(1))
    async with running(supervisor):
        await asyncio.sleep(0.03)
        leases.halt = "below block 7"
        await until(lambda: halts)

    assert supervisor.halted == "below block 7"


@dataclass
class FakeTurns:
    """Turns that a test gives."""

    mine: bool = True

    def may_take(self, _chain_id: int) -> bool:
        return self.mine

    def must_give(self, _chain_id: int) -> bool:
        return not self.mine

    async def next_look(self) -> None:
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("obliging", [True, False], ids=["ends after its batch", "takes too long"])
async def test_a_chain_that_is_anothers_turn_is_handed_over_and_taken_back_when_it_is_ours(
    told, obliging: bool
) -> None:
    leases, turns, begun = FakeLeases(), FakeTurns(), []

    async def work(_lease: Lease, leave: Callable[[], bool]) -> None:
        begun.append(leave)
        while not (obliging and leave()):  # noqa: ASYNC110 - as a worker looks
            await asyncio.sleep(0.005)

    supervisor = supervise(leases, work, turns=turns)
    async with running(supervisor) as task:
        await until(lambda: begun)
        assert supervisor.is_able
        turns.mine = False
        await until(lambda: leases.released)
        await asyncio.sleep(0.03)
        assert (len(begun), task.done()) == (1, False)
        turns.mine = True
        await until(lambda: len(begun) == 2)

    assert events(told) == ["chain_handed_over", "lease_waiting"]
    assert supervisor.trouble.failures == 0


@pytest.mark.parametrize("where", ["ready", "work"])
async def test_whatever_does_not_get_on_is_told_and_begun_anew(told, where: str) -> None:
    restarts = []
    hanging = Script("wait", "wait", "wait")
    supervisor = supervise(
        FakeLeases(),
        hanging if where == "work" else Script(*[None] * 50),
        ready=hanging if where == "ready" else None,
        stall_after_s=0.1,
        restarted=lambda: restarts.append(1),
    )
    async with running(supervisor):
        await until(lambda: hanging.calls == 3)
        assert any("stalled" in reason for reason in supervisor.reasons)
        assert not supervisor.is_able  # others may have it, for a while

        supervisor.gets_on()
        assert supervisor.reasons == ()

    assert len(restarts) == 2
    assert set(events(told)) == {"chain_stalled"}


async def test_a_chain_that_gets_on_is_left_alone(told) -> None:
    supervisor = supervise(FakeLeases(), Script("wait"), stall_after_s=0.1)
    async with running(supervisor):
        for _ in range(30):
            await asyncio.sleep(0.01)
            supervisor.gets_on()

    assert events(told) == []


async def test_a_chain_that_another_holds_is_not_expected_to_get_on(told) -> None:
    supervisor = supervise(FakeLeases(held_by_other=True), Script(), stall_after_s=0.05)
    async with running(supervisor):
        await asyncio.sleep(0.2)
        assert supervisor.reasons == ()

    assert events(told) == ["lease_waiting"]


async def test_a_task_that_cannot_be_cancelled_is_left_behind(told) -> None:
    ends = asyncio.Event()
    calls = []

    async def work(*_: object) -> None:
        calls.append(1)
        while len(calls) == 1 and not ends.is_set():
            with suppress(asyncio.CancelledError):
                await ends.wait()

    supervisor = supervise(FakeLeases(), work, stall_after_s=0.05)

    assert await supervisor.run() == "done"
    ends.set()
    assert len(calls) == 2
    assert events(told) == ["chain_stalled", "task_abandoned"]


async def test_a_run_that_shall_end_gives_up_a_chain_that_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.1)

    with pytest.raises(module.Stalled, match="no progress"):
        await supervise(FakeLeases(), Script(*["wait"] * 50), stall_after_s=0.05, retry=False).run()
