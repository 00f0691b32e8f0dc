"""Which sizes of answers are doubtful."""

from __future__ import annotations

import pytest

from indexer.chain.cuts import MIN_CUT, Cuts


@pytest.mark.parametrize("limit", [500, 1000, 1024, 1025, 1500, 2000, 2048, 4096, 8192, 10_000, 10_001, 16_384, 50_000])
def test_usual_limit_is_doubted_at_once_until_more_was_given(limit: int) -> None:
    cuts = Cuts()

    assert cuts.doubt([limit]) == limit
    assert cuts.doubt([limit]) == limit
    assert cuts.doubt([limit + 7]) is None
    assert cuts.doubt([limit]) is None


def test_odd_limit_is_doubted_when_it_comes_again() -> None:
    cuts = Cuts()

    assert cuts.doubt([1777]) is None
    assert cuts.doubt([300, 5]) is None
    assert cuts.doubt([12, 1777]) == 1777
    assert Cuts().doubt([333, 333]) == 333


def test_answer_with_more_in_the_same_request_takes_the_doubt_away() -> None:
    assert Cuts().doubt([1000, 1234]) is None


def test_few_logs_are_beyond_doubt() -> None:
    cuts = Cuts()

    assert [cuts.doubt([MIN_CUT - 1]) for _ in range(3)] == [None] * 3
    assert cuts.doubt([]) is None


def test_halves_are_asked_for_where_they_are_smaller_than_what_was_doubted() -> None:
    cuts = Cuts()
    cuts.doubt([1000])
    assert not cuts.halves_spare_doubt(100)

    cuts.proved_whole(1000, 100)
    assert [cuts.halves_spare_doubt(blocks) for blocks in (99, 100, 199, 200)] == [False, True, True, False]

    cuts.doubt([1001])
    assert not cuts.halves_spare_doubt(100)
