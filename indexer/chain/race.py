"""One operation at several providers: the next one where one fails, and one more where one is slow to answer."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from indexer.chain.member import Member
from indexer.chain.refusals import (
    AddressLimit,
    CallFailed,
    ProviderError,
    RateLimited,
    ShrinkRange,
    TimedOut,
    Transport,
    UnknownRefusal,
)

T = TypeVar("T")

MAX_WAIT_S: Final = 10.0  # longer than that is the caller's affair: it may have to stop, or to tell an operator


class Race(Generic[T]):
    """Starts an operation at the members in order; the first success wins, and what is still under way is cancelled.

    `may_hedge` gives leave to ask a member while another still owes its answer; `lost` hears of a member, and of the
    seconds it had, whose answer came later than that of one asked after it.
    """

    def __init__(
        self,
        members: Sequence[Member],
        start: Callable[[Member], asyncio.Task[T]],
        *,
        may_hedge: Callable[[Member], bool],
        lost: Callable[[Member, float], None],
    ) -> None:
        self._waiting = deque(members)
        self._start_at = start
        self._may_hedge = may_hedge
        self._lost = lost
        self._running: dict[asyncio.Task[T], tuple[Member, float]] = {}  # with the time of its start, oldest first
        self._errors: list[ProviderError] = []
        self._patient = False

    async def run(self) -> T:
        """Return the first success; where all fail, raises what says most of what to do next."""
        try:
            while self._running or self._waiting:
                if not self._running:
                    self._start()
                done, _ = await asyncio.wait(
                    self._running, timeout=self._patience_s(), return_when=asyncio.FIRST_COMPLETED
                )
                if (winner := self._judge(done)) is not None:
                    return winner.result()
                if not done:
                    self._hedge()
            raise verdict(self._errors)
        finally:
            await self._stop()

    def _start(self) -> None:
        member = self._waiting.popleft()
        self._running[self._start_at(member)] = (member, time.monotonic())

    def _patience_s(self) -> float | None:
        """Say how long to wait for the newest start before one more is made."""
        if self._patient or not self._waiting:
            return None
        member, started = list(self._running.values())[-1]
        return max(0.0, started + member.latency.hedge_after_s - time.monotonic())

    def _hedge(self) -> None:
        """Ask one more; or never again in this race, so that fallbacks do not bear all the load of a slow one."""
        if self._may_hedge(self._waiting[0]):
            self._start()
        else:
            self._patient = True

    def _judge(self, done: set[asyncio.Task[T]]) -> asyncio.Task[T] | None:
        """Return a task that succeeded; raises what no other provider would answer better, or a fault of our own."""
        ended = {task: (self._running.pop(task), task.exception()) for task in done}
        for task, ((_, started), error) in ended.items():
            if error is None:
                self._tell_losers(started)
                return task
        for task, (_, error) in ended.items():
            if not isinstance(error, ProviderError):
                return task  # its result raises
            if is_answer(error) and not self._running:
                raise error
            self._errors.append(error)
        return None

    def _tell_losers(self, winner_started: float) -> None:
        for member, started in self._running.values():
            if started < winner_started:
                self._lost(member, time.monotonic() - started)

    async def _stop(self) -> None:
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.gather(*self._running, return_exceptions=True)


def is_answer(error: ProviderError) -> bool:
    """Say whether a refusal holds elsewhere too, or is better met by asking the same provider for less."""
    return isinstance(error, (ShrinkRange, AddressLimit, CallFailed)) and not isinstance(error, UnknownRefusal)


def worth_a_wait(error: BaseException) -> bool:
    """Say whether the same question may be answered a little later."""
    match error:
        case TimedOut():
            return False  # each try costs the whole time-out; smaller questions are better
        case RateLimited():
            return error.retry_after_s is None or error.retry_after_s <= MAX_WAIT_S
        case _:
            return isinstance(error, Transport)


def verdict(errors: Sequence[ProviderError]) -> ProviderError:
    """Choose what to report where all failed: an answer, else what may pass by waiting, else the last word."""
    answer = next((error for error in errors if is_answer(error)), None)
    return answer or next((error for error in errors if worth_a_wait(error)), errors[-1])
