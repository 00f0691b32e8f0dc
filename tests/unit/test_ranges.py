from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.core.ranges import (
    FORGET_DENSITY_AFTER,
    TARGET_LOGS,
    Refusal,
    SpanState,
    after_refusal,
    after_success,
    difference,
    halves,
    next_range,
    start_span,
    union,
)
from indexer.core.types import BlockRange

bounds = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: BlockRange(min(pair), max(pair)))
ranges = st.lists(bounds, max_size=8)
refusals = st.builds(
    Refusal,
    asked=st.integers(1, 200_000),
    spans=st.lists(st.integers(-10, 300_000), max_size=3).map(tuple),
    structural=st.booleans(),
)


def blocks_of(parts: list[BlockRange] | tuple[BlockRange, ...]) -> set[int]:
    return {number for part in parts for number in range(part.from_block, part.to_block + 1)}


@given(ranges)
def test_union_keeps_the_blocks_and_leaves_no_neighbours(parts: list[BlockRange]) -> None:
    merged = union(parts)

    assert blocks_of(merged) == blocks_of(parts)
    assert all(left.to_block + 1 < right.from_block for left, right in pairwise(merged))


@given(ranges, ranges)
def test_difference_is_what_is_required_and_not_covered(required: list[BlockRange], covered: list[BlockRange]) -> None:
    missing = difference(required, covered)

    assert blocks_of(missing) == blocks_of(required) - blocks_of(covered)
    assert union(missing) == missing


@given(bounds.filter(lambda whole: len(whole) > 1))
def test_halves_join_to_the_whole(whole: BlockRange) -> None:
    left, right = halves(whole)

    assert union([left, right]) == (whole,)
    assert abs(len(left) - len(right)) <= 1


def test_next_range_is_the_start_of_the_lowest_gap() -> None:
    gaps = [BlockRange(50, 60), BlockRange(10, 12)]

    assert next_range(gaps, 2) == BlockRange(10, 11)
    assert next_range(gaps, 100) == BlockRange(10, 12)
    assert next_range([], 5) is None


@given(st.integers(1, 1_000_000), st.lists(refusals, max_size=30))
def test_span_stays_between_one_and_the_ceiling(ceiling: int, told: list[Refusal]) -> None:
    state = start_span(ceiling)
    for refusal in told:
        state = after_refusal(state, refusal)
        assert 1 <= state.span <= ceiling
        state = after_success(state, state.span, logs=0, duration_s=0.1)
        assert 1 <= state.span <= ceiling


@given(refusals.filter(lambda refusal: refusal.asked > 1))
def test_refusal_always_leads_to_a_smaller_span(refusal: Refusal) -> None:
    assert after_refusal(start_span(refusal.asked), refusal).span < refusal.asked


@pytest.mark.parametrize(
    ("spans", "expected"),
    [((1000,), 1000), ((), 5000), ((10_000,), 5000), ((20_000, 300), 300), ((0,), 5000), ((-7,), 5000)],
    ids=["hint", "no hint", "as large as asked", "second hint", "zero", "inverted"],
)
def test_hint_is_taken_only_where_it_helps(spans: tuple[int, ...], expected: int) -> None:
    assert after_refusal(start_span(10_000), Refusal(10_000, spans)).span == expected


def test_refusals_of_requests_in_flight_halve_once() -> None:
    state = start_span(10_000)
    for _ in range(4):
        state = after_refusal(state, Refusal(10_000))

    assert state.span == 5000


def test_density_is_forgotten_after_some_successes() -> None:
    dense = after_refusal(start_span(2000), Refusal(2000))
    for _ in range(FORGET_DENSITY_AFTER - 1):
        dense = after_success(dense, dense.span, logs=10, duration_s=0.1)
        assert dense.span == 1000

    assert after_success(dense, dense.span, logs=10, duration_s=0.1).span == 2000


def test_rule_of_a_provider_does_not_outlast_it() -> None:
    """F17: a fallback's cap binds while it is asked; the span grows again with the first answers of another."""
    state = after_refusal(start_span(10_000), Refusal(10_000, (100,), structural=True))
    assert state.span == 100

    for asked in (100, 200, 400):
        state = after_success(state, asked, logs=10, duration_s=0.1)
        assert state.span == 2 * asked


def test_short_request_says_nothing_about_longer_ones() -> None:
    state = SpanState(span=1000, ceiling=10_000)

    assert after_success(state, 1, logs=1, duration_s=0.1).span == 1000
    assert after_success(SpanState(span=1, ceiling=10_000), 1, logs=1, duration_s=0.1).span == 2


def test_rule_that_names_what_it_refused_means_one_less() -> None:
    """F19: N blocks at some providers, a distance of N at others."""
    state = after_refusal(start_span(1000), Refusal(1000, (1000,), structural=True))
    assert state.span == 999

    assert after_refusal(state, Refusal(999, (1000,), structural=True)).span == 499


@pytest.mark.parametrize("spans", [(1,), (0,), (-3,), (7,)])
def test_one_block_that_is_refused_has_no_hint(spans: tuple[int, ...]) -> None:
    assert Refusal(1, spans, structural=True).hint is None


@pytest.mark.parametrize(
    ("logs", "duration_s", "expected"),
    [(0, 0.1, 2000), (TARGET_LOGS + 1, 0.1, 1000), (0, 6.0, 1000), (2 * TARGET_LOGS + 1, 0.1, 500), (0, 11.0, 500)],
    ids=["grow", "many logs", "slow", "too many logs", "too slow"],
)
def test_span_follows_size_and_duration(logs: int, duration_s: float, expected: int) -> None:
    assert after_success(SpanState(span=1000, ceiling=10_000), 1000, logs, duration_s).span == expected
