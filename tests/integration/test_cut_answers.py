"""Answers that may be cut without a word (F20): none is believed, and honest ones cost next to nothing."""

from __future__ import annotations

import pytest
from simulator import SimChain, SimLog, SimNode, event_log

from indexer.chain.refusals import TooManyResults
from indexer.chain.source import Source
from indexer.core.ranges import start_span
from indexer.core.types import BlockRange, RawLog
from indexer.fetching import Fetcher

ADDRESS = b"\x11" * 20
OURS = (ADDRESS,)


def updated(number: int) -> SimLog:
    return event_log(
        ADDRESS, "URIUpdated(uint256 indexed agentId, string newURI, address indexed by)", number, "", OURS[0]
    )


def chain_of(*counts: int) -> SimChain:
    """Mine blocks with so many logs each, from block 1."""
    chain = SimChain(seed=20)
    for count in counts:
        chain.mine([updated(number) for number in range(count)])
    return chain


async def indexed(source: Source, chain: SimChain, *, span: int, concurrency: int = 1) -> list[RawLog]:
    """Fetch all but the head as a worker does, in final ranges."""
    last = chain.head.number - 1
    fetcher = Fetcher(source, OURS, concurrency, start_span(span), last)
    return [log async for batch in fetcher.batches(chain.head, 0, last) for log in batch.logs]


def truth(chain: SimChain) -> list[RawLog]:
    return list(chain.logs(OURS, BlockRange(0, chain.head.number - 1)))


@pytest.mark.parametrize("cap", [1000, 1024, 1025, 500])
@pytest.mark.parametrize("receipts", [True, False], ids=["receipts", "no receipts"])
async def test_cut_is_found_out_though_all_logs_lie_in_one_half(cap: int, receipts: bool) -> None:
    chain = chain_of(*[40] * 38, *[0] * 40)
    async with SimNode(chain, truncate_at=cap, receipts=receipts) as node, Source.open([node.url]) as source:
        with pytest.raises(TooManyResults):
            await source.fetch(BlockRange(0, 77), OURS)

        assert await indexed(source, chain, span=1000) == truth(chain)


async def test_cut_at_an_odd_limit_is_found_out_when_the_count_comes_again() -> None:
    chain = chain_of(0, *[40] * 20, *[0] * 40)
    async with SimNode(chain, truncate_at=777) as node, Source.open([node.url]) as source:
        assert len((await source.fetch(BlockRange(0, 50), OURS)).logs) == 777  # nothing tells yet

        assert await indexed(source, chain, span=1000) == truth(chain)


async def test_block_that_holds_just_as_many_logs_as_a_usual_limit_stops_nothing() -> None:
    chain = chain_of(0, 0, 3, 500, 0, 2, 500, 0, 0)
    async with SimNode(chain, receipts=False) as node, Source.open([node.url]) as source:
        assert await indexed(source, chain, span=1000) == truth(chain)


@pytest.mark.parametrize(
    ("density", "concurrency"), [(25, 1), (6, 1), (6, 3)], ids=["a usual count", "an odd count", "several in flight"]
)
async def test_even_density_costs_an_honest_provider_a_few_requests_once(density: int, concurrency: int) -> None:
    chain = chain_of(*[density] * 401)
    async with SimNode(chain) as node, Source.open([node.url]) as source:
        await source.fetch(BlockRange(1, 1), OURS)
        node.forget_counts()
        last = chain.head.number - 1
        fetcher = Fetcher(source, OURS, concurrency, start_span(20), last)

        assert len([batch async for batch in fetcher.batches(chain.head, 1, last)]) == 20

        assert node.http_requests <= 20 + 2 * concurrency
