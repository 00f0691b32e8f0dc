"""`rebuild` brings altered tables back to what the ledger says, beside writers and readers that notice nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import asyncpg
import pytest
from altering import columns_of, ghosts, ledger_of, losses, one_column_each
from indexing import expect_truth, grown
from ledger import CHAIN_ID, COMPARED, Ledger, decoder, tables_of
from simulator.chain import SimChain
from stepping import SteppingDatabase
from workload import DEPLOYMENT, Workload

from indexer.core.abi import load_forms
from indexer.core.decode import Decoder
from indexer.core.rows import RowBuilder
from indexer.core.types import Batch, BlockRange, ChainId, Deployment
from indexer.errors import SettingsError, StoreUnavailable
from indexer.resources import data_dir
from indexer.store import rebuild as rebuilding
from indexer.store.database import Connection, Database
from indexer.store.difference import WHOLE_ROW
from indexer.store.encoding import encode_rows
from indexer.store.queries import queries
from indexer.store.rebuild import Rebuilt, stored_deployments
from indexer.store.shadow import SHADOW_TABLES, ContractsChanged
from indexer.store.slices import Slice, Slices

OTHER_CHAIN = ChainId(10)
LOCK = "rebuild_lock"
_VIEWS = (
    "erc8004_agents", "erc8004_agent_metadata", "erc8004_reputation", "erc8004_feedback_responses",
    "erc8004_validations", "erc8004_validation_responses", "erc8004_agent_owners", "erc8004_events",
    "v_erc8004_agent_stats", "v_erc8004_chain_stats", "v_erc8004_daily_stats",
)  # fmt: skip


@pytest.fixture
async def stepping(database_url: str) -> AsyncIterator[SteppingDatabase]:
    """Yield a pool over the test's database, of which each statement can be waited for."""
    database = await SteppingDatabase.open(database_url, size=2)
    yield database
    await database.close()


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the ledger read in many steps."""
    monkeypatch.setattr("indexer.store.shadow.SLICE_LOGS", 20)
    monkeypatch.setattr("indexer.store.rebuild.SLICE_LOGS", 20)


async def rebuild(database: Database, chain_id: int = CHAIN_ID, **options: int) -> Rebuilt:
    async with database.transaction() as connection:
        deployments = await stored_deployments(connection, chain_id)
    builder = RowBuilder(ChainId(chain_id), deployments, decoder())
    return await rebuilding.rebuild(database, chain_id, builder, **options)


async def alter(database: Database, *statements: str) -> None:
    async with database.transaction() as connection:
        for statement in statements:
            await connection.execute(statement)


async def versions(database: Database) -> dict[tuple[str, str], str]:
    """Return which transaction wrote each row, by table and content."""
    found = {}
    async with database.transaction() as connection:
        for table in (*COMPARED, "blocks", "coverage", "registries", "reverted_logs"):
            for row in await connection.fetch(f"SELECT to_jsonb(t)::text AS row, t.xmin::text AS xmin FROM {table} t"):
                found[table, row["row"]] = row["xmin"]
    return found


def places(rebuilt: Rebuilt) -> set[tuple[str, str]]:
    """Return table and column of every difference."""
    return {(one.table, one.column) for one in rebuilt.differences}


async def damage(database: Database) -> None:
    """Take a row out of every table, and alter what is decoded of some logs."""
    async with database.transaction() as connection:
        columns = await columns_of(connection)
    await alter(
        database, *losses(columns), *ghosts(columns), "UPDATE logs SET event = 'Other' WHERE event = 'NewFeedback'"
    )


# --- what is put right ------------------------------------------------------------------------------------------------


async def test_sound_tables_stay_as_they_are(database: Database) -> None:
    await ledger_of(database)
    before = await versions(database)
    async with database.transaction() as connection:
        chain = await connection.fetchrow("SELECT * FROM chains")

    rebuilt = await rebuild(database)

    assert (rebuilt.differences, rebuilt.merged) == ([], 0)
    assert rebuilt.rows > 100
    assert await versions(database) == before
    async with database.transaction() as connection:
        assert await connection.fetchrow("SELECT * FROM chains") == chain


async def test_every_altered_value_is_put_right_and_no_other_row_is_written(database: Database) -> None:
    """One column of every table at a time, each in one row."""
    await ledger_of(database)
    truth = await tables_of(database)
    async with database.transaction() as connection:
        columns = await columns_of(connection)
    assert set(columns) == set(SHADOW_TABLES)

    for chosen, statements in one_column_each(columns):
        before = await versions(database)
        await alter(database, *statements)

        rebuilt = await rebuild(database)

        assert await tables_of(database) == truth
        assert {(table, WHOLE_ROW if one.is_key else one.name) for table, one in chosen.items()} <= places(rebuilt)
        after = await versions(database)
        assert len([row for row in before if before[row] != after[row]]) == len(chosen)
        assert rebuilt.merged == sum(2 if column.is_key else 1 for column in chosen.values())


@pytest.mark.parametrize("alteration", [losses, ghosts], ids=["lost", "ghost"])
async def test_rows_that_are_gone_or_too_many_are_put_right_in_every_table(database, clean, alteration) -> None:
    _, chain = await ledger_of(database)
    async with database.transaction() as connection:
        await alter(database, *alteration(await columns_of(connection)))

    rebuilt = await rebuild(database)

    assert places(rebuilt) == {(table, WHOLE_ROW) for table in SHADOW_TABLES}
    assert rebuilt.merged == len(SHADOW_TABLES)
    await expect_truth(database, clean, chain)


async def test_tables_that_were_emptied_are_filled(database, clean) -> None:
    _, chain = await ledger_of(database)
    await alter(database, *(f"DELETE FROM {table}" for table in SHADOW_TABLES))

    rebuilt = await rebuild(database, limit=5)

    assert len(rebuilt.differences) == 5
    assert rebuilt.merged > 100
    await expect_truth(database, clean, chain)


async def test_what_is_decoded_of_a_log_is_put_right_and_its_raw_data_stays(database, clean) -> None:
    _, chain = await ledger_of(database)
    one = "WHERE (block_number, log_index) = (SELECT block_number, log_index FROM logs WHERE event = 'NewFeedback' "
    settings = (
        "agent_uuid = md5('x')::uuid", "agent_id = agent_id + 1", "event = 'Other'", "event_version = '0'",
        "args = NULL", "args = args || '{\"more\": 1}'", "defect = 'odd'",
        "block_timestamp = block_timestamp + interval '1 microsecond'",
    )  # fmt: skip
    await alter(
        database,
        *(f"UPDATE logs SET {setting} {one} ORDER BY 1, 2 LIMIT 1 OFFSET {n})" for n, setting in enumerate(settings)),
    )

    rebuilt = await rebuild(database)

    assert places(rebuilt) == {("logs", setting.partition(" ")[0]) for setting in settings}
    assert rebuilt.merged == len(settings)
    await expect_truth(database, clean, chain)


async def test_arguments_in_other_words_are_no_difference(database: Database) -> None:
    await ledger_of(database)
    await alter(database, "UPDATE logs SET args = args::jsonb::text WHERE args IS NOT NULL")
    before = await versions(database)

    rebuilt = await rebuild(database)

    assert (rebuilt.differences, rebuilt.merged) == ([], 0)
    assert await versions(database) == before


async def test_logs_that_an_older_version_could_not_decode_are_decoded(database, clean) -> None:
    chain, _ = grown(4, 24, 8)
    ledger = await Ledger.open(database)
    ledger.builder = RowBuilder(CHAIN_ID, [DEPLOYMENT], _older())
    await ledger.index(chain, (7,))
    async with database.transaction() as connection:
        assert await connection.fetchval("SELECT undecodable FROM chain_totals") > 20
        assert await connection.fetchval("SELECT count(*) FROM feedback") == 0

    rebuilt = await rebuild(database)

    assert {("logs", "event"), ("feedback", WHOLE_ROW), ("chain_totals", "undecodable")} <= places(rebuilt)
    await expect_truth(database, clean, chain)


def _older() -> Decoder:
    """Return a decoder that knows no form of the reputation registry."""
    paths = [path for path in data_dir("abi").glob("*/*.json") if path.parent.name != "reputation"]
    return Decoder(load_forms({f"{path.parent.name}/{path.stem}": json.loads(path.read_text()) for path in paths}))


async def test_raw_data_that_nobody_can_read_is_told_and_left(database: Database) -> None:
    await ledger_of(database)
    await alter(database, "UPDATE logs SET address = '\\x01' WHERE ctid = (SELECT max(ctid) FROM logs)")

    first, again = await rebuild(database), await rebuild(database)

    assert ("logs", "address") in places(first)
    assert first.merged > 0
    assert places(again) == {("logs", "address")}
    assert again.merged == 0


async def test_a_chain_that_was_never_stored_is_refused(database: Database) -> None:
    with pytest.raises(SettingsError, match="chain 5 "):
        await rebuild(database, 5)


# --- others' rows -----------------------------------------------------------------------------------------------------


async def _two_chains(database: Database) -> None:
    for chain_id, name, seed in ((CHAIN_ID, "local", 0), (OTHER_CHAIN, "other", 1)):
        ledger = await Ledger.open(database, chain_id=chain_id, name=name)
        await ledger.index(grown(seed, 16, 6)[0], (5,))


async def test_another_chains_rows_are_not_touched(database: Database) -> None:
    await _two_chains(database)
    truth = await tables_of(database)
    await alter(
        database,
        "UPDATE feedback SET tag2 = 'x'",
        "UPDATE logs SET defect = 'odd'",
        "DELETE FROM agent_stats WHERE ctid = (SELECT max(ctid) FROM agent_stats)",
        "UPDATE chain_totals SET agents = 0",
    )
    before = await versions(database)

    await rebuild(database, OTHER_CHAIN)
    after = await versions(database)

    theirs = {row: xmin for row, xmin in before.items() if f'"chain_id": {CHAIN_ID}' in row[1]}
    assert len(theirs) > 100
    assert theirs.items() <= after.items()
    await rebuild(database, CHAIN_ID)
    assert await tables_of(database) == truth


async def test_rows_that_another_chain_claims_come_back(database: Database) -> None:
    await _two_chains(database)
    truth = await tables_of(database)
    await alter(database, *(f"UPDATE {table} SET chain_id = {OTHER_CHAIN}" for table in ("agents", "agent_clients")))

    rebuilt = await rebuild(database, CHAIN_ID)

    assert places(rebuilt) == {("agents", "chain_id"), ("agent_clients", "chain_id")}
    assert await tables_of(database) == truth


# --- beside readers ---------------------------------------------------------------------------------------------------


async def _seen(connection: asyncpg.Connection) -> tuple[str, ...]:
    """Return what all views show in one statement."""
    shown = (f"(SELECT md5(string_agg(v::text, '' ORDER BY v::text)) FROM erc8004.{view} v)" for view in _VIEWS)
    return tuple(await connection.fetchrow(f"SELECT {', '.join(shown)}"))


async def test_readers_see_all_of_the_old_or_all_of_the_new(database_url: str, database: Database) -> None:
    await ledger_of(database)
    await damage(database)
    old, reader = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    snapshot = old.transaction(isolation="repeatable_read")
    await snapshot.start()
    before = await _seen(old)

    merging = asyncio.create_task(rebuild(database))
    seen = [await _seen(reader)]
    while not merging.done():
        seen.append(await _seen(reader))
    after = await _seen(reader)

    assert merging.result().merged > len(SHADOW_TABLES)
    assert set(seen) <= {before, after}
    assert seen[0] == before != after
    assert await _seen(old) == before
    await snapshot.rollback()
    assert await _seen(old) == after
    await old.close()
    await reader.close()


async def test_the_publisher_is_told_of_the_whole_chain_and_readers_of_rows_read_again(database_url, database) -> None:
    ledger, chain = await ledger_of(database)
    await damage(database)
    heard: list[str] = []
    listener = await asyncpg.connect(database_url)
    await listener.add_listener("erc8004_changes", lambda *message: heard.append(message[3]))
    before = await listener.fetchrow("SELECT * FROM erc8004_data.chains")

    await rebuild(database)

    after = await listener.fetchrow("SELECT * FROM erc8004_data.chains")
    assert dict(after) == {**before, "cursor": before["cursor"] + 1, "rewrites": before["rewrites"] + 1}
    change = await listener.fetchrow("SELECT * FROM erc8004_data.changes ORDER BY cursor DESC LIMIT 1")
    assert (change["cursor"], change["kind"]) == (after["cursor"], "refresh")
    assert (change["from_block"], change["block_number"]) == (0, chain.head.number)
    assert heard == [f"{ledger.chain_id}:{after['cursor']}"]
    await listener.close()


# --- beside writers ---------------------------------------------------------------------------------------------------


@dataclass
class Meanwhile:
    """Does something before the statements of one name, up to the first `until`; counts the attempts."""

    name: str
    act: Callable[[], Awaitable[None]]
    until: str = LOCK
    attempts: int = 0
    over: bool = False

    async def __call__(self, _: Connection, statement: str) -> None:
        self.attempts += statement == queries()["shadow_settings"]
        if statement == queries()[self.name] and not self.over:
            await self.act()
        self.over |= statement == queries()[self.until]


async def _half(database: Database, *, settled: int = -1) -> tuple[Ledger, SimChain, Workload]:
    """Index half of a chain, and damage the tables; up to block `settled` it is final."""
    chain, workload = grown(3, 40, 6)
    ledger = await Ledger.open(database)
    await ledger.commit(chain, 0, 20)
    await damage(database)
    await alter(database, f"UPDATE chains SET proven_final = {settled}")
    return ledger, chain, workload


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("settled", [-1, 15], ids=["finality unknown", "partly final"])
async def test_commits_go_on_while_the_ledger_is_read(database, clean, stepping, settled: int) -> None:
    ledger, chain, _ = await _half(database, settled=settled)
    committed = 0

    async def commit() -> None:
        nonlocal committed
        async with asyncio.timeout(5):
            await ledger.commit(chain, ledger.tip.number + 1, ledger.tip.number + 1, announce=True)
        committed += 1

    stepping.step = meanwhile = Meanwhile("ledger_slice", commit)
    await rebuild(stepping)

    assert committed >= 3
    assert meanwhile.attempts == 1
    await ledger.index(chain)
    await expect_truth(database, clean, chain)


async def test_a_commit_waits_for_the_merge_and_stands_on_it(database, clean, stepping) -> None:
    ledger, chain, _ = await _half(database)
    waiting: list[asyncio.Task[None]] = []

    async def begin() -> None:
        waiting.append(asyncio.create_task(ledger.index(chain)))
        async with asyncio.timeout(5):
            while not await _someone_waits(database):
                pass

    stepping.step = Meanwhile("merge_logs", begin, until="merge_logs")
    await rebuild(stepping)
    await waiting[0]

    await expect_truth(database, clean, chain)


async def _someone_waits(database: Database) -> bool:
    async with database.transaction() as connection:
        waits: bool = await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
    return waits


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize(
    ("settled", "attempts"), [(-1, 2), (12, 1)], ids=["of logs that were read", "of logs that were not"]
)
async def test_a_rollback_meanwhile_is_survived(database, clean, stepping, settled: int, attempts: int) -> None:
    ledger, chain, workload = await _half(database, settled=settled)

    async def reorganise() -> None:
        await ledger.rollback(chain.reorg(chain.head.number - 13, [workload.block() for _ in range(30)]))
        await ledger.commit(chain, 14, 25)

    stepping.step = meanwhile = Meanwhile(LOCK, reorganise)
    await rebuild(stepping)

    assert meanwhile.attempts == attempts
    await ledger.index(chain)
    await expect_truth(database, clean, chain)


async def test_a_slice_that_is_swapped_meanwhile_is_survived(database, clean, stepping) -> None:
    chain, _ = grown(3, 24, 6)
    within = BlockRange(0, chain.head.number)
    blocks, logs = tuple(block.ref for block in chain.blocks), tuple(chain.logs(within=within))
    ledger = await Ledger.open(database)
    kept_back = tuple(log for log in logs if log.block_number % 3)
    rows = encode_rows(ledger.builder.build(kept_back))
    batch = Batch(within, blocks, kept_back)
    await ledger.writer.commit(batch, rows, parent=None, state="live", announce=False, finalized=None)
    await damage(database)
    slices = Slices(database, CHAIN_ID, ledger.builder)
    fetched = Slice(Batch(within, blocks, logs), DEPLOYMENT.addresses, await slices.version())

    async def swap() -> None:
        assert (await slices.swap(fetched, removable=frozenset(), announce=True)).changes

    stepping.step = meanwhile = Meanwhile(LOCK, swap)
    await rebuild(stepping)

    assert meanwhile.attempts == 2
    await expect_truth(database, clean, chain)


async def test_contracts_that_are_added_meanwhile_are_an_error(database: Database, stepping: SteppingDatabase) -> None:
    await _half(database)
    before = await tables_of(database)

    async def add() -> None:
        await Ledger.open(database, deployment=Deployment(b"\x01" * 20, b"\x02" * 20, (), 0))

    stepping.step = Meanwhile(LOCK, add)
    with pytest.raises(ContractsChanged, match="run it again"):
        await rebuild(stepping)

    assert await tables_of(database) == before


# --- ends in the middle -----------------------------------------------------------------------------------------------


@dataclass
class Killer:
    """Ends the session just before its `at`-th statement, counted from the merge on."""

    at: int
    killer: asyncpg.Connection
    seen: int = -1

    async def __call__(self, connection: Connection, statement: str) -> None:
        if self.seen >= 0 or statement == queries()["table_columns"]:
            self.seen += 1
        if self.seen != self.at:
            return
        pid = await connection.fetchval("SELECT pg_backend_pid()")
        await self.killer.execute("SELECT pg_terminate_backend($1)", pid)
        async with asyncio.timeout(5):
            while await self.killer.fetchval("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid):
                pass


async def _content(connection: asyncpg.Connection, tables: Sequence[str]) -> list[str]:
    every = " UNION ALL ".join(f"SELECT to_jsonb(t)::text FROM erc8004_data.{table} t" for table in tables)
    return sorted(row[0] for row in await connection.fetch(every))


async def test_a_kill_at_any_statement_of_the_merge_changes_nothing(database_url, database, stepping) -> None:
    await ledger_of(database, blocks=8)
    truth = await tables_of(database)
    await alter(
        database,
        "UPDATE logs SET event = 'Other' WHERE event = 'NewFeedback'",
        "DELETE FROM feedback",
        "DELETE FROM agents",
        "UPDATE agent_stats SET feedback = feedback + 1",
    )
    observer = await asyncpg.connect(database_url)
    tables = [*COMPARED, "chains", "changes"]
    before = await _content(observer, tables)

    struck = 0
    while True:
        stepping.step = killer = Killer(struck, observer)
        with suppress(StoreUnavailable):
            await rebuild(stepping)
            break
        assert await _content(observer, tables) == before, f"traces of statement {struck}"
        struck += 1

    assert killer.seen < killer.at
    assert struck > 8
    assert await tables_of(database) == truth
    await observer.close()
