"""Work that takes long, beside the event loop: the database is served while logs are decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

_WORTH_IT: Final = 300  # logs; below, it is done before a thread has begun
# Threads of our own: names that nobody resolves may hold all of the loop's. More than one compete for the interpreter.
_THREADS: Final = ThreadPoolExecutor(1, thread_name_prefix="decode")


async def aside(work: Callable[[], T], logs: int) -> T:
    """Do what `logs` logs ask for: at once where they are few, else in a thread."""
    if logs < _WORTH_IT:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_THREADS, work)
