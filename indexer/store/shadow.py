"""The shadow: temporary tables that bear the names of the live ones, filled anew from the stored logs.

While they are filled the search path leads to them alone, so the same projections run over them as over the live
tables, and can reach nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import Final, Self

import asyncpg
import msgspec

from indexer.aside import aside
from indexer.core.rows import COLUMNS, TYPED_TABLES, RowBuilder, Rows
from indexer.core.typed import Row
from indexer.errors import Retryable
from indexer.store import projections
from indexer.store.comparing import DECODED, LOG_KEY, Difference, shown
from indexer.store.copying import copy_data, copy_rows
from indexer.store.database import SCHEMA, Connection
from indexer.store.encoding import Encoded, encode, encode_rows
from indexer.store.ledger import raw_log
from indexer.store.queries import queries

SHADOW_TABLES: Final = (*TYPED_TABLES, *projections.STATE_TABLES, "chain_totals")
SLICE_LOGS: Final = 10_000  # some 10 MB of objects and a few statements of a tenth of a second
LAST_BLOCK: Final = 2**63 - 1

_SLICE_BYTES: Final = 32 << 20  # of raw data: a single log may carry megabytes
_SHADOW_SCHEMA: Final = "pg_temp"
# Of the ledger the projections read these alone; raw data need not be copied.
_LOG_COLUMNS: Final = (*LOG_KEY, "block_timestamp", "agent_uuid", "agent_id", "address", "tx_hash")
_POSITION: Final = {column: position for position, column in enumerate(COLUMNS["logs"])}

_HELD: Final = itemgetter(*DECODED)
_EXPECTED: Final = itemgetter(*(_POSITION[column] for column in DECODED))

Reached = Callable[[int], None]
"""Told the last block of each slice."""


class ContractsChanged(Retryable):
    """The chain has other contracts now than those that its logs were to be read for; nothing was written."""


@dataclass(frozen=True, slots=True)
class _Slice:
    """What a slice of the ledger, up to block `last`, should lead to.

    `otherwise` are the logs of which something else is stored than they decode to, `doubts` what contradicts itself.
    """

    last: int
    logs: int
    ledger: memoryview
    rows: Encoded
    otherwise: Sequence[Row]
    doubts: Sequence[Difference]


class Shadow:
    """What one chain's tables should hold, as far as the ledger was read.

    `doubts` are raw data that cannot be right, at most `limit` and some more; they are taken as they are.
    """

    def __init__(self, connection: Connection, chain_id: int, builder: RowBuilder, limit: int) -> None:
        self._connection = connection
        self._chain_id = chain_id
        self._builder = builder
        self._limit = limit
        self._known: frozenset[bytes] = frozenset()
        self._analyzed = 0
        self.keys: dict[str, list[str]] = {}
        self.doubts: list[Difference] = []
        self.logs = 0
        self.last_block = -1

    @classmethod
    async def make(cls, connection: Connection, chain_id: int, builder: RowBuilder, limit: int) -> Self:
        """Make the empty tables in the open transaction, which ends with them; its time limits are off from now on.

        Raises ContractsChanged where there are contracts that `builder` does not know.
        """
        shadow = cls(connection, chain_id, builder, limit)
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

        While the server projects one slice, the next one is decoded.
        """
        before = self.logs
        await self._connection.execute(f"SET LOCAL search_path = {_SHADOW_SCHEMA}")
        building = await self._begin(self.last_block, through)
        try:
            while building is not None:
                built = await building
                building = await self._begin(built.last, through)
                await self._take(built)
                reached(built.last)
        finally:
            if building is not None:
                building.cancel()
                await asyncio.gather(building, return_exceptions=True)
        await self._connection.execute(queries()["level_totals"], self._chain_id)
        await self._connection.execute(f"SET LOCAL search_path = {SCHEMA}, {_SHADOW_SCHEMA}")
        return self.logs - before

    async def _begin(self, after: int, through: int) -> asyncio.Task[_Slice] | None:
        """Read the next slice of whole blocks, and begin to build its rows; None where there is no log any more."""
        bounds = (self._chain_id, after, SLICE_LOGS, _SLICE_BYTES, through)
        last: int | None = await self._connection.fetchval(queries()["ledger_slice_end"], *bounds)
        if last is None:
            return None
        stored = await self._connection.fetch(queries()["ledger_slice"], self._chain_id, after, last)
        return asyncio.create_task(aside(lambda: self._build(last, stored), len(stored)))

    def _build(self, last: int, stored: Sequence[asyncpg.Record]) -> _Slice:
        readable = [row for row in stored if row["address"] in self._known]
        rows = self._builder.build(raw_log(row) for row in readable)
        doubts = [*_strangers(stored, self._known), *_contradictions(stored)]
        ledger = memoryview(encode("logs", rows["logs"], _LOG_COLUMNS))
        otherwise = list(_decoded_otherwise(readable, rows))
        return _Slice(last, len(stored), ledger, encode_rows(rows, TYPED_TABLES), otherwise, doubts)

    async def count(self) -> int:
        """Return how many rows the ledger had, and the shadow has."""
        counts = " + ".join(f"(SELECT count(*) FROM {_SHADOW_SCHEMA}.{table})" for table in self.keys)  # noqa: S608 - ours
        rows: int = await self._connection.fetchval(f"SELECT {counts}")
        return self.logs + rows

    async def _take(self, built: _Slice) -> None:
        if len(self.doubts) < self._limit:
            self.doubts += built.doubts
        if built.otherwise:
            await self._connection.copy_records_to_table(
                "differing_logs", records=built.otherwise, columns=(*LOG_KEY, *DECODED), schema_name=_SHADOW_SCHEMA
            )
        await copy_data(self._connection, "logs", built.ledger, _LOG_COLUMNS, _SHADOW_SCHEMA)
        await self._extend(built.last, built.rows)
        self.logs += built.logs
        self.last_block = built.last
        if self.logs >= 2 * self._analyzed:  # nobody else analyzes temporary tables
            tables = ", ".join(f"{_SHADOW_SCHEMA}.{table}" for table in ("logs", *SHADOW_TABLES))
            await self._connection.execute(f"ANALYZE {tables}")
            self._analyzed = self.logs

    async def _extend(self, last: int, rows: Encoded) -> None:
        """Do in the shadow what the writer does with a batch."""
        await copy_rows(self._connection, rows, schema=_SHADOW_SCHEMA)
        if rows.undecodable:
            await self._connection.execute(queries()["count_undecodable"], self._chain_id, rows.undecodable)
        await projections.extend(self._connection, self._chain_id, self.last_block + 1, last, {"logs", *rows.tables})


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


def _cut(row: Row, columns: Iterable[str]) -> Row:
    return tuple(row[_POSITION[column]] for column in columns)


def _strangers(stored: Iterable[asyncpg.Record], known: frozenset[bytes]) -> Iterator[Difference]:
    """Find logs of contracts that were never configured: nothing can be decoded of them."""
    for row in stored:
        if row["address"] not in known:
            yield Difference("logs", _key_of_log(row), "address", shown(row["address"]), None)


def _contradictions(stored: Sequence[asyncpg.Record]) -> Iterator[Difference]:
    """Find neighbours of one block, or one transaction, that do not agree on what they share."""
    for before, row in pairwise(stored):
        if before["block_number"] != row["block_number"]:
            continue
        same_transaction = before["tx_index"] == row["tx_index"]
        shared = ("block_hash", "block_timestamp", "tx_hash") if same_transaction else ("block_hash", "block_timestamp")
        for column in shared:
            if row[column] != before[column]:
                yield Difference("logs", _key_of_log(row), column, shown(row[column]), shown(before[column]))


def _decoded_otherwise(readable: Iterable[asyncpg.Record], rows: Rows) -> Iterator[Row]:
    """Find logs of which the ledger holds something beside the raw data that decoding today does not say."""
    for held, new in zip(map(_HELD, readable), rows["logs"], strict=True):
        expected = _EXPECTED(new)
        if held != expected and any(
            one != other and not (column == "args" and _same_json(one, other))
            for column, one, other in zip(DECODED, held, expected, strict=True)
        ):
            yield _cut(new, (*LOG_KEY, *DECODED))


def _same_json(stored: object, expected: object) -> bool:
    if not isinstance(stored, str) or not isinstance(expected, str):
        return False
    try:
        return bool(msgspec.json.decode(stored) == msgspec.json.decode(expected))
    except msgspec.DecodeError:
        return False


def _key_of_log(row: asyncpg.Record) -> str:
    return f"block_number={row['block_number']} log_index={row['log_index']}"
