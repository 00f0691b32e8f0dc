"""Live tables held against their shadow: which rows differ, noted by key, and how that is told.

A row differs under its key, whichever chain it claims to be of: an agent's key belongs to one chain alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Final

from indexer.store.database import SCHEMA, Connection

WHOLE_ROW: Final = "(row)"  # stands for the column where a row is missing or should not be there
LOG_KEY: Final = ("chain_id", "block_number", "log_index")
# What the ledger holds beside raw data; the time is compared as well, for it has whole seconds.
DECODED: Final = ("block_timestamp", "agent_uuid", "agent_id", "event", "event_version", "args", "defect")

_MAX_SHOWN: Final = 300  # characters of a value in a report; a URI may have megabytes
# Rows of chains that nobody knows show up at every chain: no chain's shadow would miss them.
_NOTE: Final = """
    INSERT INTO pg_temp.differing_{table}
    SELECT {key}
    FROM (SELECT * FROM {schema}.{table} WHERE chain_id = $1
             OR chain_id NOT IN (SELECT c.chain_id FROM {schema}.chains c)) s
    FULL JOIN pg_temp.{table} r USING ({key})
    WHERE s IS DISTINCT FROM r
"""
_TELL: Final = """
    SELECT to_jsonb(s)::text AS stored, to_jsonb(r)::text AS expected
    FROM (SELECT {key} FROM pg_temp.differing_{table} ORDER BY {key} LIMIT $1) d
    LEFT JOIN {schema}.{table} s USING ({key})
    LEFT JOIN pg_temp.{table} r USING ({key})
    ORDER BY {key}
"""
_TELL_LOGS: Final = """
    SELECT to_jsonb(s)::text AS stored, to_jsonb(r)::text AS expected
    FROM (SELECT * FROM pg_temp.differing_logs ORDER BY {key} LIMIT $1) r
    JOIN (SELECT {key}, {decoded} FROM {schema}.logs) s USING ({key})
    ORDER BY {key}
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


async def note_differences(connection: Connection, chain_id: int, keys: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Put the key of every row that differs into `differing_<table>`; return how many, where there are any."""
    noted = {}
    for table, key in keys.items():
        note = _NOTE.format(schema=SCHEMA, table=table, key=", ".join(key))
        noted[table] = affected(await connection.execute(note, chain_id))
    return {table: count for table, count in noted.items() if count}


def affected(status: str) -> int:
    """Return the rows of a command's status, such as `UPDATE 5`."""
    return int(status.rpartition(" ")[2])


async def tell_differences(connection: Connection, keys: Mapping[str, Sequence[str]], limit: int) -> list[Difference]:
    """Return what differs in the rows that were noted, at most `limit` rows of each table; the ledger first."""
    told = _TELL_LOGS.format(schema=SCHEMA, key=", ".join(LOG_KEY), decoded=", ".join(DECODED))
    found = [one for row in await connection.fetch(told, limit) for one in _differences("logs", LOG_KEY, *row)]
    for table, key in keys.items():
        told = _TELL.format(schema=SCHEMA, table=table, key=", ".join(key))
        found += [one for row in await connection.fetch(told, limit) for one in _differences(table, key, *row)]
    return found


def _differences(table: str, key: Sequence[str], was: str | None, should_be: str | None) -> Iterator[Difference]:
    stored, expected = _loaded(was), _loaded(should_be)
    either = stored or expected or {}
    name = " ".join(f"{column}={shown(either[column])}" for column in key if column != "chain_id" or len(key) == 1)
    if stored is None or expected is None:
        yield Difference(table, name, WHOLE_ROW, shown(stored), shown(expected))
        return
    for column, value in stored.items():
        if value != expected[column]:
            yield Difference(table, name, column, shown(value), shown(expected[column]))


def _loaded(row: str | None) -> dict[str, object] | None:
    if row is None:
        return None
    loaded: dict[str, object] = json.loads(row, parse_float=Decimal)
    return loaded


def shown(value: object) -> str | None:
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
