"""What is learned of one provider: its history floor, its rules, its figures."""

from __future__ import annotations

import time

import pytest

from indexer.chain.batching import MAX_BATCH
from indexer.chain.member import FLOOR_KEPT_S, RULES_KEPT_S, Member, remember
from indexer.chain.provider import Provider
from indexer.chain.refusals import Pruned

GONE = Pruned("node.example", "pruned")


def member(url: str = "http://node.example") -> Member:
    return Member(Provider(url))


def test_floor_rises_in_growing_steps_and_falls_to_what_is_served() -> None:
    one = member()
    floors = []
    for from_block in (100, 101, 1102, 3103):
        one.pruned(GONE, from_block, 0.0)
        floors.append(one.floor)

    assert floors == [101, 1102, 3103, 7104]
    assert one.lacks(7103, 0.0)
    assert not one.lacks(7104, 0.0)
    assert not one.lacks(None, 0.0)
    one.has(5000)
    assert one.floor == 5000
    one.has(6000)
    assert one.floor == 5000


def test_floor_is_what_the_provider_says_of_it() -> None:
    one = member()
    one.pruned(Pruned("node.example", "pruned", lowest=9000), 100, 0.0)
    assert one.floor == 9000

    one.pruned(Pruned("node.example", "pruned", lowest=50), 9500, 0.0)
    assert one.floor is not None
    assert one.floor > 9500


def test_floor_is_tried_again_after_a_day() -> None:
    one = member()
    one.pruned(GONE, 100, 0.0)

    assert one.lacks(5, FLOOR_KEPT_S)
    assert not one.lacks(5, FLOOR_KEPT_S + 1)
    assert one.floor is None


def test_rules_of_an_earlier_run_are_taken_up_by_host_and_order() -> None:
    urls = ["http://a.example/1", "http://b.example/1", "http://a.example/2"]
    before, after = [member(url) for url in urls], [member(url) for url in reversed(urls)]
    for cap, one in enumerate(before, start=1):
        one.provider.span_cap, one.provider.max_addresses, one.provider.batches.calls = 100 * cap, cap, 10 * cap
        one.note_rules()

    remember(after, [one.figures(0.0, None, behind=False) for one in before])

    caps = [(one.provider.span_cap, one.provider.max_addresses, one.provider.batches.calls) for one in after]
    assert caps == [(100, 1, 10), (200, 2, 20), (300, 3, 30)]


def test_old_rules_are_learned_anew() -> None:
    now = int(time.time())
    for learned, taken in ((now, True), (now - int(RULES_KEPT_S) - 5, False), (now + 9_999, False), (None, False)):
        one = member()
        remember([one], [{"host": "node.example", "max_range": 10, "rules_learned": learned}])
        assert (one.provider.span_cap == 10) is taken

    kept = member()
    remember([kept], [{"host": "node.example", "max_range": 10, "rules_learned": now - 50}])
    kept.note_rules()
    assert kept.figures(0.0, None, behind=False)["rules_learned"] == now - 50


@pytest.mark.parametrize("value", [0, -5, "10", True, 1.5, None])
def test_rules_that_make_no_sense_are_passed_over(value: object) -> None:
    one = member()
    figures = {"max_range": value, "max_addresses": value, "batch_size": value}
    remember([one], [{"host": "node.example", "rules_learned": int(time.time()), **figures}])

    assert (one.provider.span_cap, one.provider.max_addresses, one.provider.batches.calls) == (None, None, MAX_BATCH)
    remember([one], [{"max_range": 1}, {}])
    assert one.provider.span_cap is None
