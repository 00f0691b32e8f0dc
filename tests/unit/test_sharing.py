"""How instances share the chains: pure decisions, and what becomes of them when each acts on its own."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from indexer.core.sharing import Instance, Share, owners_of, share_of

FIVE = frozenset(range(1, 6))


def same(*holders: str, chains: frozenset[int] = FIVE) -> list[Instance]:
    return [Instance(holder, chains) for holder in holders]


def test_a_single_instance_takes_everything() -> None:
    assert share_of("a", FIVE, same("a"), {}) == Share(FIVE, frozenset())


def test_a_newcomer_is_handed_the_surplus_and_nothing_more() -> None:
    held = dict.fromkeys(FIVE, "a")

    share = share_of("a", frozenset(), same("a", "b"), held)

    assert len(share.give) == 2
    left = {chain: holder for chain, holder in held.items() if chain not in share.give}
    assert share_of("b", FIVE - left.keys(), same("a", "b"), left).take == share.give
    assert share_of("a", FIVE - left.keys(), same("a", "b"), left).take == frozenset()


def test_a_dead_holders_chains_are_spread_over_those_who_live() -> None:
    held = {1: "a", 2: "b"}  # c is gone and held 3, 4, 5

    taken = [share_of(me, {3, 4, 5}, same("a", "b"), held).take for me in ("a", "b")]

    assert sorted(len(take) for take in taken) == [1, 2]
    assert taken[0] | taken[1] == {3, 4, 5}


def test_a_chain_that_another_holds_without_taking_part_is_left_alone() -> None:
    assert share_of("a", FIVE, same("a"), {1: "reindex"}) == Share(FIVE - {1}, frozenset())
    assert owners_of(same("a"), {1: "reindex"}).keys() == FIVE - {1}


def test_a_free_chain_that_nobody_could_index_is_anyones_to_try() -> None:
    idle = [Instance("a", frozenset()), Instance("b", frozenset())]

    assert share_of("a", {1}, idle, {}).take == {1}
    assert share_of("b", {1}, idle, {}).take == {1}


def test_a_chain_is_not_taken_from_its_holder_by_one_that_could_not_index_it() -> None:
    instances = [Instance("a", FIVE), Instance("b", frozenset({5}))]

    assert share_of("a", frozenset(), instances, dict.fromkeys(FIVE, "a")).give == {5}


def test_whoever_is_not_known_to_the_others_hands_nothing_over() -> None:
    assert share_of("a", frozenset(), same("b"), dict.fromkeys(FIVE, "a")).give == frozenset()


def test_a_lease_of_its_own_that_was_left_over_keeps_nobody_from_going_on() -> None:
    assert share_of("a", {1}, same("a", "b"), {1: "a", 2: "b"}).take == {1}


def wanted_by(one: Instance, held: dict[int, str]) -> frozenset[int]:
    return frozenset(chain for chain in one.chain_ids if held.get(chain) != one.holder)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Instance], dict[int, str], int]:
    """Instances of random chains, some of them held: by one of them, by a stranger, or free."""
    names = draw(st.lists(st.sampled_from("abcdef"), min_size=1, unique=True))
    chains = st.frozensets(st.integers(1, 9))
    alike = draw(st.booleans())
    common = draw(chains)
    instances = [Instance(name, common if alike else draw(chains)) for name in names]
    held = draw(st.dictionaries(st.integers(1, 9), st.sampled_from([*names, "stranger"])))
    return instances, held, draw(st.integers(0, 10**6))


@given(worlds())
def test_acting_alone_in_any_order_all_come_to_rest_with_no_chain_left_and_even_shares(world) -> None:
    instances, held, seed = world
    random = Random(seed)
    strangers = {chain for chain, holder in held.items() if holder == "stranger"}
    moves = Counter[int]()
    quiet = 0
    for _ in range(2000):
        one = random.choice(instances)
        share = share_of(one.holder, wanted_by(one, held), instances, held)
        if not share.take | share.give:
            quiet += 1
            if quiet > 20 * len(instances):
                break
            continue
        quiet = 0
        # A look may be acted upon by halves, as every chain has a task of its own.
        chain = random.choice(sorted(share.take | share.give))
        moves[chain] += 1
        if chain in share.give:
            del held[chain]
        else:
            held[chain] = one.holder
    rest = [share_of(one.holder, wanted_by(one, held), instances, held) for one in instances]

    assert all(not share.take and not share.give for share in rest)
    wanted = frozenset().union(*(one.chain_ids for one in instances))
    assert wanted <= held.keys()
    assert all(count <= 2 * len(instances) for count in moves.values())
    assert {chain for chain, holder in held.items() if holder == "stranger"} == strangers
    for one in instances:
        for other in instances:
            mine = {chain for chain, holder in held.items() if holder == one.holder}
            theirs = sum(holder == other.holder for holder in held.values())
            if mine & other.chain_ids:
                assert len(mine) - theirs <= 1


@given(st.integers(1, 6), st.integers(0, 40))
def test_instances_of_the_same_chains_hold_as_many_as_each_other_or_one_more(count: int, chains: int) -> None:
    owners = owners_of(same(*map(str, range(count)), chains=frozenset(range(chains))), {})

    counts = Counter(dict.fromkeys(map(str, range(count)), 0)) + Counter(owners.values())
    assert sum(counts.values()) == chains
    assert max(counts.values(), default=0) <= -(-chains // count)
