"""Fetch a stretch of one chain in order: ranges of the right size, ahead where nothing can change any more."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import structlog

from indexer.chain.refusals import Inconsistent, ShrinkRange, Transport
from indexer.core.ranges import TARGET_LOGS, SpanState, after_failure, after_refusal, after_success
from indexer.core.types import Batch, BlockRange, BlockRef, Proof

T = TypeVar("T")

log = structlog.get_logger()

# Above the finalized block every header of a range is fetched and linked; more at a time gains nothing.
LINKED_BLOCKS: Final = 100
# So they are where logs are proven by receipts: ten requests of a hundred headers.
PROVEN_BLOCKS: Final = 1000

# Logs that are there before their turn: where the database is slower than the provider, more would but fill the memory.
_READY_LOGS: Final = 2 * TARGET_LOGS

_Ahead = deque[tuple[BlockRange, asyncio.Task[tuple[Batch, float]]]]


class LogSource(Protocol):
    """The chain as far as logs go; errors are RpcErrors."""

    @property
    def span_cap(self) -> int | None:
        """Blocks a request that the provider that is asked first now takes."""

    @property
    def level(self) -> Proof:
        """The level of proof in force."""

    async def fetch(self, wanted: BlockRange, addresses: Sequence[bytes]) -> Batch:
        """All logs of a range that is final."""

    async def fetch_linked(self, wanted: BlockRange, addresses: Sequence[bytes]) -> Batch:
        """All logs of a range that may still change, with every header."""

    async def fetch_block(self, block: BlockRef, addresses: Sequence[bytes]) -> Batch:
        """All logs of exactly this block."""


@dataclass(slots=True)
class Fetcher:
    """Fetches for one worker. `final` is the newest final block as far as known; `span` adapts to refusals.

    `early` has a first long stretch begin with smaller ranges, so that there is something to write soon.
    """

    source: LogSource
    addresses: tuple[bytes, ...]
    max_concurrency: int
    span: SpanState
    final: int = -1
    early: bool = False

    async def batches(self, head: BlockRef, first: int, target: int) -> AsyncGenerator[Batch]:
        """Yield the batches from block `first` to `target` in order; final ones are fetched ahead of their turn.

        Raises RpcError; a ShrinkRange only where a single block was refused.
        """
        ahead: _Ahead = deque()
        following = first
        eighths = 8
        if self.early and target - first >= 8 * self._most():
            self.early, eighths = False, 1
        try:
            while following <= target or ahead:
                while (
                    following <= target
                    and len(ahead) < self._concurrency(following)
                    and _ready_logs(ahead) < _READY_LOGS
                ):
                    wanted = self._next_range(following, target, eighths)
                    eighths = min(8, 2 * eighths)
                    ahead.append((wanted, asyncio.create_task(self._fetch(wanted, head))))
                    following = wanted.to_block + 1
                wanted, task = ahead.popleft()
                try:
                    batch, duration_s = await task
                except ShrinkRange as refused:
                    if len(wanted) == 1:
                        raise  # there is nothing smaller to ask for
                    self._shrink(wanted, refused)
                    await _cancel(ahead)
                    following = wanted.from_block
                    continue
                except (Transport, Inconsistent):
                    # Each answer may fail: of many requests one always does, so that less has to be asked at a time.
                    self.span = after_failure(self.span, len(wanted))
                    raise
                self.span = after_success(self.span, len(wanted), len(batch.logs), duration_s)
                yield batch
        finally:
            await _cancel(ahead)

    def _concurrency(self, following: int) -> int:
        return self.max_concurrency if following <= self.final else 1

    def _next_range(self, first: int, target: int, eighths: int) -> BlockRange:
        """Take that much of what the span allows; a range is either all final or all above the finalized block."""
        last = min(target, first + max(1, self._most() * eighths // 8) - 1)
        if first <= self.final:
            return BlockRange(first, min(last, self.final))
        return BlockRange(first, min(last, first + LINKED_BLOCKS - 1))

    def _most(self) -> int:
        """Count the blocks of the next request; a rule of one provider binds only while it is the one that is asked."""
        span = min(self.span.span, self.source.span_cap or self.span.span)
        return min(span, PROVEN_BLOCKS) if self.source.level == "receipts" else span

    def _shrink(self, wanted: BlockRange, refused: ShrinkRange) -> None:
        self.span = after_refusal(self.span, refused.refusal(wanted))
        log.info("range_shrunk", blocks=len(wanted), next_blocks=self.span.span, reason=str(refused))

    async def _fetch(self, wanted: BlockRange, head: BlockRef) -> tuple[Batch, float]:
        began = time.monotonic()
        if wanted == BlockRange(head.number, head.number):
            batch = await self.source.fetch_block(head, self.addresses)
        elif len(wanted) == 1 or wanted.to_block <= self.final:
            batch = await self.source.fetch(wanted, self.addresses)
        else:
            batch = await self.source.fetch_linked(wanted, self.addresses)
        return batch, time.monotonic() - began


async def one_ahead(
    batches: AsyncGenerator[Batch], work: Callable[[Batch], Awaitable[T]]
) -> AsyncGenerator[tuple[Batch, T]]:
    """Yield each batch with what `work` makes of it, which is done while the one before is in the consumer's hands.

    So one processor decodes while another writes. Errors come in the order of the batches.
    """

    async def step() -> tuple[Batch, T] | None:
        batch = await anext(batches, None)
        return None if batch is None else (batch, await work(batch))

    following = asyncio.create_task(step())
    try:
        while (done := await following) is not None:
            following = asyncio.create_task(step())
            yield done
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def _ready_logs(ahead: _Ahead) -> int:
    """Count the logs that were fetched, and are in nobody's hands yet."""
    ready = (task for _, task in ahead if task.done() and not task.cancelled() and task.exception() is None)
    return sum(len(task.result()[0].logs) for task in ready)


async def _cancel(ahead: _Ahead) -> None:
    """End the fetches that are not wanted any more, and take note of how they ended."""
    tasks = [task for _, task in ahead]
    ahead.clear()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
