"""A database that lets a test do something just before a statement, whichever it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from indexer.store.database import Connection, Database

Step = Callable[[Connection, str], Awaitable[None]]
"""Gets the connection and the statement; `COPY table` for a copy, `COMMIT` at the end."""

_COPIES: Final = ("copy_to_table", "copy_records_to_table")
_STATEMENTS: Final = ("execute", "fetch", "fetchrow", "fetchval", "copy_from_query", *_COPIES)


class _Stepping:
    """A connection whose statements are told first."""

    def __init__(self, connection: Connection, step: Step) -> None:
        self._connection, self._step = connection, step

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._connection, name)
        if name not in _STATEMENTS:
            return real

        async def statement(what: str, *args: Any, **options: Any) -> Any:
            await self._step(self._connection, f"COPY {what}" if name in _COPIES else what)
            return await real(what, *args, **options)

        return statement


class SteppingDatabase(Database):
    """A database whose transactions tell `step` of every statement, while there is one."""

    step: Step | None = None

    @asynccontextmanager
    async def transaction(self, *, snapshot: bool = False, durable: bool = True) -> AsyncIterator[Connection]:
        """Open a transaction as any database does."""
        step = self.step
        async with super().transaction(snapshot=snapshot, durable=durable) as connection:
            if step is None:
                yield connection
            else:
                yield _Stepping(connection, step)  # type: ignore[misc]  # a stand-in
                await step(connection, "COMMIT")
