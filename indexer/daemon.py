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
from typing import Any, Final

import structlog

from indexer.apart import Apart
from indexer.chain.source import Source
from indexer.core.counters import ChainCounters
from indexer.core.decode import Decoder
from indexer.core.rows import RowBuilder
from indexer.core.types import ChainId
from indexer.decoder import load_decoder
from indexer.errors import Fatal, Retryable
from indexer.http.server import HttpServer
from indexer.pipeline import Pipeline
from indexer.publisher import Publisher
from indexer.roster import LOOK_EVERY_S, Roster
from indexer.services import http_file, left_in_file, open_servers, open_source
from indexer.settings import ChainSettings, Settings
from indexer.stopping import STOP
from indexer.store.chains import Chains
from indexer.store.database import Database
from indexer.store.leases import Instances, Lease, Leases, forget_dead
from indexer.store.migrations import migrate_database
from indexer.store.reader import StatusDocument, read_status
from indexer.supervisor import Alone, End, Supervisor
from indexer.worker import Progress

log = structlog.get_logger()

_PRUNE_EVERY_S: Final = 600.0
_TELL_EVERY_S: Final = 3.0
_PUBLISH_AGAIN_S: Final = 5.0
_LOOK_AGAIN_S: Final = 0.1
_CANCEL_AGAIN_S: Final = 3.0
_END_WITHIN_S: Final = 4.5  # and HTTP its 3 s: embedded servers shall have a moment too


class AllHalted(Fatal):
    """No chain is left that could be indexed."""


@dataclass(slots=True)
class Daemon:
    """Everything that runs for the sake of `run`."""

    settings: Settings
    database: Database
    publisher: Publisher
    until: str | int | None
    apart: Apart
    leased: dict[int, Lease]  # chains that this instance writes now, and so publishes
    roster: Roster | None = None  # None: takes what is free, and shares with nobody
    supervisors: list[Supervisor] = field(default_factory=list)
    pipelines: list[Pipeline] = field(default_factory=list)
    _halted: asyncio.Event = field(default_factory=asyncio.Event)
    _migrating: asyncio.Lock = field(default_factory=asyncio.Lock)
    _migrated: bool = False

    @classmethod
    async def open(cls, stack: AsyncExitStack, settings: Settings, *, until: str | int | None, no_wait: bool) -> Daemon:
        """Build all parts; nothing is asked of a chain yet."""
        log.info("settings_loaded", chains=[chain.name for chain in settings.chains])
        address, valkey_address = await stack.enter_async_context(open_servers(settings))
        database = await Database.open(address, size=settings.pool_size)
        stack.push_async_callback(database.close)
        leased: dict[int, Lease] = {}
        publisher = await stack.enter_async_context(
            Publisher(database, valkey_address, chain_ids=lambda: sorted(leased), stream_maxlen=settings.stream_maxlen)
        )
        with suppress(Retryable):  # Valkey may be away: indexing goes on
            await publisher.check()
        apart = await stack.enter_async_context(Apart())
        daemon = cls(settings, database, publisher, until, apart, leased)
        holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        if until is None and not no_wait:
            mine = frozenset(chain.id for chain in settings.chains)
            daemon.roster = Roster(Instances(database, holder), mine, daemon._able)
        leases, decoder = Leases(database, holder), load_decoder()
        for chain in settings.chains:
            source = await stack.enter_async_context(open_source(chain, apart.logs))
            daemon._add(chain, source, decoder, leases, wait=not no_wait)
        if settings.http_bind is not None:
            server = await stack.enter_async_context(HttpServer(settings.http_bind, daemon))
            daemon._announce_http(stack, server)
        return daemon

    def _announce_http(self, stack: AsyncExitStack, server: HttpServer) -> None:
        log.info("http_started", host=server.address[0], port=server.address[1])
        if self.settings.http_bind is not None and self.settings.http_bind[1] == 0:
            stack.enter_context(left_in_file(http_file(self.settings), server.url))

    def _add(self, chain: ChainSettings, source: Source, decoder: Decoder, leases: Leases, *, wait: bool) -> None:
        """Put a chain under supervision."""
        pipeline = Pipeline(
            chain,
            self.settings,
            source,
            self.database,
            RowBuilder(ChainId(chain.id), chain.deployments, decoder),
            self.publisher,
            self._migrate,
            self.until,
            self.leased,
            self.apart,
        )

        async def work(lease: Lease, leave: Callable[[], bool]) -> None:
            await pipeline.work(supervisor, lease, leave)

        def count_restart() -> None:
            pipeline.counters.restarts += 1

        supervisor = Supervisor(
            chain.id,
            chain.name,
            leases,
            pipeline.ready,
            work,
            self.roster or Alone(),
            self.settings.stall_after_s,
            wait=wait,
            retry=self.until is None,
            halting=self._halted.set,
            restarted=count_restart,
        )
        self.pipelines.append(pipeline)
        self.supervisors.append(supervisor)

    def _able(self) -> frozenset[int]:
        """Return the chains that this process could index now."""
        return frozenset(one.chain_id for one in self.supervisors if one.is_able)

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
            asyncio.create_task(self._every(_PRUNE_EVERY_S, self._prune), name="prune"),
            asyncio.create_task(self._every(_TELL_EVERY_S, self._tell_publishing), name="tell publishing"),
        ]
        if self.roster is not None:
            helpers.append(asyncio.create_task(self._every(LOOK_EVERY_S, self.roster.look), name="roster"))
        if self.until is None:
            helpers.append(asyncio.create_task(self._until_all_halted(), name="halts"))
        chains = [asyncio.create_task(one.run(), name=f"chain {one.chain}") for one in self.supervisors]
        try:
            ends = await _all_or_first_error(chains, helpers)
            if self.until is not None:
                await self._publish_rest()
        except AllHalted:
            ends = ["halted"] * len(chains)
        finally:
            await asyncio.gather(_end({*chains, *helpers}), self._leave())
        return ends

    async def _until_all_halted(self) -> None:
        """Raise AllHalted once nothing is left to do: as long as one chain goes on, the others may be lifted."""
        while True:
            await self._halted.wait()
            self._halted.clear()
            if all(one.halted is not None for one in self.supervisors):
                raise AllHalted

    async def _leave(self) -> None:
        """Let other instances take over at once."""
        if self.roster is not None and self._migrated:
            await self.roster.leave()

    async def _publish_rest(self) -> None:
        """Before a run that ends: bring Valkey to where PostgreSQL is. It may be away; the tables are what counts."""
        for chain in self.settings.chains:
            try:
                await self.publisher.catch_up(chain.id)
                await self._tell_publisher(chain.id)
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
        await forget_dead(self.database)

    async def _tell_publishing(self) -> None:
        for chain_id in sorted(self.leased):
            await self._tell_publisher(chain_id)

    async def _tell_publisher(self, chain_id: int) -> None:
        state = self.publisher.state(chain_id)
        self._of(chain_id).counters.publisher_failures = state.failures
        figures = {"cursor": state.cursor, "backlog": state.backlog, "error": state.error}
        await Chains(self.database).tell_publisher(chain_id, figures)

    async def status(self) -> StatusDocument:
        """Return the status document, for HTTP: of the chains of these settings, others are not ours to keep up."""
        document = await read_status(self.database)
        ours = {one.chain_id for one in self.supervisors}
        chains = [one for one in document["chains"] if one["chain_id"] in ours]
        return {**document, "chains": chains, "healthy": bool(chains) and not any(one["problems"] for one in chains)}

    def problems(self) -> Mapping[str, Sequence[str]]:
        """Return what is wrong now and no table says, by chain."""
        found = {one.chain: list(one.reasons) for one in self.supervisors if one.reasons}
        for chain_id in sorted(self.leased):
            if (error := self.publisher.state(chain_id).error) is not None:
                found.setdefault(self._of(chain_id).chain.name, []).append(f"publisher: {error}")
        return found

    def _of(self, chain_id: int) -> Pipeline:
        return next(one for one in self.pipelines if one.chain.id == chain_id)

    @property
    def progress(self) -> Mapping[str, Progress]:
        """Return by chain name how far each is."""
        return {one.chain.name: one.progress for one in self.pipelines}

    def counters(self) -> Iterable[ChainCounters]:
        """Return the counters of every chain."""
        return [one.counters for one in self.pipelines]

    def document(self) -> dict[str, Any]:
        """Return what `run --json` prints."""
        halted = {one.chain_id: one.halted for one in self.supervisors}
        return {"chains": [one.document(halted[one.chain.id]) for one in self.pipelines]}


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel tasks until all have ended, or for a while: some hang, and we have to end in time.

    More than once, as `asyncio.wait_for` of Python 3.11, in libraries too, may lose one.
    """
    running, ends_at = tasks, time.monotonic() + STOP.left_s(_END_WITHIN_S)
    while running and (left_s := ends_at - time.monotonic()) > 0:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=min(left_s, _CANCEL_AGAIN_S))
    for task in tasks - running:
        if not task.cancelled():
            task.exception()  # of no interest any more


async def _all_or_first_error(chains: list[asyncio.Task[End]], helpers: list[asyncio.Task[None]]) -> list[End]:
    """Wait for all chains; an error of any task, or a chain that is held elsewhere, ends the wait."""
    running: set[asyncio.Task[Any]] = {*chains, *helpers}
    while not all(task.done() for task in chains):
        done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        results = [task.result() for task in done]
        if "held" in results:
            break
    return [task.result() for task in chains if task.done()]
