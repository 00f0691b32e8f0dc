"""Refusals in place of a whole answer: a plain body under an HTTP status, or nothing before the time is up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from simulator import SimChain, SimLog, SimNode, event_log

from indexer.chain.pool import Pool
from indexer.chain.provider import Provider
from indexer.chain.refusals import PastHead, RangeTooLarge, TimedOut, TooManyResults
from indexer.chain.source import Source
from indexer.core.types import BlockRange, Proof, RawLog

OURS = (b"\x11" * 20, b"\x22" * 20)
ALL, ONE = BlockRange(0, 20), BlockRange(5, 5)


def updated(number: int) -> SimLog:
    signature = "URIUpdated(uint256 indexed agentId, string newURI, address indexed updatedBy)"
    return event_log(OURS[number % 2], signature, number, "https://agent.example", b"\x33" * 20)


@pytest.fixture
def chain() -> SimChain:
    chain = SimChain(seed=6)
    for number in range(20):
        chain.mine([updated(number), updated(number + 1)])
    return chain


@asynccontextmanager
async def source_of(node: SimNode, *, proof: Proof = "logs", **options: Any) -> AsyncIterator[Source]:
    pool = Pool([Provider(node.url, **options)], rounds=2, first_wait_s=0.01)
    async with Source(pool, proof=proof) as source:
        yield source


def truth(chain: SimChain, wanted: BlockRange) -> tuple[RawLog, ...]:
    return tuple(chain.logs(OURS, wanted))


@pytest.mark.parametrize("status", [400, 413, 422, 500])
async def test_rule_in_a_plain_body_is_learned(chain: SimChain, status: int) -> None:
    async with SimNode(chain, plain_refusal=status, max_range=10) as node, source_of(node) as source:
        with pytest.raises(RangeTooLarge):
            await source.fetch(ALL, OURS)

        assert source.span_cap == 10
        assert (await source.fetch(BlockRange(0, 9), OURS)).logs == truth(chain, BlockRange(0, 9))


async def test_fewer_addresses_are_asked_for_after_a_plain_body_too(chain: SimChain) -> None:
    async with SimNode(chain, plain_refusal=400, max_addresses=1) as node, source_of(node) as source:
        assert (await source.fetch(ALL, OURS)).logs == truth(chain, ALL)


@pytest.mark.parametrize("status", [400, 413, 500])
async def test_one_block_that_is_refused_as_a_whole_is_read_from_its_receipts(chain: SimChain, status: int) -> None:
    async with SimNode(chain, plain_refusal=status, max_results=1) as node, source_of(node) as source:
        with pytest.raises(TooManyResults):
            await source.fetch(ALL, OURS)

        assert (await source.fetch(ONE, OURS)).logs == truth(chain, ONE)
        assert (await source.fetch_block(chain.head, OURS)).logs == truth(chain, BlockRange(20, 20))


async def test_receipts_of_another_branch_are_not_taken_for_those_of_the_block(chain: SimChain) -> None:
    async with SimNode(chain, plain_refusal=500, max_results=1) as node, source_of(node, proof="off") as source:

        def replace_head(method: str, _: list[Any], answer: Any) -> Any:
            if method == "eth_getBlockByNumber" and node.calls[method] == 2:
                chain.reorg(1, [()])
            return answer

        node.intercept = replace_head
        with pytest.raises(PastHead):
            await source.fetch(BlockRange(20, 20), OURS)


async def test_one_block_whose_logs_never_come_is_read_from_its_receipts(chain: SimChain) -> None:
    async with SimNode(chain, hang_on="eth_getLogs") as node, source_of(node, timeout_s=0.2) as source:
        with pytest.raises(TooManyResults):
            await source.fetch(ALL, OURS)

        assert (await source.fetch(ONE, OURS)).logs == truth(chain, ONE)
        node.knobs.receipts = False
        with pytest.raises(TimedOut):
            await source.fetch(ONE, OURS)
