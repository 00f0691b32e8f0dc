"""What the embedded servers have in common: start once, share, supervise, stop with the last user.

Three lock files in the server's folder:
- `start.lock`, exclusive: whoever starts or stops the server;
- `users.lock`, shared: every process that uses it, so the last one to leave is known;
- `running.lock`, exclusive: inherited by the server itself, so it is held as long as any of its processes lives,
  whoever started it and whatever became of the starter. A process id in a file may be another's by now; this cannot.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog

from indexer.embedded.locks import hold, is_locked, open_lock, try_lock
from indexer.embedded.process import EmbeddedError, Identity, finish, launch, log_tail, reap
from indexer.stopping import STOP

_LAUNCHES = 3  # of a server that a signal ends while it starts; one that gives up by itself has said why
_START_TIMEOUT_S = 600.0  # recovery after a crash replays up to max_wal_size of log
_STOP_TIMEOUT_S = 8.0  # less where a signal came and other parts took their time
_POLL_S = 0.01
_SUPERVISE_S = 0.25  # one system call a look
_RETRY_S = 2.0

log = structlog.get_logger(__name__)


class Server(ABC):
    """One server on one folder. Methods with `await` belong to the holder of `start.lock`."""

    name: str
    stop_signal: signal.Signals

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.identity = Identity()

    @abstractmethod
    def prepare(self) -> None:
        """Make what a first start needs and refuse what cannot work. Blocks; raises EmbeddedError."""

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """Return the command line of the server, which stays in the foreground.

        Called when no process of the server lives, so leftovers of an earlier one may be cleared away.
        """

    @abstractmethod
    def answers(self) -> bool:
        """Say whether the server takes connections. Blocks for up to a second."""

    @abstractmethod
    def pid(self) -> int | None:
        """Return the process id from the server's own file; only meaningful while `alive`."""

    @abstractmethod
    def url(self) -> str:
        """Return the address, password included, of the started server."""

    def alive(self) -> bool:
        """Say whether any process of the server lives."""
        return is_locked(self.folder / "running.lock", shared_counts=False)

    def reachable(self) -> bool:
        """Say, without asking the server, whether new clients can find it."""
        return self.alive()

    async def start(self) -> None:
        """Start the server, or adopt the one that runs already. Raises EmbeddedError."""
        await finish(self.prepare)
        deadline = time.monotonic() + _START_TIMEOUT_S
        child: subprocess.Popen[bytes] | None = None
        launches = 0
        while not (self.alive() and await finish(self.answers)):
            if child is not None and (code := child.poll()) is not None:
                ended = "ended at its start" if code >= 0 else f"was ended by signal {-code} at its start"
                if code >= 0 or launches == _LAUNCHES:
                    raise EmbeddedError(f"{self.name} {ended} ({self.log_file}): {log_tail(self.log_file)}")
                log.warning("embedded_start_failed", server=self.name, error=ended)
                child = None
            if time.monotonic() > deadline:
                raise EmbeddedError(f"{self.name} does not answer after {_START_TIMEOUT_S:.0f} s, see {self.log_file}")
            if child is None and (child := await finish(self._launch)):
                launches += 1
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        """Ask the server to end, and wait as long as we may. One that takes longer ends by itself; its data is safe."""
        deadline = time.monotonic() + STOP.left_s(_STOP_TIMEOUT_S)
        asked = False
        while self.alive() and not (asked and time.monotonic() > deadline):
            asked = asked or self.send(self.stop_signal)
            await asyncio.sleep(_POLL_S)
        await finish(reap)

    def send(self, signal_number: signal.Signals) -> bool:
        """Signal the living server; False while it has not written its process id yet."""
        pid = self.pid()
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal_number)
        return True

    @property
    def log_file(self) -> Path:
        """Where the server's own messages go."""
        return self.folder / f"{self.name}.log"

    def _launch(self) -> subprocess.Popen[bytes] | None:
        """Start the program, unless processes of an earlier one still live (it starts, ends or recovers)."""
        lock = open_lock(self.folder / "running.lock")
        try:
            if not try_lock(lock, shared=False):
                return None
            return launch(self.command(), self.identity, self.log_file, [lock])
        finally:
            os.close(lock)  # the server has inherited it


@asynccontextmanager
async def use(server: Server, *, keep: bool) -> AsyncIterator[str]:
    """Yield the server's address; it runs meanwhile, and is restarted at the same address if it dies.

    The last user to leave stops it, unless that one says `keep`. Raises EmbeddedError.
    """
    _make_folder(server.folder)
    async with _shared(server, keep=keep):
        guard = asyncio.create_task(_supervise(server), name=f"embedded {server.name}")
        try:
            yield server.url()
        finally:
            guard.cancel()
            await asyncio.wait([guard])


@asynccontextmanager
async def _shared(server: Server, *, keep: bool) -> AsyncIterator[None]:
    start_lock, users_lock = server.folder / "start.lock", server.folder / "users.lock"
    user = open_lock(users_lock)
    try:
        async with hold(start_lock):
            try_lock(user, shared=True)  # cannot fail: only the holder of start.lock ever tries it exclusively
            await server.start()
        yield
    finally:
        try:
            async with hold(start_lock):
                os.close(user)
                user = -1
                if not keep and not is_locked(users_lock, shared_counts=True):
                    await server.stop()
        finally:
            if user != -1:
                os.close(user)


async def _supervise(server: Server) -> None:
    """Restart the server whenever it is gone, for as long as we use it."""
    failures = 0
    while True:
        await asyncio.sleep(_RETRY_S if failures else _SUPERVISE_S)
        if server.reachable():
            continue
        try:
            async with hold(server.folder / "start.lock"):
                await server.start()
        except (EmbeddedError, OSError) as exc:
            failures += 1
            if failures == 1:
                log.warning("embedded_restart_failed", server=server.name, error=str(exc))
        else:
            log.warning("embedded_restarted", server=server.name, failures=failures)
            failures = 0


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        reason = "" if os.access(folder, os.R_OK | os.W_OK | os.X_OK) else "permission denied"
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
    if reason:
        raise EmbeddedError(f"cannot write {folder} ({reason}): set ERC8004_DATA_DIR to a folder of yours")
