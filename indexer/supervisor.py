"""One task a chain: wait for the lease, run the worker, renew; after an error begin again, alone.

A chain that fails never disturbs another. What cannot be mended by trying again (wrong chain id, refused credentials)
ends the program; a reorg beyond finality halts its chain.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

import structlog

from indexer.chain.refusals import Transport
from indexer.errors import BeyondFinality, IndexerError, LeaseLost, Retryable, StoreUnavailable
from indexer.store.leases import RENEW_EVERY_S, Lease, Leases

log = structlog.get_logger()

_LOOK_AT_LEASE_S: Final = 1.0
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 15.0
_PATIENCE: Final = 5  # failures in a row before a run that shall end gives up; some 8 s

End = Literal["done", "halted", "held"]
Fault = Literal["database", "provider"]


class StillHeldError(IndexerError):
    """Another instance holds the chain, and this one was told not to wait."""


@dataclass(slots=True)
class Trouble:
    """What is wrong with a chain now; a repeated fault is told once, and its end too."""

    reasons: tuple[str, ...] = ()
    failures: int = 0  # in a row
    _told: set[Fault] = field(default_factory=set)

    def begin(self, kind: Fault, error: Exception) -> None:
        """Note a fault, and log it unless it was logged already."""
        self.reasons = (f"{kind}: {error}",)
        self.failures += 1
        if kind in self._told:
            return
        self._told.add(kind)
        if kind == "database":
            log.warning("database_lost", error=str(error))
        else:
            log.warning("provider_failed", error=str(error))

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
    work: Callable[[Lease], Awaitable[None]]
    wait: bool = True
    retry: bool = True
    trouble: Trouble = field(default_factory=Trouble)
    halted: str | None = None

    async def run(self) -> End:
        """Return how the chain ended: `done`, `halted`, or `held` by another instance where waiting is not wanted.

        Raises Fatal, and where `retry` is off whatever cannot be reached.
        """
        with structlog.contextvars.bound_contextvars(chain_id=self.chain_id, chain=self.chain):
            pause_s = _FIRST_PAUSE_S
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
                    self.trouble.reasons = (f"internal error: {type(error).__name__}",)
                    log.exception("chain_restarted")
                    if not self.retry:
                        raise
                else:
                    return "done"
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S) if self.trouble.reasons else _FIRST_PAUSE_S

    def _note(self, error: Retryable) -> None:
        match error:
            case LeaseLost():
                log.warning("lease_lost", error=str(error))
            case StoreUnavailable():
                self.trouble.begin("database", error)
            case _:
                self.trouble.begin("provider", error)

    def _is_lost(self, error: Retryable) -> bool:
        """Say whether a run that shall end should give up: out of reach, or failing again and again."""
        return isinstance(error, Transport) or self.trouble.failures >= _PATIENCE

    async def _once(self) -> None:
        await self.ready()
        lease = await self._take_lease()
        try:
            async with self._renewing(lease):
                await self.work(lease)
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
            await asyncio.sleep(_LOOK_AT_LEASE_S)
        log.info("lease_acquired", epoch=lease.epoch)
        return lease

    @asynccontextmanager
    async def _renewing(self, lease: Lease) -> AsyncIterator[None]:
        """Renew beside the body; where another instance took over, the body is cancelled and LeaseLost leaves."""
        body = asyncio.current_task()
        assert body is not None
        lost = False

        async def renew() -> None:
            nonlocal lost
            while True:
                await asyncio.sleep(RENEW_EVERY_S)
                try:
                    held = await self.leases.renew(lease)
                except StoreUnavailable:
                    continue  # the body hears of it too; the fence protects meanwhile
                if not held:
                    lost = True
                    body.cancel()
                    return

        renewal = asyncio.create_task(renew(), name=f"lease-{self.chain}")
        try:
            yield
        except asyncio.CancelledError:
            if not lost:
                raise
            body.uncancel()
            raise LeaseLost(f"{self.chain} is written by another instance now") from None
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
