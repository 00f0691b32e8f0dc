"""Whom to believe of head and finality."""

from __future__ import annotations

import pytest

from indexer.chain.heads import FAR_BLOCKS, FRESH_S, LAG_AT_ONCE_S, LAG_S, Heads, Heard

TIME = 1_700_000_000


def hear(heads: Heads[str], at: float, **said: int | tuple[int, int | None]) -> None:
    """Let each provider tell (head, finalized); blocks come every second, since block 0 at TIME."""
    for key, value in said.items():
        head, finalized = value if isinstance(value, tuple) else (value, None)
        heads.hear(key, Heard(head, TIME + head, finalized, at))
    heads.sample(at)


def test_one_voice_is_believed_up_to_its_head() -> None:
    heads: Heads[str] = Heads()
    hear(heads, 0.0, a=(100, 90))

    assert heads.finalized(0.0, 100) == 90
    assert heads.finalized(0.0, 80) == 80


def test_finalized_is_what_two_vouch_for() -> None:
    heads: Heads[str] = Heads()
    hear(heads, 0.0, a=(100, 10**9), b=(100, 60), c=(100, 64))

    assert heads.finalized(0.0, 100) == 64
    hear(heads, 1.0, c=(100, 50))
    assert heads.finalized(1.0, 100) == 60


def test_finality_far_too_deep_is_not_heard_where_another_tells_more() -> None:
    heads: Heads[str] = Heads(usual_finality=64)
    head = 1_000_000
    hear(heads, 0.0, a=(head, 0), b=(head, head - 70))

    assert heads.finalized(0.0, head) == head - 70
    assert list(heads.disbelieved(0.0)) == ["a"]
    hear(heads, 1.0, c=(head, head - 64), d=(head, 5))
    assert heads.finalized(1.0, head) == head - 70


def test_finality_far_too_deep_is_none_where_nobody_tells_another() -> None:
    heads: Heads[str] = Heads(usual_finality=64)
    hear(heads, 0.0, a=(1_000_000, 0))

    assert heads.finalized(0.0, 1_000_000) is None
    hear(heads, 1.0, a=(1_000_000, 1_000_000 - FAR_BLOCKS))
    assert heads.finalized(1.0, 1_000_000) == 1_000_000 - FAR_BLOCKS


@pytest.mark.parametrize(("usual", "deepest"), [(1, FAR_BLOCKS), (500, FAR_BLOCKS), (7_200, 72_000), (None, 1_000_000)])
def test_finality_is_believed_down_to_many_times_the_usual_depth(usual: int | None, deepest: int) -> None:
    heads: Heads[str] = Heads(usual)
    hear(heads, 0.0, a=(1_000_000, 1_000_000 - deepest))
    assert heads.finalized(0.0, 1_000_000) == 1_000_000 - deepest

    hear(heads, 1.0, a=(1_000_000, 1_000_000 - deepest - 1))
    assert (heads.finalized(1.0, 1_000_000) is None) == (usual is not None)


def test_finalized_that_is_left_out_once_is_kept() -> None:
    heads: Heads[str] = Heads()
    hear(heads, 0.0, a=(100, 90))
    hear(heads, 1.0, a=(101, None))

    assert heads.finalized(1.0, 101) == 90
    assert Heads[str]().finalized(1.0, 101) is None


def test_voice_that_is_old_or_behind_does_not_hold_finality_down() -> None:
    heads: Heads[str] = Heads()
    hear(heads, 0.0, a=(100, 90), b=(100, 90))
    hear(heads, FRESH_S + 1, a=(400, 390))

    assert heads.finalized(FRESH_S + 1, 400) == 390
    hear(heads, FRESH_S + 2, b=(101, 91))
    assert heads.behind("b", FRESH_S + 2)
    assert heads.finalized(FRESH_S + 2, 400) == 390


def test_nodes_a_little_apart_are_not_behind() -> None:
    heads: Heads[str] = Heads()
    for second in range(60):
        hear(heads, float(second), a=1000 + second, b=998 + second, c=991 + second)

    assert not any(heads.behind(key, 60.0) for key in "abc")


def test_node_that_stands_still_is_behind_after_a_while_and_back_when_it_caught_up() -> None:
    heads: Heads[str] = Heads()
    for second in range(0, 30, 5):
        hear(heads, float(second), frozen=1000, a=1000 + second)

    assert not heads.behind("frozen", 12.0)
    assert heads.behind("frozen", 25.0)
    assert not heads.behind("a", 25.0)
    hear(heads, 30.0, frozen=1030, a=1030)
    assert not heads.behind("frozen", 30.0)


def test_node_that_is_behind_and_moves_is_not_frozen() -> None:
    heads: Heads[str] = Heads()
    for now in range(0, 101, 10):
        heads.hear("a", Heard(1000 + now, now, None, now))
        heads.hear("slow", Heard(900 + now // 10, now, None, now))
        heads.hear("frozen", Heard(950, 0, None, now))
        heads.sample(now)

    assert heads.behind("slow", 100)
    assert [key for key in ("a", "slow", "frozen") if heads.frozen(key, 100)] == ["frozen"]


def test_chain_that_rests_shows_who_is_behind_too() -> None:
    heads: Heads[str] = Heads()
    hear(heads, 0.0, a=1010, b=1000)
    assert not heads.behind("b", 0.0)
    hear(heads, LAG_S, a=1010, b=1000)

    assert heads.behind("b", LAG_S)


def test_node_far_behind_is_told_by_the_times_of_headers_at_the_first_look() -> None:
    heads: Heads[str] = Heads()
    hear(heads, 0.0, a=1000 + int(LAG_AT_ONCE_S) + 1, b=1000)

    assert heads.behind("b", 0.0)


def test_absurd_head_neither_leads_nor_votes() -> None:
    heads: Heads[str] = Heads()
    for at in (0.0, 20.0):
        heads.hear("liar", Heard(10**12, TIME + 1001, 10**12 - 5, at))
        hear(heads, at, a=(1000, 900), b=(1001, 890))

    assert heads.absurd("liar", 20.0)
    assert not any(heads.absurd(key, 20.0) or heads.behind(key, 20.0) for key in "ab")
    assert heads.finalized(20.0, 1000) == 890


def test_honest_node_is_not_absurd_though_most_stand_still() -> None:
    heads: Heads[str] = Heads()
    hear(heads, 0.0, honest=1_000_000, frozen=1000, stuck=1000)

    assert not heads.absurd("honest", 0.0)
    assert heads.behind("frozen", 0.0)


def test_of_two_that_contradict_each_other_none_is_preferred() -> None:
    heads: Heads[str] = Heads()
    for at in (0.0, 20.0):
        heads.hear("liar", Heard(10**12, TIME + 1001, None, at))
        hear(heads, at, a=1000)

    assert not heads.absurd("liar", 20.0)
    assert not heads.behind("a", 20.0)


def test_forgotten_provider_has_no_voice() -> None:
    heads: Heads[str] = Heads()
    hear(heads, 0.0, a=(100, 90), b=(100, 40))
    heads.forget("b")

    assert heads.finalized(0.0, 100) == 90
