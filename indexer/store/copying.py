"""COPY of rows that are encoded already."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from indexer.core.rows import COLUMNS
from indexer.store.database import SCHEMA, Connection
from indexer.store.encoding import Encoded

_CHUNK_BYTES: Final = 1 << 20  # few enough to be sent while the server is at work, and no more


async def copy_rows(connection: Connection, rows: Encoded, *, schema: str = SCHEMA) -> None:
    """COPY all rows, in binary."""
    for table, data in rows.tables.items():
        await copy_data(connection, table, data, COLUMNS[table], schema)


async def copy_data(connection: Connection, table: str, data: memoryview, columns: Sequence[str], schema: str) -> None:
    """COPY what `encode` made."""
    await connection.copy_to_table(table, source=_chunks(data), columns=columns, schema_name=schema, format="binary")


async def copy_out(connection: Connection, query: str, *args: object) -> bytes:
    """Return what a binary COPY sends of a query's rows."""
    parts: list[bytes] = []

    async def keep(data: bytes) -> None:
        parts.append(data)

    await connection.copy_from_query(query, *args, output=keep, format="binary")
    return b"".join(parts)


async def _chunks(data: memoryview) -> AsyncIterator[Any]:  # views, as bytes would be copied
    for start in range(0, len(data), _CHUNK_BYTES):
        yield data[start : start + _CHUNK_BYTES]
