"""Put stored blocks right by what was fetched again: gap fill, raising of the proof level, audit and `reindex` alike.

What is new is added; what would go, or be replaced, must be confirmed first, for no provider alone may take a log away.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from indexer.chain.refusals import Inconsistent, MethodMissing, Pruned
from indexer.chain.source import ProvenBlock
from indexer.core.differences import Change, Position
from indexer.core.types import Batch, RawLog
from indexer.store.marks import ReindexMark
from indexer.store.slices import Slice, Swapped, Version

# Blocks whose receipts are asked for in one go; a block of a busy chain has some megabytes of them.
_PROVEN_AT_ONCE: Final = 8


class Judge(Protocol):
    """Who says what a block holds; errors are RpcErrors."""

    async def prove(self, numbers: Sequence[int], addresses: Sequence[bytes]) -> tuple[ProvenBlock, ...]:
        """Return what these blocks hold, proven by their receipts roots; MethodMissing where nobody can."""

    async def vouches(self, block: ProvenBlock, against: Sequence[RawLog]) -> bool:
        """Say whether a proven block is one of this chain: that of the stored logs `against`, or known to two."""

    async def confirms(
        self, block_number: int, logs: Sequence[RawLog], addresses: Sequence[bytes], *, against: Sequence[RawLog] = ()
    ) -> bool:
        """Say whether a receipts root, or two providers and no bloom, agree that exactly these are the block's logs."""


class Slices(Protocol):
    """The stored blocks; see `store.slices`."""

    async def version(self) -> Version:
        """Tell which rows there are, before anything is fetched."""

    async def compare(self, fetched: Slice) -> list[Change]:
        """Tell what differs, without writing."""

    async def swap(
        self,
        fetched: Slice,
        *,
        removable: frozenset[Position],
        announce: bool,
        mark: ReindexMark | None = None,
    ) -> Swapped:
        """Take in what differs, in one transaction."""


@dataclass(frozen=True, slots=True)
class Correction:
    """How a slice is to be taken in."""

    announce: bool  # a change for each new log in the feed
    mark: ReindexMark | None = None


async def correct(judge: Judge, slices: Slices, fetched: Slice, how: Correction) -> Swapped:
    """Take in what differs between a fetched slice and the tables, all of it or nothing.

    Blocks that would lose a log, or get another one in its place, are read again by their receipts, which then are the
    answer if the block is certain to be one of this chain; where nobody serves receipts, another provider has to agree.
    Raises Unconfirmed where none does, SliceMoved where the chain moved meanwhile, RpcError, StoreUnavailable or
    LeaseLost.
    """
    lost = _lost(await slices.compare(fetched))
    removable: frozenset[Position] = frozenset()
    if lost:
        fetched, proven = await _read_again(judge, fetched, sorted(lost))
        lost = _lost(await slices.compare(fetched))
        certain = [n for n, logs in lost.items() if await _is_certain(judge, fetched, n, proven.get(n), logs)]
        removable = frozenset((log.block_number, log.log_index) for number in certain for log in lost[number])
    return await slices.swap(fetched, removable=removable, announce=how.announce, mark=how.mark)


def _lost(changes: Iterable[Change]) -> dict[int, list[RawLog]]:
    """Return the stored logs that would go, or be replaced, by block number."""
    lost: dict[int, list[RawLog]] = {}
    for change in changes:
        if change.stored is not None:
            lost.setdefault(change.block_number, []).append(change.stored)
    return lost


async def _read_again(judge: Judge, fetched: Slice, numbers: Sequence[int]) -> tuple[Slice, dict[int, ProvenBlock]]:
    """Return the slice with what the receipts of these blocks say, and the proven blocks; none where that fails."""
    try:
        proven = [
            block
            for start in range(0, len(numbers), _PROVEN_AT_ONCE)
            for block in await judge.prove(numbers[start : start + _PROVEN_AT_ONCE], fetched.addresses)
        ]
    except (MethodMissing, Inconsistent, Pruned):
        return fetched, {}
    held = {block.number: block.hash for block in fetched.batch.blocks}
    for block in proven:
        if held.get(block.ref.number, block.ref.hash) != block.ref.hash:
            raise Inconsistent("", f"block {block.ref.number} changed while being read")
    logs = [log for block in proven for log in block.logs]
    merged = replace(fetched, batch=_with_logs(fetched.batch, logs, numbers))
    return merged, {block.ref.number: block for block in proven}


async def _is_certain(
    judge: Judge, fetched: Slice, number: int, proven: ProvenBlock | None, lost: Sequence[RawLog]
) -> bool:
    """Say whether it is certain that these stored logs of a block are wrong."""
    if proven is not None:
        return await judge.vouches(proven, lost)
    logs = [log for log in fetched.batch.logs if log.block_number == number]
    return await judge.confirms(number, logs, fetched.addresses, against=lost)


def _with_logs(batch: Batch, logs: Sequence[RawLog], numbers: Collection[int]) -> Batch:
    """Put `logs` in the place of those of the blocks `numbers`."""
    others = [log for log in batch.logs if log.block_number not in numbers]
    merged = sorted((*others, *logs), key=lambda log: (log.block_number, log.log_index))
    return replace(batch, logs=tuple(merged))
