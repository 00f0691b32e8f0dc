"""What `migrate` makes, for whom, and what it refuses."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from databases import execute, with_database

from indexer.errors import SettingsError
from indexer.resources import data_dir
from indexer.store import database as database_module
from indexer.store import migrations
from indexer.store.database import Database
from indexer.store.migrations import migrate, migrate_database

FUNCTIONS = (
    "erc8004_summary(1, 1)",
    "erc8004_summary(1, 1, ARRAY['0x' || repeat('ab', 20)], 'a', 'b', '0x' || repeat('ab', 20))",
    "erc8004_validation_summary(1, 1)",
    "erc8004_validation_summary(1, 1, ARRAY['0x' || repeat('ab', 20)], 'a', '0x' || repeat('ab', 20))",
    "erc8004_agent_at(1, 1, 1)",
    "erc8004_agent_at(1, 1, 1, '0x' || repeat('ab', 20))",
)


@pytest.fixture
async def superuser(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def reader(superuser: asyncpg.Connection) -> asyncpg.Connection:
    await superuser.execute("SET ROLE erc8004_reader")
    return superuser


async def names(url: str, query: str) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        return [row[0] for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def views_of(url: str) -> list[str]:
    return await names(url, "SELECT viewname FROM pg_views WHERE schemaname = 'erc8004' ORDER BY 1")


# ---------------------------------------------------------------- the role of readers


async def test_readers_read_every_view_and_call_every_function(reader: asyncpg.Connection, database_url: str) -> None:
    views = await views_of(database_url)
    assert len(views) == 20

    for view in views:
        await reader.fetch(f"SELECT * FROM erc8004.{view}")
    for function in FUNCTIONS:
        assert len(await reader.fetch(f"SELECT * FROM erc8004.{function}")) == 1


async def test_functions_of_views_work_for_readers(superuser: asyncpg.Connection) -> None:
    await superuser.execute("""
        INSERT INTO erc8004_data.agent_metadata
        VALUES (gen_random_uuid(), 'h', 1, 'k', NULL, 'text', now(), 1, 1),
               (gen_random_uuid(), 'i', 1, 'k', NULL, '\\xff', now(), 1, 1);
        SET ROLE erc8004_reader""")  # fmt: skip

    rows = await superuser.fetch("SELECT value_text FROM erc8004.erc8004_agent_metadata ORDER BY 1")
    assert [row["value_text"] for row in rows] == ["text", None]


async def test_readers_can_do_nothing_else(reader: asyncpg.Connection, database_url: str) -> None:
    tables = await names(database_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'erc8004_data'")
    assert "logs" in tables

    forbidden = [
        *(f"SELECT * FROM erc8004_data.{table}" for table in tables),
        "SELECT erc8004_data.identity_of(1, NULL)",
        "CREATE TABLE erc8004.mine ()",
        "CREATE VIEW erc8004_data.mine AS SELECT 1",
        "DROP VIEW erc8004.erc8004_agents",
        "UPDATE erc8004.erc8004_changes SET cursor = 0",
    ]
    for statement in forbidden:
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ObjectNotInPrerequisiteStateError)):
            await reader.execute(statement)


async def test_nobody_else_reads(superuser: asyncpg.Connection) -> None:
    role = f"stranger_{uuid.uuid4().hex}"
    await superuser.execute(f"CREATE ROLE {role}")
    try:
        await superuser.execute(f"SET ROLE {role}")
        for statement in ("SELECT * FROM erc8004.erc8004_agents", "SELECT erc8004.erc8004_summary(1, 1)"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await superuser.execute(statement)
    finally:
        await superuser.execute(f"RESET ROLE; DROP ROLE {role}")


async def test_a_temporary_table_of_the_caller_does_not_lead_functions_astray(reader: asyncpg.Connection) -> None:
    """They run with the rights of their owner: what they read must not be the caller's."""
    await reader.execute("CREATE TEMP TABLE registries AS SELECT 1::bigint AS chain_id, '\\x'::bytea AS address,"
                         " '\\x'::bytea AS identity, true AS active, 0 AS position, 'identity' AS kind")  # fmt: skip
    await reader.execute("SET search_path = pg_temp, erc8004")

    assert tuple(await reader.fetchrow("SELECT * FROM erc8004.erc8004_summary(1, 1)")) == (0, 0, 0)


# ---------------------------------------------------------------- once, twice, at once


async def test_the_second_time_changes_nothing(empty_database_url: str) -> None:
    database = await Database.open(empty_database_url, size=1)
    first = await migrate_database(database)
    made = await names(empty_database_url, "SELECT oid FROM pg_class ORDER BY 1")
    second = await migrate_database(database)
    await database.close()

    assert first == [*sorted(path.stem for path in (data_dir("sql") / "migrations").glob("*.sql")), "views"]
    assert second == []
    assert await names(empty_database_url, "SELECT oid FROM pg_class ORDER BY 1") == made


async def test_four_at_once_all_succeed(empty_database_url: str) -> None:
    await asyncio.gather(*(migrate(empty_database_url) for _ in range(4)))

    assert len(await views_of(empty_database_url)) == 20
    applied = await names(empty_database_url, "SELECT name FROM erc8004_data.migrations ORDER BY 1")
    assert len(applied) == len(set(applied))


async def test_changed_views_are_made_anew_and_data_stays(
    database_url: str, superuser: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await superuser.execute("INSERT INTO erc8004_data.chains (chain_id, name, start_block, checkpoint_block)"
                            " VALUES (1, 'kept', 0, -1)")  # fmt: skip
    sql = with_view(tmp_path, "CREATE VIEW erc8004.fresh AS SELECT 1 AS one;")
    monkeypatch.setattr(migrations, "data_dir", lambda _name: sql)

    await migrate(database_url)

    assert "fresh" in await views_of(database_url)
    await superuser.execute("SET ROLE erc8004_reader")
    assert await superuser.fetchval("SELECT one FROM erc8004.fresh") == 1
    assert await superuser.fetchval("SELECT chain FROM erc8004.v_erc8004_indexer_status") == "kept"


async def test_an_older_schema_is_brought_up_to_date_with_its_rows(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = with_view(tmp_path, "")
    for migration in ("0004_plain_arguments", "0006_cheaper_writes"):
        (older / "migrations" / f"{migration}.sql").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "data_dir", lambda _name: older)
        await migrate(empty_database_url)
    connection = await asyncpg.connect(empty_database_url)
    await connection.execute(
        "INSERT INTO erc8004_data.logs (chain_id, block_number, log_index, tx_index, block_timestamp, address,"
        " block_hash, tx_hash, topics, data, args) VALUES (1, 2, 3, 0, now(), '', '', '', '', '', '{\"x\": 1}')"
    )

    await migrate(empty_database_url)

    assert await connection.fetchval("SELECT args ->> 'x' FROM erc8004.erc8004_events") == "1"
    assert await connection.fetchval("SELECT pg_typeof(args)::text FROM erc8004_data.logs") == "text"
    # Without statistics of its new index the planner would take a transaction for a common one, until the table grows.
    assert await connection.fetchval("SELECT count(*) FROM pg_stats WHERE tablename = 'logs_tx_hash'") == 1
    await connection.close()


async def test_what_others_built_on_the_views_is_not_dropped_with_them(
    database_url: str, superuser: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await superuser.execute("CREATE VIEW public.ours AS SELECT agent_uuid FROM erc8004.erc8004_agents")
    sql = with_view(tmp_path, "CREATE VIEW erc8004.fresh AS SELECT 1 AS one;")
    monkeypatch.setattr(migrations, "data_dir", lambda _name: sql)

    with pytest.raises(SettingsError, match=r"view public\.ours depends on view erc8004"):
        await migrate(database_url)

    assert "fresh" not in await views_of(database_url)
    assert await superuser.fetch("SELECT * FROM public.ours") == []


def with_view(folder: Path, text: str) -> Path:
    """Copy the schema's files and add a view."""
    for part in ("migrations", "views"):
        (folder / part).mkdir()
        for path in (data_dir("sql") / part).glob("*.sql"):
            (folder / part / path.name).write_text(path.read_text())
    (folder / "views" / "99_fresh.sql").write_text(text)
    return folder


async def test_hex_is_compared_byte_by_byte_whatever_the_database_is_used_to(database_url: str) -> None:
    """By a language's rules, the usual default, a backfill would take half as long again."""
    by_language = """
        SELECT i.indexrelid::regclass::text
        FROM pg_index i JOIN pg_opclass o ON o.oid = i.indclass[0] JOIN pg_class c ON c.oid = i.indrelid
        WHERE c.relnamespace = 'erc8004_data'::regnamespace AND i.indexprs IS NOT NULL
          AND o.opcname <> 'text_pattern_ops'
    """

    assert await names(database_url, by_language) == []
    assert len(await names(database_url, by_language.replace("<>", "="))) == 13


# ---------------------------------------------------------------- less rights


async def test_an_owner_without_createrole_migrates(postgres_url: str) -> None:
    name = f"limited_{uuid.uuid4().hex}"
    host = postgres_url.rpartition("@")[2]
    await execute(postgres_url, f"CREATE ROLE {name} LOGIN PASSWORD 'pw'", f"CREATE DATABASE {name} OWNER {name}")
    try:
        url = with_database(f"postgresql://{name}:pw@{host}", name)
        await migrate(url)
        await migrate(url)
        assert len(await views_of(url)) == 20
        assert await names(url, "SELECT count FROM erc8004.erc8004_summary(1, 1)") == [0]
    finally:
        await execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)", f"DROP ROLE {name}")


async def test_the_readers_role_may_be_missing(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The role is the server's, and other tests use it: here it has another name."""
    name = f"limited_{uuid.uuid4().hex}"
    host = postgres_url.rpartition("@")[2]
    monkeypatch.setattr(migrations, "_READER", migrations._READER.replace("erc8004_reader", f"reader_{name}"))
    await execute(postgres_url, f"CREATE ROLE {name} LOGIN PASSWORD 'pw'", f"CREATE DATABASE {name} OWNER {name}")
    try:
        url = with_database(f"postgresql://{name}:pw@{host}", name)
        await migrate(url)
        assert len(await views_of(url)) == 20
        assert await names(url, f"SELECT rolname FROM pg_roles WHERE rolname = 'reader_{name}'") == []
    finally:
        await execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)", f"DROP ROLE {name}")


# ---------------------------------------------------------------- refusals


async def test_the_database_of_a_newer_version_is_refused(database_url: str) -> None:
    await execute(database_url, "INSERT INTO erc8004_data.migrations (name, digest) VALUES ('0999_later', '')")

    with pytest.raises(SettingsError, match=r"newer version.*0999_later"):
        await migrate(database_url)


async def test_an_encoding_that_cannot_hold_every_text_is_refused(postgres_url: str) -> None:
    name = f"ascii_{uuid.uuid4().hex}"
    locale = "LOCALE_PROVIDER libc LOCALE 'C'"
    await execute(postgres_url, f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' {locale} TEMPLATE template0")
    try:
        with pytest.raises(SettingsError, match="encoded in SQL_ASCII; UTF8 is needed"):
            await migrate(with_database(postgres_url, name))
        assert await views_of(with_database(postgres_url, name)) == []
    finally:
        await execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_server_older_than_15_is_refused(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such server is at hand: this one is declared too old."""
    monkeypatch.setattr(database_module, "_OLDEST_VERSION", 990_000)

    with pytest.raises(SettingsError, match="15 or newer is needed"):
        await migrate(empty_database_url)


async def test_a_wrong_password_is_told_without_it(postgres_url: str) -> None:
    host = postgres_url.rpartition("@")[2]

    with pytest.raises(SettingsError) as refused:
        await migrate(f"postgresql://indexer:hunter2@{host}")
    assert "hunter2" not in str(refused.value)
