from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from indexer.core.reorg import BeyondFinality, Decision, Extend, FetchOlder, Rollback, Stale, decide
from indexer.core.types import BlockRef


def chain(first: int, last: int, *, fork_at: int | None = None) -> list[BlockRef]:
    """Blocks of the one chain, or from `fork_at` on of another that shares everything below."""

    def block_hash(number: int) -> bytes:
        branch = b"b" if fork_at is not None and number >= fork_at else b"a"
        return branch + number.to_bytes(31, "big", signed=True)

    return [BlockRef(n, block_hash(n), block_hash(n - 1), 1000 + n) for n in range(first, last + 1)]


def pick(blocks: Sequence[BlockRef], *numbers: int) -> list[BlockRef]:
    return [block for block in blocks if block.number in numbers]


def converge(held: Sequence[BlockRef], canonical: Sequence[BlockRef], new: Sequence[BlockRef], final: int) -> Decision:
    """Decide as a worker does: ask for older headers at held numbers, and the final one, until it is settled."""
    fetched = list(new)
    for _ in range(10):
        decision = decide(held, fetched, final)
        if not isinstance(decision, FetchOlder):
            return decision
        older = {block.number for block in held if block.number < decision.before} | {final}
        wanted = older | {block.number for block in fetched}
        fetched = [block for block in canonical if block.number in wanted]
    raise AssertionError("the decision does not settle")


def test_child_of_the_newest_held_block_extends() -> None:
    assert decide(chain(90, 100), chain(101, 103), 90) == Extend()


def test_nothing_held_extends() -> None:
    assert decide([], chain(5, 9), 0) == Extend()


def test_overlap_with_something_new_extends() -> None:
    assert decide(chain(90, 100), chain(98, 101), 90) == Extend()


def test_known_blocks_are_stale() -> None:
    assert decide(chain(90, 100), chain(95, 99), 90) == Stale()
    assert decide(chain(90, 100), [], 90) == Stale()


def test_lower_head_between_held_blocks_is_stale() -> None:
    assert decide(pick(chain(0, 200), 99, 200), chain(150, 150, fork_at=140), 90) == Stale()


def test_gap_asks_for_older_headers() -> None:
    assert decide(chain(90, 100), chain(105, 107), 90) == FetchOlder(before=105)


def test_wrong_parent_asks_for_older_headers() -> None:
    assert decide(chain(90, 100), chain(101, 101, fork_at=98), 90) == FetchOlder(before=100)


def test_reorg_rolls_back_to_the_common_ancestor() -> None:
    held, canonical = chain(90, 100), chain(80, 102, fork_at=98)

    assert decide(held, canonical[15:], 90) == Rollback(to=held[7])
    assert held[7].number == 97


def test_parent_hash_alone_proves_the_ancestor() -> None:
    held = chain(90, 100)

    assert decide(held, chain(98, 102, fork_at=98), 90) == Rollback(to=held[7])


def test_equal_height_reorg_is_seen() -> None:
    held = chain(90, 100)

    assert decide(held, chain(100, 100, fork_at=100), 90) == Rollback(to=held[-2])


def test_shorter_chain_with_other_hashes_is_a_reorg() -> None:
    held = chain(90, 100)

    assert decide(held, chain(98, 99, fork_at=99), 90) == Rollback(to=held[8])


def test_replaced_final_block_is_beyond_finality() -> None:
    assert decide(chain(90, 100), chain(89, 101, fork_at=92), 95) == BeyondFinality(95)


def test_sparse_window_goes_down_to_a_held_block() -> None:
    held = pick(chain(0, 300), 90, 150, 200)
    canonical = chain(0, 210, fork_at=180)

    assert converge(held, canonical, canonical[-1:], 80) == Rollback(to=held[1])


def test_final_block_is_the_ancestor_where_no_older_one_is_held() -> None:
    held, canonical = pick(chain(0, 300), 200), chain(0, 210, fork_at=180)

    assert converge(held, canonical, canonical[-1:], 80) == Rollback(to=canonical[80])


def test_older_block_that_is_not_final_is_no_ancestor() -> None:
    """Between it and the oldest held one may lie rows of the replaced chain."""
    held, canonical = pick(chain(0, 300), 200), chain(0, 210, fork_at=180)

    assert decide(held, canonical[100:], 80) == FetchOlder(before=200)


@given(data=st.data())
def test_rollback_leads_to_the_newest_held_block_below_the_fork(data: st.DataObject) -> None:
    final = data.draw(st.integers(0, 20))
    fork_at = data.draw(st.integers(final + 1, 40))
    numbers = data.draw(st.sets(st.integers(final, 40), min_size=1))
    head = data.draw(st.integers(41, 50))
    held, canonical = pick(chain(0, 40), *numbers, final), chain(0, head, fork_at=fork_at)

    decision = converge(held, canonical, canonical[-1:], final)

    replaced = [block for block in held if block.number >= fork_at]
    kept = [block for block in held if block.number < fork_at]
    assert decision == (Rollback(to=kept[-1]) if replaced else Extend())


@given(data=st.data())
def test_deep_reorg_is_always_beyond_finality(data: st.DataObject) -> None:
    final = data.draw(st.integers(5, 20))
    fork_at = data.draw(st.integers(1, final))
    held, canonical = chain(final, 40), chain(0, 45, fork_at=fork_at)

    assert converge(held, canonical, canonical[-1:], final) == BeyondFinality(final)
