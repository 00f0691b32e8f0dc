"""The rate that a provider takes, learned from refusals and slowly forgotten; and the usual length of its answers."""

from __future__ import annotations

import pytest

from indexer.chain.latency import HEDGES, MAX_HEDGE_S, MIN_HEDGE_S, UNKNOWN_HEDGE_S, HedgeBudget, Latency
from indexer.chain.pace import FORGET_S, MAX_DEBT_S, MIN_RATE, Pace


def asked(pace: Pace, *, rate: int, until: float) -> None:
    """Send `rate` calls each second up to a time."""
    for second in range(int(until)):
        pace.reserve(float(second), rate)


def test_nothing_waits_before_the_first_refusal() -> None:
    pace = Pace()

    assert [pace.reserve(0.0, 100) for _ in range(50)] == [0.0] * 50
    assert pace.rate(0.0) is None


def test_refusal_cuts_below_the_rate_that_provoked_it() -> None:
    pace = Pace()
    asked(pace, rate=100, until=10)
    pace.refused(9.5)

    assert pace.rate(9.5) == pytest.approx(70)


def test_requests_wait_so_that_the_rate_is_kept() -> None:
    pace = Pace()
    asked(pace, rate=100, until=10)
    pace.refused(9.5)

    waits = [pace.reserve(9.5, 7) for _ in range(11)]
    assert waits == pytest.approx([place / 10 for place in range(11)], rel=0.01)


def test_refusals_of_what_was_under_way_cut_once() -> None:
    pace = Pace()
    asked(pace, rate=100, until=10)
    for _ in range(8):
        pace.refused(9.5)

    assert pace.rate(9.5) == pytest.approx(70)


def test_rate_rises_and_is_forgotten() -> None:
    pace = Pace()
    asked(pace, rate=100, until=10)
    pace.refused(9.5)

    later = pace.rate(9.5 + 40)
    assert later
    assert 140 < later < 200
    assert pace.rate(9.5 + FORGET_S + 1) is None
    assert pace.reserve(9.5 + FORGET_S + 1, 500) == 0.0
    assert pace.reserve(9.5 + FORGET_S + 1, 500) == 0.0


def test_neither_rate_nor_wait_can_stall_a_chain() -> None:
    pace = Pace()
    for second in range(60):
        pace.refused(2.0 * second)
    assert pace.rate(118.0) == MIN_RATE

    pace.reserve(118.0, 1_000_000)
    assert pace.wait_s(118.0) == MAX_DEBT_S


def test_patience_follows_the_usual_duration_within_bounds() -> None:
    quick, slow = Latency(), Latency()
    assert quick.hedge_after_s == UNKNOWN_HEDGE_S
    for _ in range(50):
        quick.observe(0.05)
        slow.observe(30.0)

    assert quick.hedge_after_s == MIN_HEDGE_S
    assert slow.hedge_after_s == MAX_HEDGE_S
    assert quick.mean_s == pytest.approx(0.05)


def test_patience_grows_with_the_spread() -> None:
    even, uneven = Latency(), Latency()
    for turn in range(100):
        even.observe(1.0)
        uneven.observe(0.5 if turn % 2 else 1.5)

    assert even.hedge_after_s < uneven.hedge_after_s


def test_second_starts_are_a_tenth_of_all_in_the_long_run() -> None:
    budget = HedgeBudget()
    given = 0
    for _ in range(1000):
        budget.earn()
        given += budget.spend()

    assert 100 <= given <= 100 + HEDGES
