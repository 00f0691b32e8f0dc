"""Tables that somebody altered by hand: every column in turn, rows that are gone, rows too many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from ledger import Ledger
from simulator.chain import SimChain
from workload import Workload

from indexer.store.database import Connection, Database
from indexer.store.shadow import SHADOW_TABLES

# How to make another value of the same type, of any value and of null.
_OTHER = {
    "bigint": "coalesce({c}, 0) + 1000000000",
    "integer": "coalesce({c}, 0) + 1000000",
    "smallint": "coalesce({c}, 0) + 100",
    "numeric": "coalesce({c}, 0) + 1",
    "text": "coalesce({c}, '') || '!'",
    "bytea": "coalesce({c}, '') || '\\x01'",
    "boolean": "NOT {c}",
    "uuid": "md5({c}::text)::uuid",
    "timestamp with time zone": "coalesce({c}, now()) + interval '1 second'",
    "date": "{c} + 400",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column that can be written; `other` is an expression for a value that it does not have."""

    name: str
    is_key: bool
    other: str


async def columns_of(connection: Connection) -> dict[str, list[Column]]:
    """Return the columns of every table that a shadow is made of."""
    rows = await connection.fetch(
        """
        SELECT c.table_name, c.column_name, c.data_type, k.column_name IS NOT NULL AS is_key
        FROM information_schema.columns c
        LEFT JOIN information_schema.key_column_usage k USING (table_schema, table_name, column_name)
        WHERE c.table_schema = 'erc8004_data' AND c.table_name = ANY ($1) AND c.is_generated = 'NEVER'
        ORDER BY c.table_name, c.ordinal_position
        """,
        list(SHADOW_TABLES),
    )
    found: dict[str, list[Column]] = {}
    for row in rows:
        name = row["column_name"]
        column = Column(name, row["is_key"], _OTHER[row["data_type"]].format(c=name))
        found.setdefault(row["table_name"], []).append(column)
    return found


def one_column_each(columns: dict[str, list[Column]]) -> Iterator[tuple[dict[str, Column], list[str]]]:
    """Yield the next column of every table that has one left, and the statements that alter it in one row each."""
    for turn in range(max(map(len, columns.values()))):
        chosen = {table: found[turn] for table, found in columns.items() if turn < len(found)}
        yield (
            chosen,
            [
                f"UPDATE {table} SET {column.name} = {column.other} WHERE ctid = (SELECT max(ctid) FROM {table})"
                for table, column in chosen.items()
            ],
        )


def ghosts(columns: dict[str, list[Column]]) -> list[str]:
    """Return statements that add to every table a row that nothing in the ledger explains."""
    statements = []
    for table, found in columns.items():
        key = [column for column in found if column.is_key][-1]
        names = ", ".join(column.name for column in found)
        values = ", ".join(column.other if column is key else column.name for column in found)
        statements.append(f"INSERT INTO {table} ({names}) SELECT {values} FROM {table} LIMIT 1")
    return statements


def losses(columns: dict[str, list[Column]]) -> list[str]:
    """Return statements that take one row out of every table."""
    return [f"DELETE FROM {table} WHERE ctid = (SELECT max(ctid) FROM {table})" for table in columns]


async def ledger_of(database: Database, *, seed: int = 0, blocks: int = 24) -> tuple[Ledger, SimChain]:
    """Index a random history, with a reorg on the way; also return the chain as it is now."""
    workload, random = Workload(seed), Random(seed)
    chain = SimChain(seed=seed)
    for _ in range(blocks):
        chain.mine(workload.block())
    ledger = await Ledger.open(database)
    await ledger.index(chain, (10,))
    depth = random.randrange(1, blocks)
    await ledger.rollback(chain.reorg(depth, [workload.block() for _ in range(depth + 1)]))
    await ledger.index(chain, (5,))
    return ledger, chain
