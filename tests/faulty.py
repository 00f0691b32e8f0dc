"""Databases that fail at a chosen statement, and an observer that reads every table whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import asyncpg

from indexer.errors import StoreUnavailable
from indexer.store.database import Connection, Database

Kind = Literal["refused", "cancelled", "killed"]

EXPECTED = {"refused": asyncpg.DivisionByZeroError, "cancelled": asyncio.CancelledError, "killed": StoreUnavailable}
_STATEMENTS = ("execute", "executemany", "fetch", "fetchrow", "fetchval", "copy_to_table", "copy_records_to_table")
_STAMPS = ("updated_at", "committed_at", "reverted_at", "heartbeat_at")  # the database's clock: the same in no two runs
_NOT_COMPARED = ("database_identity", "migrations", "leases")


@dataclass
class Fault:
    """Something that goes wrong just before the `at`-th statement; the one after the last is COMMIT itself."""

    kind: Kind
    at: int
    killer: asyncpg.Connection
    seen: int = 0

    async def before(self, connection: Connection) -> None:
        self.seen += 1
        if self.seen != self.at:
            return
        match self.kind:
            case "refused":
                await connection.execute("SELECT 1 / 0")
            case "cancelled":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            case "killed":
                await kill(self.killer, await connection.fetchval("SELECT pg_backend_pid()"))


async def kill(killer: asyncpg.Connection, pid: int) -> None:
    await killer.execute("SELECT pg_terminate_backend($1)", pid)
    async with asyncio.timeout(5):
        while await killer.fetchval("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid):
            pass


class Faulty:
    """A connection whose statements pass by the fault first."""

    def __init__(self, connection: Connection, before: Callable[[Connection], Awaitable[None]]) -> None:
        self._connection, self._before = connection, before

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._connection, name)
        if name not in _STATEMENTS:
            return real

        async def statement(*args: Any, **options: Any) -> Any:
            await self._before(self._connection)
            return await real(*args, **options)

        return statement


class FaultyDatabase(Database):
    """A database whose transactions hand out such connections while `before` is set."""

    before: Callable[[Connection], Awaitable[None]] | None = None
    at_commit: Callable[[], object] | None = None
    lost_answer = False

    @asynccontextmanager
    async def transaction(self, *, snapshot: bool = False, durable: bool = True) -> AsyncIterator[Connection]:
        before, lost_answer = self.before, self.lost_answer
        async with super().transaction(snapshot=snapshot, durable=durable) as connection:
            if before is None:
                yield connection
            else:
                yield Faulty(connection, before)  # type: ignore[misc]  # a stand-in
                await before(connection)
                await asyncio.sleep(0)  # a cancellation strikes here, not in the middle of COMMIT: that is another test
            if self.at_commit:
                self.at_commit()
        if lost_answer:
            raise StoreUnavailable("the connection broke after COMMIT")


@dataclass
class Observer:
    """A session of its own: reads every table whole, and hears the notifications."""

    connection: asyncpg.Connection
    heard: list[str] = field(default_factory=list)
    query: str = ""

    @classmethod
    async def open(cls, url: str) -> Observer:
        observer = cls(await asyncpg.connect(url))
        names = await observer.connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'erc8004_data' AND tablename <> ALL ($1)", _NOT_COMPARED
        )
        observer.query = " UNION ALL ".join(
            f"SELECT '{table}' AS name, to_jsonb(t) - $1::text[] AS row FROM erc8004_data.{table} t"
            for (table,) in names
        )
        await observer.connection.add_listener("erc8004_changes", lambda *message: observer.heard.append(message[3]))
        return observer

    async def tables(self, *, stamps: bool = True) -> list[tuple[str, str]]:
        """Return every row of every table, in a fixed order; `stamps` False leaves the database's own times out."""
        rows = await self.connection.fetch(self.query, [] if stamps else list(_STAMPS))
        return sorted((row["name"], row["row"]) for row in rows)


@dataclass
class Pause:
    """Holds the transaction before its `at`-th statement, as a frozen process does."""

    at: int
    seen: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def before(self, _: Connection) -> None:
        self.seen += 1
        if self.seen == self.at:
            self.reached.set()
            await self.go_on.wait()
