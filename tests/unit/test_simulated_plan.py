"""What a seed decides, and that its lies are fair: the truth can be found by who looks."""

from __future__ import annotations

from random import Random
from typing import Any, get_args

import pytest
from simulator import SimChain, SimLog
from simulator.lies import BENDS, NEED_RECEIPTS, NULLS, Fairness, Lie, Situation, tell
from simulator.plan import LASTING, TRANSPORT, draw
from simulator.texts import RANGE_TEXTS

from indexer.chain.refusals import Failure, ProviderError, ShrinkRange, UnknownRefusal, classify
from indexer.core.ranges import after_refusal, start_span
from indexer.core.types import BlockRange

SEEDS = range(300)
OURS = b"\x80" * 20


def told_log(number: int, index: int, block: int = 7) -> dict[str, Any]:
    return {
        "address": "0x" + "80" * 20,
        "data": "0x01",
        "blockNumber": hex(number),
        "blockHash": f"0x{block:064x}",
        "transactionIndex": "0x0",
        "logIndex": hex(index),
        "removed": False,
    }


def situation(*, proven: bool, final: int, alone: bool = False) -> Situation:
    chain = SimChain()
    chain.mine([SimLog(OURS, ())])
    return Situation(Random(1), chain, Fairness(proven=proven, final=final), alone, [{"toBlock": "0x14"}])


def test_a_plan_is_reproducible() -> None:
    assert [draw(seed) for seed in SEEDS] == [draw(seed) for seed in SEEDS]


def test_somebody_tells_the_truth_and_is_never_away_for_long() -> None:
    for seed in SEEDS:
        plan = draw(seed)
        honest = [n for n, one in enumerate(plan.providers) if one.honest]
        assert len(honest) == (0 if plan.alone else 1)
        for number in honest or [0]:
            one = plan.providers[number]
            assert plan.alone or not one.lies
            assert not LASTING & one.faults.keys()
            assert one.lags == (0,)
            assert one.knobs.get("receipts", True)
            assert all(turn.spell == "down" and turn.length < 4 for turn in plan.turns if turn.provider == number)


def test_lies_that_only_receipts_show_are_told_where_receipts_are_asked_for() -> None:
    told = {(plan.proof, lie) for plan in map(draw, SEEDS) for one in plan.providers for lie in one.lies}

    assert {lie for proof, lie in told if proof == "receipts"} == set(get_args(Lie))
    assert {lie for proof, lie in told if proof == "logs"} == set(get_args(Lie)) - NEED_RECEIPTS


def test_every_lie_is_told_by_someone() -> None:
    assert set(get_args(Lie)) == {*BENDS, *NULLS, "no_final"}


def test_every_fault_of_transport_is_met() -> None:
    met = {fault for seed in SEEDS for one in draw(seed).providers for fault in one.faults}

    assert met == {*TRANSPORT, *LASTING}


def test_at_logs_no_final_block_is_dropped_and_no_block_twice() -> None:
    at = situation(proven=False, final=10)
    final, open_block = told_log(10, 0, block=1), told_log(11, 0, block=2)

    first = tell("drops_blocks", at, "eth_getLogs", [final, open_block])
    second = tell("drops_blocks", at, "eth_getLogs", [final, open_block])

    assert first == [final]
    assert second == [final, open_block]


def test_a_provider_without_others_lies_about_no_block_twice() -> None:
    at = situation(proven=True, final=10, alone=True)

    assert tell("drops_logs", at, "eth_getLogs", [told_log(1, 0)]) == []
    assert tell("drops_logs", at, "eth_getLogs", [told_log(1, 0)]) == [told_log(1, 0)]


@pytest.mark.parametrize("lie", [lie for lie, (methods, _) in BENDS.items() if "eth_getLogs" in methods])
def test_a_lie_about_logs_changes_the_answer_and_no_other(lie: Lie) -> None:
    logs = [told_log(20, 0), told_log(20, 1)]
    at = situation(proven=True, final=-1)

    assert tell(lie, at, "eth_getLogs", logs) != logs
    assert tell(lie, at, "eth_getCode", "0x60") == "0x60"


@pytest.mark.parametrize("text", RANGE_TEXTS, ids=lambda text: text.words[:40])
def test_a_range_refusal_leads_to_ranges_that_are_served(text: Any) -> None:
    asked, limit = BlockRange(1000, 1999), 25
    span, state = 1000, start_span(1000)
    for _ in range(12):
        if span <= limit:
            break
        words = text.message(first=1000, last=1000 + span - 1, limit=limit)
        error: ProviderError = classify(Failure("node", "eth_getLogs", words, text.code, words=words))
        assert isinstance(error, (ShrinkRange, UnknownRefusal)), words
        state = after_refusal(state, error.refusal(BlockRange(asked.from_block, asked.from_block + span - 1)))
        span = min(span - 1, state.span)

    assert 1 <= span <= limit
