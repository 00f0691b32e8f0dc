"""Held and fetched headers in, a decision out: whether the chain goes on from what we have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from indexer.core.types import BlockRef


@dataclass(frozen=True, slots=True)
class Extend:
    """The fetched headers continue the newest held block."""


@dataclass(frozen=True, slots=True)
class Stale:
    """Nothing new and nothing contradicted: a node that is behind proves nothing (fault F4)."""


@dataclass(frozen=True, slots=True)
class Rollback:
    """The chain was reorganised above `to`, which is canonical; everything above it is to be taken back."""

    to: BlockRef


@dataclass(frozen=True, slots=True)
class FetchOlder:
    """Undecided: ask for the canonical headers at held block numbers below `before`.

    Where nothing older is held, ask for the finalized block's header, which becomes the ancestor.
    """

    before: int


@dataclass(frozen=True, slots=True)
class BeyondFinality:
    """A held block at or below `finalized_block` is no longer canonical: halt the chain (fault F11)."""

    finalized_block: int


Decision: TypeAlias = Extend | Stale | Rollback | FetchOlder | BeyondFinality


def decide(held: Sequence[BlockRef], fetched: Sequence[BlockRef], finalized_block: int) -> Decision:
    """Say how `fetched` joins `held` (both oldest first, either may skip numbers); touches nothing.

    `held` are the stored blocks that were not final, best with the newest final one below them;
    `fetched` come from one chain. Hashes decide, never heights alone. `finalized_block` is the number
    stored when `held` last proved canonical: what was final later may have replaced rows of ours. An
    ancestor is a held block, as between two of them may lie blocks whose headers were never seen; or,
    where none is held below the change, the finalized one.
    """
    if not held:
        return Extend()
    if not fetched:
        return Stale()
    canonical = {block.number - 1: block.parent_hash for block in fetched}
    canonical |= {block.number: block.hash for block in fetched}
    replaced = [block for block in held if canonical.get(block.number, block.hash) != block.hash]
    if not replaced:
        return _join(held[-1], fetched, canonical)
    if replaced[0].number <= finalized_block:
        return BeyondFinality(finalized_block)
    return _roll_back(held, fetched, canonical, replaced[0].number, finalized_block)


def _join(newest: BlockRef, fetched: Sequence[BlockRef], canonical: dict[int, bytes]) -> Decision:
    if fetched[-1].number <= newest.number:
        return Stale()
    if newest.number in canonical:
        return Extend()
    return FetchOlder(before=min(block.number for block in fetched if block.number > newest.number))


def _roll_back(
    held: Sequence[BlockRef],
    fetched: Sequence[BlockRef],
    canonical: dict[int, bytes],
    replaced_block: int,
    finalized_block: int,
) -> Decision:
    older = [block for block in held if block.number < replaced_block]
    if older:
        return Rollback(to=older[-1]) if older[-1].number in canonical else FetchOlder(before=replaced_block)
    final = [block for block in fetched if block.number < replaced_block and block.number <= finalized_block]
    return Rollback(to=final[-1]) if final else FetchOlder(before=replaced_block)
