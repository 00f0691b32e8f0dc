"""How fast a provider may be asked, learned from its refusals (AIMD). Pure: the time is an argument, in seconds."""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW_S: Final = 5.0  # over which the rate that provoked a refusal is measured
CUT: Final = 0.7
MIN_RATE: Final = 2.0  # calls a second; slower than that nobody limits
MAX_DEBT_S: Final = 5.0  # a large batch holds up the next request no longer than that
RISE_A_SECOND: Final = 0.02  # of the rate, added every second without a refusal: doubled after 35 s
FORGET_S: Final = 900.0  # after so long without a refusal the limit is history
SETTLE_S: Final = 1.0  # refusals of what was already under way when the rate was cut do not cut again


class Pace:
    """Calls a second that a provider takes; no limit before its first refusal."""

    def __init__(self) -> None:
        self._sent: deque[tuple[float, int]] = deque()
        self._rate: float | None = None
        self._rated_at = 0.0
        self._refused_at = 0.0
        self._free_at = 0.0

    def rate(self, now: float) -> float | None:
        """Return the calls a second that are kept to now; None without a limit."""
        if self._rate is None:
            return None
        if now - self._refused_at > FORGET_S:
            self._rate = None
            return None
        self._rate *= (1 + RISE_A_SECOND) ** (now - self._rated_at)
        self._rated_at = now
        return self._rate

    def wait_s(self, now: float) -> float:
        """Say how long the next request has to wait."""
        return max(0.0, self._free_at - now) if self.rate(now) is not None else 0.0

    def reserve(self, now: float, calls: int) -> float:
        """Take a place for a request of so many calls; returns how long to wait for it."""
        wait_s = self.wait_s(now)
        rate = self.rate(now)
        at = now + wait_s
        if rate is not None:
            self._free_at = at + min(calls / rate, MAX_DEBT_S)
        self._sent.append((at, calls))
        self._drop_old(now)
        return wait_s

    def refused(self, now: float) -> None:
        """Go slower after a refusal for too many requests."""
        if now - self._refused_at < SETTLE_S and self._rate is not None:
            self._refused_at = now
            return
        self._drop_old(now)
        measured = sum(calls for at, calls in self._sent if at <= now) / WINDOW_S
        rate = self.rate(now)
        self._rate = max(MIN_RATE, CUT * (measured if rate is None else min(rate, max(measured, MIN_RATE))))
        self._rated_at = self._refused_at = self._free_at = now

    def _drop_old(self, now: float) -> None:
        while self._sent and self._sent[0][0] < now - WINDOW_S:
            self._sent.popleft()
