"""One task a chain: wait for the lease, run the worker, renew, watch; after an error or in silence begin again, alone.

A chain that fails or hangs never disturbs another. What cannot be mended by trying again (wrong chain id, refused
credentials) ends the program; a reorg beyond finality halts its chain until someone lifts that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import structlog

from indexer.chain.refusals import Transport
from indexer.errors import BeyondFinality, IndexerError, LeaseLost, Retryable, StoreUnavailable
from indexer.store.leases import LOST_AFTER_S, RENEW_EVERY_S, Lease, Leases
from indexer.trouble import Trouble, Watch

log = structlog.get_logger()

_LOOK_S: Final = 0.25  # at the clock of the watchdog
_ASK_S: Final = 1.0  # the database: whether a lease is free, or a halt lifted
_PATIENCE_S: Final = 30.0  # of failures alone, before a run that shall end gives up
_UNFIT_S: Final = 60.0  # after a fault that is not the database's: the chain is better off elsewhere
_FINISH_S: Final = 3.0  # for the batch under way when a chain is handed over
_ABANDON_S: Final = 5.0  # after that a task that does not end is left to itself
_CANCEL_AGAIN_S: Final = 1.0

End = Literal["done", "halted", "held"]


class StillHeldError(IndexerError):
    """Another instance holds the chain, and this one was told not to wait."""


class Stalled(Retryable):
    """Nothing failed, and nothing got on: the chain's task is begun anew."""


class Turns(Protocol):
    """Whose turn a chain is, where several instances share them."""

    def may_take(self, chain_id: int) -> bool:
        """Say whether this instance should have the chain, if it is free."""

    def must_give(self, chain_id: int) -> bool:
        """Say whether another instance should have it."""

    async def next_look(self) -> None:
        """Wait until both may have changed."""


class Alone:
    """The turns of an instance that shares with nobody: it takes what is free, and keeps it."""

    def may_take(self, _chain_id: int) -> bool:
        """Say yes."""
        return True

    def must_give(self, _chain_id: int) -> bool:
        """Say no."""
        return False

    async def next_look(self) -> None:
        """Wait a second."""
        await asyncio.sleep(_ASK_S)


@dataclass(slots=True)
class Supervisor:
    """Keeps one chain indexed: `ready` checks what it needs; then `work` runs under a lease until done.

    `work` gets the lease, and a function that says whether to end after the batch under way.
    """

    chain_id: int
    chain: str
    leases: Leases
    ready: Callable[[], Awaitable[None]]
    work: Callable[[Lease, Callable[[], bool]], Coroutine[Any, Any, None]]
    turns: Turns = field(default_factory=Alone)
    stall_after_s: float = 90.0
    wait: bool = True
    retry: bool = True
    halting: Callable[[], None] = lambda: None
    restarted: Callable[[], None] = lambda: None
    trouble: Trouble = field(default_factory=Trouble)
    watch: Watch = field(init=False)
    halted: str | None = None
    reached: bool = False
    _engaged: bool = False
    _unfit_until: float = 0.0
    _abandoned: set[asyncio.Task[bool]] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Begin to watch with the first attempt."""
        self.watch = Watch(self.stall_after_s)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is wrong now; nothing while the chain gets on, or another cares for it."""
        return (*self.trouble.reasons, *self.watch.reasons)

    @property
    def is_able(self) -> bool:
        """Say whether this instance could index the chain: waits for the lease or has it, and did not fail lately."""
        return self._engaged and time.monotonic() >= self._unfit_until

    def gets_on(self) -> None:
        """Hear that rows were committed, or that there are none to be had."""
        self.watch.progress()
        self.trouble.end()

    async def run(self) -> End:
        """Return how the chain ended: `done`, `halted` where `retry` is off, `held` where waiting is not wanted.

        Raises Fatal, and where `retry` is off whatever cannot be reached.
        """
        with structlog.contextvars.bound_contextvars(chain_id=self.chain_id, chain=self.chain):
            while True:
                try:
                    if await self._attempt():
                        return "done"
                    continue
                except BeyondFinality as error:
                    self._halt(str(error))
                    if not self.retry:
                        return "halted"
                    await self._until_lifted()
                    continue
                except StillHeldError as error:
                    log.warning("lease_waiting", reason=str(error))
                    return "held"
                except Exception as error:
                    if not self._bears(error):
                        raise
                await asyncio.sleep(self.trouble.pause_s)

    def _bears(self, error: Exception) -> bool:
        """Note a fault; say whether to try again."""
        match error:
            case LeaseLost():
                log.warning("lease_lost", error=str(error))
            case StoreUnavailable():
                self.trouble.begin("database", error)
            case Stalled():
                self.trouble.stall()
            case Retryable():
                self.trouble.begin("provider", error)
            case IndexerError():
                return False
            case _:
                self.trouble.crash(error)
                log.error("chain_restarted", exc_info=error)
        if not isinstance(error, (LeaseLost, StoreUnavailable)):
            self._unfit_until = time.monotonic() + _UNFIT_S
        return self.retry or (isinstance(error, Retryable) and not self._is_lost(error))

    def _is_lost(self, error: Retryable) -> bool:
        """Say whether a run that shall end should give up: never within reach, or failing for long."""
        unreached = not self.reached and isinstance(error, (Transport, StoreUnavailable))
        return unreached or self.trouble.lasts_s >= _PATIENCE_S

    # --- halts ------------------------------------------------------------------------------------------------------

    def _halt(self, reason: str) -> None:
        self.halted = reason
        self.watch.pause()
        self.trouble.end()
        log.critical("chain_halted", reason=reason)
        self.halting()

    async def _until_lifted(self) -> None:
        """Wait until an operator has lifted the halt."""
        while self.halted is not None:
            await asyncio.sleep(_ASK_S)
            try:
                self.halted = await self.leases.halt_of(self.chain_id)
            except StoreUnavailable as error:
                self.trouble.begin("database", error)
            else:
                self.trouble.end()
        log.info("chain_resumed")

    # --- the watchdog -----------------------------------------------------------------------------------------------

    async def _attempt(self) -> bool:
        """Do everything once; say whether the chain is done. Raises Stalled where it does not get on."""
        self.watch.begin()
        attempt = asyncio.create_task(self._once(), name=f"attempt {self.chain}")
        try:
            while not attempt.done():
                left_s = self.watch.left_s
                if left_s == 0:
                    log.error("chain_stalled", silent_s=round(self.stall_after_s), reasons=list(self.trouble.reasons))
                    self.restarted()
                    raise Stalled(f"{self.chain}: no progress for {self.stall_after_s:g} s")
                await asyncio.wait({attempt}, timeout=_LOOK_S if left_s is None else min(left_s, _LOOK_S))
            return attempt.result()
        finally:
            self._engaged = False
            await self._end(attempt)

    async def _end(self, attempt: asyncio.Task[bool]) -> None:
        """Cancel an attempt, more than once: `asyncio.wait_for` of Python 3.11 may lose one. Leave it if it hangs.

        Whatever it still writes is refused, as the next attempt's lease has a higher epoch.
        """
        ends_at = time.monotonic() + _ABANDON_S
        while not attempt.done() and time.monotonic() < ends_at:
            attempt.cancel()
            await asyncio.wait({attempt}, timeout=_CANCEL_AGAIN_S)
        if not attempt.done():
            log.error("task_abandoned", task=attempt.get_name())
        self._abandoned.add(attempt)
        attempt.add_done_callback(self._forget)

    def _forget(self, attempt: asyncio.Task[bool]) -> None:
        self._abandoned.discard(attempt)
        if not attempt.cancelled():
            attempt.exception()  # it was heard already, or comes too late to matter

    async def _once(self) -> bool:
        """Say whether the work is done; otherwise it was handed over."""
        await self.ready()
        self.reached = True
        lease = await self._take_lease()
        try:
            return await self._work_while_held(lease)
        finally:
            await asyncio.shield(self.leases.release(lease))

    # --- the lease --------------------------------------------------------------------------------------------------

    async def _take_lease(self) -> Lease:
        """Wait for the lease. Raises BeyondFinality where the chain is halted meanwhile."""
        self._engaged = True
        if (lease := await self._acquire()) is None:
            if not self.wait:
                raise StillHeldError(f"{self.chain} is held by another instance")
            log.info("lease_waiting", holder=await self.leases.holder_of(self.chain_id))
            self.watch.pause()
            self.trouble.end()  # the database answers, and the chain is another's to care for
        while lease is None:
            if (reason := await self.leases.halt_of(self.chain_id)) is not None:
                raise BeyondFinality(reason)
            await self.turns.next_look()
            lease = await self._acquire()
        self.watch.begin()
        log.info("lease_acquired", epoch=lease.epoch)
        return lease

    async def _acquire(self) -> Lease | None:
        return await self.leases.acquire(self.chain_id) if self.turns.may_take(self.chain_id) else None

    async def _work_while_held(self, lease: Lease) -> bool:
        """Renew beside the work; where that is not possible any more, the work is cancelled and LeaseLost leaves.

        Says whether the work is done, or was ended because the chain is another's now.
        """
        handing = asyncio.Event()
        work = asyncio.create_task(self.work(lease, handing.is_set), name=f"work {self.chain}")
        renewal = asyncio.create_task(self._renew_until_lost(lease), name=f"lease {self.chain}")
        turn = asyncio.create_task(self._until_given(handing), name=f"turn {self.chain}")
        try:
            await asyncio.wait({work, renewal, turn}, return_when=asyncio.FIRST_COMPLETED)
            if renewal.done() and not work.done():
                raise LeaseLost(renewal.result())
            if turn.done() and not work.done():
                turn.result()
                await asyncio.wait({work}, timeout=_FINISH_S)
            if work.done():
                work.result()
            if handing.is_set():
                log.info("chain_handed_over", epoch=lease.epoch)
            return not handing.is_set()
        finally:
            for task in (work, renewal, turn):
                task.cancel()
            await asyncio.gather(work, renewal, turn, return_exceptions=True)

    async def _until_given(self, handing: asyncio.Event) -> None:
        """Wait until the chain is another's turn, and have the work end after its batch."""
        while not self.turns.must_give(self.chain_id):
            await self.turns.next_look()
        handing.set()

    async def _renew_until_lost(self, lease: Lease) -> str:
        """Return why the lease is lost: taken over, or not renewed for so long that it may be."""
        renewed = time.monotonic()
        while time.monotonic() - renewed < LOST_AFTER_S:
            await asyncio.sleep(RENEW_EVERY_S)
            asked = time.monotonic()
            try:
                async with asyncio.timeout(RENEW_EVERY_S):
                    held = await self.leases.renew(lease)
            except (StoreUnavailable, TimeoutError):
                continue
            if not held:
                return f"{self.chain} is written by another instance now"
            renewed = asked
        return f"{self.chain}: the lease could not be renewed for {LOST_AFTER_S:g} s"
