"""Coverage as arithmetic: held against a plain dictionary of blocks."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from indexer.core.coverage import LEVELS, Gap, Interval, blocks_by_level, gaps, raised
from indexer.core.types import BlockRange, Proof

BLOCKS = 24
ranges = st.tuples(st.integers(0, BLOCKS), st.integers(0, BLOCKS)).map(lambda ends: BlockRange(min(ends), max(ends)))
levels: st.SearchStrategy[Proof] = st.sampled_from(LEVELS)
writes = st.lists(st.tuples(ranges, levels), max_size=6)
A, B = b"\x0a" * 20, b"\x0b" * 20


def covered_by(steps: list[tuple[BlockRange, Proof]]) -> tuple[Interval, ...]:
    covered: tuple[Interval, ...] = ()
    for within, proof in steps:
        covered = raised(covered, within, proof)
    return covered


def by_block(intervals: tuple[Interval, ...]) -> dict[int, Proof]:
    return {number: one.proof for one in intervals for number in blocks_of(one.range)}


def blocks_of(part: BlockRange) -> range:
    return range(part.from_block, part.to_block + 1)


@given(writes)
def test_each_block_has_the_best_level_it_was_ever_fetched_at(steps: list[tuple[BlockRange, Proof]]) -> None:
    best: dict[int, Proof] = {}
    for within, proof in steps:
        for number in blocks_of(within):
            best[number] = max(best.get(number, proof), proof, key=LEVELS.index)

    covered = covered_by(steps)

    assert by_block(covered) == best
    assert sum(len(one.range) for one in covered) == len(best)


@given(writes)
def test_intervals_are_in_order_and_none_could_be_merged(steps: list[tuple[BlockRange, Proof]]) -> None:
    for one, following in pairwise(covered_by(steps)):
        assert one.range.to_block < following.range.from_block
        assert one.proof != following.proof or one.range.to_block + 1 < following.range.from_block


@given(writes, writes, ranges, ranges, levels)
def test_gaps_are_exactly_what_each_contract_lacks(
    of_a: list[tuple[BlockRange, Proof]],
    of_b: list[tuple[BlockRange, Proof]],
    wanted_a: BlockRange,
    wanted_b: BlockRange,
    wanted: Proof,
) -> None:
    covered = {A: covered_by(of_a), B: covered_by(of_b)}
    required = {A: wanted_a, B: wanted_b}
    lacking = {
        (number, address, by_block(covered[address]).get(number))
        for address, part in required.items()
        for number in blocks_of(part)
    }

    found = gaps(required, covered, wanted)

    told = {(number, address) for gap in found for number in blocks_of(gap.range) for address in gap.addresses}
    assert told == {
        (number, address)
        for number, address, level in lacking
        if level is None or LEVELS.index(level) < LEVELS.index(wanted)
    }
    missing = [gap for gap in found if gap.proof is None]
    assert found[: len(missing)] == missing
    for some in (missing, found[len(missing) :]):
        assert some == sorted(some, key=lambda gap: gap.range)
    for gap in found:
        levels_there = {
            level for number, address, level in lacking if number in blocks_of(gap.range) if address in gap.addresses
        }
        assert gap.proof == (
            None if None in levels_there else min(levels_there, key=lambda one: LEVELS.index(one or "off"))
        )


@given(writes, writes, ranges, ranges)
def test_blocks_count_at_their_weakest_contract(
    of_a: list[tuple[BlockRange, Proof]],
    of_b: list[tuple[BlockRange, Proof]],
    wanted_a: BlockRange,
    wanted_b: BlockRange,
) -> None:
    covered = {A: covered_by(of_a), B: covered_by(of_b)}
    required = {A: wanted_a, B: wanted_b}
    expected: dict[Proof, int] = {}
    for number in range(BLOCKS + 1):
        there = [by_block(covered[one]).get(number) for one, part in required.items() if number in blocks_of(part)]
        known = [level for level in there if level is not None]
        if there and len(known) == len(there):
            weakest = min(known, key=LEVELS.index)
            expected[weakest] = expected.get(weakest, 0) + 1

    assert blocks_by_level(required, covered) == expected


def test_contracts_that_lack_the_same_blocks_share_a_gap() -> None:
    covered = {A: covered_by([(BlockRange(0, 4), "logs")]), B: covered_by([(BlockRange(3, 4), "off")])}
    required = {A: BlockRange(0, 9), B: BlockRange(3, 9)}

    assert gaps(required, covered, "receipts") == [
        Gap(BlockRange(5, 9), (A, B), None),
        Gap(BlockRange(0, 2), (A,), "logs"),
        Gap(BlockRange(3, 4), (A, B), "off"),
    ]
