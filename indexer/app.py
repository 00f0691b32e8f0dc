"""The commands: open what one needs, build the parts, run them, close everything again."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import structlog

from indexer.apart import Apart
from indexer.chain.source import Source
from indexer.daemon import Daemon
from indexer.decoder import load_decoder
from indexer.publisher import Publisher
from indexer.repair import Repair, ask_publisher, rebuild_chains, stored_chain
from indexer.services import (
    database_url,
    http_url,
    open_database,
    open_servers,
    open_source,
    open_valkey,
)
from indexer.settings import Settings
from indexer.stopping import STOP, stop_signals
from indexer.store.database import Database
from indexer.store.migrations import migrate_database
from indexer.store.reader import read_status
from indexer.supervisor import End
from indexer.worker import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

log = structlog.get_logger()

_DAEMON_REBUILD_S: Final = 30.0
_BAR_WIDTH: Final = 40

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How `run` ended, and what it prints."""

    exit_code: int
    document: dict[str, Any]


async def run(settings: Settings, *, until: str | int | None, no_wait: bool, as_json: bool = False) -> RunOutcome:
    """Index every chain of the settings until stopped, or until all got to `until` (`head` or a block number).

    Raises SettingsError, and with `until` whatever cannot be reached.
    """
    async with AsyncExitStack() as stack:
        stop = stack.enter_context(stop_signals(STOP.begin))
        daemon = await _until_stopped(Daemon.open(stack, settings, until=until, no_wait=no_wait), stop)
        if daemon is None:
            return RunOutcome(0, {"chains": []})
        with _progress_bar(daemon.progress) if until is not None and not as_json else nullcontext():
            ends = await _until_stopped(daemon.run(), stop)
        STOP.exit_code = _exit_code(ends, until)
        return RunOutcome(STOP.exit_code, daemon.document())


async def status(settings: Settings) -> tuple[int, dict[str, Any]]:
    """Return 0 or 1 and the status document, from the database alone."""
    async with open_database(settings) as database:
        document = await read_status(database)
    return (0 if document["healthy"] else 1), dict(document)


async def verify(settings: Settings, chain: str | None, sample: int) -> tuple[int, dict[str, Any]]:
    """Compare the tables with the ledger and with the contracts; see `indexer.verify`.

    Stopped by a signal, it has no verdict: 0, and an empty document.
    """
    return await _stoppable(lambda stack: _verified(stack, settings, chain, sample)) or (0, {})


async def _verified(
    stack: AsyncExitStack, settings: Settings, chain: str | None, sample: int
) -> tuple[int, dict[str, Any]]:
    from indexer import verify as verification  # only this verb pays for the import

    database = await stack.enter_async_context(open_database(settings))
    chain_ids = None if chain is None else [(await stored_chain(database, chain))["chain_id"]]
    sources: dict[int, Source] = {}
    for one in settings.chains:
        if one.rpc and chain in {None, one.name}:
            sources[one.id] = source = await stack.enter_async_context(open_source(one))
            await source.check_chain(one.id)
    progress: dict[str, Progress] = {}
    apart = await stack.enter_async_context(Apart())
    with _progress_bar(progress):
        document = await verification.verify(
            database,
            load_decoder(),
            chain_ids,
            sources,
            sample=sample,
            reached=_reached(progress),
            rereading=apart.reread,
        )
    STOP.exit_code = verification.exit_code(document)
    return STOP.exit_code, dict(document)


async def reindex(
    settings: Settings, first: int | None, last: int | None, *, as_json: bool = False
) -> tuple[int, dict[str, Any]]:
    """Fetch the blocks `first` to `last` of the one chain of the settings again; a halted chain is taken up again.

    Stopped by a signal, it ends cleanly: the same command goes on from there. Raises SettingsError, and whatever cannot
    be reached.
    """
    async with AsyncExitStack() as stack:
        stop = stack.enter_context(stop_signals(STOP.begin))
        repair = await _until_stopped(_repair(stack, settings), stop)
        if repair is None:
            return 0, {}
        with nullcontext() if as_json else _progress_bar({repair.chain.name: repair.progress}):
            await _until_stopped(repair.run(first, last), stop)
        STOP.exit_code = repair.outcome.exit_code
    return STOP.exit_code, repair.outcome.document()


async def _repair(stack: AsyncExitStack, settings: Settings) -> Repair:
    database = await stack.enter_async_context(open_database(settings))
    return await Repair.open(stack, database, settings.chains[0])


async def rebuild(settings: Settings, chain: str | None, *, as_json: bool = False) -> tuple[int, dict[str, Any]]:
    """Compute the projections anew from the stored logs, of one chain or of all, and merge what differs.

    1 where stored logs contradict each other: only fetching them again puts that right.
    """
    document = await _stoppable(lambda stack: _rebuilt(stack, settings, chain, as_json=as_json)) or {"chains": []}
    return int(any(one["unsettled"] for one in document["chains"])), document


async def _rebuilt(stack: AsyncExitStack, settings: Settings, chain: str | None, *, as_json: bool) -> dict[str, Any]:
    progress: dict[str, Progress] = {}
    database = await stack.enter_async_context(open_database(settings))
    chains = (await read_status(database))["chains"] if chain is None else [await stored_chain(database, chain)]
    with nullcontext() if as_json else _progress_bar(progress):
        document = await rebuild_chains(database, chains, _reached(progress))
    if changed := [one["chain_id"] for one in document["chains"] if one["merged"]]:
        await ask_publisher(settings, database, changed)
    return document


def _reached(progress: dict[str, Progress]) -> Callable[[str, int, int, int], None]:
    """Return what notes how far a chain's ledger was read: name, first block, block reached, last block."""

    def reached(name: str, first: int, block: int, checkpoint: int) -> None:
        one = progress.setdefault(name, Progress(from_block=first, target=checkpoint))
        one.checkpoint = block
        if not sys.stderr.isatty():
            log.info("ledger_checked", chain=name, to_block=block, checkpoint_block=checkpoint)

    return reached


async def publish_rebuild(settings: Settings) -> int:
    """Fill Valkey from PostgreSQL again; a running daemon does it where there is one.

    Stopped by a signal, it leaves keys that the next publisher puts right.
    """
    await _stoppable(lambda stack: _published(stack, settings))
    return 0


async def _published(stack: AsyncExitStack, settings: Settings) -> None:
    address, valkey_address = await stack.enter_async_context(open_servers(settings))
    database = await Database.open(address, size=settings.pool_size)
    stack.push_async_callback(database.close)
    document = await read_status(database)
    chain_ids = [one["chain_id"] for one in document["chains"]]
    publisher = await stack.enter_async_context(
        Publisher(database, valkey_address, chain_ids=chain_ids, stream_maxlen=settings.stream_maxlen)
    )
    await publisher.check()
    for one in document["chains"]:
        if one["holder"] is None:
            await publisher.rebuild(one["chain_id"])
        else:
            await _ask_daemon(publisher, one["chain_id"])


async def _ask_daemon(publisher: Publisher, chain_id: int) -> None:
    """Have the running daemon fill the chain's keys; do it here where it does not within a while."""
    await publisher.request_rebuild(chain_id)
    try:
        async with asyncio.timeout(_DAEMON_REBUILD_S):
            while not await publisher.is_rebuilt(chain_id):  # noqa: ASYNC110 - the event is in another process
                await asyncio.sleep(0.1)
    except TimeoutError:
        await publisher.rebuild(chain_id)


async def migrate(settings: Settings) -> None:
    """Bring the schema up to date. Stopped by a signal, it leaves the schema as it was."""
    await _stoppable(lambda stack: _migrated(stack, settings))


async def _migrated(stack: AsyncExitStack, settings: Settings) -> None:
    database = await stack.enter_async_context(open_database(settings))
    for name in await migrate_database(database):
        log.info("migrated", name=name)


async def url(settings: Settings, what: Literal["database", "valkey", "http"]) -> str:
    """Return a full address, starting the embedded server behind it, which then stays."""
    match what:
        case "database":
            async with database_url(settings, keep=True) as address:
                return address
        case "valkey":
            async with open_valkey(settings, keep=True) as address:
                return address
        case "http":
            return await http_url(settings)


def _exit_code(ends: list[End] | None, until: str | int | None) -> int:
    """Judge how the chains ended; None: stopped by a signal, which is no failure."""
    if ends is None:
        return 0
    if "held" in ends:
        return 3
    halted = ends.count("halted")
    return int(halted > 0 if until is not None else halted == len(ends))


async def _stoppable(work: Callable[[AsyncExitStack], Awaitable[T]]) -> T | None:
    """Run `work`; None where a signal comes first. What it opened on its stack is closed whole in either case."""
    async with AsyncExitStack() as stack:
        stop = stack.enter_context(stop_signals(STOP.begin))
        return await _until_stopped(work(stack), stop)


async def _until_stopped(work: Awaitable[T], stop: asyncio.Event) -> T | None:
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


def _pace(progress: Progress, done: int, whole: int) -> tuple[str, str]:
    """Tell the rate so far, and the time that the rest takes at this rate."""
    rate = done / max(time.monotonic() - progress.started, 1e-3)
    left = timedelta(seconds=round((whole - done) / rate)) if rate > 0 else "?"
    return f"{rate:,.0f} blocks/s", f"{left} left"


@contextmanager
def _progress_bar(progresses: Mapping[str, Progress]) -> Iterator[None]:
    """Show a bar a chain while the body runs, on a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # only a terminal pays for the import
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    def bars() -> Table:
        table = Table.grid(padding=(0, 2))
        for name, progress in progresses.items():
            whole = max(progress.target - progress.from_block + 1, 1)
            done = max(progress.checkpoint - progress.from_block + 1, 0)
            bar = ProgressBar(total=whole, completed=done, width=_BAR_WIDTH)
            cells = (f"{100 * done / whole:.1f} %", f"{done:,} of {whole:,} blocks", *_pace(progress, done, whole))
            table.add_row(name, bar, *cells)
        return table

    with Live(get_renderable=bars, console=Console(stderr=True), transient=True):
        yield
