"""What the driver's futures leave behind when a connection breaks, and what is told of it."""

from __future__ import annotations

import asyncio
import gc

import asyncpg
import pytest

from indexer.store.database import Database

BROKEN = asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")


async def lose(error: Exception, *, task: bool) -> None:
    """Let nobody hear of an error that a future, or a task, ended with."""
    if task:

        async def fail() -> None:
            raise error

        lost: asyncio.Future[None] = asyncio.create_task(fail())
        await asyncio.wait({lost})
    else:
        lost = asyncio.get_running_loop().create_future()
        lost.set_exception(error)
    del lost
    gc.collect()


@pytest.mark.parametrize(
    ("error", "task", "is_told"),
    [
        pytest.param(BROKEN, False, False, id="an answer that the connection owed"),
        pytest.param(BROKEN, True, True, id="a task of ours"),
        pytest.param(RuntimeError("a bug"), False, True, id="another error"),
    ],
)
async def test_only_answers_of_broken_connections_are_passed_over(
    caplog: pytest.LogCaptureFixture, error: Exception, task: bool, is_told: bool
) -> None:
    database = await Database.open("postgresql://127.0.0.1:1/nobody")

    await lose(error, task=task)

    assert ("never retrieved" in caplog.text) is is_told
    await database.close()
