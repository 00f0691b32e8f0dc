from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import pytest

from indexer.chain.refusals import PastHead, RangeTooLarge, TooManyResults
from indexer.core.ranges import TARGET_LOGS, start_span
from indexer.core.types import Batch, BlockRange, BlockRef, Proof, RawLog
from indexer.fetching import LINKED_BLOCKS, PROVEN_BLOCKS, Fetcher, one_ahead

HEAD = BlockRef(10_000, b"\x01" * 32, b"\x02" * 32, 0)


@dataclass
class Told:
    """A source that takes at most `takes` blocks a request, and notes what it is asked."""

    span_cap: int | None = None
    level: Proof = "logs"
    takes: int = 10_000
    behind: bool = False
    logs: tuple[RawLog, ...] = ()  # of each answer
    asked: list[tuple[str, BlockRange]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    async def fetch(self, wanted: BlockRange, _: Sequence[bytes]) -> Batch:
        return await self._answer("fetch", wanted)

    async def fetch_linked(self, wanted: BlockRange, _: Sequence[bytes]) -> Batch:
        return await self._answer("fetch_linked", wanted)

    async def fetch_block(self, block: BlockRef, _: Sequence[bytes]) -> Batch:
        return await self._answer("fetch_block", BlockRange(block.number, block.number))

    async def _answer(self, how: str, wanted: BlockRange) -> Batch:
        self.asked.append((how, wanted))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        if self.behind:
            raise PastHead("node", "does not have that block")
        if len(wanted) > self.takes:
            raise TooManyResults("node", "too many results")
        return Batch(wanted, (BlockRef(wanted.to_block, b"", b"", 0),), self.logs)


def fetcher(source: Told, *, span: int = 1000, final: int = 9_900, concurrency: int = 3) -> Fetcher:
    return Fetcher(source, (b"\x11" * 20,), concurrency, start_span(span), final)


async def ranges(planner: Fetcher, first: int, target: int) -> list[BlockRange]:
    return [batch.range async for batch in planner.batches(HEAD, first, target)]


def joined(parts: Sequence[BlockRange], first: int, target: int) -> bool:
    return [n for part in parts for n in range(part.from_block, part.to_block + 1)] == list(range(first, target + 1))


async def test_ranges_come_in_order_and_are_fetched_ahead_while_final() -> None:
    source = Told()
    parts = await ranges(fetcher(source), 0, HEAD.number)

    assert joined(parts, 0, HEAD.number)
    assert source.most_running == 3
    linked = [wanted for how, wanted in source.asked if how == "fetch_linked"]
    assert all(how == "fetch" for how, wanted in source.asked if wanted.to_block <= 9_900)
    assert [wanted.from_block for wanted in linked] == [9_901]
    assert max(map(len, linked)) <= LINKED_BLOCKS


async def test_head_alone_is_asked_for_by_its_hash() -> None:
    source = Told()
    await ranges(fetcher(source), HEAD.number, HEAD.number)

    assert source.asked == [("fetch_block", BlockRange(HEAD.number, HEAD.number))]


async def test_rule_of_the_provider_that_is_asked_binds_no_longer_than_it_is_asked() -> None:
    """F17: a fallback's cap is forgotten when the preferred provider is back."""
    source = Told(span_cap=10)
    planner = fetcher(source, concurrency=1)
    assert {len(part) for part in await ranges(planner, 0, 99)} == {10}

    source.span_cap = None
    assert len((await ranges(planner, 100, 5_000))[0]) == 1000


@pytest.mark.parametrize(
    ("logs", "asked"),
    [pytest.param(TARGET_LOGS, 8, id="dense"), pytest.param(TARGET_LOGS // 100, 8 + 5, id="sparse")],
)
async def test_more_is_fetched_ahead_while_little_waits(logs: int, asked: int) -> None:
    source = Told(logs=(RawLog(0, 0, b"", b"", 0, b"", (), b"", 0),) * logs)
    taken = 0
    async with aclosing(fetcher(source, span=100, concurrency=8).batches(HEAD, 0, 9_900)) as batches:
        async for _ in batches:
            taken += 1
            await asyncio.sleep(0.01)  # so that all that is asked for is there
            if taken == 6:
                break

    assert len(source.asked) == asked


async def test_first_long_stretch_begins_with_smaller_ranges() -> None:
    planner = fetcher(Told(), final=99_000)
    planner.early = True

    assert [len(part) for part in (await ranges(planner, 0, 9_999))[:5]] == [125, 250, 500, 1000, 1000]
    assert len((await ranges(planner, 10_000, 19_999))[0]) == 1000


async def test_refused_range_is_asked_for_again_in_smaller_pieces_without_a_hole() -> None:
    source = Told(takes=70)
    parts = await ranges(fetcher(source), 0, 2_000)

    assert joined(parts, 0, 2_000)
    assert max(map(len, parts)) <= 70


async def test_range_past_the_head_is_no_reason_to_shrink() -> None:
    source = Told(behind=True)
    planner = fetcher(source)
    with pytest.raises(PastHead):
        await ranges(planner, 0, 2_000)

    assert planner.span.span == 1000


async def test_single_block_that_is_refused_ends_in_the_error() -> None:
    with pytest.raises(TooManyResults):
        await ranges(fetcher(Told(takes=0)), 0, 100)


async def test_rule_that_only_the_refusal_tells_is_kept_to() -> None:
    """The preferred provider has no rule, but it is another one that answers."""

    class Other(Told):
        async def _answer(self, how: str, wanted: BlockRange) -> Batch:
            if len(wanted) > 50:
                raise RangeTooLarge("node", "at most 50 blocks", (50,))
            return await super()._answer(how, wanted)

    parts = await ranges(fetcher(Other(), concurrency=1), 0, 500)

    assert joined(parts, 0, 500)
    assert len(parts[0]) == 50


async def test_ranges_that_are_proven_stay_small() -> None:
    source = Told(level="receipts")
    parts = await ranges(fetcher(source, span=100_000), 0, 5_000)

    assert max(map(len, parts)) == PROVEN_BLOCKS


# --- one ahead ------------------------------------------------------------------------------------------------------


async def nothing(_: Batch) -> None:
    pass


def batch_at(number: int) -> Batch:
    return Batch(BlockRange(number, number), (BlockRef(number, b"", b"", 0),), ())


async def test_the_next_batch_is_worked_on_while_the_one_before_is_in_hand() -> None:
    worked: list[int] = []

    async def batches() -> AsyncGenerator[Batch]:
        for number in (1, 2, 3):
            yield batch_at(number)

    async def work(batch: Batch) -> int:
        worked.append(batch.range.from_block)
        return batch.range.from_block * 10

    seen = []
    async for batch, done in one_ahead(batches(), work):
        seen.append((batch.range.from_block, done))
        await asyncio.sleep(0.01)
        assert len(worked) == min(3, len(seen) + 1)

    assert seen == [(1, 10), (2, 20), (3, 30)]


async def test_an_error_comes_after_the_batches_before_it() -> None:
    async def batches() -> AsyncGenerator[Batch]:
        yield batch_at(1)
        raise PastHead("node", "does not have that block")

    seen = []

    async def take_all() -> None:
        async for batch, _ in one_ahead(batches(), nothing):
            seen.append(batch.range.from_block)
            await asyncio.sleep(0.01)

    with pytest.raises(PastHead):
        await take_all()
    assert seen == [1]


async def test_what_is_left_early_leaves_nothing_running() -> None:
    async def batches() -> AsyncGenerator[Batch]:
        yield batch_at(1)
        await asyncio.Event().wait()

    source = batches()
    before = asyncio.all_tasks()
    async with aclosing(source), aclosing(one_ahead(source, nothing)) as built:
        async for _ in built:
            break

    assert asyncio.all_tasks() == before
