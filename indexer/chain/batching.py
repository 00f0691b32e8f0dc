"""How many calls go into one JSON-RPC batch: fewer after a refusal, and more again after a while. Pure."""

from __future__ import annotations

from typing import Final

MAX_BATCH: Final = 100  # calls in one HTTP request; a common limit, and 100 headers are 300 kB
FIRST_TRIAL: Final = 20  # batches that went well before a larger one is tried again
LAST_TRIAL: Final = 5_000


class BatchSize:
    """What one provider takes. A refusal may be a passing fault, so that no size is for good."""

    def __init__(self) -> None:
        self.calls = MAX_BATCH
        self._successes = 0
        self._trial = FIRST_TRIAL
        self._rose = False

    def smaller(self, size: int) -> int:
        """Return what to try after a batch of that size was refused; 1 at least."""
        if self._rose:
            self._trial = min(2 * self._trial, LAST_TRIAL)  # it is a rule: ask less and less often whether it holds
            self._rose = False
        return max(1, size // 2)

    def worked(self, size: int, calls: int) -> None:
        """Hear that `calls` calls went through in batches of `size`."""
        if size < self.calls and size < calls:
            self.calls, self._successes = size, 0
            return
        if self.calls == MAX_BATCH or calls < self.calls:
            return
        self._successes += 1
        if self._successes >= self._trial:
            self.calls, self._successes, self._rose = min(2 * self.calls, MAX_BATCH), 0, True
