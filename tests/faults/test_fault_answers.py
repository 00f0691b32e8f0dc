"""Faults F1 to F3, F6 to F10 and F20: answers that are wrong, through the worker into the tables."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from enduring import DEADLINE_S, index_enduring, lying, number_of, other_hash
from indexing import expect_truth, grown, index, open_worker
from ledger import CHAIN_ID
from repairing import open_keeper, value_of
from simulator.chain import SimChain
from simulator.node import SimNode
from structlog.testing import capture_logs
from workload import Workload

from indexer.core.types import BlockRange
from indexer.errors import RpcError
from indexer.store.chains import Chains

FINALITY = 40


def blocks_with_logs(chain: SimChain, first: int = 0) -> list[int]:
    return sorted({log.block_number for log in chain.logs(within=BlockRange(first, chain.head.number))})


# --- F1 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False], ids=["header and logs in one request", "a request each"])
async def test_f01_a_node_behind_that_answers_nothing_past_its_head_loses_no_log(
    database, clean, together: bool
) -> None:
    workload, chain = Workload(101), SimChain(seed=101)
    for number in range(150):
        chain.mine(workload.block(8) if number % 3 == 0 else ())  # the blooms of most blocks tell of nothing
    async with SimNode(chain, max_batch=None if together else 1) as node:
        behind = each_request_at_any_node(node) if together else falls_behind_before_logs(node)
        await index_enduring(database, [node.url], until=150, span=10, finality_blocks=20)

    assert len(behind) > 3
    await expect_truth(database, clean, chain)


def each_request_at_any_node(node: SimNode) -> list[int]:
    """Give each HTTP request to another node behind the address, some of them far behind; returns when it did."""
    random = Random(1)
    behind: list[int] = []

    def route() -> None:
        node.knobs.lag_blocks = random.choice((0, 0, 140))
        if node.knobs.lag_blocks:
            behind.append(node.http_requests)

    node.on_request = route
    return behind


def falls_behind_before_logs(node: SimNode) -> list[int]:
    """Exchange the node behind the address for a while, now and then, as logs are asked for; returns when it did."""
    random = Random(1)
    behind: list[int] = []

    def come_back() -> None:
        if not behind or node.http_requests > behind[-1] + 12:
            node.knobs.lag_blocks = 0

    def exchange(method: str, params: list[Any], answer: Any) -> Any:
        if method != "eth_getLogs" or node.knobs.lag_blocks or random.random() < 0.5 or len(behind) > 8:
            return answer
        behind.append(node.http_requests)
        node.knobs.lag_blocks = 140
        return node.answer(method, params)

    node.on_request, node.intercept = come_back, exchange
    return behind


# --- F2 -------------------------------------------------------------------------------------------------------------


async def test_f02_logs_kept_back_under_the_right_hash_are_had_by_the_receipts_root(database, clean) -> None:
    chain, _ = grown(102, 120)
    async with SimNode(chain) as node:
        node.intercept = lying(lambda logs: logs[::3])
        worker = await index(database, [node.url], proof="receipts", finality_blocks=FINALITY)

    assert worker.counters.proof_mismatches > 20
    await expect_truth(database, clean, chain)


async def test_f02_logs_that_the_level_logs_missed_are_found_by_the_audit_and_healed(database, clean) -> None:
    chain, _ = grown(102, 60)
    chain.mine_empty(10)
    hurt = {number for number in blocks_with_logs(chain) if number % 4 == 0}
    async with SimNode(chain) as node:
        node.intercept = lying(lambda logs: [log for log in logs if number_of(log) not in hurt])
        await index(database, [node.url], finality_blocks=10)
        missed = len(chain.logs()) - await value_of(database, "SELECT count(*) FROM logs")
        async with asyncio.timeout(DEADLINE_S), open_keeper(database, [node.url]) as keeper:
            keeping = asyncio.create_task(keeper.run())
            while await value_of(database, "SELECT count(*) FROM logs") < len(chain.logs()):
                assert not keeping.done()
                await asyncio.sleep(0.02)
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    assert missed == keeper.counters.repaired_logs > 10
    await expect_truth(database, clean, chain)


# --- F3 -------------------------------------------------------------------------------------------------------------


async def test_f03_an_empty_answer_against_the_bloom_is_not_accepted(database, clean) -> None:
    chain, _ = grown(103, 120)
    final = max(number for number in blocks_with_logs(chain) if number <= 60)
    hurt = {final, *(number for number in blocks_with_logs(chain) if number > final and number % 3)}
    async with SimNode(chain) as liar, SimNode(chain) as node:
        liar.intercept = lying(lambda logs: [log for log in logs if number_of(log) not in hurt])
        await index(database, [liar.url, node.url], finality_blocks=120 - final)

    assert liar.calls["eth_getLogs"] > 0
    await expect_truth(database, clean, chain)


# --- F6 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "beside another"])
async def test_f06_a_block_that_is_null_is_had_elsewhere_or_held_for_and_never_skipped(
    database, clean, alone: bool
) -> None:
    chain, _ = grown(106, 120)
    missing = hex(blocks_with_logs(chain, 95)[0])

    def lacks(method: str, params: list[Any], answer: Any) -> Any:
        return None if method == "eth_getBlockByNumber" and params[0] == missing else answer

    async with SimNode(chain) as node, SimNode(chain) as second:
        node.intercept = lacks
        urls = [node.url] if alone else [node.url, second.url]
        async with open_worker(database, urls, finality_blocks=FINALITY) as worker:
            for _ in range(3 if alone else 0):
                with pytest.raises(RpcError, match=f"block {int(missing, 16)}"):
                    await worker.run()
                assert (await Chains(database).standing(CHAIN_ID)).checkpoint_block < int(missing, 16)
            if alone:
                node.intercept = None
            await worker.run()

    await expect_truth(database, clean, chain)


# --- F7 to F10 ------------------------------------------------------------------------------------------------------


async def test_f07_logs_that_a_reorg_removed_are_never_inserted(database, clean) -> None:
    chain, workload = grown(107, 100)
    node = SimNode(chain)
    old = [{**node._log_json(log), "removed": True} for log in chain.logs(within=BlockRange(60, 100))]
    chain.reorg(41, [() for _ in range(45)])
    chain.mine(workload.block(4))
    async with node:
        node.intercept = lying(lambda logs: [*logs, *old], times=3)
        await index_enduring(database, [node.url], finality_blocks=0)

    await expect_truth(database, clean, chain)


async def test_f08_the_same_log_twice_counts_once(database, clean) -> None:
    chain, _ = grown(108, 120)
    async with SimNode(chain) as node:
        node.intercept = lying(lambda logs: Random(1).sample([*logs, *logs], 2 * len(logs)))
        await index(database, [node.url], finality_blocks=FINALITY)

    await expect_truth(database, clean, chain)


@pytest.mark.parametrize("first", [True, False], ids=["the false one first", "the false one last"])
async def test_f08_two_logs_at_one_position_are_rejected(database, clean, first: bool) -> None:
    chain, _ = grown(108, 120)

    def bend(logs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        false = [{**log, "data": log["data"] + "00"} for log in logs[:1]]
        return [*false, *logs] if first else [*logs, *false]

    async with SimNode(chain) as liar, SimNode(chain) as node:
        liar.intercept = lying(bend)
        await index(database, [liar.url, node.url], finality_blocks=FINALITY, span=20)

    assert liar.calls["eth_getLogs"] > 0
    await expect_truth(database, clean, chain)


@pytest.mark.parametrize(
    "changed",
    [{"blockNumber": hex(7), "logIndex": "0x77"}, {"address": "0x" + "66" * 20, "logIndex": "0x77"}],
    ids=["block", "contract"],
)
async def test_f09_a_log_that_was_not_asked_for_spoils_the_answer(database, clean, changed: dict[str, str]) -> None:
    chain, _ = grown(109, 120)
    async with SimNode(chain) as liar, SimNode(chain) as node:
        liar.intercept = lying(lambda logs: [*logs, *({**log, **changed} for log in logs[-1:] if number_of(log) > 30)])
        await index(database, [liar.url, node.url], finality_blocks=FINALITY, span=20)

    assert liar.calls["eth_getLogs"] > 0
    await expect_truth(database, clean, chain)


@pytest.mark.parametrize("share", ["all logs of a block", "one log of a block"])
async def test_f10_logs_of_another_hash_than_their_block_are_refused_and_the_chain_goes_on(
    database, clean, share: str
) -> None:
    chain, _ = grown(110, 120)
    hurt = blocks_with_logs(chain, 90)[0]

    def bend(logs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        own = [log for log in logs if number_of(log) == hurt]
        bent = own if share.startswith("all") else own[:1]
        return [other_hash(log) if log in bent else log for log in logs]

    async with SimNode(chain) as node:
        node.intercept = lying(bend, times=3)
        with capture_logs() as lines:
            await index_enduring(database, [node.url], finality_blocks=FINALITY)

    refused = [line["error"] for line in lines if line["event"] == "advance_failed"]
    assert len(refused) >= 3
    assert all(f"block {hurt} has two hashes" in error for error in refused)
    await expect_truth(database, clean, chain)


async def test_f10_logs_that_name_another_transaction_are_put_right_by_the_receipts(database, clean) -> None:
    chain, _ = grown(110, 120)
    async with SimNode(chain) as node:
        node.intercept = lying(lambda logs: [{**log, "transactionIndex": "0x5"} for log in logs])
        await index(database, [node.url], proof="receipts", finality_blocks=FINALITY)

    await expect_truth(database, clean, chain)


# --- F20 ------------------------------------------------------------------------------------------------------------


async def test_f20_an_answer_that_is_silently_cut_is_asked_for_in_halves(database, clean) -> None:
    workload, chain = Workload(120), SimChain(seed=120)
    while len(chain.logs()) < 1100:
        chain.mine(workload.block(60))
    chain.mine_empty(10)  # the last block's bloom tells of nothing
    async with SimNode(chain, truncate_at=1000, receipts=False) as node:
        await index(database, [node.url], finality_blocks=5)

    await expect_truth(database, clean, chain)
