"""The end of this process after a signal: one deadline for everything that has to stop, whatever hangs.

Who ends something asks here how long that may take: pauses that are each short enough add up to more than a stop may
last. What hangs even so ends with the process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Final

import structlog

log = structlog.get_logger()

_ORDERLY_S: Final = 7.5  # for what ends in order, of the ten that a stop may take
# The interpreter's own end, in which no thread acts any more, takes a second where the processor is busy.
_LAST_RESORT_S: Final = 8.5
_FLUSH_S: Final = 0.3  # a pipe that nobody reads takes nothing


@dataclass(slots=True)
class Stop:
    """A stop of the process; `exit_code` is what it ends with should it have to be cut short."""

    exit_code: int = 0
    _began: float | None = None

    def begin(self) -> None:
        """Start the clock, at the first signal; further ones change nothing.

        At its end only a thread is sure to act: the event loop may be waiting for threads that hang in the resolver.
        """
        if self._began is None:
            self._began = time.monotonic()
            last_resort = threading.Timer(_LAST_RESORT_S, self._leave)
            last_resort.daemon = True
            last_resort.start()

    def left_s(self, most_s: float) -> float:
        """Return how many seconds something may take to end: `most_s`, and less where the deadline is nearer."""
        if self._began is None:
            return most_s
        return max(0.0, min(most_s, self._began + _ORDERLY_S - time.monotonic()))

    def _leave(self) -> None:
        saying = threading.Thread(target=_say_the_rest, daemon=True)
        saying.start()
        saying.join(_FLUSH_S)
        os._exit(self.exit_code)


STOP: Final = Stop()
"""The one of this process, as a signal is to all of it."""


@contextmanager
def stop_signals(
    begun: Callable[[], None] = lambda: None, *, numbers: Sequence[int] = (signal.SIGTERM, signal.SIGINT)
) -> Iterator[asyncio.Event]:
    """Set the event, and call `begun`, at one of these signals, in place of what Python does; for the main thread.

    Once one came, these signals are ignored after the body too: an impatient second one must not spoil the exit code.
    The handlers are not the loop's own, as taking those away gives the signal back to the system for a moment.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def begin() -> None:
        begun()
        stop.set()

    def handle(_number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(begin)  # here any line of the program may be half done

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if stop.is_set() else handler)


def _say_the_rest() -> None:
    log.warning("stop_forced", after_s=_LAST_RESORT_S)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
