"""What a stretch that was fetched again says otherwise than the stored one, position by position."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from indexer.core.types import RawLog

Position = tuple[int, int]
"""Block number and log index."""


@dataclass(frozen=True, slots=True)
class Change:
    """A position at which the two differ; `stored` or `fetched` is None where that side has no log there."""

    block_number: int
    log_index: int
    stored: RawLog | None
    fetched: RawLog | None

    @property
    def position(self) -> Position:
        """Return where it is."""
        return self.block_number, self.log_index

    @property
    def removes(self) -> bool:
        """Say whether something stored would go: removed, or replaced."""
        return self.stored is not None


def differences(stored: Iterable[RawLog], fetched: Iterable[RawLog]) -> list[Change]:
    """Return every position whose logs differ in anything, in chain order."""
    held = {(log.block_number, log.log_index): log for log in stored}
    new = {(log.block_number, log.log_index): log for log in fetched}
    return [
        Change(*position, held.get(position), new.get(position))
        for position in sorted({*held, *new})
        if held.get(position) != new.get(position)
    ]
