"""The daemon: a supervised worker for each chain, the publisher, housekeeping and HTTP, as one thing that runs."""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog

from indexer.chain.source import Source
from indexer.core.counters import ChainCounters
from indexer.core.decode import Decoder
from indexer.core.ranges import start_span
from indexer.core.rows import RowBuilder
from indexer.core.types import ChainId
from indexer.errors import Retryable, RpcError
from indexer.http.server import HttpServer
from indexer.publisher import Publisher
from indexer.services import database_url, http_file, left_in_file, load_decoder, open_source, open_valkey
from indexer.settings import ChainSettings, Settings
from indexer.store.chains import Chains
from indexer.store.database import Database
from indexer.store.leases import Lease, Leases
from indexer.store.migrations import migrate_database
from indexer.store.reader import StatusDocument, read_status
from indexer.store.writer import Writer
from indexer.supervisor import End, Supervisor
from indexer.worker import Plan, Progress, Worker

if TYPE_CHECKING:
    pass

log = structlog.get_logger()

_PRUNE_EVERY_S: Final = 600.0
_TELL_EVERY_S: Final = 3.0
_PUBLISH_AGAIN_S: Final = 5.0
_LOOK_AGAIN_S: Final = 0.1
_CANCEL_AGAIN_S: Final = 3.0


@dataclass(slots=True)
class Daemon:
    """Everything that runs for the sake of `run`."""

    settings: Settings
    database: Database
    publisher: Publisher
    until: str | int | None
    leased: set[int]  # chains that this instance writes now, and so publishes
    supervisors: list[Supervisor] = field(default_factory=list)
    by_chain: dict[int, ChainCounters] = field(default_factory=dict)
    progress: dict[str, Progress] = field(default_factory=dict)
    _migrating: asyncio.Lock = field(default_factory=asyncio.Lock)
    _migrated: bool = False

    @classmethod
    async def open(cls, stack: AsyncExitStack, settings: Settings, *, until: str | int | None, no_wait: bool) -> Daemon:
        """Build all parts; nothing is asked of a chain yet."""
        log.info("settings_loaded", chains=[chain.name for chain in settings.chains])
        address = await stack.enter_async_context(database_url(settings))
        valkey_address = await stack.enter_async_context(open_valkey(settings))
        database = await Database.open(address, size=settings.pool_size)
        stack.push_async_callback(database.close)
        leased: set[int] = set()
        publisher = await stack.enter_async_context(
            Publisher(database, valkey_address, chain_ids=lambda: sorted(leased), stream_maxlen=settings.stream_maxlen)
        )
        with suppress(Retryable):  # Valkey may be away: indexing goes on
            await publisher.check()
        daemon = cls(settings, database, publisher, until, leased)
        leases = Leases(database, f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}")
        decoder = load_decoder()
        for chain in settings.chains:
            source = await stack.enter_async_context(open_source(chain))
            daemon.supervisors.append(daemon._supervise(chain, source, leases, decoder, wait=not no_wait))
        if settings.http_bind is not None:
            server = await stack.enter_async_context(HttpServer(settings.http_bind, daemon))
            daemon._announce_http(stack, server)
        return daemon

    def _announce_http(self, stack: AsyncExitStack, server: HttpServer) -> None:
        log.info("http_started", host=server.address[0], port=server.address[1])
        if self.settings.http_bind is not None and self.settings.http_bind[1] == 0:
            stack.enter_context(left_in_file(http_file(self.settings), server.url))

    def _supervise(
        self, chain: ChainSettings, source: Source, leases: Leases, decoder: Decoder, *, wait: bool
    ) -> Supervisor:
        counters = self.by_chain[chain.id] = ChainCounters(ChainId(chain.id), chain.name)
        progress = self.progress[chain.name] = Progress()
        supervisor = Supervisor(
            chain.id, chain.name, leases, self._readier(chain, source), _unset, wait=wait, retry=self.until is None
        )
        builder = RowBuilder(ChainId(chain.id), chain.deployments, decoder)
        addresses = tuple(dict.fromkeys(address for one in chain.deployments for address in one.addresses))
        plan = _plan(chain, addresses, self.settings, self.until)

        async def work(lease: Lease) -> None:
            worker = Worker(
                plan,
                source,
                Writer(self.database, lease, addresses),
                Chains(self.database),
                builder,
                counters,
                progress,
                start_span(chain.max_block_range or chain.range_hint),
                supervisor.trouble.end,
                lambda: self.publisher.poke(chain.id),
            )
            self.leased.add(chain.id)
            try:
                await worker.run()
            finally:
                self.leased.discard(chain.id)

        supervisor.work = work
        return supervisor

    def _readier(self, chain: ChainSettings, source: Source) -> Callable[[], Awaitable[None]]:
        admitted = False

        async def ready() -> None:
            nonlocal admitted
            await self._migrate()
            books = Chains(self.database)
            await books.prepare(
                chain.id,
                chain.name,
                chain.deployments,
                proof="off" if chain.proof == "off" else "logs",
                max_lag_s=self.settings.max_lag_s,
                stall_after_s=self.settings.stall_after_s,
            )
            if not admitted:
                await source.check_chain(chain.id)
                await books.warn(chain.id, await _warnings(chain, source))
                admitted = True
                log.info("chain_started", start_block=chain.start_block)

        return ready

    async def _migrate(self) -> None:
        async with self._migrating:
            # At every start of a chain: someone may have put an empty database in the place of ours.
            for name in await migrate_database(self.database):
                log.info("migrated", name=name)
            self._migrated = True

    async def run(self) -> list[End]:
        """Run every chain to its end. The first error that cannot be mended ends all."""
        helpers = [
            asyncio.create_task(self._every(_PUBLISH_AGAIN_S, self.publisher.run), name="publisher"),
            asyncio.create_task(self._every(_PRUNE_EVERY_S, self._prune), name="prune changes"),
            asyncio.create_task(self._every(_TELL_EVERY_S, self._tell_publishing), name="tell publishing"),
        ]
        chains = [asyncio.create_task(one.run(), name=f"chain {one.chain}") for one in self.supervisors]
        try:
            ends = await _all_or_first_error(chains, helpers)
            if self.until is not None:
                await self._publish_rest()
        finally:
            await _end({*chains, *helpers})
        return ends

    async def _publish_rest(self) -> None:
        """Before a run that ends: bring Valkey to where PostgreSQL is. It may be away; the tables are what counts."""
        for chain in self.settings.chains:
            try:
                await self.publisher.catch_up(chain.id)
            except Retryable as error:
                log.warning("publisher_failed", error=str(error))

    async def _every(self, pause_s: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            if self._migrated:
                try:
                    await work()
                except Retryable:
                    pass  # the chains tell of it
                except Exception:
                    log.exception("housekeeping_failed")  # never a reason to stop indexing
            await asyncio.sleep(pause_s if self._migrated else _LOOK_AGAIN_S)

    async def _prune(self) -> None:
        await Chains(self.database).prune_changes(self.settings.changes_retention_h * 3600)

    async def _tell_publishing(self) -> None:
        for chain_id in sorted(self.leased):
            state = self.publisher.state(chain_id)
            self.by_chain[chain_id].publisher_failures = state.failures
            figures = {"cursor": state.cursor, "backlog": state.backlog, "error": state.error}
            await Chains(self.database).tell_publisher(chain_id, figures)

    async def status(self) -> StatusDocument:
        """Return the status document, for HTTP: of the chains of these settings, others are not ours to keep up."""
        document = await read_status(self.database)
        chains = [one for one in document["chains"] if one["chain_id"] in self.by_chain]
        return {**document, "chains": chains, "healthy": bool(chains) and not any(one["problems"] for one in chains)}

    def problems(self) -> Mapping[str, Sequence[str]]:
        """Return what is wrong now and no table says, by chain."""
        found = {one.chain: list(one.trouble.reasons) for one in self.supervisors if one.trouble.reasons}
        for chain_id in sorted(self.leased):
            if (error := self.publisher.state(chain_id).error) is not None:
                found.setdefault(self.by_chain[chain_id].chain, []).append(f"publisher: {error}")
        return found

    def counters(self) -> Iterable[ChainCounters]:
        """Return the counters of every chain."""
        return self.by_chain.values()

    def document(self) -> dict[str, Any]:
        """Return what `run --json` prints."""
        return {"chains": [_chain_document(one, self) for one in self.supervisors]}


async def _unset(_lease: Lease) -> None:
    """Stand in for the work of a supervisor until it is given its own."""


def _plan(chain: ChainSettings, addresses: tuple[bytes, ...], settings: Settings, until: str | int | None) -> Plan:
    return Plan(
        chain_id=ChainId(chain.id),
        name=chain.name,
        addresses=addresses,
        finality_blocks=chain.finality_blocks,
        default_finality_blocks=chain.default_finality_blocks,
        poll_interval_s=chain.poll_interval_s,
        max_concurrency=chain.max_concurrency,
        announce_backfill=settings.publish_backfill,
        until=until if until is None or isinstance(until, int) else "head",
    )


async def _warnings(chain: ChainSettings, source: Source) -> list[str]:
    """Look whether a contract lives at each configured address; a typing error in one is silent otherwise."""
    warnings = []
    for deployment in chain.deployments:
        for address in deployment.addresses:
            try:
                found = await source.has_code(address)
            except RpcError as error:  # logs can be had without it
                log.info("code_unknown", address=address, error=str(error))
                continue
            if not found:
                warnings.append(f"no code at 0x{address.hex()}")
                log.warning("code_missing", address=address)
    return warnings


def _chain_document(supervisor: Supervisor, daemon: Daemon) -> dict[str, Any]:
    progress = daemon.progress[supervisor.chain]
    counters = daemon.by_chain[supervisor.chain_id]
    seconds = (progress.finished or time.monotonic()) - progress.started
    return {
        "chain_id": supervisor.chain_id,
        "name": supervisor.chain,
        "from_block": progress.from_block,
        "to_block": progress.checkpoint,
        "block_hash": None if progress.block_hash is None else f"0x{progress.block_hash.hex()}",
        "logs": counters.logs,
        "seconds": round(seconds, 3),
        "logs_per_second": round(counters.logs / seconds, 1) if seconds > 0 else 0.0,
        "reorgs": counters.reorgs,
        "halted": supervisor.halted,
    }


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel tasks until all have ended: `asyncio.wait_for` of Python 3.11, in libraries too, may lose one."""
    running = tasks
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=_CANCEL_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)


async def _all_or_first_error(chains: list[asyncio.Task[End]], helpers: list[asyncio.Task[None]]) -> list[End]:
    """Wait for all chains; an error of any task, or a chain that is held elsewhere, ends the wait."""
    running: set[asyncio.Task[Any]] = {*chains, *helpers}
    while not all(task.done() for task in chains):
        done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        results = [task.result() for task in done]
        if "held" in results:
            break
    return [task.result() for task in chains if task.done()]
