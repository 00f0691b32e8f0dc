"""This process's place among the instances that share the chains: it beats, looks, and knows whose turn a chain is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from indexer.core.sharing import Instance, Share, share_of
from indexer.store.leases import RENEW_EVERY_S

LOOK_EVERY_S: Final = 1.0
_STALE_AFTER_S: Final = 5.0
_NEXT_LOOK_S: Final = 2.0  # looks that fail are not waited for


class Instances(Protocol):
    """The instances as the database knows them; errors are StoreUnavailable."""

    @property
    def holder(self) -> str:
        """The name of this one."""

    async def beat(self, chain_ids: Iterable[int]) -> None:
        """Tell the others that this one lives."""

    async def look(self) -> tuple[list[Instance], dict[int, str]]:
        """Who lives, and who holds what."""

    async def leave(self) -> None:
        """Let the others have our share."""


@dataclass(slots=True)
class Roster:
    """Whose turn each chain is. `able` lists those of `chain_ids` that this process could index now.

    While the database does not say, every free chain may be tried: only its lease decides who writes.
    """

    instances: Instances
    chain_ids: frozenset[int]
    able: Callable[[], frozenset[int]]
    _share: Share | None = None
    _looked: float = 0.0
    _beaten: float = 0.0
    _told: frozenset[int] | None = None
    _next: asyncio.Event = field(default_factory=asyncio.Event)

    async def look(self) -> None:
        """Beat where that is due, see who lives and who holds what, and decide. Raises StoreUnavailable."""
        able = self.able()
        began = time.monotonic()
        if able != self._told or began - self._beaten >= RENEW_EVERY_S:
            await self.instances.beat(able)
            self._told, self._beaten = able, began
        instances, held = await self.instances.look()
        self._share = share_of(self.instances.holder, self.chain_ids, instances, held)
        self._looked = began
        self._next.set()
        self._next = asyncio.Event()

    def may_take(self, chain_id: int) -> bool:
        """Say whether this process should have the chain, if it is free."""
        share = self._fresh()
        return share is None or chain_id in share.take

    def must_give(self, chain_id: int) -> bool:
        """Say whether another instance should have the chain."""
        share = self._fresh()
        return share is not None and chain_id in share.give

    async def next_look(self) -> None:
        """Wait until there was another look, or a while where none succeeds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_NEXT_LOOK_S):
                await self._next.wait()

    async def leave(self) -> None:
        """Let the others have our share at once."""
        await self.instances.leave()

    def _fresh(self) -> Share | None:
        """Return what the last look told; None where that is long ago, as after a pause of this whole process."""
        return self._share if time.monotonic() - self._looked < _STALE_AFTER_S else None
