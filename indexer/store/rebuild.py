"""The projections computed anew from the stored logs: reported by `verify`, merged by `reindex --rebuild`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

import asyncpg

from indexer.core.rows import RowBuilder
from indexer.core.types import Deployment
from indexer.errors import SettingsError
from indexer.store.comparing import affected, note_differences, tell_differences
from indexer.store.database import SCHEMA, Connection, Database
from indexer.store.difference import Difference
from indexer.store.queries import queries
from indexer.store.shadow import LAST_BLOCK, SLICE_LOGS, ContractsChanged, Reached, Rereading, Shadow, reread_aside

MAX_TOLD: Final = 1000
"""Differences of a chain that are told; the first ones say what is wrong."""

_REMOVE: Final = "DELETE FROM {schema}.{table} t USING pg_temp.differing_{table} d WHERE ({stored}) = ({noted})"
_INSERT: Final = """
    INSERT INTO {schema}.{table} ({columns})
    SELECT {columns} FROM pg_temp.{table} JOIN pg_temp.differing_{table} USING ({key})
"""


class _LedgerMoved(Exception):
    """Logs that were read already have changed meanwhile; nothing was written."""


class Rebuilt(NamedTuple):
    """What a rebuild did.

    `rows` were compared. `differences` are at most as many as asked for; contradictions within raw data come first,
    which only fetching again can put right. `merged` rows of the tables were written anew, or removed.
    """

    rows: int
    differences: list[Difference]
    merged: int


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
    limit: int = MAX_TOLD,
    reached: Reached = lambda _: None,
    rereading: Rereading = reread_aside,
) -> tuple[int, list[Difference]]:
    """Compute the chain's rows anew from its ledger; return how many were compared, and at most `limit` differences.

    Wants a transaction of one snapshot, which is as before afterwards. Writes nothing: once the shadow stands, the
    server itself refuses to. Raw data of the ledger is taken as it is, but for what contradicts itself.
    """
    attempt = connection.transaction()
    await attempt.start()
    try:
        shadow = await Shadow.make(connection, chain_id, builder, limit, rereading)
        await connection.execute("SET TRANSACTION READ ONLY")
        await shadow.fill(LAST_BLOCK, reached)
        noted = await note_differences(connection, chain_id, shadow.keys)
        return await _told(connection, shadow, noted, limit)
    finally:
        await attempt.rollback()


async def rebuild(
    database: Database,
    chain_id: int,
    builder: RowBuilder,
    *,
    reached: Reached = lambda _: None,
    limit: int = MAX_TOLD,
    rereading: Rereading = reread_aside,
) -> Rebuilt:
    """Compute the chain's rows anew from its ledger and write those that differ, in one transaction.

    Needs no lease and may run beside a daemon: commits go on while the ledger is read, and wait from the comparison
    on. Where read logs were taken back or replaced meanwhile it begins again, and then lets nobody write. `builder`
    must know the chain's contracts as stored. Raises StoreUnavailable, SettingsError for an unknown chain, or
    ContractsChanged; then nothing was written.
    """
    try:
        return await _rebuild(database, chain_id, builder, reached, limit, rereading, alone=False)
    except _LedgerMoved:
        return await _rebuild(database, chain_id, builder, reached, limit, rereading, alone=True)


async def _rebuild(
    database: Database,
    chain_id: int,
    builder: RowBuilder,
    reached: Reached,
    limit: int,
    rereading: Rereading,
    *,
    alone: bool,
) -> Rebuilt:
    async with database.transaction() as connection:
        if alone:
            await _lock(connection, chain_id)
        begun = await _chain(connection, chain_id)
        shadow = await Shadow.make(connection, chain_id, builder, limit, rereading)
        if not alone:
            await _follow(connection, chain_id, shadow, reached)
            await _lock(connection, chain_id)
        await connection.execute(queries()["rebuild_patience"])
        chain = await _chain(connection, chain_id)
        await _expect_unmoved(connection, chain_id, shadow, begun, chain)
        await shadow.fill(LAST_BLOCK, reached)
        noted = await note_differences(connection, chain_id, shadow.keys)
        rows, differences = await _told(connection, shadow, noted, limit)
        merged = await _merge(connection, {table: shadow.keys[table] for table in noted}) + sum(noted.values())
        if merged:
            await _announce(connection, chain_id, chain)
    return Rebuilt(rows, differences, merged)


async def _lock(connection: Connection, chain_id: int) -> None:
    await connection.execute(queries()["rebuild_lock"], chain_id)


async def _chain(connection: Connection, chain_id: int) -> asyncpg.Record:
    chain = await connection.fetchrow(queries()["rebuild_chain"], chain_id)
    if chain is None:
        raise SettingsError(f"chain {chain_id} is not in this database: `run` indexes it first")
    return chain


async def _follow(connection: Connection, chain_id: int, shadow: Shadow, reached: Reached) -> None:
    """Bring in what is settled while others write, until less than a slice of it came meanwhile."""
    while True:
        chain = await _chain(connection, chain_id)
        if await shadow.fill(chain["settled_block"], reached) < SLICE_LOGS:
            return


async def _expect_unmoved(
    connection: Connection, chain_id: int, shadow: Shadow, begun: asyncpg.Record, chain: asyncpg.Record
) -> None:
    """Raise _LedgerMoved where the shadow holds what is not there any more, or lacks what was put below its end.

    Rollbacks that took back nothing of it do not matter; every other rewrite does.
    """
    rewritten = chain["rewrites"] != begun["rewrites"]
    bounds = (chain_id, begun["cursor"], shadow.last_block)
    if rewritten or await connection.fetchval(queries()["taken_back"], *bounds):
        raise _LedgerMoved
    if await connection.fetchval(queries()["contracts_changed"], chain_id):
        raise ContractsChanged(f"chain {chain_id}: its contracts changed while its logs were read; run it again")


async def _told(
    connection: Connection, shadow: Shadow, noted: Collection[str], limit: int
) -> tuple[int, list[Difference]]:
    """Return how many rows were compared, and what differs in the raw data and in the tables with noted rows."""
    told = await tell_differences(connection, {table: shadow.keys[table] for table in noted}, limit)
    return await shadow.count(), [*shadow.doubts, *told][:limit]


async def _merge(connection: Connection, keys: Mapping[str, Sequence[str]]) -> int:
    """Bring the noted rows to what the shadow says, and no other; return how many rows of the ledger."""
    columns = await connection.fetch(queries()["table_columns"], SCHEMA, list(keys))
    for table, written in columns:
        key = keys[table]
        stored, noted = (", ".join(f"{side}.{column}" for column in key) for side in ("t", "d"))
        names = {"schema": SCHEMA, "table": table, "key": ", ".join(key), "columns": ", ".join(written)}
        await connection.execute(_REMOVE.format(**names, stored=stored, noted=noted))
        await connection.execute(_INSERT.format(**names))
    return affected(await connection.execute(queries()["merge_logs"]))


async def _announce(connection: Connection, chain_id: int, chain: asyncpg.Record) -> None:
    """Have the publisher look at all agents of the chain again, and who reads its rows read them again."""
    cursor: int = chain["cursor"] + 1
    first, last = min(chain["start_block"], chain["checkpoint_block"]), chain["checkpoint_block"]
    change = (chain_id, cursor, "refresh", first, last, chain["checkpoint_hash"], None)
    await connection.execute(queries()["announce"], *change)
    await connection.execute(queries()["mark_rewritten"], chain_id, cursor)
    await connection.execute(queries()["notify"], f"{chain_id}:{cursor}")
