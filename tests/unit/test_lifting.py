"""Where a halted chain begins again: the search for the newest stored block that is canonical."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.chain.refusals import Inconsistent
from indexer.chain.source import Tip
from indexer.core.types import BlockRef
from indexer.lifting import AncestorSearch, NoAncestor
from indexer.store.positions import StoredBlock

START = 10


def canonical(number: int) -> BlockRef:
    return BlockRef(number, bytes([1, number]), bytes([1, number - 1]), number)


@dataclass
class Chain:
    """Canonical up to `head`; `second` is what another provider says of single blocks."""

    head: int
    second: dict[int, BlockRef] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)

    async def tip(self) -> Tip:
        return Tip(canonical(self.head), None)

    async def blocks(self, numbers: Sequence[int], *, elsewhere: bool = False) -> tuple[BlockRef, ...]:
        self.asked += numbers
        assert all(number <= self.head for number in numbers)
        return tuple(self.second.get(n, canonical(n)) if elsewhere else canonical(n) for n in numbers)


def searching(chain: Chain, held: dict[int, bool]) -> AncestorSearch:
    """`held` are the stored blocks, and whether each is the canonical one."""

    async def stored_below(number: int) -> StoredBlock | None:
        below = [n for n in held if n <= number]
        if not below:
            return None
        newest = max(below)
        return StoredBlock(newest, canonical(newest).hash if held[newest] else b"replaced")

    return AncestorSearch(chain, stored_below, START)


@given(st.sets(st.integers(START, 250)), st.integers(START, 251), st.integers(START - 1, 250))
async def test_the_newest_canonical_block_is_found(numbers: set[int], parting: int, newest: int) -> None:
    held = {number: number < parting for number in numbers}
    right = [number for number in numbers if number < parting and number <= newest]
    wrong = [number for number in numbers if number >= parting and number <= newest]

    search = searching(Chain(250), held)
    if wrong and not right:
        with pytest.raises(NoAncestor, match="--from 10"):
            await search.find(newest)
        return

    found = await search.find(newest)
    assert found == (canonical(max(right)) if right else BlockRef(START - 1, b"", b"", 0))


async def test_few_headers_of_a_long_chain_are_asked_for() -> None:
    chain = Chain(200)
    await searching(chain, {number: number < 77 for number in range(START, 200)}).find(199)

    assert len(chain.asked) <= 12


async def test_providers_that_are_behind_what_is_stored_prove_nothing() -> None:
    search = searching(Chain(100), dict.fromkeys(range(START, 120), True))

    with pytest.raises(NoAncestor, match="behind"):
        await search.find(119)


async def test_a_chain_that_became_shorter_is_rolled_back_where_it_parts() -> None:
    found = await searching(Chain(100), {number: number < 90 for number in range(START, 120)}).find(119)

    assert found == canonical(89)


@pytest.mark.parametrize(
    ("number", "said"),
    [(89, BlockRef(89, b"other", b"", 0)), (90, BlockRef(90, b"replaced", b"", 0))],
    ids=["the ancestor", "the replaced block"],
)
async def test_two_answers_that_differ_decide_nothing(number: int, said: BlockRef) -> None:
    search = searching(Chain(150, {number: said}), {number: number < 90 for number in range(START, 120)})

    with pytest.raises(Inconsistent, match="two hashes"):
        await search.find(119)
