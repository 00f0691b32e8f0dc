"""How long a provider's answers take, and so when waiting for one is no longer worth it."""

from __future__ import annotations

from typing import Final

MIN_HEDGE_S: Final = 1.0  # sooner a second question costs more than it saves
MAX_HEDGE_S: Final = 5.0
UNKNOWN_HEDGE_S: Final = 3.0
_MEAN_WEIGHT: Final = 1 / 8  # as TCP does for its round trips (RFC 6298)
_SPREAD_WEIGHT: Final = 1 / 4
HEDGES: Final = 10.0  # that may be started at once
HEDGES_AN_OPERATION: Final = 0.1  # so that fallbacks bear a tenth of the load at most, whatever happens


class Latency:
    """The usual duration of one provider's operations, in seconds."""

    def __init__(self) -> None:
        self.mean_s: float | None = None
        self._spread_s = 0.0

    def observe(self, seconds: float) -> None:
        """Take in how long one operation took."""
        if self.mean_s is None:
            self.mean_s, self._spread_s = seconds, seconds / 2
            return
        self._spread_s += _SPREAD_WEIGHT * (abs(seconds - self.mean_s) - self._spread_s)
        self.mean_s += _MEAN_WEIGHT * (seconds - self.mean_s)

    @property
    def hedge_after_s(self) -> float:
        """After how long without an answer the next provider is asked too."""
        if self.mean_s is None:
            return UNKNOWN_HEDGE_S
        return min(MAX_HEDGE_S, max(MIN_HEDGE_S, self.mean_s + 4 * self._spread_s))


class HedgeBudget:
    """How many operations may still be started twice."""

    def __init__(self) -> None:
        self._left = HEDGES

    def earn(self) -> None:
        """Count an operation."""
        self._left = min(HEDGES, self._left + HEDGES_AN_OPERATION)

    def spend(self) -> bool:
        """Take leave for a second start; says whether it was given."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
