"""Fetch a stretch around what nobody can serve of it: history that was pruned, or a block that stays inconsistent."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from indexer.chain.refusals import Inconsistent, MethodMissing, PastHead, ProviderError, Pruned, ShrinkRange
from indexer.core.ranges import SpanState, after_failure
from indexer.core.types import Batch, BlockRange, BlockRef
from indexer.fetching import Fetcher, LogSource

NOT_TO_BE_HAD: Final = (Inconsistent, MethodMissing, PastHead, Pruned, ShrinkRange)
"""Faults that lie in the blocks asked for: others may be had all the same."""


@dataclass(slots=True)
class Around:
    """Fetches what can be had; `doubt` is why some could not, None where all could. `span` adapts as in a `Fetcher`."""

    source: LogSource
    addresses: tuple[bytes, ...]
    max_concurrency: int
    span: SpanState
    final: int
    head: BlockRef
    doubt: ProviderError | None = None

    async def batches(self, within: BlockRange) -> AsyncGenerator[Batch]:
        """Yield the batches of these blocks in order. Raises RpcError where it is not for single blocks' sake."""
        following = within.from_block
        while following <= within.to_block:
            fetcher = Fetcher(self.source, self.addresses, self.max_concurrency, self.span, self.final)
            try:
                async with aclosing(fetcher.batches(self.head, following, within.to_block)) as batches:
                    async for batch in batches:
                        self.span = fetcher.span
                        following = batch.range.to_block + 1
                        yield batch
            except NOT_TO_BE_HAD as error:
                self.doubt, self.span = error, fetcher.span
                following = await self._behind(error, following, within.to_block)

    async def _behind(self, error: ProviderError, failing: int, last: int) -> int:
        """Return where to go on: at the same block with fewer at a time, or behind those that are not to be had.

        These are taken to lie together: their end is sought in steps that double, then halve.
        """
        asked = min(self.span.span, last + 1 - failing)
        if asked > 1 and not isinstance(error, Pruned):
            self.span = after_failure(self.span, asked)
            return failing
        step = 1
        while failing < last and not await self._is_there(sought := min(failing + step, last)):
            failing, step = sought, 2 * step
        if failing >= last:
            return last + 1
        while sought - failing > 1:
            middle = (failing + sought) // 2
            if await self._is_there(middle):
                sought = middle
            else:
                failing = middle
        return sought

    async def _is_there(self, number: int) -> bool:
        try:
            await self.source.fetch(BlockRange(number, number), self.addresses)
        except NOT_TO_BE_HAD:
            return False
        return True
