"""What commands need opened: database and Valkey, embedded where the settings name none; sources; the decoder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog

from indexer.chain.questions import LogsReader
from indexer.chain.source import Source
from indexer.core.chains import switches_of
from indexer.embedded.postgres import postgres
from indexer.embedded.valkey import valkey
from indexer.errors import SettingsError
from indexer.settings import ChainSettings, Settings
from indexer.store.database import Database

log = structlog.get_logger()

_HTTP_FILE: Final = "http.url"


@asynccontextmanager
async def database_url(settings: Settings, *, keep: bool = False) -> AsyncIterator[str]:
    """Yield the database's address; the embedded server's, started where it does not run, where none is set."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    async with postgres(settings.data_dir, keep=keep) as address:
        log.info("embedded_started", server="postgresql", data=str(settings.data_dir))
        yield address


@asynccontextmanager
async def open_valkey(settings: Settings, *, keep: bool = False) -> AsyncIterator[str]:
    """Yield Valkey's address, likewise."""
    if settings.valkey_url is not None:
        yield settings.valkey_url.get_secret_value()
        return
    async with valkey(settings.data_dir, keep=keep) as address:
        log.info("embedded_started", server="valkey", data=str(settings.data_dir))
        yield address


@asynccontextmanager
async def open_servers(settings: Settings) -> AsyncIterator[tuple[str, str]]:
    """Yield the addresses of both; embedded ones are stopped side by side, so that neither waits for one that hangs."""
    database, cache = AsyncExitStack(), AsyncExitStack()
    try:
        address = await database.enter_async_context(database_url(settings))
        yield address, await cache.enter_async_context(open_valkey(settings))
    finally:
        failures = await asyncio.gather(cache.aclose(), database.aclose(), return_exceptions=True)
        for failure in failures:
            if failure is not None:
                raise failure


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """Yield a pool over the database of the settings; nothing is asked of it yet."""
    async with database_url(settings) as address:
        database = await Database.open(address, size=settings.pool_size)
        try:
            yield database
        finally:
            await database.close()


def open_source(chain: ChainSettings, far: LogsReader | None = None) -> Source:
    """Make the source of a chain; a context manager that closes its connections. `far` reads large answers."""
    urls = [address.get_secret_value() for address in chain.rpc]
    usual_finality = chain.default_finality_blocks if chain.finality_blocks is None else None
    return Source.open(urls, proof=chain.proof, switches=switches_of(chain.id), usual_finality=usual_finality, far=far)


def http_file(settings: Settings) -> Path:
    """Return the file in which a running daemon leaves the address that it serves HTTP at."""
    return settings.data_dir / _HTTP_FILE


@contextmanager
def left_in_file(path: Path, text: str) -> Iterator[None]:
    """Let others find `text` in a file while the body runs. Raises SettingsError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"ERC8004_DATA_DIR: cannot write {path} ({error.strerror}): set it to a folder of yours, or choose a port"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):
            if path.read_text(encoding="utf-8") == text:  # a later instance may have left its own
                path.unlink()


async def http_url(settings: Settings) -> str:
    """Return the address of HTTP. Raises SettingsError where there is none, or none yet."""
    if settings.http_bind is None:
        raise SettingsError("ERC8004_HTTP_BIND: is empty, so there is no HTTP")
    host, port = settings.http_bind
    if port != 0:
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    try:
        url = http_file(settings).read_text(encoding="utf-8").strip()
        parts = urlsplit(url)
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)  # a killed daemon leaves its file
        writer.close()
    except (OSError, ValueError):
        raise SettingsError("ERC8004_HTTP_BIND: the port is chosen by a running daemon, and none runs here") from None
    return url
