"""Live tables held against their shadow: which rows differ, noted by key, and how that is told.

A row differs under its key, whichever chain it claims to be of: an agent's key belongs to one chain alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Final

from indexer.store.database import SCHEMA, Connection
from indexer.store.difference import DECODED, LOG_KEY, WHOLE_ROW, Difference, shown

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
