"""The connection pool, and transactions that know our tables and speak our errors.

Every statement runs inside an explicit transaction and none is prepared by name, so that a pooler in any mode may stand
between.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, Self
from urllib.parse import urlsplit

import asyncpg

from indexer.errors import IndexerError, SettingsError, StoreUnavailable

if TYPE_CHECKING:
    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
else:
    Connection = object

SCHEMA: Final = "erc8004_data"
_OLDEST_VERSION: Final = 150_000
_CONNECT_TIMEOUT_S: Final = 10.0
# A session that sits in a transaction this long is a frozen process; the server ends it and its locks go.
_IDLE_TRANSACTION_MS: Final = 10_000
Isolation = Literal["repeatable_read", "read_committed"]

# A server that hangs is not waited for: it rolls back by itself once our connection is gone.
_ROLLBACK_S: Final = 2.0
# A peer that vanished without a word (its machine, or a firewall between) is noticed after idle + count * interval, or
# after that long with something unanswered; the driver would wait for ever.
_KEEPALIVE: Final = {
    "TCP_KEEPIDLE": 20,  # seconds
    "TCP_KEEPINTVL": 5,  # seconds
    "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": 40_000,  # milliseconds
}

# A commit that wrote something, and waits, has the disk take all that came before.
_FLUSH: Final = "SET LOCAL synchronous_commit = on; SELECT pg_logical_emit_message(true, 'erc8004-indexer', '')"

_REFUSED: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidPasswordError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)
_AWAY: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a session that the server ended while it was idle, before the socket closed
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.QueryCanceledError,
    asyncpg.DiskFullError,
    OSError,
    TimeoutError,
)


def translate(error: Exception, host: str) -> IndexerError | None:
    """Return our error for a driver's or a socket's; None where it is neither: a bug, which shall be seen."""
    if isinstance(error, _REFUSED):
        return SettingsError(f"DATABASE_URL: the server at {host} refuses: {error}")
    if isinstance(error, _AWAY) and not isinstance(error, ValueError):  # a value the driver cannot encode is a bug
        return StoreUnavailable(f"the database at {host} does not answer: {type(error).__name__}: {error}")
    return None


def pass_over_lost_answers() -> None:
    """Have the event loop say nothing of answers that a broken connection owed to someone who waits no more.

    The driver gives up their futures with the error inside; whoever needed the connection has heard of it. All else
    that is lost is told as ever.
    """
    loop = asyncio.get_running_loop()
    if loop.get_exception_handler() is None:
        loop.set_exception_handler(_tell_lost)


def _tell_lost(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    future, error = context.get("future"), context.get("exception")
    is_answer = isinstance(future, asyncio.Future) and not isinstance(future, asyncio.Task)
    if not (is_answer and isinstance(error, asyncpg.PostgresConnectionError)):
        loop.default_exception_handler(context)


def is_cancelled() -> bool:
    """Say whether someone waits for the end of the current task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Database:
    """A pool of connections to one database."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], errands: asyncpg.Pool[asyncpg.Record], host: str) -> None:
        self._pool = pool
        self._errands = errands  # a connection for whoever has one of the others and must not wait for a second
        self.host = host

    @classmethod
    async def open(cls, dsn: str, *, size: int = 10) -> Self:
        """Make the pool; connects when first used. Raises SettingsError for an address that cannot be read."""
        host = urlsplit(dsn).hostname or "local socket"
        pass_over_lost_answers()
        try:
            pool, errands = (
                asyncpg.create_pool(
                    dsn,
                    min_size=0,
                    max_size=most,
                    statement_cache_size=0,
                    timeout=_CONNECT_TIMEOUT_S,
                    init=_watch_peer,
                    reset=_keep_as_it_is,
                    server_settings={"application_name": "erc8004-indexer"},
                )
                for most in (size, 1)
            )
            await pool
            await errands
        except (ValueError, asyncpg.ClientConfigurationError) as error:
            raise SettingsError(f"DATABASE_URL: not a PostgreSQL address ({type(error).__name__})") from None
        return cls(pool, errands, host)

    async def close(self) -> None:
        """Close every connection, those in use too."""
        self._pool.terminate()
        self._errands.terminate()

    @asynccontextmanager
    async def transaction(self, *, snapshot: bool = False, durable: bool = True) -> AsyncIterator[Connection]:
        """Open a transaction that sees our tables; commits at the end, rolls back on any error.

        `snapshot` makes it repeatable read. Without `durable` the commit does not wait for the disk: a server that
        crashes soon after may take it back, though never while it keeps what was committed later.
        Raises StoreUnavailable, or SettingsError for refused credentials.
        """
        isolation: Isolation = "repeatable_read" if snapshot else "read_committed"
        async with self._transaction(self._pool, isolation, durable=durable) as connection:
            yield connection

    async def flush(self) -> None:
        """Return once everything that was committed before is on the server's disk, commits that did not wait included.

        Works beside an open transaction: whoever has a connection need not wait for another. Raises as `transaction`.
        """
        async with self._transaction(self._errands, "read_committed") as connection:
            await connection.execute(_FLUSH)

    @asynccontextmanager
    async def _transaction(
        self, pool: asyncpg.Pool[asyncpg.Record], isolation: Isolation, *, durable: bool = True
    ) -> AsyncIterator[Connection]:
        try:
            async with pool.acquire() as connection, _begun(connection, isolation):
                await connection.execute(
                    f"SET LOCAL search_path = {SCHEMA}, pg_temp;"
                    f"SET LOCAL idle_in_transaction_session_timeout = {_IDLE_TRANSACTION_MS}"
                    + ("" if durable else ";SET LOCAL synchronous_commit = off")
                )
                yield connection
        except Exception as error:
            if is_cancelled():  # the driver may say something else instead
                raise asyncio.CancelledError from error
            if (ours := translate(error, self.host)) is not None:
                raise ours from error
            raise

    async def check(self) -> None:
        """Say at once what cannot work. Raises SettingsError for an old server or a database that is not UTF-8."""
        async with self.transaction() as connection:
            version = int(await connection.fetchval("SELECT current_setting('server_version_num')"))
            encoding = await connection.fetchval("SELECT current_setting('server_encoding')")
        if version < _OLDEST_VERSION:
            raise SettingsError(
                f"DATABASE_URL: the server at {self.host} is PostgreSQL {version // 10_000}; 15 or newer is needed"
            )
        if encoding != "UTF8":
            raise SettingsError(f"DATABASE_URL: the database at {self.host} is encoded in {encoding}; UTF8 is needed")


@asynccontextmanager
async def _begun(connection: Connection, isolation: Isolation) -> AsyncIterator[None]:
    """Commit at the end; on any error, or when cancelled, roll back, or cut a connection on which that takes long."""
    transaction = connection.transaction(isolation=isolation)
    try:
        await transaction.start()
        yield
    except BaseException:
        try:
            async with asyncio.timeout(_ROLLBACK_S):
                await transaction.rollback()
        except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
            connection.terminate()
        raise
    await transaction.commit()


async def _watch_peer(connection: Any) -> None:
    """Have the system probe a silent connection."""
    peer: socket.socket | None = connection._transport.get_extra_info("socket")  # noqa: SLF001 - the driver has no option for it
    if peer is None or peer.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if (option := getattr(socket, name, None)) is not None:  # macOS lacks some
            peer.setsockopt(socket.IPPROTO_TCP, option, value)


async def _keep_as_it_is(_connection: object) -> None:
    """Transactions leave nothing behind that would have to be reset."""
