"""What is wrong with one chain now, and how long it has not got on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final, Literal

import structlog

log = structlog.get_logger()

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 15.0
_ALARM: Final = 0.85
"""Share of the time after which silence is an alarm: it shall be heard before all of it is over, although the heads of
the providers that are not asked are a few seconds old."""

_SOONEST_RESTART_S: Final = 5.0
"""However short the time is set to be: an attempt has to open connections, and to read where the chain stands."""

Fault = Literal["database", "provider"]


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

    def stall(self) -> None:
        """Note that a chain did not get on, though nothing failed; its `Watch` says so."""
        self._fail()

    def crash(self, error: Exception) -> None:
        """Note a fault of our own making; its words are for the log alone."""
        self._fail(f"internal error: {type(error).__name__}")

    def _fail(self, *reasons: str) -> None:
        self.reasons = reasons
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
class Watch:
    """When a chain last got on. While it is another's to care for, or halted, nobody expects it to."""

    stall_after_s: float
    _progressed: float | None = None  # None: nothing is expected
    _begun: float = 0.0  # the present attempt

    def begin(self) -> None:
        """Begin an attempt: it has all the time there is, yet what was overdue before stays so."""
        self._begun = time.monotonic()
        self._progressed = self._begun if self._progressed is None else self._progressed

    def progress(self) -> None:
        """Rows were committed, or there are none to be had."""
        self._progressed = time.monotonic()

    def pause(self) -> None:
        """Expect nothing until the next `begin` or `progress`."""
        self._progressed = None

    @property
    def reasons(self) -> tuple[str, ...]:
        """Say that the chain stalls, where it does."""
        if self._progressed is None or (silent_s := time.monotonic() - self._progressed) < self._patience_s:
            return ()
        return (f"stalled: no progress for {silent_s:.0f} s",)

    @property
    def left_s(self) -> float | None:
        """How long the present attempt has yet to get on, at least 0; None where nothing is expected of it."""
        if self._progressed is None:
            return None
        left_s = max(self._progressed, self._begun) + max(self._patience_s, _SOONEST_RESTART_S) - time.monotonic()
        return max(left_s, 0.0)

    @property
    def _patience_s(self) -> float:
        return _ALARM * self.stall_after_s
