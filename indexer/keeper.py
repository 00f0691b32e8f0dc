"""Keeps what is stored whole, beside the worker and under its lease: fills gaps, raises the proof level, audits.

Its faults are told and tried again; none of them stops the chain.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final, Protocol

import structlog

from indexer.around import NOT_TO_BE_HAD, Around
from indexer.chain.refusals import Inconsistent, MethodMissing, Pruned
from indexer.core.counters import ChainCounters
from indexer.core.coverage import Gap, Interval, is_below
from indexer.core.ranges import SpanState
from indexer.core.types import Batch, BlockRange, BlockRef, ChainId, Proof
from indexer.correcting import Correction, Judge, Slices, correct
from indexer.errors import IndexerError, Retryable
from indexer.fetching import LogSource
from indexer.store.chains import Standing
from indexer.store.slices import Slice, SliceMoved, Swapped, Unconfirmed

log = structlog.get_logger()

LOOK_EVERY_S: Final = 2.0
LONGEST_PAUSE_S: Final = 300.0
AUDIT_EVERY_S: Final = 20.0
AUDIT_BLOCKS: Final = 4  # at a time: a block each five seconds, whatever the chain's pace
NEIGHBOURS: Final = 16  # blocks on either side of one that was wrong: what keeps back one log keeps back more
# A provider that serves no receipts seldom begins to; asking again costs a request.
NO_RECEIPTS_REST_S: Final = 600.0
LONGEST_REST_S: Final = 86_400.0  # of the levels; each time that nothing got any better it is twice as long
_RAISED_AT_ONCE: Final = 1  # requests in flight: there is no hurry, and the head goes first
_OF_THE_BLOCKS: Final = (*NOT_TO_BE_HAD, SliceMoved, Unconfirmed)


class Source(LogSource, Judge, Protocol):
    """The chain as the keeper asks for it; errors are RpcErrors."""


class Coverage(Protocol):
    """What was fetched."""

    async def gaps(self, wanted: Proof) -> list[Gap]:
        """Return what was never fetched, then what is below the wanted level."""

    async def intervals(self) -> Mapping[bytes, Sequence[Interval]]:
        """Return what was fetched for each contract."""


class Bookkeeping(Protocol):
    """What is stored of the chain beside its rows."""

    async def standing(self, chain_id: int) -> Standing:
        """Where the chain stands."""


class Draw(Protocol):
    """Where the rows are."""

    async def draw(
        self, count: int, addresses: Sequence[bytes], proof: Proof, newest: int, random: Random
    ) -> list[int]:
        """At most `count` blocks at that level."""


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What to keep up.

    `proof` is the level that all blocks shall have; `announce_backfill` puts what fills a gap into the feed too.
    """

    chain_id: ChainId
    addresses: tuple[bytes, ...]
    proof: Proof
    max_concurrency: int
    announce_backfill: bool
    audit_every_s: float = AUDIT_EVERY_S
    look_every_s: float = LOOK_EVERY_S


@dataclass(slots=True)
class Keeper:
    """Keeps one chain whole until cancelled."""

    plan: Upkeep
    source: Source
    slices: Slices
    coverage: Coverage
    books: Bookkeeping
    positions: Draw
    counters: ChainCounters
    span: SpanState
    committed: Callable[[], None]
    random: Random = field(default_factory=Random)
    _failures: int = 0  # in a row
    _audit_at: float = 0.0
    _raise_at: float = 0.0
    _raised_to: int = -1  # blocks up to here do not get any better for now
    _raised: bool = False  # any since the last rest
    _rest_s: float = NO_RECEIPTS_REST_S / 2

    async def run(self) -> None:
        """Look again and again; a fault is told once, and makes the next look wait, longer each time."""
        self._audit_at = time.monotonic() + self.plan.audit_every_s
        while True:
            await asyncio.sleep(self._pause_s)
            try:
                await self._look()
            except IndexerError as error:
                self._failures += 1
                if self._failures == 1:
                    log.warning("keeper_failed", error=str(error))
            except Exception:
                self._failures += 1
                log.exception("keeper_failed")  # never a reason to stop indexing
            else:
                self._failures = 0

    async def _look(self) -> None:
        """Mend, and audit when it is time for it, whatever becomes of the mending. Raises as both do."""
        doubt = None
        try:
            await self.mend()
        except Retryable as error:
            doubt = error
        if time.monotonic() >= self._audit_at:
            self._audit_at = time.monotonic() + self.plan.audit_every_s
            await self.audit()
        if doubt is not None:
            raise doubt

    @property
    def _pause_s(self) -> float:
        return min(self.plan.look_every_s * 2.0 ** min(self._failures, 16), LONGEST_PAUSE_S)

    async def settle(self) -> None:
        """Mend until nothing is left that can be mended now. Raises as `mend` does."""
        while await self.mend():
            pass

    async def mend(self) -> bool:
        """Go through all gaps once; say whether any of them became smaller.

        Raises RpcError or StoreUnavailable; but what lies in single blocks, Unconfirmed and SliceMoved too, only where
        nothing else could be done either. What was filled stays.
        """
        worked, doubt = False, None
        for whole in await self.coverage.gaps(self.plan.proof):
            if whole.proof is not None and time.monotonic() < self._raise_at:
                break  # the rest are of this kind too
            if (gap := self._ours(whole)) is None:
                continue
            try:
                async for batch, done in self._filled(gap):
                    self._note(gap, batch, done)
                    worked = True
            except _OF_THE_BLOCKS as error:
                doubt = error
        else:
            if self._raised_to >= 0 and time.monotonic() >= self._raise_at:
                self._raised_to = -1
                self._rest()
        if doubt is not None and not worked:
            raise doubt
        return worked

    def _ours(self, gap: Gap) -> Gap | None:
        """Return of a gap what can be done: another instance may know of contracts that this one does not."""
        addresses = tuple(address for address in gap.addresses if address in self.plan.addresses)
        first = gap.range.from_block if gap.proof is None else max(gap.range.from_block, self._raised_to + 1)
        if not addresses or first > gap.range.to_block:
            return None
        return replace(gap, range=BlockRange(first, gap.range.to_block), addresses=addresses)

    def _rest(self) -> None:
        """Leave the levels as they are for a while; then go on behind what did not get any better, or anew."""
        self._rest_s = NO_RECEIPTS_REST_S if self._raised else min(2 * self._rest_s, LONGEST_REST_S)
        self._raised = False
        self._raise_at = time.monotonic() + self._rest_s

    async def _filled(self, gap: Gap) -> AsyncGenerator[tuple[Batch, Swapped]]:
        """Take in the blocks of a gap, slice by slice; those that cannot be are left out, and raised for at the end."""
        version = await self.slices.version()
        around, within = await self._around(gap)
        doubt: IndexerError | None = None
        try:
            async with aclosing(around.batches(within)) as batches:
                async for batch in batches:
                    if not self._is_better(gap, batch):
                        if gap.proof is not None and not is_below(gap.proof, self.source.level):
                            self._rest()
                            break
                        continue
                    fetched = Slice(batch, gap.addresses, version)
                    how = Correction(announce=self.plan.announce_backfill or gap.proof is not None)
                    try:
                        done = await correct(self.source, self.slices, fetched, how)
                    except (Unconfirmed, *NOT_TO_BE_HAD) as error:
                        doubt = error
                        continue
                    version = version.after(done)
                    yield batch, done
        finally:
            self.span = around.span
        if (doubt := doubt or around.doubt) is not None:
            raise doubt

    def _is_better(self, gap: Gap, batch: Batch) -> bool:
        """Say whether the batch has what the gap lacks; an odd block lowers the level of its own range alone."""
        if gap.proof is None or is_below(gap.proof, batch.proof):
            return True
        self._raised_to = batch.range.to_block
        return False

    async def _around(self, gap: Gap) -> tuple[Around, BlockRange]:
        """Return what fetches a gap's blocks, and which of them there are."""
        standing = await self.books.standing(self.plan.chain_id)
        concurrency = self.plan.max_concurrency if gap.proof is None else _RAISED_AT_ONCE
        head = BlockRef(standing.checkpoint_block, standing.checkpoint_hash or b"", b"", 0)
        around = Around(self.source, gap.addresses, concurrency, self.span, standing.proven_final, head)
        return around, BlockRange(gap.range.from_block, min(gap.range.to_block, standing.checkpoint_block))

    def _note(self, gap: Gap, batch: Batch, done: Swapped) -> None:
        bounds = {"from_block": batch.range.from_block, "to_block": batch.range.to_block}
        if gap.proof is None:
            self.counters.filled_blocks += len(batch.range)
            log.info("gap_filled", **bounds, contracts=len(gap.addresses), rows=len(done.changes), proof=batch.proof)
        else:
            self._raised = True
            log.info("proof_raised", **bounds, proof=batch.proof, changes=len(done.changes))
            self._repaired(bounds, done)
        if done.changes:
            self.committed()

    def _repaired(self, bounds: dict[str, int], done: Swapped) -> None:
        if done.changes:
            self.counters.repaired_logs += len(done.changes)
            self.counters.proof_mismatches += len({change.block_number for change in done.changes})
            log.warning("ledger_repaired", **bounds, changes=len(done.changes), agents=done.agents)

    # --- audit ------------------------------------------------------------------------------------------------------

    async def audit(self) -> list[int]:
        """Hold some random final blocks against their receipts; repair, and return, those that were wrong.

        Looks around each of them too. Does nothing where the settings want no proof, or nobody serves receipts.
        Where those that are served prove nothing, or old ones are gone, it is long until the next audit.
        """
        if self.plan.proof == "off":
            return []
        newest = (await self.books.standing(self.plan.chain_id)).proven_final
        drawn = await self.positions.draw(AUDIT_BLOCKS, self.plan.addresses, "logs", newest, self.random)
        try:
            wrong = await self._examine(drawn)
            near = {n for number in wrong for n in range(number - NEIGHBOURS, number + NEIGHBOURS + 1)}
            return wrong + await self._examine(sorted(n for n in near - {*drawn} if 0 <= n <= newest))
        except (MethodMissing, Inconsistent, Pruned) as error:
            self._audit_at = time.monotonic() + NO_RECEIPTS_REST_S
            if isinstance(error, MethodMissing):
                return []
            raise

    async def _examine(self, numbers: Sequence[int]) -> list[int]:
        wrong, doubt = [], None
        covered = await self.coverage.intervals()
        for start in range(0, len(numbers), AUDIT_BLOCKS):
            version = await self.slices.version()
            for block in await self.source.prove(numbers[start : start + AUDIT_BLOCKS], self.plan.addresses):
                number = block.ref.number
                batch = Batch(BlockRange(number, number), (block.ref,), block.logs, "receipts")
                fetched = Slice(batch, self._fetched_at(number, covered), version)
                # A block that is as it was keeps its level: single blocks would cut coverage into splinters.
                if not await self.slices.compare(fetched):
                    continue
                try:
                    done = await correct(self.source, self.slices, fetched, Correction(announce=True))
                except Unconfirmed as error:
                    doubt = error
                    continue
                version = version.after(done)
                self._repaired({"from_block": number, "to_block": number}, done)
                self.committed()
                wrong.append(number)
        if doubt is not None:
            raise doubt
        return wrong

    def _fetched_at(self, number: int, covered: Mapping[bytes, Sequence[Interval]]) -> tuple[bytes, ...]:
        """Return the contracts that a block was fetched for: of others it has nothing to be wrong."""
        return tuple(
            address
            for address in self.plan.addresses
            if any(one.range.from_block <= number <= one.range.to_block for one in covered.get(address, ()))
        )
