"""The command as users run it: a process with nothing but its settings, watched from outside.

Everything that any process says, on stdout, stderr or over HTTP, is kept and searched for secrets at the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

import aiohttp
from workload import DEPLOYMENT

from indexer.core.types import Deployment

DEADLINE_S: Final = 25.0
STOP_S: Final = 10.0  # from a signal to the end
KEY: Final = "s3cretKeyOfThisProvider0001"


async def until(
    holds: Callable[[], Awaitable[bool]], what: str | Callable[[], str], *, deadline_s: float = DEADLINE_S
) -> None:
    """Wait until a condition holds; fails with `what` did not happen."""
    deadline = time.monotonic() + deadline_s
    while not await holds():
        late = time.monotonic() > deadline
        assert not late, f"not within {deadline_s:g} s: {what if isinstance(what, str) else what()}"
        await asyncio.sleep(0.03)


def chain_table(
    name: str, rpc: str | Sequence[str], *, chain_id: int = 31337, deployment: Deployment = DEPLOYMENT, **more: object
) -> str:
    """Write a `[[chain]]` of the file; `more` are its optional keys."""
    lines = [
        "[[chain]]",
        f'name = "{name}"',
        f"id = {chain_id}",
        f"rpc = {json.dumps([rpc] if isinstance(rpc, str) else [*rpc])}",
    ]
    lines += [
        f"{key} = {json.dumps(value)}" for key, value in {"start_block": 0, "poll_interval_s": 0.05, **more}.items()
    ]
    lines += ["[[chain.deployment]]", f'identity = "0x{deployment.identity.hex()}"']
    lines += [f'reputation = "0x{deployment.reputation.hex()}"']
    lines += [f"validation = {json.dumps([f'0x{one.hex()}' for one in deployment.validation])}"]
    return "\n".join(lines) + "\n"


def with_key(url: str) -> str:
    """Return a node's address as providers give it out: with a key in its path."""
    return f"{url}/v3/{KEY}"


@dataclass(slots=True)
class Program:
    """One process of the command."""

    process: asyncio.subprocess.Process
    said: list[str]
    stdout: str = ""
    stderr: list[str] = field(default_factory=list)
    _readers: list[asyncio.Task[None]] = field(default_factory=list)

    def read(self) -> None:
        """Begin to keep what it prints."""
        self._readers = [asyncio.create_task(self._read_stdout()), asyncio.create_task(self._read_stderr())]

    async def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        self.stdout = (await self.process.stdout.read()).decode()
        self.said.append(self.stdout)

    async def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.stderr.append(line.decode().rstrip("\n"))
            self.said.append(self.stderr[-1])

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def events(self) -> list[dict[str, Any]]:
        """Everything logged so far, oldest first."""
        return [json.loads(line) for line in self.stderr if line.startswith("{")]

    @property
    def messages(self) -> list[str]:
        """What it said on stderr to a person."""
        return [line for line in self.stderr if not line.startswith("{")]

    @property
    def document(self) -> Any:
        """Exactly one JSON document on stdout; anything else fails."""
        return json.loads(self.stdout)

    def count(self, event: str, **keys: object) -> int:
        """Count the log lines of that event with these keys."""
        return sum(one["event"] == event and keys.items() <= one.items() for one in self.events)

    async def logged(self, event: str, *, deadline_s: float = DEADLINE_S, **keys: object) -> dict[str, Any]:
        """Wait for a log line and return it; fails where the process ends without it."""

        async def there() -> bool:
            ended = self.process.returncode is not None
            found = bool(self.count(event, **keys))
            assert found or not ended, f"ended with {self.process.returncode} before {event}: {self.stderr[-20:]}"
            return found

        await until(there, lambda: f"{event} {keys}, only {self.stderr[-10:]}", deadline_s=deadline_s)
        return next(one for one in self.events if one["event"] == event and keys.items() <= one.items())

    async def get(self, path: str) -> tuple[int, Any]:
        """Ask over HTTP, return status and body: JSON, or text."""
        started = await self.logged("http_started")
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{started['port']}{path}") as answer,
        ):
            text = await answer.text()
            self.said.append(text)
            return answer.status, json.loads(text) if answer.content_type == "application/json" else text

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this process alone."""
        self.process.send_signal(number)

    async def ended(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait for the end and return the exit code."""
        _, running = await asyncio.wait([asyncio.ensure_future(self.process.wait())], timeout=deadline_s)
        assert not running, f"runs on after {deadline_s:g} s: {self.stderr[-10:]}"
        await asyncio.gather(*self._readers)
        return await self.process.wait()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; it has to within the promised time."""
        self.send(number)
        return await self.ended(STOP_S)

    async def kill(self) -> None:
        """End it with SIGKILL, as a power cut would."""
        self.send(signal.SIGKILL)
        await self.ended()

    async def end(self) -> None:
        """Make sure that nothing of it is left."""
        if self.process.returncode is None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGKILL)
        await self.ended()


class Programs:
    """Starts processes of the command in a folder of their own; all of them share file and environment."""

    def __init__(self, folder: Path, **environ: str) -> None:
        """`environ` are the settings, beside the file that `configure` writes."""
        self.folder = folder
        self.environ = {"ERC8004_DATA_DIR": str(folder / "data"), "ERC8004_HTTP_BIND": "127.0.0.1:0", **environ}
        self.secrets = {KEY}
        self.said: list[str] = []
        self.started: list[Program] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for program in self.started:
            await program.end()
        self.secrets |= {secret for value in self.environ.values() for secret in _passwords(value)}
        told = [text for text in self.said if any(secret in text for secret in self.secrets)]
        assert not told, "a secret was told"

    def configure(self, *tables: str, name: str = "erc8004.toml") -> Path:
        """Write the file that the processes started from now on read."""
        path = self.folder / name
        path.write_text("\n".join(tables))
        return path

    async def start(self, *words: str, config: Path | None = None, **environ: str) -> Program:
        """Start `erc8004-indexer WORDS`; `environ` changes settings for this one, an empty value unsets one."""
        given = {
            name: value for name, value in {**self.environ, **environ}.items() if value or name == "ERC8004_HTTP_BIND"
        }
        if config is not None:
            given["ERC8004_CONFIG"] = str(config)
        self.secrets |= {secret for value in given.values() for secret in _passwords(value)}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "indexer", *words,
            cwd=self.folder, env=_clean_environ(given),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            limit=1 << 22,
        )  # fmt: skip
        # `url` is there to tell an address whole.
        program = Program(process, [] if words[:1] == ("url",) else self.said)
        program.read()
        self.started.append(program)
        return program

    async def run(self, *words: str, config: Path | None = None, **environ: str) -> tuple[int, Program]:
        """Start one and wait for its end."""
        program = await self.start(*words, config=config, **environ)
        return await program.ended(), program


def _clean_environ(given: Mapping[str, str]) -> dict[str, str]:
    """Keep of our own environment what any process needs, and what measures coverage."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "LANG"} or name.startswith("COV")}
    return {**kept, "HOME": given["ERC8004_DATA_DIR"], **given}


def _passwords(url: str) -> set[str]:
    parts = urlsplit(url)
    return {secret for secret in (parts.password, *parse_qs(parts.query).get("password", [])) if secret}


@asynccontextmanager
async def frozen(*pids: int) -> AsyncIterator[None]:
    """Stop processes that the test started itself for the length of the body."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


class Link:
    """A TCP link to a server that a test can cut, hold still and mend: `async with Link(host, port) as link`."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._server: asyncio.Server | None = None
        self._flows = asyncio.Event()
        self._flows.set()
        self._pumps: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def mend(self) -> None:
        """Take connections, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Close all connections and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def freeze(self) -> None:
        """Swallow everything from now on, as a broken network does."""
        self._flows.clear()

    def thaw(self) -> None:
        """Let everything flow that was held back."""
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        try:
            there, back = await asyncio.open_connection(*self._to)
            try:
                await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
            finally:
                back.close()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._pumps.discard(task)
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self._flows.wait()
            writer.write(data)
            await writer.drain()
        writer.close()
