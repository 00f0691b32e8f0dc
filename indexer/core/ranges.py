"""How many blocks to ask for next, and which blocks are still to be asked for. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from indexer.core.types import BlockRange

FORGET_DENSITY_AFTER: Final = 20  # successes; dense stretches end, so a limit they taught must fade (fault F17)
TARGET_LOGS: Final = 10_000  # about 18 MB of JSON and one comfortable transaction; more gains no speed
TARGET_DURATION_S: Final = 5.0  # a slower answer is near the time-outs that providers set (10 s is common)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A range request that was turned down for its size.

    `asked` and `spans` are counts of blocks; `spans` holds what the provider says it would take, best
    first, unchecked: texts name ranges that are inverted or larger than the one refused (F18, F19).
    `structural`: a rule of the provider, not a matter of how many logs the blocks hold.
    """

    asked: int
    spans: tuple[int, ...] = ()
    structural: bool = False

    @property
    def hint(self) -> int | None:
        """The first span that helps; a rule that names the very span that it refused means one less (F19)."""
        usable = self.asked if self.structural else self.asked - 1
        span = next((span for span in self.spans if 1 <= span <= usable), None)
        return span if span is None or span < self.asked else span - 1 or None


@dataclass(frozen=True, slots=True)
class SpanState:
    """What is known of the right span, in blocks. `ceiling` comes from the settings, the rest is learned.

    Rules of providers are not part of it: each knows its own, and the one that is asked may be another each time.
    """

    span: int
    ceiling: int
    density: int | None = None
    successes: int = 0

    @property
    def limit(self) -> int:
        """The largest span worth asking for now."""
        return max(1, min(cap for cap in (self.ceiling, self.density) if cap is not None))


def start_span(ceiling: int) -> SpanState:
    """Begin with the largest span that the settings allow; refusals teach the rest."""
    return SpanState(span=max(1, ceiling), ceiling=max(1, ceiling))


def after_success(state: SpanState, asked: int, logs: int, duration_s: float) -> SpanState:
    """Grow towards twice what was `asked` (blocks) while answers are small and quick, shrink when one was too much."""
    successes = state.successes + 1
    density = None if successes >= FORGET_DENSITY_AFTER else state.density
    learned = replace(state, successes=0 if density is None else successes, density=density)
    if logs > 2 * TARGET_LOGS or duration_s > 2 * TARGET_DURATION_S:
        return replace(learned, span=max(1, state.span // 2))
    if logs > TARGET_LOGS or duration_s > TARGET_DURATION_S:
        return learned
    return replace(learned, span=max(state.span, min(asked * 2, learned.limit)))


def after_failure(state: SpanState, asked: int) -> SpanState:
    """Ask for half of what failed next time, one block at least; every success doubles it again."""
    return replace(state, span=min(state.span, max(1, asked // 2)))


def after_refusal(state: SpanState, refusal: Refusal) -> SpanState:
    """Take the provider's hint where it helps, otherwise halve; never below one block.

    Reckoned from what was asked, so several refusals of requests in flight count once.
    """
    span = min(state.span, refusal.hint or max(1, refusal.asked // 2))
    if refusal.structural and refusal.hint is not None:
        return replace(state, span=span)
    return replace(state, span=span, density=span, successes=0)


def next_range(gaps: Sequence[BlockRange], span: int) -> BlockRange | None:
    """Return the first `span` blocks of the lowest gap; None where nothing is missing."""
    if not gaps:
        return None
    first = min(gaps)
    return BlockRange(first.from_block, min(first.to_block, first.from_block + max(1, span) - 1))


def halves(whole: BlockRange) -> tuple[BlockRange, BlockRange]:
    """Split a range of two blocks or more in the middle."""
    middle = whole.from_block + len(whole) // 2
    return BlockRange(whole.from_block, middle - 1), BlockRange(middle, whole.to_block)


def union(ranges: Iterable[BlockRange]) -> tuple[BlockRange, ...]:
    """Merge ranges that overlap or touch; lowest first."""
    merged: list[BlockRange] = []
    for part in sorted(ranges):
        if merged and part.from_block <= merged[-1].to_block + 1:
            merged[-1] = BlockRange(merged[-1].from_block, max(merged[-1].to_block, part.to_block))
        else:
            merged.append(part)
    return tuple(merged)


def difference(required: Iterable[BlockRange], covered: Iterable[BlockRange]) -> tuple[BlockRange, ...]:
    """Return what of `required` is not in `covered`: the gaps, lowest first, disjoint."""
    missing: list[BlockRange] = []
    taken = union(covered)
    for part in union(required):
        first = part.from_block
        for done in taken:
            if done.to_block < first or done.from_block > part.to_block:
                continue
            if done.from_block > first:
                missing.append(BlockRange(first, done.from_block - 1))
            first = done.to_block + 1
        if first <= part.to_block:
            missing.append(BlockRange(first, part.to_block))
    return tuple(missing)
