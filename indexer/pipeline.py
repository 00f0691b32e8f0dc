"""One chain of the daemon: its source, worker and keeper, as its supervisor begins them again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from indexer.apart import Apart
from indexer.chain.source import Source
from indexer.core.counters import ChainCounters
from indexer.core.ranges import SpanState, start_span
from indexer.core.rows import RowBuilder
from indexer.core.types import ChainId
from indexer.errors import RpcError
from indexer.keeper import Keeper, Upkeep
from indexer.publisher import Publisher
from indexer.settings import ChainSettings, Settings
from indexer.store.chains import Chains
from indexer.store.coverage import Coverage
from indexer.store.database import Database
from indexer.store.leases import Lease
from indexer.store.positions import Positions
from indexer.store.slices import Slices, Unconfirmed
from indexer.store.writer import Writer
from indexer.supervisor import Supervisor
from indexer.worker import Plan, Progress, Worker

log = structlog.get_logger()


@dataclass(slots=True)
class Pipeline:
    """What indexes one chain. `leased` are the leases that this process holds, by chain; others read it."""

    chain: ChainSettings
    settings: Settings
    source: Source
    database: Database
    builder: RowBuilder
    publisher: Publisher
    migrate: Callable[[], Awaitable[None]]
    until: str | int | None
    leased: dict[int, Lease]
    apart: Apart
    counters: ChainCounters = field(init=False)
    progress: Progress = field(default_factory=Progress)
    _span: SpanState = field(init=False)  # what one attempt learned, the next one knows
    _admitted: bool = False

    def __post_init__(self) -> None:
        """Begin to count."""
        self._span = start_span(self.chain.max_block_range or self.chain.range_hint)
        self.counters = ChainCounters(ChainId(self.chain.id), self.chain.name, wanted_proof=self.chain.proof)

    @property
    def addresses(self) -> tuple[bytes, ...]:
        """Every contract of the chain, each once."""
        return tuple(dict.fromkeys(address for one in self.chain.deployments for address in one.addresses))

    async def ready(self) -> None:
        """Make sure of schema, chain and providers. Raises SettingsError for what cannot work, else Retryable."""
        await self.migrate()
        books = Chains(self.database)
        await books.prepare(
            self.chain.id,
            self.chain.name,
            self.chain.deployments,
            proof=self.chain.proof,
            max_lag_s=self.settings.max_lag_s,
            stall_after_s=self.settings.stall_after_s,
        )
        if self._admitted:
            return
        self.source.remember(await books.learned(self.chain.id))
        await self.source.check_chain(self.chain.id)
        await books.warn(self.chain.id, await self._warnings())
        self._admitted = True
        log.info("chain_started", start_block=self.chain.start_block)

    async def _warnings(self) -> list[str]:
        """Look whether a contract lives at each configured address; a typing error in one is silent otherwise."""
        warnings = []
        for address in self.addresses:
            try:
                found = await self.source.has_code(address)
            except RpcError as error:  # logs can be had without it
                log.info("code_unknown", address=address, error=str(error))
                continue
            if not found:
                warnings.append(f"no code at 0x{address.hex()}")
                log.warning("code_missing", address=address)
        return warnings

    async def work(self, supervisor: Supervisor, lease: Lease, leave: Callable[[], bool]) -> None:
        """Index under the lease until `until`, or until it is time to `leave`; keep up beside it what is stored."""
        self.leased[self.chain.id] = lease
        keeper = self._keeper(lease)
        keeping = None
        try:
            if self.until is None:
                keeping = asyncio.create_task(keeper.run(), name=f"keeper {self.chain.name}")
            worker = self._worker(supervisor, lease, leave)
            try:
                await worker.run()
            finally:
                self._span = worker.learned_span
            if self.until is not None:
                supervisor.watch.pause()  # it takes its time, and no batch is due
                await self._settle(keeper)
        finally:
            if self.leased.get(self.chain.id) is lease:
                del self.leased[self.chain.id]
            if keeping is not None:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)

    async def _settle(self, keeper: Keeper) -> None:
        """Fill what can be filled; what nobody confirms stays as it is, and `status` tells of it."""
        try:
            await keeper.settle()
        except Unconfirmed as error:
            log.warning("keeper_failed", error=str(error))

    def _worker(self, supervisor: Supervisor, lease: Lease, leave: Callable[[], bool]) -> Worker:
        return Worker(
            self._plan(),
            self.source,
            Writer(self.database, lease, self.addresses),
            Chains(self.database),
            self.builder,
            self.counters,
            self.progress,
            self._span,
            supervisor.gets_on,
            self._poke,
            leave,
            self.apart,
        )

    def _keeper(self, lease: Lease) -> Keeper:
        plan = Upkeep(
            ChainId(self.chain.id),
            self.addresses,
            self.chain.proof,
            self.chain.max_concurrency,
            self.settings.publish_backfill,
        )
        return Keeper(
            plan,
            self.source,
            Slices(self.database, self.chain.id, self.builder, lease),
            Coverage(self.database, self.chain.id),
            Chains(self.database),
            Positions(self.database, self.chain.id),
            self.counters,
            start_span(self.chain.max_block_range or self.chain.range_hint),
            self._poke,
        )

    def _poke(self) -> None:
        self.publisher.poke(self.chain.id)

    def _plan(self) -> Plan:
        until = self.until
        return Plan(
            chain_id=ChainId(self.chain.id),
            name=self.chain.name,
            addresses=self.addresses,
            finality_blocks=self.chain.finality_blocks,
            default_finality_blocks=self.chain.default_finality_blocks,
            poll_interval_s=self.chain.poll_interval_s,
            max_concurrency=self.chain.max_concurrency,
            announce_backfill=self.settings.publish_backfill,
            until=until if until is None or isinstance(until, int) else "head",
        )

    def document(self, halted: str | None) -> dict[str, Any]:
        """Return what `run --json` prints of the chain."""
        seconds = (self.progress.finished or time.monotonic()) - self.progress.started
        return {
            "chain_id": self.chain.id,
            "name": self.chain.name,
            "from_block": self.progress.from_block,
            "to_block": self.progress.checkpoint,
            "block_hash": None if self.progress.block_hash is None else f"0x{self.progress.block_hash.hex()}",
            "logs": self.counters.logs,
            "seconds": round(seconds, 3),
            "logs_per_second": round(self.counters.logs / seconds, 1) if seconds > 0 else 0.0,
            "reorgs": self.counters.reorgs,
            "halted": halted,
        }
