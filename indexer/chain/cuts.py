"""Which answers of eth_getLogs may have been cut without a word (fault F20): told by their sizes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

MIN_CUT: Final = 100  # logs; the same smaller count twice is no sign of a limit
MAX_USUAL: Final = 100_000
_POWERS: Final = frozenset(2**exponent for exponent in range(10, 15))


class Cuts:
    """What the sizes of one provider's answers tell of a limit that it keeps silent about.

    Whoever gave more than N logs in one answer does not cut at N: only the largest answer so far may be cut. It is
    doubtful where limits are usual, and where the same count comes again; the first cut at an odd limit cannot be seen.
    An answer that proved to be whole says nothing of the next one of its size; but two halves of the same blocks are
    smaller, and so beyond doubt. Asked for in one request they spare a chain of even density the asking again.
    """

    def __init__(self) -> None:
        self.largest = 0  # logs in one answer
        self._whole: tuple[int, int] | None = None  # logs of an answer that proved to be whole, and its blocks

    def doubt(self, counts: Sequence[int]) -> int | None:
        """Hear the sizes of the answers to one question; return the one at which some may be cut."""
        before, largest = self.largest, max([self.largest, *counts])
        self.largest = largest
        came_again = largest == before or counts.count(largest) > 1
        if largest < MIN_CUT or largest not in counts:
            return None
        return largest if came_again or _is_usual(largest) else None

    def proved_whole(self, logs: int, blocks: int) -> None:
        """Hear that a doubtful answer, of so many logs for so many blocks, was whole."""
        if self._whole is not None and self._whole[0] == logs:
            blocks = min(blocks, self._whole[1])
        self._whole = (logs, blocks)

    def halves_spare_doubt(self, blocks: int) -> bool:
        """Say whether an answer for so many blocks is likely to be as large as the doubtful one, and halves are not."""
        if self._whole is None or self._whole[0] < self.largest:
            return False
        return max(2, self._whole[1]) <= blocks < 2 * self._whole[1]


def _is_usual(count: int) -> bool:
    """Say whether limits are usual at that count; some let one more through, by which they know of the limit."""
    return any(limit in _POWERS or (limit % 500 == 0 and limit <= MAX_USUAL) for limit in (count, count - 1))
