"""The composition root: opens what a command needs, builds the parts, runs them, closes everything again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import structlog

from indexer import verify as verification
from indexer.chain.source import Source
from indexer.core.abi import load_forms
from indexer.core.counters import ChainCounters
from indexer.core.decode import Decoder
from indexer.core.ranges import start_span
from indexer.core.rows import RowBuilder
from indexer.core.types import ChainId
from indexer.embedded.postgres import postgres
from indexer.embedded.valkey import valkey
from indexer.errors import Retryable, SettingsError
from indexer.http.server import HttpServer
from indexer.publisher import Publisher
from indexer.resources import data_dir
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
    from collections.abc import Iterator

log = structlog.get_logger()

_PRUNE_EVERY_S: Final = 600.0
_HTTP_FILE: Final = "http.url"


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How `run` ended, and what it prints."""

    exit_code: int
    document: dict[str, Any]


# --- commands -------------------------------------------------------------------------------------------------------


async def run(settings: Settings, *, until: str | int | None, no_wait: bool, as_json: bool = False) -> RunOutcome:
    """Index every chain of the settings until stopped, or until all got to `until` (`head` or a block number).

    Raises SettingsError, and with `until` whatever cannot be reached.
    """
    async with AsyncExitStack() as stack:
        stop = stack.enter_context(_stop_signals())
        daemon = await _Daemon.open(stack, settings, until=until, no_wait=no_wait)
        with _progress_bar(daemon.progress) if until is not None and not as_json else nullcontext():
            ends = await _until_stopped(daemon.run(), stop)
        return RunOutcome(_exit_code(ends, until), daemon.document())


async def status(settings: Settings) -> tuple[int, dict[str, Any]]:
    """Return 0 or 1 and the status document, from the database alone."""
    async with _database(settings) as database:
        document = await read_status(database)
    return (0 if document["healthy"] else 1), dict(document)


async def verify(settings: Settings, chain: str | None, sample: int) -> tuple[int, dict[str, Any]]:
    """Compare the tables with the ledger and with the contracts; see `indexer.verify`."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(_database(settings))
        sources: dict[int, Source] = {}
        for one in settings.chains:
            if one.rpc and chain in (None, one.name):
                sources[one.id] = source = await stack.enter_async_context(_source(one))
                await source.check_chain(one.id)
        document = await verification.verify(database, chain, sources, sample=sample, decoder=load_decoder())
    return verification.exit_code(document), document


async def publish_rebuild(settings: Settings) -> int:
    """Fill Valkey from PostgreSQL again; a running daemon does it where there is one."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(_database(settings))
        address = await stack.enter_async_context(_valkey(settings))
        document = await read_status(database)
        chain_ids = [one["chain_id"] for one in document["chains"]]
        publisher = Publisher(database, address, chain_ids=chain_ids, stream_maxlen=settings.stream_maxlen)
        stack.push_async_callback(publisher.aclose)
        for one in document["chains"]:
            if one["holder"] is None:
                await publisher.rebuild(one["chain_id"])
            else:
                await publisher.request_rebuild(one["chain_id"])
    return 0


async def migrate(settings: Settings) -> None:
    """Bring the schema up to date."""
    async with _database(settings) as database:
        for name in await migrate_database(database):
            log.info("migrated", name=name)


async def url(settings: Settings, what: Literal["database", "valkey", "http"]) -> str:
    """Return a full address, starting the embedded server behind it, which then stays."""
    match what:
        case "database":
            async with _database_url(settings, keep=True) as address:
                return address
        case "valkey":
            async with _valkey(settings, keep=True) as address:
                return address
        case "http":
            return _http_url(settings)


def load_decoder() -> Decoder:
    """Compile the event forms of `abi/`."""
    files = data_dir("abi").glob("*/*.json")
    return Decoder(load_forms({f"{path.parent.name}/{path.stem}": json.loads(path.read_text()) for path in files}))


# --- resources ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _database_url(settings: Settings, *, keep: bool = False) -> AsyncIterator[str]:
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    async with postgres(settings.data_dir, keep=keep) as address:
        log.info("embedded_started", server="postgresql", data=str(settings.data_dir))
        yield address


@asynccontextmanager
async def _valkey(settings: Settings, *, keep: bool = False) -> AsyncIterator[str]:
    if settings.valkey_url is not None:
        yield settings.valkey_url.get_secret_value()
        return
    async with valkey(settings.data_dir, keep=keep) as address:
        log.info("embedded_started", server="valkey", data=str(settings.data_dir))
        yield address


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Database]:
    async with _database_url(settings) as address:
        database = await Database.open(address, size=settings.pool_size)
        try:
            yield database
        finally:
            await database.close()


def _source(chain: ChainSettings) -> Source:
    return Source.open([address.get_secret_value() for address in chain.rpc], proof=chain.proof)


def _http_file(settings: Settings) -> Path:
    return settings.data_dir / _HTTP_FILE


def _http_url(settings: Settings) -> str:
    if settings.http_bind is None:
        raise SettingsError("ERC8004_HTTP_BIND: is empty, so there is no HTTP")
    host, port = settings.http_bind
    if port != 0:
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    try:
        return _http_file(settings).read_text(encoding="utf-8").strip()
    except OSError:
        raise SettingsError("ERC8004_HTTP_BIND: the port is chosen by a running daemon, and none runs here") from None


# --- the daemon -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Daemon:
    """Everything that runs for the sake of `run`."""

    settings: Settings
    database: Database
    publisher: Publisher
    until: str | int | None
    supervisors: list[Supervisor] = field(default_factory=list)
    by_chain: dict[int, ChainCounters] = field(default_factory=dict)
    progress: dict[str, Progress] = field(default_factory=dict)
    _migrating: asyncio.Lock = field(default_factory=asyncio.Lock)
    _migrated: bool = False

    @classmethod
    async def open(
        cls, stack: AsyncExitStack, settings: Settings, *, until: str | int | None, no_wait: bool
    ) -> _Daemon:
        """Build all parts; nothing is asked of a chain yet."""
        log.info("settings_loaded", chains=[chain.name for chain in settings.chains])
        address = await stack.enter_async_context(_database_url(settings))
        valkey_address = await stack.enter_async_context(_valkey(settings))
        database = await Database.open(address, size=settings.pool_size)
        stack.push_async_callback(database.close)
        publisher = Publisher(
            database,
            valkey_address,
            chain_ids=[chain.id for chain in settings.chains],
            stream_maxlen=settings.stream_maxlen,
        )
        stack.push_async_callback(publisher.aclose)
        daemon = cls(settings, database, publisher, until)
        leases = Leases(database, f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}")
        decoder = load_decoder()
        for chain in settings.chains:
            source = await stack.enter_async_context(_source(chain))
            daemon.supervisors.append(daemon._supervise(chain, source, leases, decoder, wait=not no_wait))
        if settings.http_bind is not None:
            server = await stack.enter_async_context(HttpServer(settings.http_bind, daemon))
            daemon._announce_http(stack, server)
        return daemon

    def _announce_http(self, stack: AsyncExitStack, server: HttpServer) -> None:
        log.info("http_started", host=server.address[0], port=server.address[1])
        path = _http_file(self.settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(server.url, encoding="utf-8")
        stack.callback(path.unlink, missing_ok=True)

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
                Writer(self.database, lease, addresses, "logs" if chain.proof != "off" else "off"),
                Chains(self.database),
                builder,
                counters,
                progress,
                start_span(chain.max_block_range or chain.range_hint),
                supervisor.trouble.end,
                self.publisher.poke,
            )
            await worker.run()

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
            if not self._migrated:
                for name in await migrate_database(self.database):
                    log.info("migrated", name=name)
                self._migrated = True

    async def run(self) -> list[End]:
        """Run every chain to its end. The first error that cannot be mended ends all."""
        helpers = [
            asyncio.create_task(self.publisher.run(), name="publisher"),
            asyncio.create_task(self._prune(), name="prune changes"),
        ]
        chains = [asyncio.create_task(one.run(), name=f"chain {one.chain}") for one in self.supervisors]
        try:
            ends = await _all_or_first_error(chains, helpers)
            if self.until is not None:
                await self._publish_rest()
        finally:
            for task in (*chains, *helpers):
                task.cancel()
            await asyncio.gather(*chains, *helpers, return_exceptions=True)
        return ends

    async def _publish_rest(self) -> None:
        """Before a run that ends: bring Valkey to where PostgreSQL is. It may be away; the tables are what counts."""
        for chain in self.settings.chains:
            try:
                await self.publisher.catch_up(chain.id)
            except Retryable as error:
                log.warning("publisher_failed", error=str(error))

    async def _prune(self) -> None:
        while True:
            try:
                if self._migrated:
                    await Chains(self.database).prune_changes(self.settings.changes_retention_h * 3600)
            except Retryable:
                pass  # the chains tell of it
            await asyncio.sleep(_PRUNE_EVERY_S)

    async def status(self) -> StatusDocument:
        """Return the status document, for HTTP."""
        return await read_status(self.database)

    def problems(self) -> Mapping[str, Sequence[str]]:
        """Return what is wrong now and no table says, by chain."""
        found = {one.chain: list(one.trouble.reasons) for one in self.supervisors if one.trouble.reasons}
        for chain_id, reason in self.publisher.problems().items():
            found.setdefault(self.by_chain[chain_id].chain, []).append(reason)
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
            if not await source.has_code(address):
                warnings.append(f"no code at 0x{address.hex()}")
                log.warning("code_missing", address=address)
    return warnings


def _chain_document(supervisor: Supervisor, daemon: _Daemon) -> dict[str, Any]:
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


def _exit_code(ends: list[End] | None, until: str | int | None) -> int:
    """Judge how the chains ended; None: stopped by a signal, which is no failure."""
    if ends is None:
        return 0
    if "held" in ends:
        return 3
    halted = ends.count("halted")
    return int(halted > 0 if until is not None else halted == len(ends))


async def _all_or_first_error(chains: list[asyncio.Task[End]], helpers: list[asyncio.Task[None]]) -> list[End]:
    """Wait for all chains; an error of any task, or a chain that is held elsewhere, ends the wait."""
    running: set[asyncio.Task[Any]] = {*chains, *helpers}
    while not all(task.done() for task in chains):
        done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        results = [task.result() for task in done]
        if "held" in results:
            break
    return [task.result() for task in chains if task.done()]


async def _until_stopped(work: Awaitable[list[End]], stop: asyncio.Event) -> list[End] | None:
    """Run `work`; where a signal comes first, cancel it, let it clean up, and return None."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return None
    finally:
        stopped.cancel()


@contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """Set the event at SIGTERM or SIGINT, in place of what Python does."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextmanager
def _progress_bar(progresses: Mapping[str, Progress]) -> Iterator[None]:
    """Show a bar a chain while the body runs, on a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal pays for the import
    from rich.live import Live  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    def bars() -> Table:
        table = Table.grid(padding=(0, 2))
        for name, progress in progresses.items():
            whole = max(progress.target - progress.from_block + 1, 1)
            done = max(progress.checkpoint - progress.from_block + 1, 0)
            table.add_row(name, f"{done:,} of {whole:,} blocks", f"{100 * done / whole:.1f} %")
        return table

    with Live(get_renderable=bars, console=Console(stderr=True), transient=True):
        yield
