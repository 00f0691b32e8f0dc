"""When a commit waits for the disk, and that nobody outside is told of one that did not."""

from __future__ import annotations

import pytest
from indexing import grown, index
from ledger import CHAIN_ID, Ledger
from repairing import value_of
from simulator.node import SimNode
from stepping import SteppingDatabase

from indexer.publisher import Publisher
from indexer.store.database import Connection, Database

# The server of the tests never waits: what counts is who said so.
_TOLD_NOT_TO_WAIT = "SELECT source = 'session' AND setting = 'off' FROM pg_settings WHERE name = 'synchronous_commit'"


class Commits:
    """Counts the statements like `marked` of a database, and those of them whose commit did not wait."""

    def __init__(self, marked: str = "checkpoint_block = $2, checkpoint_hash = $3") -> None:
        self.marked, self.all, self.hasty = marked, 0, 0

    async def __call__(self, connection: Connection, statement: str) -> None:
        if self.marked in statement:
            self.all += 1
            self.hasty += bool(await connection.fetchval(_TOLD_NOT_TO_WAIT))


@pytest.mark.parametrize(
    ("options", "waiting"),
    [
        pytest.param({}, 1, id="a backfill waits at its end"),
        pytest.param({"until": 40}, 1, id="so does one up to a block"),
        pytest.param({"announce_backfill": True}, None, id="what is announced has to stay"),
    ],
)
async def test_only_batches_that_are_followed_by_others_do_not_wait(
    database_url: str, options: dict[str, object], waiting: int | None
) -> None:
    chain, _ = grown(9, 60)
    database = await SteppingDatabase.open(database_url, size=4)
    database.step = commits = Commits()
    async with SimNode(chain) as node:
        await index(database, [node.url], span=5, finality_blocks=0, **options)
    await database.close()

    assert commits.all > 5
    assert commits.all - commits.hasty == (commits.all if waiting is None else waiting)


async def test_blocks_at_the_head_wait(database_url: str) -> None:
    chain, workload = grown(9, 10)
    database = await SteppingDatabase.open(database_url, size=4)
    async with SimNode(chain) as node:
        await index(database, [node.url], finality_blocks=0)
        database.step = commits = Commits()
        for _ in range(12):
            chain.mine(workload.block(4))
        await index(database, [node.url], span=3, finality_blocks=0)
    await database.close()

    assert commits.all > 3
    assert commits.hasty == 0


async def test_a_head_waits_only_where_its_finalized_block_is_news(database_url: str) -> None:
    chain, _ = grown(9, 60)
    database = await SteppingDatabase.open(database_url, size=4)
    database.step = looks = Commits("finalized_block = greatest(")
    async with SimNode(chain) as node:
        await index(database, [node.url], span=5, finality_blocks=0)
    await database.close()

    assert looks.all > 1
    assert looks.all - looks.hasty == 1


async def test_a_flush_takes_what_did_not_wait_to_the_disk(database: Database) -> None:
    for _ in range(20):
        async with database.transaction(durable=False) as connection:
            await connection.execute("UPDATE database_identity SET id = gen_random_uuid()")
        reached = await value_of(database, "SELECT pg_current_wal_insert_lsn()::text")
        await database.flush()

        assert await value_of(database, f"SELECT pg_current_wal_flush_lsn() >= '{reached}'::pg_lsn")


async def test_a_flush_needs_none_of_the_connections_in_use(database_url: str) -> None:
    database = await Database.open(database_url, size=1)
    async with database.transaction():
        await database.flush()
    await database.close()


@pytest.mark.parametrize(("state", "flushes"), [("backfilling", 1), ("live", 0)])
async def test_valkey_is_told_of_nothing_that_a_crash_could_take_back(
    database: Database, valkey_url: str, monkeypatch: pytest.MonkeyPatch, state: str, flushes: int
) -> None:
    chain, _ = grown(9, 20)
    ledger = await Ledger.open(database)
    await ledger.index(chain)
    async with database.transaction() as connection:
        await connection.execute("UPDATE chains SET state = $1", state)
    flushed: list[int] = []
    flush = database.flush

    async def noted() -> None:
        flushed.append(len(await publisher._valkey._seed.keys("*checkpoint")))
        await flush()

    monkeypatch.setattr(database, "flush", noted)
    async with Publisher(database, valkey_url, chain_ids=[CHAIN_ID]) as publisher:
        await publisher.catch_up(CHAIN_ID)

    assert flushed == [0] * flushes
