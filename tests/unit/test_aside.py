from __future__ import annotations

import asyncio
import threading

import pytest

from indexer.aside import aside


async def test_little_work_is_done_at_once_and_much_in_a_thread() -> None:
    assert await aside(threading.get_ident, 1) == threading.get_ident()
    assert await aside(threading.get_ident, 10_000) != threading.get_ident()


async def test_the_loop_goes_on_while_a_thread_works() -> None:
    go_on = threading.Event()
    work = asyncio.create_task(aside(lambda: go_on.wait(10), 10_000))
    await asyncio.sleep(0)

    go_on.set()

    assert await work


async def test_an_error_of_the_work_reaches_the_caller() -> None:
    def fail() -> None:
        raise ValueError("not a log")

    with pytest.raises(ValueError, match="not a log"):
        await aside(fail, 10_000)
