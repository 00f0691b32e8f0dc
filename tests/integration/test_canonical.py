"""What is kept is of one chain, and the canonical one, whatever providers say in between."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from indexing import expect_truth, grown, index, open_worker
from ledger import CHAIN_ID
from simulator.logs import form_log
from simulator.node import SimNode
from workload import IDENTITY

from indexer.errors import BeyondFinality, Retryable
from indexer.store.chains import Chains


async def test_blocks_that_became_final_unseen_are_proven_before_more_is_put_on_top(
    database, clean, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.worker._LOOK_UP_EVERY_S", -1.0)
    chain, workload = grown(1, 300, 2)
    looks = 0

    async with SimNode(chain, finalized_depth=295) as node:

        def answer(method: str, params: list[Any], given: Any) -> Any:
            nonlocal looks
            if params[:1] == ["latest"] and method == "eth_getBlockByNumber":
                looks += 1
                if looks == 3:  # after the first blocks that could change: meanwhile most of them did, and became final
                    chain.reorg(280, [workload.block(2) for _ in range(300)])
                    node.knobs.finalized_depth = 20
                    return node.answer(method, params)
            return given

        node.intercept = answer
        worker = await index(database, [node.url], finality_blocks=None)

    assert worker.counters.reorgs == 1
    await expect_truth(database, clean, chain)


@pytest.mark.parametrize("depth", [5, 40], ids=["may still change", "final"])
async def test_one_answer_of_another_branch_takes_nothing_back(database, clean, depth: int) -> None:
    chain, workload = grown(2, 70, 2)
    other = chain.fork()
    other.reorg(depth, [workload.block(2) for _ in range(depth)])
    wrong = SimNode(other)
    told_wrongly: set[str] = set()

    def answer(method: str, params: list[Any], given: Any) -> Any:
        """Tell each block of the other branch once."""
        if method != "eth_getBlockByNumber" or not params[0].startswith("0x") or params[0] in told_wrongly:
            return given
        told_wrongly.add(params[0])
        return wrong.answer(method, params) or given

    async with SimNode(chain) as node:
        await index(database, [node.url], finality_blocks=20)
        chain.mine(workload.block(2))
        node.intercept = answer
        for _ in range(4):
            with suppress(Retryable):
                await index(database, [node.url], finality_blocks=20)

    assert told_wrongly
    async with database.transaction() as connection:
        assert await connection.fetchval("SELECT reorgs FROM chains") == 0
    await expect_truth(database, clean, chain)


@pytest.mark.parametrize("indexed", [0, 100], ids=["from the first block", "from a checkpoint"])
async def test_another_network_of_the_same_chain_id_is_never_heard(database, clean, indexed: int) -> None:
    chain, _ = grown(5, 300, 2)
    foreign, _ = grown(6, 300, 2)
    asked = 0

    def answer(method: str, _: list[Any], given: Any) -> Any:
        """Go away for a while in the middle of the backfill."""
        nonlocal asked
        asked += method == "eth_getLogs"
        if asked == 2 and method == "eth_getLogs":
            node.fail(20)
        return given

    async with SimNode(chain) as node, SimNode(foreign) as wrong:
        if indexed:
            await index(database, [node.url], finality_blocks=50, until=indexed)
        node.intercept = answer
        with suppress(Retryable):
            await index(database, [node.url, wrong.url], finality_blocks=50, span=50)
        node.heal()
        await index(database, [node.url, wrong.url], finality_blocks=50, span=50)

    assert wrong.calls["eth_getLogs"] == 0
    await expect_truth(database, clean, chain)


async def test_finality_that_breaks_while_the_provider_is_away_halts_the_chain(database) -> None:
    chain, workload = grown(7, 70, 2)
    async with SimNode(chain) as node, open_worker(database, [node.url], finality_blocks=10, until=None) as worker:
        following = asyncio.create_task(worker.run())
        async with asyncio.timeout(20):
            while worker.progress.checkpoint < 70:  # noqa: ASYNC110 - the worker has no event for it
                await asyncio.sleep(0.01)
        node.fail(2)
        chain.reorg(30, [workload.block(2) for _ in range(31)])
        with pytest.raises(BeyondFinality, match="finalized block"):
            await following

    assert (await Chains(database).standing(CHAIN_ID)).halt_reason is not None


async def test_logs_that_an_answer_keeps_back_in_its_middle_are_found_by_the_blooms(database, clean) -> None:
    chain, _ = grown(3, 10, 2)
    rated = chain.mine([form_log(IDENTITY, "identity/uri_updated", 1, "x", bytes(20))])
    chain.mine_empty(5)

    def answer(method: str, params: list[Any], given: Any) -> Any:
        if method == "eth_getLogs" and "fromBlock" in params[0]:
            return [log for log in given if log["blockNumber"] != hex(rated.number)]
        return given

    async with SimNode(chain, max_addresses=1) as node:
        node.intercept = answer
        await index(database, [node.url])

    await expect_truth(database, clean, chain)


async def test_logs_that_may_still_change_have_the_times_of_their_blocks(database, clean) -> None:
    chain, _ = grown(4, 30, 2)

    def answer(method: str, _: list[Any], given: Any) -> Any:
        if method == "eth_getLogs":
            return [
                {**log, "blockTimestamp": "0x1"} if log["blockNumber"] != hex(chain.head.number) else log
                for log in given
            ]
        return given

    async with SimNode(chain) as node:
        node.intercept = answer
        await index(database, [node.url])

    await expect_truth(database, clean, chain)
