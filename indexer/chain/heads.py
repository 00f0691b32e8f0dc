"""What every provider says of head and finality, and whom to believe. Pure: the time is an argument, in seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FRESH_S: Final = 60.0  # whoever was not heard for so long has no voice
LAG_BLOCKS: Final = 5  # nodes of one chain are always a little apart
LAG_S: Final = 15.0  # a head that others had so long ago is late
LAG_AT_ONCE_S: Final = 60.0  # told by the times in the headers themselves, at the first look
# No chain makes more blocks than that between the times that two headers themselves tell.
MAX_BLOCKS_A_SECOND: Final = 100
MAX_APART_S: Final = 10_000_000
SLACK_BLOCKS: Final = 1_000
QUORUM: Final = 3  # of two that contradict each other nobody can tell which one lies
MAX_SAMPLES: Final = 16
# Finality that is both so many times deeper than usual and so many blocks deep is an outage, or a node that errs.
FAR_TIMES: Final = 10
FAR_BLOCKS: Final = 5_000


@dataclass(frozen=True, slots=True)
class Heard:
    """What one provider said last: its head, that block's own time, the highest finalized block, when it was heard."""

    head: int
    head_time: int
    finalized: int | None
    at: float


class Heads(Generic[K]):
    """The heads of all providers of one chain, by provider.

    `usual_finality` is the depth in blocks at which blocks are final as a rule; None: any depth is believed.
    """

    def __init__(self, usual_finality: int | None = None) -> None:
        self._usual_finality = usual_finality
        self.heard: dict[K, Heard] = {}
        self._moved_at: dict[K, float] = {}
        self._highest: deque[tuple[float, int]] = deque(maxlen=MAX_SAMPLES)

    def hear(self, key: K, heard: Heard) -> None:
        """Take in what a provider says; a finalized block that it leaves out this time is kept from the last."""
        before = self.heard.get(key)
        if before is None or before.head != heard.head:
            self._moved_at[key] = heard.at
        if heard.finalized is None and before is not None:
            heard = replace(heard, finalized=before.finalized)
        self.heard[key] = heard

    def forget(self, key: K) -> None:
        """Drop what a provider said: it turned out to be of another chain."""
        self.heard.pop(key, None)

    def sample(self, now: float) -> None:
        """Remember the highest head of now, to tell later who is late; call it when all were asked at once."""
        leader = self._leader(now)
        if leader is not None and (not self._highest or now - self._highest[-1][0] >= 1.0):
            self._highest.append((now, leader.head))

    def behind(self, key: K, now: float) -> bool:
        """Say whether a provider's head is one that others had long ago (faults F4, F16, F17)."""
        own, leader = self.heard.get(key), self._leader(now)
        if own is None or leader is None or leader.head - own.head <= LAG_BLOCKS:
            return False
        if not _possible(leader, own):
            return False
        if leader.head_time - own.head_time > LAG_AT_ONCE_S:
            return True
        return any(own.head + LAG_BLOCKS < head for at, head in self._highest if now - at >= LAG_S)

    def frozen(self, key: K, now: float) -> bool:
        """Say whether a provider is behind and does not move either: it knows nothing of what happens now."""
        return self.behind(key, now) and now - self._moved_at[key] >= FRESH_S

    def absurd(self, key: K, now: float) -> bool:
        """Say whether a provider's head cannot be, judged by most of the others, three being heard at least."""
        own, voices = self.heard.get(key), self._fresh(now)
        if own is None or len(voices) < QUORUM:
            return False
        against = sum(not _possible(own, other) for other in voices.values())
        return 2 * against > len(voices)

    def finalized(self, now: float, head: int) -> int | None:
        """Return the highest finalized block that two providers vouch for, one where only one is heard; at most `head`.

        One liar can so not make final what may still be replaced. Providers that are behind have no voice, nor have
        those by whom hardly anything is final: what they hold open would grow without end. None: nobody is left.
        """
        voices = sorted(
            heard.finalized
            for heard in self._voices(now).values()
            if heard.finalized is not None and not self._is_far_below(heard)
        )
        return min(head, voices[-2:][0]) if voices else None

    def disbelieved(self, now: float) -> dict[K, Heard]:
        """Return whoever has no voice in finality for telling of one that is far too deep."""
        return {key: heard for key, heard in self._voices(now).items() if self._is_far_below(heard)}

    def _voices(self, now: float) -> dict[K, Heard]:
        fresh = self._fresh(now)
        return {key: heard for key, heard in fresh.items() if not self.absurd(key, now) and not self.behind(key, now)}

    def _is_far_below(self, heard: Heard) -> bool:
        if self._usual_finality is None or heard.finalized is None:
            return False
        return heard.head - heard.finalized > max(FAR_BLOCKS, FAR_TIMES * self._usual_finality)

    def _fresh(self, now: float) -> dict[K, Heard]:
        return {key: heard for key, heard in self.heard.items() if now - heard.at <= FRESH_S}

    def _leader(self, now: float) -> Heard | None:
        believed = [heard for key, heard in self._fresh(now).items() if not self.absurd(key, now)]
        return max(believed, key=lambda heard: heard.head, default=None)


def _possible(high: Heard, low: Heard) -> bool:
    """Say whether a chain can have come from the lower head to the higher one in the time between them."""
    apart_s = min(MAX_APART_S, max(0, high.head_time - low.head_time))
    return high.head - low.head <= SLACK_BLOCKS + MAX_BLOCKS_A_SECOND * apart_s
