"""The publisher: follows the feed of each chain from the cursor that Valkey itself vouches for.

A crash anywhere repeats, never loses; an emptied, foreign or too old Valkey is noticed and filled again.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import random
from typing import Final, Self
from uuid import uuid4

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from indexer.errors import Retryable, SettingsError
from indexer.publisher.feed import STRETCH, Feed
from indexer.publisher.keys import Keys
from indexer.publisher.step import Extend, Rebuild, Step, judge
from indexer.publisher.target import Superseded, Target
from indexer.publisher.valkey import Valkey
from indexer.store.database import Database, is_cancelled

log = structlog.get_logger()

_LONGEST_PAUSE_S: Final = 5.0
# Two publishers of one chain meet only while its lease changes hands; the one that lost it ends soon.
_GIVE_WAY_S: Final = 0.2
_FAR_BLOCKS: Final = 1_000
_RESTS: Final = 19
_LONGEST_REST_S: Final = 30.0


@dataclass(slots=True)
class PublisherState:
    """How far one chain is published. `error` is the fault of now, None while all is well.

    `failures` counts the attempts of this process that failed, `lag_blocks` how far the chain was from its head.
    """

    cursor: int = 0
    backlog: int = 0
    lag_blocks: int = 0
    error: str | None = None
    failures: int = 0


def rest_s(spent_s: float, lag_blocks: int) -> float:
    """Say how long to rest after a pass that took `spent_s`, of a chain that is `lag_blocks` from its head.

    Far from the head it follows a backfill, whose agents are touched again and again: it rests so many times as long
    that the backfill has the machine to itself, and few agents are written more than once.
    """
    return 0.0 if lag_blocks < _FAR_BLOCKS else min(_RESTS * spent_s, _LONGEST_REST_S)


class Publisher:
    """Publishes the chains that `chain_ids` names, or returns, at any moment; those of this instance's leases."""

    def __init__(
        self,
        database: Database,
        valkey_url: str,
        *,
        chain_ids: Sequence[int] | Callable[[], Sequence[int]],
        stream_maxlen: int = 100_000,
        poll_interval_s: float = 1.0,
        stretch: int = STRETCH,
    ) -> None:
        """Connect to nothing yet. Raises SettingsError for an address that cannot be read."""
        self._database = database
        self._valkey = Valkey(valkey_url)
        self._chain_ids = chain_ids if callable(chain_ids) else lambda: chain_ids
        self._stream_maxlen = stream_maxlen
        self._token = uuid4().hex
        self._stretch = stretch
        self._poll_interval_s = poll_interval_s
        self._states: defaultdict[int, PublisherState] = defaultdict(PublisherState)
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._pokes: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections to Valkey; the database belongs to someone else."""
        await self._valkey.close()

    async def check(self) -> None:
        """Raise SettingsError where Valkey refuses the credentials, ValkeyUnavailable where it does not answer."""
        await self._valkey.ping()

    def poke(self, chain_id: int | None = None) -> None:
        """Say that something was committed, so that it is published at once; None means any chain."""
        for waiting in [chain_id] if chain_id is not None else list(self._pokes):
            self._pokes[waiting].set()

    def state(self, chain_id: int) -> PublisherState:
        """Return how far the chain is; its `cursor` is confirmed by Valkey, and changes up to it may be deleted."""
        return self._states[chain_id]

    async def run(self) -> None:
        """Publish for ever, one task a chain. Faults are told once and tried again until they pass."""
        async with asyncio.TaskGroup() as group:
            following: dict[int, asyncio.Task[None]] = {}
            while True:
                wanted = set(self._chain_ids())
                for chain_id in wanted - following.keys():
                    following[chain_id] = group.create_task(self._follow(chain_id), name=f"publisher-{chain_id}")
                for chain_id in following.keys() - wanted:
                    following.pop(chain_id).cancel()
                await asyncio.sleep(self._poll_interval_s)

    async def catch_up(self, chain_id: int) -> int:
        """Publish everything committed so far and return its cursor.

        Raises ValkeyUnavailable or StoreUnavailable; what was confirmed stays, and the next call goes on from there.
        """
        return await self._bring_up(chain_id, forced=False)

    async def rebuild(self, chain_id: int) -> None:
        """Fill the chain's keys anew and remove stale ones; readers see the old ones until then. Raises as catch_up."""
        await self._bring_up(chain_id, forced=True)

    async def request_rebuild(self, chain_id: int) -> None:
        """Have the daemon that publishes the chain rebuild it: it finds the layout gone at its next look."""
        keys = Keys(chain_id)
        async with self._valkey.holding(keys.checkpoint) as client:
            await client.delete(keys.layout)

    async def is_rebuilt(self, chain_id: int) -> bool:
        """Tell whether a rebuild that was asked for has ended."""
        return bool((await Target(self._valkey, Keys(chain_id)).read()).layout)

    async def _follow(self, chain_id: int) -> None:
        poked = self._pokes[chain_id]
        while not is_cancelled():  # redis sends with the wait_for of Python 3.11, which loses one that comes late
            poked.clear()
            spent_s = await self._persist(chain_id)
            await asyncio.sleep(rest_s(spent_s, self._states[chain_id].lag_blocks))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_interval_s):
                    await poked.wait()

    async def _persist(self, chain_id: int) -> float:
        """Catch up, however long it takes; return how long the try that did it took, in seconds."""
        retrying = AsyncRetrying(
            # Refused credentials too: `check` tells them at start, later someone may be changing them.
            retry=retry_if_exception_type((Retryable, SettingsError)),
            wait=wait_exponential_jitter(multiplier=0.1, max=_LONGEST_PAUSE_S, jitter=0.1),
            before_sleep=lambda attempt: self._tell_failure(chain_id, attempt),
        )
        spent_s: float = await retrying(self._timed_catch_up, chain_id)
        state = self._states[chain_id]
        if state.error is not None:
            state.error = None
            if not self._failing():
                log.info("publisher_recovered", chain_id=chain_id, failures=state.failures)
        return spent_s

    async def _timed_catch_up(self, chain_id: int) -> float:
        began = time.monotonic()
        await self.catch_up(chain_id)
        return time.monotonic() - began

    def _tell_failure(self, chain_id: int, attempt: RetryCallState) -> None:
        error = attempt.outcome.exception() if attempt.outcome else None
        if not self._failing():
            log.warning("publisher_failed", chain_id=chain_id, error=str(error))
        state = self._states[chain_id]
        state.error = str(error)
        state.failures += 1

    def _failing(self) -> bool:
        return any(state.error is not None for state in self._states.values())

    async def _bring_up(self, chain_id: int, *, forced: bool) -> int:
        async with self._locks[chain_id]:
            while True:
                try:
                    cursor, behind = await self._step(chain_id, forced=forced)
                except Superseded:
                    await asyncio.sleep(random() * _GIVE_WAY_S)  # noqa: S311 - no secret hangs on it
                    continue
                forced = False
                state = self._states[chain_id]
                state.cursor, state.backlog = cursor, behind
                if not behind:
                    return cursor

    async def _step(self, chain_id: int, *, forced: bool) -> tuple[int, int]:
        """Publish one stretch, or everything anew; return the cursor that Valkey has now and how many are left."""
        keys = Keys(chain_id)
        target = Target(self._valkey, keys)
        published = await target.read()
        if published.rebuild not in {"", self._token}:
            raise Superseded("another publisher rebuilds this chain's keys")
        async with self._database.transaction(snapshot=True) as connection:
            feed = Feed(connection, chain_id, self._stretch)
            head = await feed.head(published.cursor or 0)
            if head is None:
                return 0, 0
            self._states[chain_id].lag_blocks = head.lag_blocks or 0
            if head.backfilling:
                # Its batches do not wait for the disk. Were one taken back by a crash of the server, the cursor that
                # Valkey vouches for would be given out a second time, for other rows.
                await self._database.flush()
            step = Step(keys, target, feed, head, self._token, self._stream_maxlen)
            plan = judge(published, head, self._stretch)
            if isinstance(plan, Extend) and forced:
                plan = Rebuild("asked", keep_feed=True)
            if isinstance(plan, Extend):
                cursor = await step.extend(published, plan.cursor)
            else:
                cursor = await step.rebuild(published, plan)
                log.info("publisher_rebuilt", chain_id=chain_id, reason=plan.reason, cursor=cursor)
        return cursor, head.cursor - cursor
