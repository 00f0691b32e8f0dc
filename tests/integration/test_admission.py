"""Nodes that are exchanged behind their address while the daemon runs (F5): what was shown once is shown again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from simulator import SimChain, SimNode

from indexer.chain.admission import SHOWN_FOR_S
from indexer.chain.codec import QUANTITY
from indexer.chain.pool import Pool
from indexer.chain.provider import Call, Provider
from indexer.chain.refusals import OtherBranch, PastHead, WrongChain


class Clock:
    """Real time, and what a test adds to it."""

    def __init__(self) -> None:
        self.added = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.added


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def chain() -> SimChain:
    chain = SimChain(seed=5)
    chain.mine_empty(100)
    return chain


@asynccontextmanager
async def admitted(chain: SimChain, clock: Clock, *nodes: SimNode) -> AsyncIterator[Pool]:
    """Open a pool whose providers have shown their chain, and that they have block 50."""
    pool = Pool([Provider(node.url) for node in nodes], rounds=1, first_wait_s=0.01, clock=clock)
    try:
        await pool.check_chain(chain.chain_id)
        anchor = chain.block(50)
        assert anchor
        pool.anchor = anchor.ref
        for node, provider in zip(nodes, pool.providers, strict=True):
            assert await pool.run(height, exclude=set(pool.providers) - {provider}) is provider
            node.forget_counts()
        yield pool
    finally:
        await pool.aclose()


async def height(provider: Provider) -> Provider:
    await provider.call(Call("eth_blockNumber", [], QUANTITY))
    return provider


def of_another_network(node: SimNode) -> None:
    node.knobs.chain_id = 5


def that_syncs(node: SimNode) -> None:
    node.knobs.syncing = True


def of_another_branch(node: SimNode) -> None:
    node.chain = SimChain(seed=6)
    node.chain.mine_empty(100)


EXCHANGES = [(of_another_network, WrongChain), (that_syncs, WrongChain), (of_another_branch, OtherBranch)]


@pytest.mark.parametrize(("exchange", "error"), EXCHANGES)
async def test_exchanged_node_is_not_believed_after_a_while(
    chain: SimChain, clock: Clock, exchange: Callable[[SimNode], None], error: type[WrongChain]
) -> None:
    async with SimNode(chain) as node, SimNode(chain) as other, admitted(chain, clock, node, other) as pool:
        exchange(node)
        clock.added += SHOWN_FOR_S

        assert await pool.run(height) is pool.providers[1]
        assert pool.figures()[0]["errors"] == {error.__name__: 1}
        assert node.calls["eth_blockNumber"] == 0


@pytest.mark.parametrize(("exchange", "error"), EXCHANGES)
async def test_survey_finds_exchanged_nodes_out(
    chain: SimChain, clock: Clock, exchange: Callable[[SimNode], None], error: type[WrongChain]
) -> None:
    async with SimNode(chain) as node, SimNode(chain) as other, admitted(chain, clock, node, other) as pool:
        exchange(other)
        clock.added += SHOWN_FOR_S

        await pool.survey()

        assert [one["errors"] for one in pool.figures()] == [{}, {error.__name__: 1}]
        assert pool.preferred is pool.providers[0]


async def test_what_is_shown_again_costs_a_request_a_minute_however_many_are_under_way(
    chain: SimChain, clock: Clock
) -> None:
    async with SimNode(chain, latency_s=0.02) as node, admitted(chain, clock, node) as pool:
        for _ in range(3):
            node.forget_counts()
            clock.added += SHOWN_FOR_S
            await asyncio.gather(*(pool.run(height) for _ in range(6)))
            await pool.run(height)

            assert node.http_requests == 8


async def test_one_odd_answer_condemns_nobody(chain: SimChain, clock: Clock) -> None:
    """Behind the address stand several nodes, one of which is syncing."""
    async with SimNode(chain) as node, admitted(chain, clock, node) as pool:
        node.knobs.syncing = True
        clock.added += SHOWN_FOR_S
        asked = 0

        def route() -> None:
            nonlocal asked
            asked += 1
            node.knobs.syncing = asked == 1

        node.on_request = route
        assert await pool.run(height) is pool.providers[0]
        assert pool.figures()[0]["errors"] == {}


async def test_node_that_lacks_the_final_block_is_asked_to_show_it_until_it_does(chain: SimChain, clock: Clock) -> None:
    async with SimNode(chain) as node, admitted(chain, clock, node) as pool:
        node.knobs.lag_blocks = 60
        clock.added += SHOWN_FOR_S
        for _ in range(2):
            with pytest.raises(PastHead):
                await pool.run(height)

        node.knobs.lag_blocks = 0
        assert await pool.run(height) is pool.providers[0]
