"""The shadow: temporary tables that bear the names of the live ones, filled anew from the stored logs.

While they are filled the search path leads to them alone, so the same projections run over them as over the live
tables, and can reach nothing else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, Self

from indexer.aside import aside
from indexer.core.rows import TYPED_TABLES, RowBuilder
from indexer.errors import Retryable
from indexer.store import projections
from indexer.store.copying import copy_data, copy_out, copy_rows
from indexer.store.database import SCHEMA, Connection
from indexer.store.difference import DECODED, LOG_KEY, Difference
from indexer.store.encoding import Encoded
from indexer.store.queries import queries
from indexer.store.rereading import BYTES_A_LOG, SHADOW_COLUMNS, Reread, reread

SHADOW_TABLES: Final = (*TYPED_TABLES, *projections.STATE_TABLES, "chain_totals")
SLICE_LOGS: Final = 30_000  # some 30 MB of raw data, statements of less than a second; a tenth cheaper than of 10,000
LAST_BLOCK: Final = 2**63 - 1

_SLICE_BYTES: Final = 32 << 20  # of raw data: a single log may carry megabytes
_AHEAD: Final = 2  # slices that were read and not brought in yet
_SHADOW_SCHEMA: Final = "pg_temp"

Reached = Callable[[int], None]
"""Told the last block of each slice."""

Rereading = Callable[[RowBuilder, frozenset[bytes], bytes], Coroutine[Any, Any, Reread]]
"""Does what `reread` does, somewhere."""


async def reread_aside(builder: RowBuilder, known: frozenset[bytes], data: bytes) -> Reread:
    """Do it beside the event loop."""
    return await aside(lambda: reread(builder, known, data), len(data) // BYTES_A_LOG)


class ContractsChanged(Retryable):
    """The chain has other contracts now than those that its logs were to be read for; nothing was written."""


class Shadow:
    """What one chain's tables should hold, as far as the ledger was read.

    `doubts` are raw data that cannot be right, at most `limit` and some more; they are taken as they are.
    """

    def __init__(
        self, connection: Connection, chain_id: int, builder: RowBuilder, limit: int, rereading: Rereading
    ) -> None:
        self._connection = connection
        self._chain_id = chain_id
        self._builder = builder
        self._limit = limit
        self._reread = rereading
        self._known: frozenset[bytes] = frozenset()
        self._analyzed = 0
        self.keys: dict[str, list[str]] = {}
        self.doubts: list[Difference] = []
        self.logs = 0
        self.last_block = -1
        self._read_block = -1

    @classmethod
    async def make(
        cls, connection: Connection, chain_id: int, builder: RowBuilder, limit: int, rereading: Rereading
    ) -> Self:
        """Make the empty tables in the open transaction, which ends with them; its time limits are off from now on.

        Raises ContractsChanged where there are contracts that `builder` does not know.
        """
        shadow = cls(connection, chain_id, builder, limit, rereading)
        await connection.execute(queries()["shadow_settings"])
        rows = await connection.fetch(queries()["primary_keys"], SCHEMA, list(SHADOW_TABLES))
        shadow.keys = {row["table_name"]: row["columns"] for row in rows}
        tables = [statement for table, key in shadow.keys.items() for statement in _definitions(table, key)]
        await connection.execute(";".join([queries()["shadow_ledger"], *tables, queries()["shadow_indexes"]]))
        known = await connection.fetch(queries()["shadow_addresses"], chain_id)
        shadow._known = frozenset(row["address"] for row in known)
        if not shadow._known <= builder.addresses:
            raise ContractsChanged(f"chain {chain_id}: contracts were added meanwhile; run it again")
        return shadow

    async def fill(self, through: int, reached: Reached) -> int:
        """Bring in the ledger from where it was left up to block `through`, slice by slice; return how many logs.

        While the server projects one slice the next one is decoded, and the one after that has been read already.
        """
        before = self.logs
        self._read_block = self.last_block
        await self._connection.execute(f"SET LOCAL search_path = {_SHADOW_SCHEMA}")
        ahead: deque[tuple[int, asyncio.Task[Reread]]] = deque()
        try:
            await self._read_ahead(ahead, through)
            while ahead:
                last, building = ahead.popleft()
                built = await building
                await self._read_ahead(ahead, through)
                await self._take(last, built)
                reached(last)
        finally:
            for _, building in ahead:
                building.cancel()
            await asyncio.gather(*(building for _, building in ahead), return_exceptions=True)
        await self._connection.execute(queries()["level_totals"], self._chain_id)
        await self._connection.execute(f"SET LOCAL search_path = {SCHEMA}, {_SHADOW_SCHEMA}")
        return self.logs - before

    async def _read_ahead(self, ahead: deque[tuple[int, asyncio.Task[Reread]]], through: int) -> None:
        """Read slices of whole blocks up to block `through`, until enough of them are on their way to be rows."""
        while len(ahead) < _AHEAD:
            bounds = (self._chain_id, self._read_block, SLICE_LOGS, _SLICE_BYTES, through)
            last: int | None = await self._connection.fetchval(queries()["ledger_slice_end"], *bounds)
            if last is None:
                return
            slice_of = (self._chain_id, self._read_block, last)
            data = await copy_out(self._connection, queries()["ledger_slice"], *slice_of)
            ahead.append((last, asyncio.create_task(self._reread(self._builder, self._known, data))))
            self._read_block = last

    async def count(self) -> int:
        """Return how many rows the ledger had, and the shadow has."""
        counts = " + ".join(f"(SELECT count(*) FROM {_SHADOW_SCHEMA}.{table})" for table in self.keys)  # noqa: S608 - ours
        rows: int = await self._connection.fetchval(f"SELECT {counts}")
        return self.logs + rows

    async def _take(self, last: int, built: Reread) -> None:
        if len(self.doubts) < self._limit:
            self.doubts += built.doubts
        if built.otherwise is not None:
            columns = (*LOG_KEY, *DECODED)
            await copy_data(self._connection, "differing_logs", built.otherwise, columns, _SHADOW_SCHEMA)
        await copy_data(self._connection, "logs", built.ledger, SHADOW_COLUMNS, _SHADOW_SCHEMA)
        await self._extend(last, built.rows)
        self.logs += built.logs
        self.last_block = last
        if self.logs >= 2 * self._analyzed:  # nobody else analyzes temporary tables
            tables = ", ".join(f"{_SHADOW_SCHEMA}.{table}" for table in ("logs", *SHADOW_TABLES))
            await self._connection.execute(f"ANALYZE {tables}")
            self._analyzed = self.logs

    async def _extend(self, last: int, rows: Encoded) -> None:
        """Do in the shadow what the writer does with a batch."""
        await copy_rows(self._connection, rows, schema=_SHADOW_SCHEMA)
        if rows.undecodable:
            await self._connection.execute(queries()["count_undecodable"], self._chain_id, rows.undecodable)
        bounds = (self._chain_id, self.last_block + 1, last)
        await projections.extend(self._connection, *bounds, {"logs", *rows.tables}, touched=rows.agents)


def _definitions(table: str, key: Sequence[str]) -> Iterator[str]:
    """Say how a table's shadow is made, and the list of the keys at which the two differ."""
    yield (
        f"CREATE TEMP TABLE {table} (LIKE {SCHEMA}.{table} INCLUDING DEFAULTS INCLUDING GENERATED, "
        f"PRIMARY KEY ({', '.join(key)})) ON COMMIT DROP"
    )
    yield (
        f"CREATE TEMP TABLE differing_{table} ON COMMIT DROP AS "  # noqa: S608 - names are ours
        f"SELECT {', '.join(key)} FROM {SCHEMA}.{table} WITH NO DATA"
    )
