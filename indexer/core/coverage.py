"""Which blocks were fetched for which contract, and how surely: arithmetic on intervals that carry a proof level."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from indexer.core.ranges import difference
from indexer.core.types import BlockRange, Proof

LEVELS: Final[tuple[Proof, ...]] = ("off", "logs", "receipts")
"""From the weakest to the strongest."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Blocks that were fetched for one contract, all at the same level."""

    range: BlockRange
    proof: Proof


@dataclass(frozen=True, slots=True)
class Gap:
    """Blocks that some contracts lack: never fetched for any of them where `proof` is None.

    Else they were fetched for all of these, at `proof` in the weakest case.
    """

    range: BlockRange
    addresses: tuple[bytes, ...]
    proof: Proof | None


def is_below(proof: Proof, wanted: Proof) -> bool:
    """Say whether a level is weaker than the one that is wanted."""
    return LEVELS.index(proof) < LEVELS.index(wanted)


def raised(intervals: Iterable[Interval], within: BlockRange, proof: Proof) -> tuple[Interval, ...]:
    """Set the blocks of `within` to `proof`, or leave them where they are stronger; lowest first, none to be merged.

    `intervals` are one contract's, disjoint.
    """
    before = tuple(intervals)
    parts = [Interval(part, proof) for part in difference([within], (one.range for one in before))]
    for one in before:
        parts += [replace(one, range=part) for part in difference([one.range], [within])]
        if (inner := _overlap(one.range, within)) is not None:
            parts.append(Interval(inner, proof if is_below(one.proof, proof) else one.proof))
    return _merged(parts)


def gaps(required: Mapping[bytes, BlockRange], covered: Mapping[bytes, Sequence[Interval]], wanted: Proof) -> list[Gap]:
    """Return what is missing of each contract's range, then what is weaker than `wanted`; each lowest first.

    Contracts that lack the same blocks share a gap.
    """
    missing: list[Gap] = []
    weak: list[Gap] = []
    for part, levels in _segments(required, covered):
        absent = tuple(address for address, level in levels.items() if level is None)
        below = {address: level for address, level in levels.items() if level is not None and is_below(level, wanted)}
        if absent:
            _append(missing, Gap(part, absent, None))
        if below:
            _append(weak, Gap(part, tuple(below), min(below.values(), key=LEVELS.index)))
    return missing + weak


def blocks_by_level(
    required: Mapping[bytes, BlockRange], covered: Mapping[bytes, Sequence[Interval]]
) -> dict[Proof, int]:
    """Count the blocks that every contract has, by the weakest of their levels there; empty levels are left out."""
    counts = dict.fromkeys(LEVELS, 0)
    for part, levels in _segments(required, covered):
        known = [level for level in levels.values() if level is not None]
        if len(known) == len(levels):
            counts[min(known, key=LEVELS.index)] += len(part)
    return {level: count for level, count in counts.items() if count}


def _segments(
    required: Mapping[bytes, BlockRange], covered: Mapping[bytes, Sequence[Interval]]
) -> Iterator[tuple[BlockRange, dict[bytes, Proof | None]]]:
    """Cut all blocks that any contract requires into stretches over which no level changes, lowest first.

    Each comes with the level of every contract that requires it, None where it was never fetched; contracts are in the
    order of `required`.
    """
    starts: defaultdict[int, dict[bytes, Proof | None]] = defaultdict(dict)
    ends: defaultdict[int, set[bytes]] = defaultdict(set)
    for address, whole in required.items():
        ends[whole.to_block + 1].add(address)
        for part, level in _pieces(whole, covered.get(address, ())):
            starts[part.from_block][address] = level
    now: dict[bytes, Proof | None] = {}
    for number, following in pairwise(sorted({*starts, *ends})):
        now |= starts[number]
        now = {address: now[address] for address in required if address in now and address not in ends[number]}
        if now:
            yield BlockRange(number, following - 1), now


def _pieces(whole: BlockRange, intervals: Sequence[Interval]) -> Iterator[tuple[BlockRange, Proof | None]]:
    """Cut one contract's blocks by what is known of them."""
    for one in intervals:
        if (inner := _overlap(one.range, whole)) is not None:
            yield inner, one.proof
    for part in difference([whole], (one.range for one in intervals)):
        yield part, None


def _append(found: list[Gap], gap: Gap) -> None:
    """Add a gap, as a part of the last one where it only continues that."""
    if found:
        last = found[-1]
        if (last.range.to_block + 1, last.addresses, last.proof) == (gap.range.from_block, gap.addresses, gap.proof):
            found[-1] = replace(last, range=BlockRange(last.range.from_block, gap.range.to_block))
            return
    found.append(gap)


def _overlap(one: BlockRange, other: BlockRange) -> BlockRange | None:
    first, last = max(one.from_block, other.from_block), min(one.to_block, other.to_block)
    return BlockRange(first, last) if first <= last else None


def _merged(parts: Iterable[Interval]) -> tuple[Interval, ...]:
    merged: list[Interval] = []
    for part in sorted(parts, key=lambda one: one.range):
        if merged and merged[-1].proof == part.proof and merged[-1].range.to_block + 1 == part.range.from_block:
            merged[-1] = replace(part, range=BlockRange(merged[-1].range.from_block, part.range.to_block))
        else:
            merged.append(part)
    return tuple(merged)
