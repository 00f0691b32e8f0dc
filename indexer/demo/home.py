"""The demo's folder: settings, data and log of the daemon, and what an earlier run left behind in it."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import indexer
from indexer.core.types import Deployment
from indexer.demo.anvil import DEFAULTS
from indexer.embedded.locks import is_locked, open_lock, try_lock
from indexer.embedded.postgres import EmbeddedPostgres
from indexer.embedded.server import Server, use
from indexer.embedded.valkey import EmbeddedValkey
from indexer.errors import Fatal
from indexer.logs import redact
from indexer.settings import Settings

CHAIN: Final = "local"
CHAIN_ID: Final = int(DEFAULTS["chain_id"])
FINALITY_BLOCKS: Final = 12  # above the deepest reorg of the traffic
_POLL_INTERVAL_S: Final = 0.2  # every block is seen on its own
_PREFIX: Final = "ERC8004_"
_OTHERS_SERVERS: Final = frozenset({"DATABASE_URL", "VALKEY_URL", "REDIS_URL"})
_TAIL_LINES: Final = 12
_ORPHAN_S: Final = 10.0  # the daemon ends within 10 s of SIGTERM
_POLL_S: Final = 0.02

Bind = tuple[str, int] | None
"""Host and port of HTTP; None where it is off."""


@dataclass(frozen=True, slots=True)
class Home:
    """One folder with all that a demo keeps."""

    folder: Path

    @property
    def config(self) -> Path:
        """The daemon's TOML file; with it alone every command of ours works on the demo."""
        return self.folder / "erc8004.toml"

    @property
    def log(self) -> Path:
        """Where the daemon's log goes."""
        return self.folder / "daemon.log"

    @property
    def state(self) -> Path:
        """The chain between two runs."""
        return self.folder / "chain.json"

    @property
    def http_file(self) -> Path:
        """Where the daemon writes the address of its status page when it chooses the port."""
        return self.folder / "http.url"

    @property
    def daemon_lock(self) -> Path:
        """Held by the daemon as long as it lives, whoever started it."""
        return self.folder / "daemon.lock"

    @property
    def daemon_pid(self) -> Path:
        """The daemon's process id; its own as long as the lock is held."""
        return self.folder / "daemon.pid"

    @property
    def _chain_file(self) -> Path:
        return self.folder / "chain.id"

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the folder for one demo. Raises Fatal where another one has it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = open_lock(self.folder / "demo.lock")
        try:
            if not try_lock(lock, shared=False):
                raise Fatal(f"another demo runs in {self.folder}; ERC8004_DATA_DIR names another folder")
            yield
        finally:
            os.close(lock)

    async def end_orphan(self) -> None:
        """End the daemon of a demo that was killed. Raises Fatal where that is not possible."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(OSError, ValueError):
                if is_locked(self.daemon_lock, shared_counts=True):
                    os.kill(int(self.daemon_pid.read_text()), number)
            if await self._daemon_gone():
                return
        raise Fatal(f"a daemon of an earlier demo still runs on {self.folder}: end it, then try again")

    async def _daemon_gone(self) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(_ORPHAN_S):
                while is_locked(self.daemon_lock, shared_counts=True):  # noqa: ASYNC110 - another process's lock
                    await asyncio.sleep(_POLL_S)
                return True
        return False

    async def belong_to(self, chain: str) -> bool:
        """Take the data away unless it is that of `chain`, a text that no other chain shares. Tell whether it was."""
        with suppress(OSError):
            if self._chain_file.read_text() == chain:
                return True
        await self.forget()
        self._chain_file.write_text(chain)
        return False

    async def forget(self) -> None:
        """Remove database and cache. Raises Fatal where another process uses them."""
        await self.sweep()
        self._chain_file.unlink(missing_ok=True)
        for server in self._servers():
            if not server.folder.is_dir():
                continue
            if server.alive():
                raise Fatal(f"{server.folder} is in use by another process: end it, then try again")
            shutil.rmtree(server.folder)

    async def sweep(self) -> None:
        """End servers that outlived whoever used them, such as a daemon that was killed at its start."""
        for server in self._servers():
            if server.folder.is_dir() and server.alive():
                async with use(server, keep=False):
                    pass

    def _servers(self) -> tuple[Server, ...]:
        return EmbeddedPostgres(self.folder), EmbeddedValkey(self.folder)

    def write_config(self, settings: Settings, rpc: str, deployment: Deployment) -> Bind:
        """Write what the daemon is to know: our data, our chain, the user's HTTP address and log level.

        Returns the HTTP address: port 0 for one that the daemon chooses, None for no HTTP.
        """
        text = json.dumps  # the strings of JSON are strings of TOML
        bind = _free_bind(settings)
        validation = ", ".join(text(f"0x{address.hex()}") for address in deployment.validation)
        lines = [
            f"data_dir = {text(str(self.folder), ensure_ascii=False)}",
            f"http_bind = {text(_as_setting(bind))}",
            f"log_level = {text(settings.log_level)}",
            "[[chain]]",
            f"name = {text(CHAIN)}",
            f"id = {CHAIN_ID}",
            f"rpc = [{text(rpc)}]",
            f"start_block = {deployment.start_block}",
            f"finality_blocks = {FINALITY_BLOCKS}",
            f"poll_interval_s = {_POLL_INTERVAL_S}",
            "[[chain.deployment]]",
            f'identity = "0x{deployment.identity.hex()}"',
            f'reputation = "0x{deployment.reputation.hex()}"',
            f"validation = [{validation}]",
        ]
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.http_file.unlink(missing_ok=True)
        return bind

    def environment(self) -> dict[str, str]:
        """Return the environment of our own commands: nothing of the caller's settings, the file instead."""
        inherited = {name: value for name, value in os.environ.items() if not _is_setting(name)}
        package = str(Path(indexer.__file__).parents[1])  # this very code, wherever it was started from
        path = os.pathsep.join(filter(None, (package, inherited.get("PYTHONPATH"))))
        return {**inherited, "PYTHONPATH": path, "ERC8004_CONFIG": str(self.config)}

    def shell_command(self, *arguments: str) -> str:
        """Return the line that runs a command of ours on the demo, from a shell with this environment."""
        unset = [part for name in sorted(os.environ) if _is_setting(name) for part in ("-u", name)]
        words = [*(["env", *unset] if unset else []), f"ERC8004_CONFIG={shlex.quote(str(self.config))}"]
        return " ".join([*words, _program(), *arguments])

    def tail(self) -> str:
        """Return the last lines of the daemon's log, without any URL."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace")[-20_000:].splitlines()
        except OSError:
            return "no log"
        return redact("\n".join(lines[-_TAIL_LINES:]))

    async def call(self, *arguments: str) -> tuple[int, str]:
        """Run a command of ours to its end and return exit code and stdout; its log joins the daemon's."""
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command(*arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self.environment(),
                start_new_session=True,
            )
        try:
            out, _ = await process.communicate()
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
        return process.returncode or 0, out.decode()


def command(*arguments: str) -> list[str]:
    """Return the command line of a command of ours, as a process."""
    return [sys.executable, "-m", "indexer", *arguments]


def _is_setting(name: str) -> bool:
    return name.startswith(_PREFIX) or name in _OTHERS_SERVERS


def _program() -> str:
    """Return how a shell calls this program."""
    beside = Path(sys.executable).with_name("erc8004-indexer")
    found = shutil.which(beside.name)
    if found and Path(found).resolve() == beside.resolve():
        return beside.name
    return shlex.quote(str(beside)) if beside.exists() else f"{shlex.quote(sys.executable)} -m indexer"


def _free_bind(settings: Settings) -> Bind:
    """Return the HTTP address; the default one gives way to a free port where it is taken."""
    bind = settings.http_bind
    if bind is not None and _is_default(settings.origins) and _taken(*bind):
        return bind[0], 0
    return bind


def _as_setting(bind: Bind) -> str:
    if bind is None:
        return ""
    host, port = bind
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_default(origins: Mapping[str, str]) -> bool:
    return origins.get("ERC8004_HTTP_BIND", "default") == "default"


def _taken(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False
