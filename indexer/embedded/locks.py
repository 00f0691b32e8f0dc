"""Advisory file locks (`flock`): the kernel drops them with the process that held them, however it ended."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_POLL_S = 0.02  # a lock is held for the few hundred milliseconds of a start or stop


def open_lock(path: Path) -> int:
    """Return a descriptor of the lock file, made where it is missing; closing it gives up what it holds."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def try_lock(descriptor: int, *, shared: bool) -> bool:
    """Take the lock if that is possible at once."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path, *, shared_counts: bool) -> bool:
    """Say whether anyone holds the lock, exclusively or (if `shared_counts`) in whatever way."""
    descriptor = open_lock(path)
    try:
        return not try_lock(descriptor, shared=not shared_counts)
    finally:
        os.close(descriptor)


@asynccontextmanager
async def hold(path: Path, *, shared: bool = False) -> AsyncIterator[None]:
    """Wait for the lock and hold it. Waiting polls, so that it can be cancelled."""
    descriptor = open_lock(path)
    try:
        while not try_lock(descriptor, shared=shared):  # noqa: ASYNC110 - other processes set no Event of ours
            await asyncio.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)
