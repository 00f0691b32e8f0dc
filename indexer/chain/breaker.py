"""When a provider is left alone after an error, and for how long. Pure: the time is an argument, in seconds."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from indexer.chain.refusals import (
    Billing,
    Inconsistent,
    ProviderError,
    RateLimited,
    Transport,
    Unauthorized,
    WrongChain,
)

State = Literal["closed", "open", "half-open"]

MAX_RETRY_AFTER_S: Final = 3600.0  # whoever asks for more is asked again all the same
_GROWTH: Final = 2.0


@dataclass(frozen=True, slots=True)
class Rest:
    """How long to leave a provider alone.

    A `hard` rest is kept even where no other provider is left, until `last_resort_s` are over; a soft one only
    means that every other provider is asked first.
    """

    seconds: float
    hard: bool = False
    last_resort_s: float = 0.0


def rest_after(error: ProviderError, failures: int) -> Rest | None:
    """Say which rest an error earns after that many in a row, itself among them; None: it says nothing of later ones.

    Retry-After is kept to exactly; without it, and for all else, rests grow from failure to failure.
    """
    match error:
        case RateLimited(retry_after_s=float() as asked_s):
            return Rest(min(asked_s, MAX_RETRY_AFTER_S), hard=True, last_resort_s=60.0)
        case RateLimited():
            return Rest(_grown(1.0, 60.0, failures), hard=True, last_resort_s=10.0)
        case Billing():  # an allowance comes back by the hour, the day or the month
            return Rest(_grown(600.0, 3600.0, failures), hard=True, last_resort_s=30.0)
        case Unauthorized() | WrongChain():  # mended by an operator, or by a node that has synced
            return Rest(_grown(60.0, 600.0, failures), hard=True, last_resort_s=15.0)
        case Transport() | Inconsistent():
            return Rest(_grown(2.0, 60.0, failures))
        case _:
            return None


def _grown(first_s: float, most_s: float, failures: int) -> float:
    return float(min(most_s, first_s * _GROWTH ** min(failures - 1, 30)))


def _spread() -> float:
    return random.uniform(0.8, 1.2)  # noqa: S311 - so that instances do not come back in step; no secret


class Breaker:
    """The state of one provider: closed, open while it rests, then half-open: one operation tries it."""

    def __init__(self, spread: Callable[[], float] = _spread) -> None:
        self.error: ProviderError | None = None  # why it rests or is tried, None while closed
        self.until = 0.0
        self.hard = False
        self.failures = 0  # in a row
        self._spread = spread
        self._tripped = 0.0
        self._last_resort = 0.0
        self._trying = False

    def state(self, now: float) -> State:
        """Say how the provider stands."""
        if self.error is None:
            return "closed"
        return "open" if now < self.until else "half-open"

    def resting_s(self, now: float) -> float:
        """Say how long it is left alone yet."""
        return max(0.0, self.until - now) if self.error is not None else 0.0

    def barred(self, now: float) -> bool:
        """Say whether it must not be asked while any other can be."""
        return self.hard and self.state(now) == "open"

    def is_last_resort(self, now: float) -> bool:
        """Say whether a barred one may be tried where nothing else is left."""
        return now >= self._last_resort

    @property
    def is_tried(self) -> bool:
        """Say whether an operation tries the half-open provider just now; others had better wait for that."""
        return self._trying

    def begin(self, now: float) -> bool:
        """Note that an operation starts; says whether it is the trial, which `end` must close."""
        if self._trying or self.state(now) != "half-open":
            return False
        self._trying = True
        return True

    def end(self) -> None:
        """Close a trial, however it went."""
        self._trying = False

    def succeed(self, started: float) -> bool:
        """Close after a success of what began at `started`; says whether that ended an outage.

        What began before the trip says nothing of the time after it.
        """
        if self.error is None or started < self._tripped:
            return False
        self.reset()
        return True

    def fail(self, now: float, started: float, error: ProviderError) -> bool:
        """Rest as the error asks for; says whether that opened a closed breaker.

        Operations that began before the trip fail together with the first, and count once.
        """
        counts = self.error is None or started >= self._tripped
        rest = rest_after(error, self.failures + counts)
        if rest is None:
            return False
        opened = self.error is None
        asked = isinstance(error, RateLimited) and error.retry_after_s is not None
        until = now + rest.seconds * (1.0 if asked else self._spread())
        if counts or until > self.until or (rest.hard and not self.hard):
            self.error, self.hard, self.until = error, rest.hard, until
            self._last_resort = min(until, now + rest.last_resort_s)
        if counts:
            self.failures += 1
            self._tripped = now
        return opened

    def recheck(self, now: float) -> None:
        """Let the provider be tried now: something was heard of it that makes sense of that."""
        self.until = min(self.until, now)

    def reset(self) -> None:
        """Forget everything: the provider is as good as new."""
        self.error, self.failures, self.until, self.hard = None, 0, 0.0, False
