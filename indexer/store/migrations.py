"""Schema: ordered migrations that never change once released, then views and functions, all under one lock."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Final

import asyncpg

from indexer.errors import SettingsError
from indexer.resources import data_dir
from indexer.store.database import SCHEMA, Connection, Database

# Any constant will do, as long as every version of this program uses the same.
_LOCK_KEY: Final = 8004_0001
_BOOTSTRAP: Final = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};
CREATE SCHEMA IF NOT EXISTS erc8004;
CREATE TABLE IF NOT EXISTS {SCHEMA}.migrations (
    name text PRIMARY KEY, digest text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())
"""


async def migrate(dsn: str) -> None:
    """Bring the database at `dsn` up to date; see `migrate_database`."""
    database = await Database.open(dsn, size=1)
    try:
        await migrate_database(database)
    finally:
        await database.close()


async def migrate_database(database: Database) -> list[str]:
    """Apply what is missing in one transaction and return its names; concurrent calls wait for each other.

    Raises SettingsError where the server is too old, not UTF-8, or the database is of a newer version of this program.
    """
    await database.check()
    async with database.transaction() as connection:
        # The pause while another process migrates may be long; it is no frozen session.
        await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})")
        await connection.execute(_BOOTSTRAP)
        applied = {row["name"]: row["digest"] for row in await connection.fetch("SELECT name, digest FROM migrations")}
        return [
            *await _apply_migrations(connection, applied),
            *await _apply_views(connection, applied),
        ]


async def _apply_migrations(connection: Connection, applied: dict[str, str]) -> list[str]:
    files = sorted((data_dir("sql") / "migrations").glob("*.sql"))
    known = {path.stem for path in files}
    if newer := sorted(name for name in applied if name != "views" and name not in known):
        raise SettingsError(
            f"DATABASE_URL: a newer version migrated this database ({newer[-1]} is unknown here); upgrade this one"
        )
    missing = [path for path in files if path.stem not in applied]
    if missing and "views" in applied:  # they stand in the way of columns that change, and are made anew
        await _drop_views(connection)
        del applied["views"]
    for path in missing:
        text = path.read_text(encoding="utf-8")
        await connection.execute(text)
        await _record(connection, path.stem, _digest(text))
    return [path.stem for path in missing]


async def _apply_views(connection: Connection, applied: dict[str, str]) -> list[str]:
    """Make all views and functions anew when any of them changed: they hold no data."""
    files: list[Path] = sorted((data_dir("sql") / "views").glob("*.sql"))
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    done = []
    if applied.get("views") != _digest(text):
        await _drop_views(connection)
        await connection.execute(text)
        await _record(connection, "views", _digest(text))
        done.append("views")
    await connection.execute(_READER)
    return done


async def _drop_views(connection: Connection) -> None:
    """Drop all views and functions. Raises SettingsError where something that is not ours was built on them."""
    try:
        await connection.execute(_DROP_VIEWS)
    except asyncpg.DependentObjectsStillExistError as error:
        dependents = (error.detail or "something depends on them").replace("\n", ", ")
        raise SettingsError(
            f"DATABASE_URL: the views of the schema erc8004 are made anew by this version, but {dependents};"
            " drop that, migrate, and make it again"
        ) from error


async def _record(connection: Connection, name: str, digest: str) -> None:
    await connection.execute(
        "INSERT INTO migrations (name, digest) VALUES ($1, $2)"
        " ON CONFLICT (name) DO UPDATE SET digest = excluded.digest, applied_at = now()",
        name,
        digest,
    )


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


_DROP_VIEWS: Final = """
DO $$ DECLARE item record; BEGIN
    FOR item IN SELECT viewname FROM pg_views WHERE schemaname = 'erc8004' LOOP
        EXECUTE format('DROP VIEW erc8004.%I', item.viewname);
    END LOOP;
    FOR item IN SELECT oid::regprocedure AS routine FROM pg_proc
                WHERE pronamespace IN ('erc8004'::regnamespace, 'erc8004_data'::regnamespace) LOOP
        EXECUTE format('DROP FUNCTION %s', item.routine);
    END LOOP;
END $$
"""
# The role belongs to the whole server: another process may make it first. Not being allowed to is fine.
_READER: Final = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'erc8004_reader') THEN
        CREATE ROLE erc8004_reader NOLOGIN;
    END IF;
EXCEPTION WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN NULL;
END $$;
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'erc8004_reader') THEN
        GRANT USAGE ON SCHEMA erc8004 TO erc8004_reader;
        GRANT SELECT ON ALL TABLES IN SCHEMA erc8004 TO erc8004_reader;
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA erc8004 TO erc8004_reader;
    END IF;
END $$
"""
