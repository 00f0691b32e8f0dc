"""The connection pool, and transactions that know our tables and speak our errors.

Every statement runs inside an explicit transaction and none is prepared by name, so that a pooler in any mode may stand
between.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Self
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


class Database:
    """A pool of connections to one database."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], host: str) -> None:
        self._pool = pool
        self.host = host

    @classmethod
    async def open(cls, dsn: str, *, size: int = 10) -> Self:
        """Make the pool; connects when first used. Raises SettingsError for an address that cannot be read."""
        host = urlsplit(dsn).hostname or "local socket"
        try:
            pool = asyncpg.create_pool(
                dsn,
                min_size=0,
                max_size=size,
                statement_cache_size=0,
                timeout=_CONNECT_TIMEOUT_S,
                reset=_keep_as_it_is,
                server_settings={"application_name": "erc8004-indexer"},
            )
            await pool
        except (ValueError, asyncpg.ClientConfigurationError) as error:
            raise SettingsError(f"DATABASE_URL: not a PostgreSQL address ({type(error).__name__})") from None
        return cls(pool, host)

    async def close(self) -> None:
        """Close every connection, those in use too."""
        self._pool.terminate()

    @asynccontextmanager
    async def transaction(self, *, snapshot: bool = False) -> AsyncIterator[Connection]:
        """Open a transaction that sees our tables; commits at the end, rolls back on any error.

        `snapshot` makes it repeatable read. Raises StoreUnavailable, or SettingsError for refused credentials.
        """
        try:
            async with (
                self._pool.acquire() as connection,
                connection.transaction(isolation="repeatable_read" if snapshot else "read_committed"),
            ):
                await connection.execute(
                    f"SET LOCAL search_path = {SCHEMA}, pg_temp;"
                    f"SET LOCAL idle_in_transaction_session_timeout = {_IDLE_TRANSACTION_MS}"
                )
                yield connection
        except Exception as error:
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


async def _keep_as_it_is(_connection: object) -> None:
    """Transactions leave nothing behind that would have to be reset."""
