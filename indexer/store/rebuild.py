"""The ledger decoded and projected anew, in a shadow beside the live tables, and what differs between the two.

The shadow is a set of temporary tables that bear the names of the live ones. The search path leads to them alone, so
the same projections run over them as over the live tables, and can reach nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from itertools import pairwise
from typing import Final

import asyncpg
import msgspec

from indexer.core.rows import COLUMNS, TYPED_TABLES, RowBuilder, Rows
from indexer.core.types import Deployment, RawLog
from indexer.store import projections
from indexer.store.database import SCHEMA, Connection
from indexer.store.queries import queries
from indexer.store.writer import copy_rows

WHOLE_ROW: Final = "(row)"  # stands for the column where a row is missing or should not be there
SHADOW_TABLES: Final = (*TYPED_TABLES, *projections.STATE_TABLES, "chain_totals")

_SHADOW_SCHEMA: Final = "pg_temp"
# Of the ledger the projections read these alone; raw data need not be copied.
_LOG_COLUMNS: Final = (
    "chain_id", "block_number", "log_index", "block_timestamp", "agent_uuid", "agent_id", "address", "tx_hash",
)  # fmt: skip
_SLICE_LOGS: Final = 10_000  # some 10 MB of objects and a few statements of a tenth of a second
_SLICE_BYTES: Final = 32 << 20  # of raw data: a single log may carry megabytes
_MAX_SHOWN: Final = 300  # characters of a value in a report; a URI may have megabytes
# What the ledger holds beside raw data; the time is compared as well, for it has whole seconds.
_DECODED: Final = ("block_timestamp", "agent_uuid", "agent_id", "event", "event_version", "args", "defect")
_POSITION: Final = {column: position for position, column in enumerate(COLUMNS["logs"])}
# Rows of chains that nobody knows show up at every chain: no chain's shadow would miss them.
_COMPARE: Final = """
    SELECT to_jsonb(s)::text AS stored, to_jsonb(r)::text AS expected
    FROM (SELECT * FROM {schema}.{table} WHERE chain_id = $1
             OR chain_id NOT IN (SELECT c.chain_id FROM {schema}.chains c)) s
    FULL JOIN pg_temp.{table} r USING ({key})
    WHERE s IS DISTINCT FROM r
    LIMIT $2
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """A stored value that is not what the ledger, or a contract, says.

    `column` is WHOLE_ROW, and one of the values None, where a row is missing or should not be there. Long values are
    cut, with their length and a hash.
    """

    table: str
    key: str
    column: str
    stored: str | None
    expected: str | None


async def stored_deployments(connection: Connection, chain_id: int) -> list[Deployment]:
    """Return every deployment whose logs the ledger may hold, retired ones too; those in use first."""
    roles: dict[bytes, dict[str, list[bytes]]] = {}
    for row in await connection.fetch(queries()["known_registries"], chain_id):
        kinds = roles.setdefault(row["identity"], {"reputation": [], "validation": []})
        kinds.setdefault(row["kind"], []).append(row["address"])
    found = []
    for identity, kinds in roles.items():
        # A reputation registry that moved to another identity leaves none; nothing ever emits from address 0.
        first, *others = kinds["reputation"] or [bytes(20)]
        found.append(Deployment(identity, first, tuple(kinds["validation"]), 0))
        found += [Deployment(identity, other, (), 0) for other in others]
    return found


async def shadow_differences(
    connection: Connection,
    chain_id: int,
    builder: RowBuilder,
    *,
    limit: int = 1000,
    reached: Callable[[int], None] = lambda _: None,
) -> tuple[int, list[Difference]]:
    """Compute the chain's rows anew from its ledger; return how many were compared, and at most `limit` differences.

    Wants a transaction of one snapshot, which is as before afterwards. Writes nothing: once the shadow stands, the
    server itself refuses to. Raw data of the ledger is taken as it is, but for what contradicts itself. `reached` is
    told the last block of each slice.
    """
    attempt = connection.transaction()
    await attempt.start()
    try:
        await connection.execute(queries()["shadow_settings"])
        keys = await _create_shadow(connection)
        await connection.execute("SET TRANSACTION READ ONLY")
        ledger_rows, found = await _fill(connection, chain_id, builder, limit, reached)
        rows, different = await _compare(connection, chain_id, keys, limit)
    finally:
        await attempt.rollback()
    return ledger_rows + rows, [*found, *different][:limit]


async def _create_shadow(connection: Connection) -> dict[str, list[str]]:
    """Make the temporary tables and lead the search path to them; return each table's primary key."""
    rows = await connection.fetch(queries()["primary_keys"], SCHEMA, list(SHADOW_TABLES))
    keys: dict[str, list[str]] = {row["table_name"]: row["columns"] for row in rows}
    tables = [
        f"CREATE TEMP TABLE {table} (LIKE {SCHEMA}.{table} INCLUDING DEFAULTS INCLUDING GENERATED, "
        f"PRIMARY KEY ({', '.join(key)})) ON COMMIT DROP"
        for table, key in keys.items()
    ]
    await connection.execute(";".join([queries()["shadow_ledger"], *tables, queries()["shadow_indexes"]]))
    await connection.execute(f"SET LOCAL search_path = {_SHADOW_SCHEMA}")
    return keys


async def _fill(
    connection: Connection, chain_id: int, builder: RowBuilder, limit: int, reached: Callable[[int], None]
) -> tuple[int, list[Difference]]:
    """Bring the whole ledger into the shadow, slice by slice; return its rows and what they contradict."""
    known = {row["address"] for row in await connection.fetch(queries()["shadow_addresses"], chain_id)}
    found: list[Difference] = []
    count, analyzed, after = 0, 0, -1
    while (last := await _slice_end(connection, chain_id, after)) is not None:
        stored = await connection.fetch(queries()["ledger_slice"], chain_id, after, last)
        readable = [row for row in stored if row["address"] in known]
        rows = builder.build(_raw_log(row) for row in readable)
        if len(found) < limit:
            found += _strangers(stored, known)
            found += _contradictions(stored)
            found += _decoded_otherwise(readable, rows)
        await _extend(connection, chain_id, after + 1, last, rows)
        count, after = count + len(stored), last
        reached(last)
        if count >= 2 * analyzed:  # nobody else analyzes temporary tables
            await connection.execute("ANALYZE " + ", ".join(f"pg_temp.{table}" for table in ("logs", *SHADOW_TABLES)))
            analyzed = count
    await connection.execute(queries()["level_totals"], chain_id)
    return count, found


async def _slice_end(connection: Connection, chain_id: int, after: int) -> int | None:
    """Return the last block of the next slice of whole blocks; None at the ledger's end."""
    bounds = (chain_id, after, _SLICE_LOGS, _SLICE_BYTES)
    last: int | None = await connection.fetchval(queries()["ledger_slice_end"], *bounds)
    return last


async def _extend(connection: Connection, chain_id: int, first: int, last: int, rows: Rows) -> None:
    """Do in the shadow what the writer does with a batch."""
    positions = [_POSITION[column] for column in _LOG_COLUMNS]
    slim = [tuple(row[position] for position in positions) for row in rows["logs"]]
    await connection.copy_records_to_table("logs", records=slim, columns=_LOG_COLUMNS, schema_name=_SHADOW_SCHEMA)
    filled = [table for table in COLUMNS if rows[table]]
    for table in filled:
        if table != "logs":
            await copy_rows(connection, table, rows, schema=_SHADOW_SCHEMA)
    if rows.undecodable:
        await connection.execute(queries()["count_undecodable"], chain_id, rows.undecodable)
    await projections.extend(connection, chain_id, first, last, filled)


def _raw_log(row: asyncpg.Record) -> RawLog:
    topics: bytes = row["topics"]
    return RawLog(
        block_number=row["block_number"],
        log_index=row["log_index"],
        block_hash=row["block_hash"],
        tx_hash=row["tx_hash"],
        tx_index=row["tx_index"],
        address=row["address"],
        topics=tuple(topics[start : start + 32] for start in range(0, len(topics), 32)),
        data=row["data"],
        timestamp=int(row["block_timestamp"].timestamp()),
    )


def _strangers(stored: Iterable[asyncpg.Record], known: set[bytes]) -> Iterator[Difference]:
    """Find logs of contracts that were never configured: nothing can be decoded of them."""
    for row in stored:
        if row["address"] not in known:
            yield Difference("logs", _key_of_log(row), "address", _shown(row["address"]), None)


def _contradictions(stored: Sequence[asyncpg.Record]) -> Iterator[Difference]:
    """Find neighbours of one block, or one transaction, that do not agree on what they share."""
    for before, row in pairwise(stored):
        if before["block_number"] != row["block_number"]:
            continue
        same_transaction = before["tx_index"] == row["tx_index"]
        shared = ("block_hash", "block_timestamp", "tx_hash") if same_transaction else ("block_hash", "block_timestamp")
        for column in shared:
            if row[column] != before[column]:
                yield Difference("logs", _key_of_log(row), column, _shown(row[column]), _shown(before[column]))


def _decoded_otherwise(readable: Iterable[asyncpg.Record], rows: Rows) -> Iterator[Difference]:
    """Find what the ledger says of a log beside its raw data, and decoding it today does not."""
    for held, new in zip(readable, rows["logs"], strict=True):
        for column in _DECODED:
            stored, expected = held[column], new[_POSITION[column]]
            if stored != expected and not (column == "args" and _same_json(stored, expected)):
                yield Difference("logs", _key_of_log(held), column, _shown(stored), _shown(expected))


def _same_json(stored: object, expected: object) -> bool:
    if not isinstance(stored, str) or not isinstance(expected, str):
        return False
    return bool(msgspec.json.decode(stored) == msgspec.json.decode(expected))


def _key_of_log(row: asyncpg.Record) -> str:
    return f"block_number={row['block_number']} log_index={row['log_index']}"


async def _compare(
    connection: Connection, chain_id: int, keys: Mapping[str, Sequence[str]], limit: int
) -> tuple[int, list[Difference]]:
    """Hold every live table against its shadow; return the rows of the shadow and what differs."""
    found: list[Difference] = []
    count = 0
    for table, key in keys.items():
        count += await connection.fetchval(f"SELECT count(*) FROM pg_temp.{table}")  # noqa: S608 - names are ours
        statement = _COMPARE.format(schema=SCHEMA, table=table, key=", ".join(key))
        for row in await connection.fetch(statement, chain_id, limit):
            found += _row_differences(table, key, _loaded(row["stored"]), _loaded(row["expected"]))
    return count, found


def _loaded(row: str | None) -> dict[str, object] | None:
    if row is None:
        return None
    loaded: dict[str, object] = json.loads(row, parse_float=Decimal)
    return loaded


def _row_differences(
    table: str, key: Sequence[str], stored: dict[str, object] | None, expected: dict[str, object] | None
) -> Iterator[Difference]:
    either = stored or expected or {}
    name = " ".join(f"{column}={_shown(either[column])}" for column in key if column != "chain_id" or len(key) == 1)
    if stored is None or expected is None:
        yield Difference(table, name, WHOLE_ROW, _shown(stored), _shown(expected))
        return
    for column, value in stored.items():
        if value != expected[column]:
            yield Difference(table, name, column, _shown(value), _shown(expected[column]))


def _shown(value: object) -> str | None:
    """Return a value as text: bytes as hex, whole rows as JSON, the long ones cut."""
    match value:
        case None:
            return None
        case bytes():
            text = f"0x{value.hex()}"
        case bool():
            text = str(value).lower()
        case datetime():
            text = value.isoformat()
        case dict():
            text = json.dumps(value, default=str, ensure_ascii=False)
        case _:
            text = str(value)
    return shortened(text)


def shortened(text: str) -> str:
    """Cut a long text; its length and hash stay, so that two that begin alike can be told apart."""
    if len(text) <= _MAX_SHOWN:
        return text
    digest = sha256(text.encode()).hexdigest()[:16]
    return f"{text[:_MAX_SHOWN]}… ({len(text)} characters, sha256 {digest}…)"
