"""What the HTTP side asks of the daemon, and asking it without waiting longer than a probe would."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from indexer.core.counters import ChainCounters
from indexer.errors import StoreUnavailable
from indexer.store.reader import StatusDocument

STATUS_TIMEOUT_S: Final = 2.0
"""Probes and scrapers give up after a few seconds; an answer that says why is worth more than none."""

_MAX_STUCK: Final = 2
"""Readings that may hang at a server that swallows packets; more of them would use up the connections."""


class HttpState(Protocol):
    """The daemon, as far as HTTP needs it."""

    async def status(self) -> StatusDocument:
        """Return the status document. Raises IndexerError where the database is away or refuses."""
        ...

    def problems(self) -> Mapping[str, Sequence[str]]:
        """Return by chain name what this process knows beside the database, such as an RPC out of reach."""
        ...

    def counters(self) -> Iterable[ChainCounters]:
        """Return the counters of every chain of this process."""
        ...


class StatusReader:
    """Reads the status within `timeout_s`; requests that come together share one reading."""

    def __init__(self, state: HttpState, timeout_s: float = STATUS_TIMEOUT_S) -> None:
        self._state = state
        self._timeout_s = timeout_s
        self._current: asyncio.Task[StatusDocument] | None = None
        self._unfinished: set[asyncio.Task[StatusDocument]] = set()

    async def read(self) -> StatusDocument:
        """Return the status document. Raises IndexerError; StoreUnavailable too when the time is over."""
        reading = self._current or self._begin()
        # Not asyncio.timeout: a cancelled query waits for the server's word, which is just what does not come.
        await asyncio.wait({reading}, timeout=self._timeout_s)
        if reading.done() and not reading.cancelled():
            return reading.result()
        if self._current is reading:
            self._current = None
        reading.cancel()
        raise self._too_late()

    def close(self) -> None:
        """Cancel what is still under way."""
        for reading in self._unfinished:
            reading.cancel()

    def _begin(self) -> asyncio.Task[StatusDocument]:
        if len(self._unfinished) >= _MAX_STUCK:
            raise self._too_late()
        reading = asyncio.create_task(self._state.status(), name="http status")
        reading.add_done_callback(self._end)
        self._unfinished.add(reading)
        self._current = reading
        return reading

    def _end(self, reading: asyncio.Task[StatusDocument]) -> None:
        self._unfinished.discard(reading)
        if self._current is reading:
            self._current = None
        if not reading.cancelled():
            reading.exception()  # whoever asked may be gone

    def _too_late(self) -> StoreUnavailable:
        return StoreUnavailable(f"the database does not answer within {self._timeout_s:g} s")
