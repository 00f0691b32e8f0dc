"""One task a chain: wait for the lease, run the worker, renew; after an error begin again, alone.

A chain that fails never disturbs another. What cannot be mended by trying again (wrong chain id, refused credentials)
ends the program; a reorg beyond finality halts its chain.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import structlog

from indexer.chain.refusals import Transport
from indexer.errors import BeyondFinality, IndexerError, LeaseLost, Retryable, StoreUnavailable
from indexer.store.leases import LOST_AFTER_S, RENEW_EVERY_S, Lease, Leases

log = structlog.get_logger()

_LOOK_AT_LEASE_S: Final = 1.0
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 15.0
_PATIENCE_S: Final = 30.0  # of failures alone, before a run that shall end gives up

End = Literal["done", "halted", "held"]
Fault = Literal["database", "provider"]


class StillHeldError(IndexerError):
    """Another instance holds the chain, and this one was told not to wait."""


@dataclass(slots=True)
class Trouble:
    """What is wrong with a chain now; a repeated fault is told once, and its end too."""

    reasons: tuple[str, ...] = ()
    failures: int = 0  # in a row
    _since: float = 0.0  # of the first of them
    _told: set[Fault] = field(default_factory=set)

    def begin(self, kind: Fault, error: Exception) -> None:
        """Note a fault, and log it unless it was logged already."""
        self._fail(f"{kind}: {error}")
        if kind in self._told:
            return
        self._told.add(kind)
        if kind == "database":
            log.warning("database_lost", error=str(error))
        else:
            log.warning("provider_failed", error=str(error))

    def crash(self, error: Exception) -> None:
        """Note a fault of our own making; its words are for the log alone."""
        self._fail(f"internal error: {type(error).__name__}")

    def _fail(self, reason: str) -> None:
        self.reasons = (reason,)
        self._since = self._since if self.failures else time.monotonic()
        self.failures += 1

    @property
    def lasts_s(self) -> float:
        """How long nothing has worked; 0 while all is well."""
        return time.monotonic() - self._since if self.failures else 0.0

    @property
    def pause_s(self) -> float:
        """How long to wait before the next try: twice as long after each failure in a row."""
        doublings = min(max(self.failures - 1, 0), 32)  # beyond a thousand a float overflows
        return min(_FIRST_PAUSE_S * 2.0**doublings, _LONGEST_PAUSE_S)

    def end(self) -> None:
        """Note that work goes on."""
        self.reasons = ()
        self.failures = 0
        if "database" in self._told:
            log.info("database_recovered")
        if "provider" in self._told:
            log.info("provider_recovered")
        self._told.clear()


@dataclass(slots=True)
class Supervisor:
    """Keeps one chain indexed: `ready` checks what it needs; then `work` runs under a lease until done."""

    chain_id: int
    chain: str
    leases: Leases
    ready: Callable[[], Awaitable[None]]
    work: Callable[[Lease], Coroutine[Any, Any, None]]
    wait: bool = True
    retry: bool = True
    trouble: Trouble = field(default_factory=Trouble)
    halted: str | None = None
    reached: bool = False

    async def run(self) -> End:
        """Return how the chain ended: `done`, `halted`, or `held` by another instance where waiting is not wanted.

        Raises Fatal, and where `retry` is off whatever cannot be reached.
        """
        with structlog.contextvars.bound_contextvars(chain_id=self.chain_id, chain=self.chain):
            while True:
                try:
                    await self._once()
                except BeyondFinality as error:
                    self.halted = str(error)
                    log.critical("chain_halted", reason=self.halted)
                    return "halted"
                except StillHeldError as error:
                    log.warning("lease_waiting", reason=str(error))
                    return "held"
                except Retryable as error:
                    self._note(error)
                    if not self.retry and self._is_lost(error):
                        raise
                except IndexerError:
                    raise
                except Exception as error:
                    self.trouble.crash(error)
                    log.exception("chain_restarted")
                    if not self.retry:
                        raise
                else:
                    return "done"
                await asyncio.sleep(self.trouble.pause_s)

    def _note(self, error: Retryable) -> None:
        match error:
            case LeaseLost():
                log.warning("lease_lost", error=str(error))
            case StoreUnavailable():
                self.trouble.begin("database", error)
            case _:
                self.trouble.begin("provider", error)

    def _is_lost(self, error: Retryable) -> bool:
        """Say whether a run that shall end should give up: never within reach, or failing for long."""
        unreached = not self.reached and isinstance(error, (Transport, StoreUnavailable))
        return unreached or self.trouble.lasts_s >= _PATIENCE_S

    async def _once(self) -> None:
        await self.ready()
        self.reached = True
        lease = await self._take_lease()
        try:
            await self._work_while_held(lease)
        finally:
            await asyncio.shield(self.leases.release(lease))

    async def _take_lease(self) -> Lease:
        waiting = False
        while (lease := await self.leases.acquire(self.chain_id)) is None:
            if not self.wait:
                raise StillHeldError(f"{self.chain} is held by another instance")
            if not waiting:
                log.info("lease_waiting", holder=await self.leases.holder_of(self.chain_id))
                waiting = True
                self.trouble.end()  # the database answers, and the chain is another's to care for
            await asyncio.sleep(_LOOK_AT_LEASE_S)
        log.info("lease_acquired", epoch=lease.epoch)
        return lease

    async def _work_while_held(self, lease: Lease) -> None:
        """Renew beside the work; where that is not possible any more, the work is cancelled and LeaseLost leaves."""
        work = asyncio.create_task(self.work(lease), name=f"work {self.chain}")
        renewal = asyncio.create_task(self._renew_until_lost(lease), name=f"lease {self.chain}")
        try:
            await asyncio.wait({work, renewal}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise LeaseLost(renewal.result())
            work.result()
        finally:
            work.cancel()
            renewal.cancel()
            await asyncio.gather(work, renewal, return_exceptions=True)

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
