"""The loop of one chain over a simulated node: backfill, head, reorgs, halts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from indexing import expect_truth, grown, index, open_worker
from ledger import CHAIN_ID, tables_of
from simulator.chain import SimChain
from simulator.node import SimNode, SimRpcError
from structlog.testing import capture_logs
from workload import DEPLOYMENT, Workload

from indexer.chain.refusals import Inconsistent
from indexer.core.types import Batch, BlockRange, BlockRef
from indexer.errors import BeyondFinality, RpcError
from indexer.store.chains import Chains


@pytest.mark.parametrize("timed", [True, False], ids=["times in logs", "times from headers"])
async def test_backfill_over_the_finalized_block_gives_the_truth(database, clean, timed: bool) -> None:
    chain, _ = grown(1, 150)
    async with SimNode(chain, block_timestamp=timed, max_range=40) as node:
        worker = await index(database, [node.url], finality_blocks=30)

    assert worker.progress.checkpoint == chain.head.number
    await expect_truth(database, clean, chain)


@pytest.mark.parametrize(("finality_blocks", "depth"), [(None, 64), (30, 30)], ids=["by the tag", "by the settings"])
async def test_node_by_which_nothing_is_final_holds_nothing_open(
    database, finality_blocks: int | None, depth: int
) -> None:
    chain, workload = SimChain(seed=7, start=9_000), Workload(7)
    for _ in range(150):
        chain.mine(workload.block(2))
    async with SimNode(chain, finalized_depth=9_140) as node:
        worker = await index(
            database,
            [node.url],
            proof="off",
            deployment=replace(DEPLOYMENT, start_block=9_000),
            finality_blocks=finality_blocks,
        )

    held = (await Chains(database).standing(CHAIN_ID)).held
    assert (worker.progress.checkpoint, held[0].number) == (9_150, 9_150 - depth)


@pytest.mark.parametrize("seed", range(3))
async def test_reorgs_while_it_follows_the_head(database, clean, seed: int) -> None:
    chain, workload = grown(seed, 60)
    random = Random(seed)
    async with SimNode(chain) as node, open_worker(database, [node.url], until=None) as worker:
        following = asyncio.create_task(worker.run())
        await caught_up(worker, chain, following)
        for _ in range(8):
            depth = random.randrange(1, 40)
            chain.reorg(depth, [workload.block(4) for _ in range(depth + random.randrange(3))])
            for _ in range(random.randrange(4)):
                chain.mine(workload.block(4))
            await caught_up(worker, chain, following)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    await expect_truth(database, clean, chain)
    assert worker.counters.reorgs == 8


async def caught_up(worker, chain: SimChain, following: asyncio.Task[None]) -> None:
    async with asyncio.timeout(20):
        while worker.progress.block_hash != chain.head.hash:
            if following.done():
                following.result()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("depth", [1, 7, 40])
async def test_a_reorg_while_the_daemon_was_down_is_found_before_the_first_write(database, clean, depth: int) -> None:
    chain, workload = grown(5, 70)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        chain.reorg(depth, [workload.block(4) for _ in range(depth + 5)])
        again = await index(database, [node.url])

    assert again.counters.reorgs == 1
    await expect_truth(database, clean, chain)


async def test_a_reorg_that_became_final_while_the_daemon_was_down_is_no_break_of_finality(database, clean) -> None:
    chain, workload = grown(6, 70)
    async with SimNode(chain) as node:
        await index(database, [node.url], finality_blocks=10)
        chain.reorg(8, [workload.block(4) for _ in range(300)])
        await index(database, [node.url], finality_blocks=10)

    await expect_truth(database, clean, chain)


async def test_a_reorg_below_the_finalized_block_halts_and_keeps_every_row(database) -> None:
    chain, workload = grown(7, 70)
    async with SimNode(chain) as node:
        await index(database, [node.url], finality_blocks=10)
        before = await tables_of(database)
        chain.reorg(30, [workload.block(4) for _ in range(31)])
        with pytest.raises(BeyondFinality, match="finalized block"):
            await index(database, [node.url], finality_blocks=10)
        with pytest.raises(BeyondFinality):
            await index(database, [node.url], finality_blocks=10)

    assert await tables_of(database) == before
    assert (await Chains(database).standing(CHAIN_ID)).halt_reason is not None


async def test_a_chain_replaced_from_its_first_block_is_indexed_anew(database, clean) -> None:
    chain, workload = grown(8, 20)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        chain.reorg(20, [workload.block(4) for _ in range(25)])
        await index(database, [node.url])

    await expect_truth(database, clean, chain)


async def test_a_lower_head_alone_takes_nothing_back(database) -> None:
    chain, _ = grown(9, 40)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        before = await tables_of(database)
        node.knobs.lag_blocks = 10
        worker = await index(database, [node.url])

    assert worker.counters.reorgs == 0
    assert await tables_of(database) == before


async def test_until_a_block_stops_exactly_there(database) -> None:
    chain, _ = grown(10, 50)
    async with SimNode(chain) as node:
        worker = await index(database, [node.url], until=33)

    assert worker.progress.checkpoint == 33
    assert (await Chains(database).standing(CHAIN_ID)).checkpoint_block == 33


async def test_a_block_that_nobody_gives_is_an_error_and_no_endless_loop(database) -> None:
    chain, _ = grown(11, 20)
    async with SimNode(chain, receipts=False) as node:
        node.intercept = refuse_logs
        with pytest.raises(RpcError):
            await index(database, [node.url])

    assert node.calls["eth_getLogs"] < 100


def refuse_logs(method: str, _params: list[object], answer: object) -> object:
    if method == "eth_getLogs":
        raise SimRpcError(-32000, "something nobody has ever heard of")
    return answer


@pytest.mark.parametrize("behind", [False, True], ids=["at the same head", "a block behind at first"])
async def test_no_provider_takes_rows_back_on_its_own_word(database, behind: bool) -> None:
    chain, workload = grown(12, 70)
    elsewhere = chain.fork()
    elsewhere.reorg(3, [workload.block(4) for _ in range(3 + behind)])
    async with SimNode(elsewhere) as liar, SimNode(chain) as honest:
        await index(database, [honest.url])
        async with open_worker(database, [liar.url, honest.url], until=None) as worker:
            following = asyncio.create_task(worker.run())
            if behind:
                asyncio.get_running_loop().call_later(0.5, chain.mine, workload.block(4))
            with pytest.raises(Inconsistent, match="two hashes"):
                await following

    assert worker.counters.reorgs == 0
    assert (await Chains(database).standing(CHAIN_ID)).halt_reason is None


async def test_a_reorg_is_believed_when_another_provider_tells_the_same(database, clean) -> None:
    chain, workload = grown(13, 70)
    async with SimNode(chain) as one, SimNode(chain) as two:
        await index(database, [one.url])
        chain.reorg(3, [workload.block(4) for _ in range(5)])
        worker = await index(database, [one.url, two.url])

    assert worker.counters.reorgs == 1
    assert two.calls["eth_getBlockByNumber"] > 2
    await expect_truth(database, clean, chain)


async def test_a_batch_that_does_not_join_although_nothing_was_replaced_is_told_and_is_no_progress(database) -> None:
    chain, workload = grown(14, 70)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        chain.mine(workload.block(4))
        async with open_worker(database, [node.url], until=None) as worker:
            worker.gets_on = lambda: pytest.fail("no progress was made")
            worker.source = _Torn(worker.source)  # type: ignore[assignment]  # in place of the real one
            worker.__post_init__()
            with capture_logs() as logs:
                following = asyncio.create_task(worker.run())
                async with asyncio.timeout(10):
                    while sum(one["event"] == "batch_refused" for one in logs) < 2:
                        assert not following.done()
                        await asyncio.sleep(0.01)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    assert worker.counters.reorgs == 0
    assert worker.counters.batches == 0


class _Torn:
    """A source whose batches begin with a block of another branch, whatever its headers say."""

    def __init__(self, source: object) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    async def fetch_block(self, block: BlockRef, _addresses: tuple[bytes, ...]) -> Batch:
        torn = replace(block, parent_hash=b"\x13" * 32)
        return Batch(BlockRange(block.number, block.number), (torn,), ())

    async def fetch(self, wanted: BlockRange, addresses: tuple[bytes, ...]) -> Batch:
        (block,) = await self._source.blocks([wanted.to_block])  # type: ignore[attr-defined]
        return await self.fetch_block(block, addresses)
