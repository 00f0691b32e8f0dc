"""The loop of one chain: ask the head, fetch what is missing, decide how it joins, decode, commit; or roll back.

Everything it believes is read from the database at the start, so that an error may end it anywhere: the next one goes
on from the last commit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, assert_never

import structlog

from indexer.apart import Apart
from indexer.chain.refusals import Inconsistent, OtherBranch
from indexer.chain.source import Tip
from indexer.core.counters import ChainCounters
from indexer.core.ranges import SpanState
from indexer.core.reorg import BeyondFinality, Extend, FetchOlder, Rollback, Stale, decide
from indexer.core.rows import RowBuilder
from indexer.core.types import Batch, BlockRef, ChainId
from indexer.errors import BeyondFinality as BeyondFinalityError
from indexer.errors import RpcError
from indexer.fetching import Fetcher, LogSource, one_ahead
from indexer.store.chains import Standing
from indexer.store.encoding import Encoded
from indexer.store.writer import Committed, RolledBack, State

log = structlog.get_logger()

# How many held headers are asked for at a time when the ancestor of a reorg is looked for.
_ANCESTOR_CHUNK: Final = 64
# While a backfill runs, the head is looked at this often: `status` shows the true lag, and life.
_LOOK_UP_EVERY_S: Final = 5.0
# So many are worth a process that decodes.
_BACKFILL_BLOCKS: Final = 2_000
# Faults in a row that are borne before the chain's task is begun anew; with the pauses about 6 s.
_BORNE_FAULTS: Final = 4
_FAULT_PAUSE_S: Final = 0.2
# What a provider said longer ago than that says nothing of the head any more.
_HEARD_LATELY_S: Final = 60.0
_BELIEVED: Final = frozenset({"ok", "behind"})  # states of providers of this chain


class Bell(Protocol):
    """Rings when there may be a new head."""

    async def wait(self, timeout_s: float) -> bool:
        """Return at a ring, or after the time."""


class Source(LogSource, Protocol):
    """The chain as the worker asks for it; errors are RpcErrors."""

    @property
    def bell(self) -> Bell:
        """What tells of new heads sooner than the next poll."""

    async def tip(self) -> Tip:
        """Newest and final block."""

    async def blocks(self, numbers: Sequence[int], *, elsewhere: bool = False) -> tuple[BlockRef, ...]:
        """Canonical headers of ascending numbers; `elsewhere` asks another provider where there is one."""

    def hold_to(self, block: BlockRef | None) -> None:
        """Hear only providers that have this final block."""

    @property
    def is_on_other_branch(self) -> bool:
        """Say whether every provider has another one in its place."""

    def figures(self) -> list[dict[str, object]]:
        """Tell what is known of each provider: `requests` sent, `head`, and its `state` and age in `heard_s`."""

    @property
    def mismatches(self) -> int:
        """Count the blocks whose logs were other ones than a provider had said first."""


class Sink(Protocol):
    """Where batches go: all of one, or nothing."""

    async def commit(
        self,
        batch: Batch,
        rows: Encoded,
        *,
        parent: bytes | None,
        state: State,
        announce: bool,
        finalized: int | None,
        durable: bool,
    ) -> Committed:
        """Append what begins right above the checkpoint; without `durable` a crash of the server may take it back."""

    async def rollback(self, ancestor: BlockRef) -> RolledBack:
        """Take back what is above the ancestor."""

    async def halt(self, reason: str) -> None:
        """Stop the chain until an operator has looked."""


class Bookkeeping(Protocol):
    """What is stored of the chain beside its rows."""

    async def standing(self, chain_id: int) -> Standing:
        """Where the chain stands."""

    async def observe(
        self,
        chain_id: int,
        head: BlockRef,
        finalized: int | None,
        providers: Sequence[object],
        *,
        keeps_up: bool = True,
        durable: bool = True,
    ) -> int | None:
        """Store what the nodes say, and whether we keep up; the highest finalized block ever seen comes back.

        Not `durable`: a crash of the server may take it back, though no row that came later stays without it.
        """


@dataclass(frozen=True, slots=True)
class Plan:
    """How to index one chain. `finality_blocks` wins over the tag; `default_finality_blocks` stands in for it.

    So it does where no provider tells of finality, or none that can be believed.
    """

    chain_id: ChainId
    name: str
    addresses: tuple[bytes, ...]
    finality_blocks: int | None
    default_finality_blocks: int
    poll_interval_s: float
    max_concurrency: int
    announce_backfill: bool
    until: int | Literal["head"] | None = None


@dataclass(slots=True)
class Progress:
    """What one run did; for `run --json` and the progress bar. Blocks are inclusive, -1 before the first."""

    from_block: int = -1
    checkpoint: int = -1
    block_hash: bytes | None = None
    target: int = -1
    started: float = field(default_factory=time.monotonic)
    finished: float | None = None


@dataclass(slots=True)
class Worker:
    """Indexes one chain until cancelled, until `plan.until`, or until it shall `leave` it, between two batches.

    `gets_on` hears of each commit, and of each look that finds nothing to commit; `committed` of each change alone.
    """

    plan: Plan
    source: Source
    sink: Sink
    books: Bookkeeping
    builder: RowBuilder
    counters: ChainCounters
    progress: Progress
    span: SpanState
    gets_on: Callable[[], None]
    committed: Callable[[], None]
    leave: Callable[[], bool] = lambda: False
    apart: Apart = field(default_factory=lambda: Apart(enabled=False))
    _held: list[BlockRef] = field(default_factory=list)
    _start_block: int = 0
    _checkpoint: int = -1
    _checkpoint_hash: bytes | None = None
    _proven_final: int = -1
    _live: bool = False
    _looked_up: float = 0.0
    _highest: int = -1  # head of any provider
    _faults: int = 0  # of providers, in a row
    _mismatches: int = 0  # counted already
    _fetcher: Fetcher = field(init=False)

    def __post_init__(self) -> None:
        """Build the part that fetches ahead, and begin to count."""
        self._mismatches = self.source.mismatches
        self._fetcher = Fetcher(self.source, self.plan.addresses, self.plan.max_concurrency, self.span, early=True)

    @property
    def learned_span(self) -> SpanState:
        """What refusals and faults taught of the right span."""
        return self._fetcher.span

    async def run(self) -> None:
        """Follow the chain. Raises RpcError, StoreUnavailable, LeaseLost or BeyondFinality; nothing is half done."""
        await self._load()
        try:
            await self._follow()
        except OtherBranch:
            if not (self._held and self.source.is_on_other_branch):
                raise
            raise await self._halted(self._proven_final) from None
        self.progress.finished = time.monotonic()

    async def _follow(self) -> None:
        tip = await self._look_up()
        if self._held:
            await self._reconcile(tip)
        elif (final := min(self._fetcher.final, tip.head.number)) >= 0:
            # Whoever answers first says which network it is.
            self.source.hold_to((await self.source.blocks([final]))[0])
        while not self._done(tip) and not self.leave():
            moved = await self._advance_patiently(tip)
            if moved or self._keeps_up(tip):
                self.gets_on()
            if not moved and not self._done(tip):
                await self.source.bell.wait(self.plan.poll_interval_s)
            tip = await self._look_up()

    async def _advance_patiently(self, tip: Tip) -> bool:
        """Advance; bear a few faults of providers in a row, so that a passing one does not cost the lease."""
        before = self._checkpoint
        try:
            moved = await self._advance(tip)
        except OtherBranch:
            raise
        except RpcError as error:
            self._faults = 1 if self._checkpoint != before else self._faults + 1
            if self._faults > _BORNE_FAULTS:
                raise
            log.info("advance_failed", error=str(error))
            await asyncio.sleep(_FAULT_PAUSE_S * 2.0**self._faults)
            return self._checkpoint != before
        self._faults = 0
        return moved

    def _keeps_up(self, tip: Tip) -> bool:
        """Say whether there is nothing to commit, whichever provider one asks (faults F16, F17)."""
        return self._checkpoint >= max(tip.head.number, self._highest)

    async def _load(self) -> None:
        standing = await self.books.standing(self.plan.chain_id)
        if standing.halt_reason is not None:
            raise BeyondFinalityError(standing.halt_reason)
        self._held = list(standing.held)
        self._checkpoint = standing.checkpoint_block
        self._checkpoint_hash = standing.checkpoint_hash
        self._start_block = standing.start_block
        self._proven_final = standing.proven_final
        self._live = standing.was_live
        self._anchor()
        if self.progress.from_block < 0:
            self.progress.from_block = self._checkpoint + 1
        self._report()

    async def _look_up(self) -> Tip:
        """Ask for the head and keep what is said of it. The finalized block never goes down."""
        tip = await self.source.tip()
        said = self._finalized_by(tip)
        providers = self.source.figures()
        self.counters.rpc_requests = sum(int(str(one["requests"])) for one in providers)
        self._count_mismatches()
        self._highest = max(map(_lately_heard, providers), default=-1)
        known = await self.books.observe(
            self.plan.chain_id,
            tip.head,
            said if said >= 0 else None,
            providers,
            keeps_up=self._keeps_up(tip),
            durable=said > self._fetcher.final,  # that one never goes down; the rest is said again at the next look
        )
        self._fetcher.final = said if known is None else known
        self._looked_up = time.monotonic()
        if self.progress.target < 0 or self.plan.until is None:
            self.progress.target = self._target(tip)
        return tip

    def _count_mismatches(self) -> None:
        """Add those of this worker's time; the keeper counts what it finds itself."""
        self.counters.proof_mismatches += self.source.mismatches - self._mismatches
        self._mismatches = self.source.mismatches

    def _finalized_by(self, tip: Tip) -> int:
        if self.plan.finality_blocks is not None:
            return max(tip.head.number - self.plan.finality_blocks, -1)
        if tip.finalized is not None:
            return tip.finalized
        return max(tip.head.number - self.plan.default_finality_blocks, -1)

    def _target(self, tip: Tip) -> int:
        until = self.plan.until
        return min(tip.head.number, until) if isinstance(until, int) else tip.head.number

    def _done(self, tip: Tip) -> bool:
        match self.plan.until:
            case None:
                return False
            case "head":
                # The head of the first look; after a reorg to a shorter chain, the head there is now.
                return self._checkpoint >= min(self.progress.target, tip.head.number)
            case int(block):
                return self._checkpoint >= block
            case other:
                assert_never(other)

    async def _advance(self, tip: Tip) -> bool:
        """Take the chain up to the tip, or find out that it was reorganised. Says whether anything was written."""
        target = self._target(tip)
        if target <= self._checkpoint:
            return await self._check_held(tip)
        if self._became_final_unseen() and await self._reconcile(tip):
            return True
        before = self._checkpoint
        if target - before >= _BACKFILL_BLOCKS:
            self.apart.warm()
        async with (
            aclosing(self._fetcher.batches(tip.head, self._checkpoint + 1, target)) as batches,
            aclosing(one_ahead(batches, self._rows)) as built,
        ):
            async for batch, rows in built:
                if not await self._join(batch, rows, tip):
                    break
        return self._checkpoint != before

    async def _rows(self, batch: Batch) -> Encoded:
        return await self.apart.rows(self.builder, batch.logs)

    def _became_final_unseen(self) -> bool:
        """Say whether what follows is final, and so fetched without links, while our newest blocks are unproven."""
        return self._checkpoint > self._proven_final and self._checkpoint + 1 <= self._fetcher.final

    async def _check_held(self, tip: Tip) -> bool:
        """No new block: then our blocks are either still there, or were replaced at the same height."""
        held = next((block for block in reversed(self._held) if block.number == tip.head.number), None)
        if held is None or held.hash == tip.head.hash:
            return False
        return await self._reconcile(tip)

    # --- joining ----------------------------------------------------------------------------------------------------

    async def _join(self, batch: Batch, rows: Encoded, tip: Tip) -> bool:
        """Commit a batch that continues what is held; say whether the next one may follow without another look."""
        first = batch.blocks[0]
        if first.number == self._checkpoint + 1 and first.parent_hash != (self._checkpoint_hash or first.parent_hash):
            if not await self._reconcile(tip):
                # A branch that was left meanwhile, or a lie: no progress either way, which the watchdog sees.
                log.warning("batch_refused", from_block=first.number, checkpoint_block=self._checkpoint)
            return False
        await self._commit(batch, rows, tip)
        if time.monotonic() - self._looked_up > _LOOK_UP_EVERY_S:
            await self._look_up()
        return not self._became_final_unseen() and not self.leave()

    async def _commit(self, batch: Batch, rows: Encoded, tip: Tip) -> None:
        began = time.monotonic()
        reached = batch.range.to_block >= tip.head.number
        announce = self._live or self.plan.announce_backfill
        done = await self.sink.commit(
            batch,
            rows,
            parent=self._checkpoint_hash,
            state="live" if reached or self._live else "backfilling",
            announce=announce,
            finalized=self._fetcher.final,
            durable=announce or batch.range.to_block >= self._target(tip),  # a backfill goes on from wherever it is
        )
        self._live = self._live or reached
        last = batch.blocks[-1]
        self._checkpoint, self._checkpoint_hash = last.number, last.hash
        self._remember(batch.blocks)
        self.counters.logs += done.logs
        self.counters.batches += 1
        self._report()
        self.gets_on()
        self.committed()
        self._tell(batch, rows, done, began)

    def _tell(self, batch: Batch, rows: Encoded, done: Committed, began: float) -> None:
        say = log.info if done.logs or len(batch.range) > 1 else log.debug
        say(
            "batch_committed",
            from_block=batch.range.from_block,
            to_block=batch.range.to_block,
            rows=done.logs,
            duration_ms=round((time.monotonic() - began) * 1000),
        )
        if rows.undecoded is not None:
            block_number, why = rows.undecoded
            log.warning("log_undecodable", count=done.undecodable, block_number=block_number, why=why)

    def _remember(self, blocks: Sequence[BlockRef]) -> None:
        """Hold the headers as the store does: those that may change, and the newest that is final."""
        final = self._fetcher.final
        self._held += [block for block in blocks[:-1] if block.number >= final] + [blocks[-1]]
        self._proven_final = max(self._proven_final, min(final, self._checkpoint))
        anchor = max((block.number for block in self._held if block.number <= final), default=-1)
        self._held = [block for block in self._held if block.number >= anchor]
        self._anchor()

    def _anchor(self) -> None:
        """Hold the providers to the newest block that is final and proven."""
        final = self._held[0] if self._held and self._held[0].number <= self._proven_final else None
        self.source.hold_to(final)

    def _report(self) -> None:
        self.progress.checkpoint = self._checkpoint
        self.progress.block_hash = self._checkpoint_hash

    # --- reorgs -----------------------------------------------------------------------------------------------------

    async def _reconcile(self, tip: Tip) -> bool:
        """Hold our headers against the chain's, read anew; roll back to the ancestor where they differ.

        Says whether rows were taken back. A node that is behind proves nothing (fault F4).
        """
        fetched: list[BlockRef] = []
        below = tip.head.number + 1
        while True:
            asked = [block.number for block in self._held if block.number < below][-_ANCESTOR_CHUNK:]
            if not asked and self._proven_final >= 0 and below > self._proven_final:
                asked = [self._proven_final]
            if not asked:
                # Nothing of ours is on the chain, and nothing of it was ever final: begin anew.
                if fetched:
                    await self._confirm(fetched, tip)
                    await self._roll_back(self._before_start())
                return bool(fetched)
            fetched = [*await self.source.blocks(asked), *fetched]
            match decide(self._held, fetched, self._proven_final):
                case Extend() | Stale():
                    if tip.head.number >= self._checkpoint:
                        self._proven_final = max(self._proven_final, min(self._fetcher.final, self._checkpoint))
                    return False
                case Rollback(to=ancestor):
                    await self._confirm(fetched, tip)
                    await self._roll_back(ancestor)
                    return True
                case BeyondFinality(finalized_block=final):
                    await self._confirm(fetched, tip)
                    raise await self._halted(final)
                case FetchOlder():
                    below = asked[0]
                case other:
                    assert_never(other)

    async def _confirm(self, fetched: Sequence[BlockRef], tip: Tip) -> None:
        """Read the lowest block that differs once more, best elsewhere: one answer takes nothing back (fault F4).

        Asked together with the head, so that a node that is behind is heard only where no other is; but whoever is
        ahead has no say alone. Raises Inconsistent where they differ.
        """
        held = {block.number: block.hash for block in self._held}
        changed = next(block for block in fetched if held.get(block.number, block.hash) != block.hash)
        numbers = sorted({changed.number, tip.head.number})
        again = {block.number: block.hash for block in await self.source.blocks(numbers, elsewhere=True)}
        if again[changed.number] != changed.hash:
            raise Inconsistent("", f"block {changed.number} has two hashes in two answers")

    async def _roll_back(self, ancestor: BlockRef) -> None:
        if ancestor.number < self._start_block:
            ancestor = self._before_start()
        depth = self._checkpoint - ancestor.number
        log.warning("reorg_detected", ancestor=ancestor.number, depth=depth)
        done = await self.sink.rollback(ancestor)
        self._held = [block for block in self._held if block.number <= ancestor.number]
        if not self._held and ancestor.hash:
            self._held = [ancestor]
        self._checkpoint, self._checkpoint_hash = ancestor.number, ancestor.hash or None
        self.counters.reorgs += 1
        self.counters.reverted_logs += done.logs
        self._report()
        self.committed()
        log.info("rollback_committed", ancestor=ancestor.number, depth=depth, rows=done.logs, agents=done.agents)

    def _before_start(self) -> BlockRef:
        """Stand for the block below the first: it has no hash of ours that could be wrong."""
        return BlockRef(self._start_block - 1, b"", b"", 0)

    async def _halted(self, block_number: int) -> BeyondFinalityError:
        reason = (
            f"{self.plan.name}: the chain was reorganised below its finalized block {block_number}; "
            "nothing more is written for it until its providers have been checked and an operator runs "
            f"`erc8004-indexer reindex --chain {self.plan.name}`"
        )
        await self.sink.halt(reason)
        return BeyondFinalityError(reason)


def _lately_heard(provider: Mapping[str, object]) -> int:
    """Return the head of a provider that speaks of this chain; -1 where it says nothing of it now."""
    head, heard_s = provider.get("head"), provider.get("heard_s")
    is_late = not isinstance(heard_s, (int, float)) or heard_s > _HEARD_LATELY_S
    return head if isinstance(head, int) and not is_late and provider.get("state") in _BELIEVED else -1
