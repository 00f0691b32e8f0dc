"""The ranged `reindex`: blocks fetched again slice by slice, beside whoever writes the chain; resumable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Protocol

import structlog

from indexer.core.differences import Change
from indexer.core.ranges import SpanState
from indexer.core.types import Batch, BlockRef, RawLog
from indexer.correcting import Correction, Judge, Slices, correct
from indexer.errors import Retryable, SettingsError
from indexer.fetching import Fetcher, LogSource
from indexer.store.chains import Chains, Standing
from indexer.store.difference import WHOLE_ROW, Difference, shortened
from indexer.store.marks import Marks, ReindexMark
from indexer.store.slices import Slice, Swapped, Unconfirmed
from indexer.worker import Progress

log = structlog.get_logger()

MAX_LISTED: Final = 1000  # differences; the first ones tell what was wrong
PATIENCE_S: Final = 30.0  # of failures alone, after which a slice is given up
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0
_TELL_EVERY_S: Final = 5.0


class Source(LogSource, Judge, Protocol):
    """The chain as `reindex` asks for it; errors are RpcErrors."""


@dataclass(slots=True)
class Outcome:
    """What a reindex did. `next_block` is where to go on, None when all is done; `reason` says why it ended before.

    `resumed_at` is where it went on, if the same command was stopped before: what lies below was done then.
    `ancestor` is the block that a halted chain was rolled back to.
    """

    chain_id: int
    chain: str
    from_block: int
    to_block: int
    next_block: int | None = None
    reason: str | None = None
    resumed_at: int | None = None
    ancestor: int | None = None
    slices: int = 0
    logs_added: int = 0
    logs_removed: int = 0
    logs_replaced: int = 0
    agents: int = 0
    differences: list[Difference] = field(default_factory=list)
    truncated: bool = False

    def add(self, done: Swapped) -> None:
        """Count what one slice changed."""
        self.slices += 1
        self.agents += done.agents
        for change in done.changes:
            self.logs_added += change.stored is None
            self.logs_removed += change.fetched is None
            self.logs_replaced += change.stored is not None and change.fetched is not None
            for one in log_differences(change):
                if len(self.differences) < MAX_LISTED:
                    self.differences.append(one)
                else:
                    self.truncated = True

    @property
    def exit_code(self) -> int:
        """Return 1 where a slice could not be fetched whole, or confirmed."""
        return int(self.reason is not None)

    def document(self) -> dict[str, Any]:
        """Return what `reindex` prints; `go_on` is the command that does the rest."""
        shown = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "differences"}
        go_on = None
        if self.next_block is not None:
            go_on = f"erc8004-indexer reindex --chain {self.chain} --from {self.next_block} --to {self.to_block}"
        return {**shown, "go_on": go_on, "differences": [asdict(one) for one in self.differences]}


def log_differences(change: Change) -> Iterator[Difference]:
    """Tell a position's change by its columns, or by the whole row where one side has none."""
    key = f"block_number={change.block_number} log_index={change.log_index}"
    if change.stored is None or change.fetched is None:
        yield Difference("logs", key, WHOLE_ROW, _row(change.stored), _row(change.fetched))
        return
    for name in RawLog.__struct_fields__:
        stored, fetched = getattr(change.stored, name), getattr(change.fetched, name)
        if stored != fetched:
            yield Difference("logs", key, name, _shown(stored), _shown(fetched))


def _row(log_: RawLog | None) -> str | None:
    if log_ is None:
        return None
    return shortened(
        " ".join(f"{name}={_shown(getattr(log_, name))}" for name in ("address", "topics", "data", "tx_hash"))
    )


def _shown(value: object) -> str:
    match value:
        case bytes():
            return shortened(f"0x{value.hex()}")
        case tuple():
            return ",".join(_shown(one) for one in value)
        case _:
            return str(value)


@dataclass(slots=True)
class Reindex:
    """Fetches a range of one chain again and swaps in what differs."""

    source: Source
    slices: Slices
    books: Chains
    marks: Marks
    outcome: Outcome
    addresses: tuple[bytes, ...]
    max_concurrency: int
    span: SpanState
    progress: Progress
    patience_s: float = PATIENCE_S
    _began_at: int = 0
    _told: float = 0.0

    async def run(self, first: int, last: int | None) -> None:
        """Do the blocks from `first` to `last` (None: the checkpoint), or go on where the same command was stopped.

        What happened is in `outcome`, whatever ends this.
        """
        mark = await self._mark(first, last)
        standing = await self.books.standing(self.outcome.chain_id)
        self.outcome.to_block = standing.checkpoint_block if last is None else min(last, standing.checkpoint_block)
        self._began_at = self.progress.from_block = mark.next_block
        self._report(mark.next_block)
        failing_since: float | None = None
        pause_s = _FIRST_PAUSE_S
        while (at := self.outcome.next_block) is not None:
            try:
                await self._stretch(mark)
            except Unconfirmed as error:
                self.outcome.reason = (
                    f"{error}; another provider, or one that serves eth_getBlockReceipts, can confirm it"
                )
                return
            except Retryable as error:
                if self.outcome.next_block != at:
                    failing_since, pause_s = None, _FIRST_PAUSE_S
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since >= self.patience_s:
                    self.outcome.reason = str(error)
                    return
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        await self.marks.clear()

    async def _mark(self, first: int, last: int | None) -> ReindexMark:
        mark = await self.marks.read()
        if mark is not None and (mark.from_block, mark.to_block) == (first, last):
            self.outcome.resumed_at = mark.next_block
            log.info("reindex_resumed", from_block=mark.next_block)
            return mark
        return ReindexMark(first, last, first)

    async def _stretch(self, mark: ReindexMark) -> None:
        """Go on from `outcome.next_block` until the end, or the first fault."""
        version = await self.slices.version()
        standing = await self.books.standing(self.outcome.chain_id)
        last = min(self.outcome.to_block, standing.checkpoint_block)  # the daemon fetches what it rolls back anyway
        first = self.outcome.next_block
        if first is None or first > last:
            self.outcome.next_block = None
            return
        async with aclosing(self._fetcher(standing).batches(_head(standing), first, last)) as batches:
            async for batch in batches:
                following = batch.range.to_block + 1
                how = Correction(announce=True, mark=ReindexMark(mark.from_block, mark.to_block, following))
                done = await correct(self.source, self.slices, Slice(batch, self.addresses, version), how)
                version = version.after(done)
                self.outcome.add(done)
                self._report(following)
                self._tell(batch, done)

    def _fetcher(self, standing: Standing) -> Fetcher:
        return Fetcher(self.source, self.addresses, self.max_concurrency, self.span, standing.proven_final)

    def _report(self, following: int) -> None:
        self.outcome.next_block = following if following <= self.outcome.to_block else None
        self.progress.checkpoint, self.progress.target = following - 1, self.outcome.to_block

    def _tell(self, batch: Batch, done: Swapped) -> None:
        """Tell of each slice that changed something, and of others now and then."""
        now = time.monotonic()
        if not done.changes and now - self._told < _TELL_EVERY_S and self.outcome.next_block is not None:
            return
        self._told = now
        blocks = batch.range.to_block + 1 - self._began_at
        rate = blocks / max(now - self.progress.started, 1e-3)
        log.info(
            "range_reindexed",
            from_block=batch.range.from_block,
            to_block=batch.range.to_block,
            changes=len(done.changes),
            proof=batch.proof,
            blocks_per_second=round(rate, 1),
            seconds_left=round((self.outcome.to_block - batch.range.to_block) / rate, 1),
        )


def _head(standing: Standing) -> BlockRef:
    """Return the checkpoint as the newest block of all: whatever lies above it is not asked for."""
    return BlockRef(standing.checkpoint_block, standing.checkpoint_hash or b"", b"", 0)


def first_block(asked: int | None, standing: Standing) -> int:
    """Return where to begin, never below the chain's first block.

    Raises SettingsError above the checkpoint, where nothing is stored yet.
    """
    first = standing.start_block if asked is None else max(asked, standing.start_block)
    if first > standing.checkpoint_block:
        raise SettingsError(
            f"--from: block {first} is not indexed yet; the checkpoint is at block {standing.checkpoint_block}"
        )
    return first
