"""Runs what corrects the tables over simulated nodes, and damages tables as an accident would."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any

from ledger import CHAIN_ID, decoder
from pydantic import SecretStr
from workload import DEPLOYMENT

from indexer.chain.source import Source
from indexer.core.counters import ChainCounters
from indexer.core.ranges import start_span
from indexer.core.rows import TYPED_TABLES, RowBuilder
from indexer.core.types import ChainId, Deployment, Proof
from indexer.keeper import Keeper, Upkeep
from indexer.reindexing import Outcome
from indexer.repair import Repair
from indexer.settings import ChainSettings
from indexer.store.chains import Chains
from indexer.store.coverage import Coverage
from indexer.store.database import Database
from indexer.store.leases import Leases
from indexer.store.positions import Positions
from indexer.store.rebuild import rebuild
from indexer.store.slices import Slices


async def reindex(
    database: Database,
    urls: Sequence[str],
    first: int | None = None,
    last: int | None = None,
    *,
    patience_s: float = 10.0,
    **chain: Any,
) -> Outcome:
    """Run the verb without its process; `chain` are settings of the chain."""
    given = {"start_block": 0, "deployments": (DEPLOYMENT,), "finality_blocks": 64, **chain}
    settings = ChainSettings(
        name="local", id=CHAIN_ID, rpc=tuple(SecretStr(url) for url in urls), poll_interval_s=0.01, **given
    )
    async with AsyncExitStack() as stack:
        repair = await Repair.open(stack, database, settings)
        repair.patience_s = patience_s
        await repair.run(first, last)
        return repair.outcome


@asynccontextmanager
async def open_keeper(
    database: Database,
    urls: Sequence[str],
    *,
    proof: Proof = "logs",
    deployments: Sequence[Deployment] = (DEPLOYMENT,),
    span: int = 1000,
    **plan: Any,
) -> AsyncIterator[Keeper]:
    """Hold the chain to these contracts, take its lease, and yield a keeper that has not begun."""
    await Chains(database).prepare(CHAIN_ID, "local", deployments, proof=proof, max_lag_s=60, stall_after_s=90)
    lease = await Leases(database, "test").acquire(CHAIN_ID)
    assert lease is not None
    addresses = tuple(dict.fromkeys(address for one in deployments for address in one.addresses))
    upkeep = Upkeep(
        chain_id=ChainId(CHAIN_ID), addresses=addresses, proof=proof, max_concurrency=3, announce_backfill=False,
        **{"look_every_s": 0.02, "audit_every_s": 0.02, **plan},
    )  # fmt: skip
    async with Source.open(urls, proof=proof) as source:
        yield Keeper(
            upkeep,
            source,
            Slices(database, CHAIN_ID, RowBuilder(ChainId(CHAIN_ID), deployments, decoder()), lease),
            Coverage(database, CHAIN_ID),
            Chains(database),
            Positions(database, CHAIN_ID),
            ChainCounters(ChainId(CHAIN_ID), "local"),
            start_span(span),
            lambda: None,
            Random(1),
        )


async def execute(database: Database, statement: str, *values: object) -> None:
    async with database.transaction() as connection:
        await connection.execute(statement, *values)


async def value_of(database: Database, statement: str, *values: object) -> Any:
    async with database.transaction() as connection:
        return await connection.fetchval(statement, *values)


async def blocks_with_logs(database: Database) -> list[int]:
    async with database.transaction() as connection:
        rows = await connection.fetch("SELECT DISTINCT block_number FROM logs ORDER BY 1")
    return [row["block_number"] for row in rows]


async def drop_logs(database: Database, first: int, last: int) -> int:
    """Lose what the chain has of some blocks, as if their answer had kept it back; return how many logs.

    The state is computed anew: it is a function of the rows.
    """
    for table in TYPED_TABLES:
        await execute(database, f"DELETE FROM {table} WHERE block_number BETWEEN $1 AND $2", first, last)
    async with database.transaction() as connection:
        gone = await connection.fetch(
            "DELETE FROM logs WHERE block_number BETWEEN $1 AND $2 RETURNING event", first, last
        )
    undecodable = sum(row["event"] is None for row in gone)
    await execute(database, "UPDATE chain_totals SET undecodable = undecodable - $1", undecodable)
    await rebuild(database, CHAIN_ID, RowBuilder(ChainId(CHAIN_ID), [DEPLOYMENT], decoder()))
    return len(gone)


async def invent_log(database: Database, block_number: int) -> None:
    """Store a log that the chain does not have, behind those of a block that has some."""
    await execute(
        database,
        """
        INSERT INTO logs SELECT DISTINCT ON (block_number) chain_id, block_number, log_index + 100, tx_index,
            block_timestamp, NULL::uuid, NULL::numeric, address, block_hash, tx_hash, topics, data, NULL, NULL,
            NULL::jsonb, 'invented'
        FROM logs WHERE block_number = $1 ORDER BY block_number, log_index DESC
        """,
        block_number,
    )
    await execute(database, "UPDATE chain_totals SET undecodable = undecodable + 1")


async def alter_log(database: Database, block_number: int) -> None:
    """Change the data of a stored log, and leave what was made of it."""
    await execute(database, "UPDATE logs SET data = data || '\\x00' WHERE block_number = $1", block_number)


async def versions(database: Database) -> set[tuple[object, ...]]:
    """Return the row versions of the ledger: a row that was written again has another one."""
    async with database.transaction() as connection:
        rows = await connection.fetch("SELECT block_number, log_index, xmin::text FROM logs")
    return {tuple(row) for row in rows}
