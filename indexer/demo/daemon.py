"""The daemon as users run it: a process of its own, configured by a file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from indexer.demo.home import Bind, Home, command
from indexer.embedded.locks import open_lock, try_lock
from indexer.errors import Fatal

_STOP_S: Final = 8.0  # the daemon ends faster; all of the demo within 10 s
_POLL_S: Final = 0.02


@dataclass(slots=True)
class Daemon:
    """A running `run --json`. `document` is what it printed, empty until it has ended."""

    home: Home
    bind: Bind
    process: asyncio.subprocess.Process
    document: dict[str, Any] = field(default_factory=dict)

    async def ended(self) -> None:
        """Wait for an end that nobody asked for. Raises Fatal with the last lines of the log."""
        await self.process.wait()
        code = self.process.returncode
        raise Fatal(f"the daemon ended with exit code {code}; the end of {self.home.log}:\n{self.home.tail()}")

    async def address(self) -> str | None:
        """Wait until HTTP is up and return its URL; None where it is off."""
        if self.bind is None:
            return None
        host, port = self.bind
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        while True:
            with suppress(OSError, ValueError):
                if port == 0:
                    url = self.home.http_file.read_text(encoding="utf-8").strip()
                _, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
                writer.close()
                return url
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        """Ask it to end, wait, and keep what it printed. Raises Fatal where it did not end well."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                out, _ = await self.process.communicate()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
            raise Fatal(
                f"the daemon did not end within {_STOP_S:g} s; the end of {self.home.log}:\n{self.home.tail()}"
            ) from None
        if self.process.returncode == -signal.SIGTERM:
            return  # it had not come so far as to listen to signals
        if self.process.returncode:
            await self.ended()
        self.document = json.loads(out)


@asynccontextmanager
async def run_daemon(home: Home, bind: Bind) -> AsyncIterator[Daemon]:
    """Run the daemon for as long as the context lasts; `bind` is what its file says of HTTP.

    Raises Fatal where it does not end well.
    """
    daemon = Daemon(home, bind, await _start(home))
    try:
        yield daemon
    except Exception:
        with suppress(Fatal):  # the first error is the one to tell
            await daemon.stop()
        raise
    except BaseException:
        await daemon.stop()
        raise
    await daemon.stop()


async def _start(home: Home) -> asyncio.subprocess.Process:
    """Start it with the lock that it holds as long as it lives."""
    home.daemon_pid.unlink(missing_ok=True)
    lock = open_lock(home.daemon_lock)
    try:
        if not try_lock(lock, shared=False):
            raise Fatal(f"a daemon of an earlier demo still runs on {home.folder}: end it, then try again")
        with home.log.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *command("run", "--json"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=home.environment(),
                start_new_session=True,  # Ctrl-C is for the demo, which ends it in order
                pass_fds=[lock],
            )
        home.daemon_pid.write_text(str(process.pid))
    finally:
        os.close(lock)
    return process
