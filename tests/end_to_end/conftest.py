"""What the tests of the process share."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from processes import Programs
from redis.asyncio import Redis

from indexer.embedded.postgres import postgres
from indexer.embedded.valkey import valkey


@pytest.fixture
async def guarded_valkey_url(valkey_url: str) -> str:
    """Return the address of the worker's Valkey with a user's password in it."""
    async with Redis.from_url(valkey_url) as client:
        await client.execute_command("ACL", "SETUSER", "guest", "on", ">s3cretOfValkey", "~*", "&*", "+@all")
    return valkey_url.replace("unix://", "unix://guest:s3cretOfValkey@")


@pytest.fixture
async def programs(tmp_path: Path, database_url: str, guarded_valkey_url: str) -> AsyncIterator[Programs]:
    """Yield a starter of processes over a migrated database and a Valkey of the test's own."""
    async with Programs(tmp_path, DATABASE_URL=database_url, VALKEY_URL=guarded_valkey_url) as programs:
        yield programs


@pytest.fixture
async def embedded_folder(servers: Path) -> AsyncIterator[Path]:
    """Yield a folder that other users can enter; the embedded servers in its `data` do not outlive the test."""
    folder = servers / f"embedded-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    yield folder
    async with postgres(folder / "data"), valkey(folder / "data"):
        pass
