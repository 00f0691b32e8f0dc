"""What is sent to COPY in binary, held against what PostgreSQL makes of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.core.rows import COLUMNS, Rows
from indexer.store.copying import copy_rows
from indexer.store.database import Database
from indexer.store.encoding import encode, encode_rows

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "smallint": st.integers(-(2**15), 2**15 - 1),
    "numeric": st.one_of(
        st.integers(-(2**256), 2**256), st.integers(0, 100), st.integers(0, 60).map(lambda power: 10**power)
    ),
    "boolean": st.booleans(),
    "bytea": st.binary(max_size=80),
    "text": TEXT,
    "uuid": st.uuids(),
    "timestamp with time zone": st.integers(0, 253_402_300_799).map(
        lambda seconds: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    ),
}
# A value is computed from these two: they must be in proportion.
BOUNDED = {"value_raw": st.integers(-(2**127), 2**127), "value_decimals": st.integers(0, 18)}


async def columns_of(database: Database, table: str) -> dict[str, tuple[str, bool]]:
    """Return type and nullability of the columns that are written."""
    async with database.transaction() as connection:
        rows = await connection.fetch(
            "SELECT attname::text, format_type(atttypid, NULL), NOT attnotnull FROM pg_attribute"
            " WHERE attrelid = $1::regclass AND attnum > 0",
            f"erc8004_data.{table}",
        )
    found = {name: (kind, nullable) for name, kind, nullable in rows}
    return {name: found[name] for name in COLUMNS[table]}


def value_of(name: str, kind: str, nullable: bool) -> st.SearchStrategy[Any]:
    values = BOUNDED.get(name, VALUES[kind])
    return st.none() | values if nullable else values


@pytest.mark.parametrize("table", COLUMNS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_every_value_arrives_as_it_is(database: Database, table: str, data: st.DataObject) -> None:
    kinds = await columns_of(database, table)
    row = st.tuples(*(value_of(name, *kind) for name, kind in kinds.items()))
    drawn = data.draw(st.lists(row, max_size=6, unique_by=lambda row: row[:3]))
    rows = Rows()
    rows.tables[table] += drawn

    async with database.transaction() as connection:
        await copy_rows(connection, encode_rows(rows))
        stored = await connection.fetch(f"SELECT {', '.join(COLUMNS[table])} FROM {table}")
        await connection.execute(f"DELETE FROM {table}")

    assert sorted(map(tuple, stored), key=lambda row: row[:3]) == sorted(drawn, key=lambda row: row[:3])


def test_columns_can_be_chosen() -> None:
    agent = UUID(int=7)
    row = (1, 2, 3, 4, datetime(2000, 1, 1, tzinfo=UTC), agent, 5, *[b""] * 5, None, None, None, None)

    data = encode("logs", [row], ("chain_id", "block_number", "log_index", "agent_uuid"))

    assert data.endswith(b"\x00\x00\x00\x10" + agent.bytes + b"\xff\xff")
    assert data[19:21] == b"\x00\x04"
