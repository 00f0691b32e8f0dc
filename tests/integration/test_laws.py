"""What must always hold: the tables are a function of the canonical logs, whatever happened on the way."""

from __future__ import annotations

from random import Random

import pytest
from indexing import grown
from ledger import Ledger
from simulator.chain import SimChain
from simulator.logs import form_log
from workload import IDENTITY, REPUTATION

from indexer.store.database import Database


@pytest.mark.parametrize("seed", range(4))
async def test_any_split_gives_the_same_rows(database_url: str, another_database_url: str, seed: int) -> None:
    chain, _ = grown(seed, 40, 8)
    sizes = [Random(seed).randrange(1, 9) for _ in range(20)]

    tables = []
    for url, split in ((database_url, ()), (another_database_url, sizes)):
        database = await Database.open(url, size=2)
        ledger = await Ledger.open(database)
        await ledger.index(chain, split)
        tables.append(await ledger.tables())
        await database.close()

    assert tables[0] == tables[1]


async def test_an_event_without_a_typed_row_counts_in_any_split(database_url: str, another_database_url: str) -> None:
    chain = SimChain(seed=5)
    chain.mine([form_log(IDENTITY, "identity/uri_updated", 1, "x", bytes(20))])
    chain.mine([form_log(IDENTITY, "identity/metadata_update", 1)])  # moves updated_at, and nothing else
    chain.mine([form_log(IDENTITY, "identity/uri_updated", 2, "x", bytes(20))])

    tables = []
    for url, split in ((database_url, ()), (another_database_url, (1,))):
        database = await Database.open(url, size=2)
        ledger = await Ledger.open(database)
        await ledger.index(chain, split)
        tables.append(await ledger.tables())
        await database.close()

    assert tables[0] == tables[1]


@pytest.mark.parametrize("seed", range(6))
async def test_reorgs_leave_no_trace(database_url: str, another_database_url: str, seed: int) -> None:
    chain, workload = grown(seed, 40, 8)
    random = Random(seed)
    database = await Database.open(database_url, size=2)
    ledger = await Ledger.open(database)
    await ledger.index(chain, (5,))

    for _ in range(6):
        depth = random.randrange(1, 40)
        ancestor = chain.reorg(depth, [workload.block() for _ in range(depth + random.randrange(3))])
        await ledger.rollback(ancestor)
        await ledger.index(chain, (random.randrange(1, 6),), announce=True)
    tables = await ledger.tables()
    await database.close()

    clean = await Database.open(another_database_url, size=2)
    straight = await Ledger.open(clean)
    await straight.index(chain)
    expected = await straight.tables()
    await clean.close()
    assert {name: len(rows) for name, rows in tables.items()} == {name: len(rows) for name, rows in expected.items()}
    assert tables == expected


@pytest.mark.parametrize("table", ["transfers", "feedback"])
async def test_a_typed_row_without_its_log_stops_no_rollback(database: Database, table: str) -> None:
    chain = SimChain(seed=8)
    chain.mine_empty(3)
    feedback = (1, b"\x07" * 20, 1, 90, 0, "a", "a", "b", "", "", bytes(32))
    chain.mine([
        form_log(IDENTITY, "identity/transfer", bytes(20), b"\xaa" * 20, 1),
        form_log(REPUTATION, "reputation/new_feedback", *feedback),
    ])  # fmt: skip
    ledger = await Ledger.open(database)
    await ledger.index(chain)
    async with database.transaction() as connection:
        await connection.execute(f"UPDATE {table} SET block_number = block_number - 2")

    done = await ledger.writer.rollback(chain.blocks[-2].ref)

    assert (done.logs, done.agents) == (2, 1)
    async with database.transaction() as connection:
        assert await connection.fetchval("SELECT count(*) FROM agents") == 0
        assert await connection.fetchval("SELECT count(*) FROM agent_stats") == 0
