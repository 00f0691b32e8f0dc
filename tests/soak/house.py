"""Where one seed lives: a folder, a database, and what is needed to hurt them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from databases import execute, with_database
from processes import Programs

from indexer.embedded.postgres import EmbeddedPostgres, postgres
from indexer.embedded.valkey import EmbeddedValkey, valkey

AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Servers:
    """A PostgreSQL common to all seeds, and the name of a migrated database to copy."""

    url: str
    template: str

    @asynccontextmanager
    async def fresh(self) -> AsyncIterator[str]:
        """Yield the DSN of a migrated, empty database."""
        name = f"soak_{uuid.uuid4().hex}"
        await execute(self.url, f'CREATE DATABASE "{name}" TEMPLATE "{self.template}" STRATEGY FILE_COPY')
        try:
            yield with_database(self.url, name)
        finally:
            await execute(self.url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@dataclass(slots=True)
class House:
    """One seed's own: `postgres` is there only where the server is nobody else's and may be killed."""

    programs: Programs
    database_url: str
    valkey: EmbeddedValkey
    postgres: EmbeddedPostgres | None

    async def end_sessions(self) -> None:
        """Have the server drop every connection to the database but this one."""
        with suppress(*AWAY):
            await execute(
                self.database_url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )


@asynccontextmanager
async def opened(servers: Servers, folder: Path, *, own_postgres: bool) -> AsyncIterator[House]:
    """Yield a house in `folder`; its processes and its servers do not outlive the body."""
    data = folder / "data"
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_stop_servers, data, own_postgres=own_postgres)
        if own_postgres:
            programs = await stack.enter_async_context(Programs(folder))
            url = (await programs.run("url", "database"))[1].stdout.strip()
            yield House(programs, url, EmbeddedValkey(data), EmbeddedPostgres(data))
        else:
            url = await stack.enter_async_context(servers.fresh())
            programs = await stack.enter_async_context(Programs(folder, DATABASE_URL=url))
            yield House(programs, url, EmbeddedValkey(data), None)


async def _stop_servers(data: Path, *, own_postgres: bool) -> None:
    """Adopt what the processes left running; the last to leave stops it."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(valkey(data))
        if own_postgres:
            await stack.enter_async_context(postgres(data))
