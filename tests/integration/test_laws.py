"""What must always hold: the tables are a function of the canonical logs, whatever happened on the way."""

from __future__ import annotations

from random import Random

import pytest
from indexing import grown
from ledger import Ledger
from simulator.chain import SimChain
from simulator.logs import SimLog, form_log
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


@pytest.mark.parametrize("sizes", [(), (1,), (2,), (3,), (2, 1)])
async def test_numbers_of_feedback_go_by_what_came_before(database: Database, sizes: tuple[int, ...]) -> None:
    """Several of a pair in a block; None is a log without an index. Beside it, a pair that only ever rises."""
    given = [[1, 2], [4, 9], [3, 5, 6], [7, 8], [8], [9, None, None], [20, 21], [None], [23, 1], [2, 5]]
    expected = [
        *((0, 1), (0, 2), (0, 4), (0, 9), (1, 3), (1, 5), (1, 6), (1, 7), (1, 8), (2, 8), (2, 9), (2, 10), (2, 11)),
        *((2, 20), (2, 21), (2, 22), (2, 23), (3, 1), (3, 2), (3, 5)),
    ]
    chain, client, other = SimChain(seed=6), b"\x07" * 20, b"\x08" * 20
    for number, indexes in enumerate(given, 1):
        logs = [_feedback(client, index) for index in indexes]
        chain.mine([_feedback(other, 2 * number - 1), *logs, _feedback(other, 2 * number)])
    ledger = await Ledger.open(database)

    await ledger.index(chain, sizes)

    async with database.transaction() as connection:
        found = "SELECT epoch, feedback_index::int FROM feedback WHERE client = $1 ORDER BY block_number, log_index"
        assert [tuple(row) for row in await connection.fetch(found, client)] == expected
        assert [tuple(row) for row in await connection.fetch(found, other)] == [(0, n) for n in range(1, 21)]
        pairs = "SELECT client, epoch, last_index::int, feedback FROM agent_clients ORDER BY client"
        assert [tuple(row) for row in await connection.fetch(pairs)] == [(client, 3, 5, 3), (other, 0, 20, 20)]
        assert await connection.fetchval("SELECT (feedback, clients)::text FROM agent_stats") == "(23,2)"


def _feedback(client: bytes, index: int | None) -> SimLog:
    tags = ("a", "b", "", "", bytes(32))
    if index is None:
        return form_log(REPUTATION, "reputation/new_feedback_1_1_0", 1, client, 90, "a", "b", "", bytes(32))
    return form_log(REPUTATION, "reputation/new_feedback", 1, client, index, 90, 0, "a", *tags)


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
