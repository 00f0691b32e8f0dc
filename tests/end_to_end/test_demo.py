"""The demo as a user runs it: nothing configured, everything started, shown, stopped and kept."""

from __future__ import annotations

import asyncio
import io
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from processes import Programs, until
from rich.console import Console

from indexer.core.types import Deployment
from indexer.demo.contracts import artifact
from indexer.demo.home import Home
from indexer.demo.screen import Screen, as_line, as_table
from indexer.demo.watch import Event, Snapshot
from indexer.embedded.locks import is_locked
from indexer.embedded.postgres import EmbeddedPostgres, postgres
from indexer.embedded.valkey import EmbeddedValkey
from indexer.errors import Fatal
from indexer.settings import load_settings
from indexer.store.database import Database
from indexer.store.reader import ChainStatus

STOP_S = 10
# Servers that are not there: the demo has its own and must not care.
ELSEWHERE = {"DATABASE_URL": "postgresql://someone@127.0.0.1:9/else", "VALKEY_URL": "redis://127.0.0.1:9"}
WHICH_DATABASE = "SELECT system_identifier FROM pg_control_system()"
STATUS: ChainStatus = {
    "chain_id": 31337, "chain": "local", "state": "live", "problems": [], "head_block": 9, "finalized_block": None,
    "checkpoint_block": 8, "checkpoint_hash": "0x01", "checkpoint_time": None, "lag_blocks": 1, "lag_seconds": 1.0,
    "gap_blocks": 0, "gaps": [], "proof": "logs", "proofs": {}, "undecodable_logs": 0, "reorgs": 4, "providers": [],
    "warnings": [], "publisher": None, "holder": "test", "halt_reason": None, "updated_at": None,
}  # fmt: skip
SNAPSHOT = Snapshot(STATUS, {"agents": 7, "logs": 70}, (Event(8, 3, "Registered", "6", finalized=False),))


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder that PostgreSQL may enter whoever it runs as, unlike pytest's own."""
    made = Path(tempfile.mkdtemp(prefix="erc8004-demo-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


class LiveDemo:
    """A plain `demo` in a process group of its own, as a terminal would have it."""

    def __init__(self, folder: Path) -> None:
        self._out = folder / "out"
        self._environ = {"ERC8004_DATA_DIR": str(folder), **ELSEWHERE}
        self.home = Home(folder / "demo")
        self.process: asyncio.subprocess.Process

    @property
    def said(self) -> str:
        return self._out.read_text()

    def place(self, name: str) -> str:
        """Return what the demo says of where something is."""
        found = re.search(rf"^{name} +(.+)$", self.said, re.MULTILINE)
        assert found, self.said
        return found[1]

    async def start(self) -> None:
        """Start it and wait until it shows what it has indexed."""
        with self._out.open("wb") as out:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "indexer", "demo"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **self._environ},
                start_new_session=True,
            )

        async def shown() -> bool:
            assert self.process.returncode is None, self.said
            return re.search(r"^state live .* agents [1-9]", self.said, re.MULTILINE) is not None

        await until(shown, "indexed agents are shown", deadline_s=40)

    async def stop(self, number: signal.Signals) -> int:
        """Signal the whole group, as Ctrl-C does; it has to end within the promised time."""
        began = time.monotonic()
        os.killpg(self.process.pid, number)
        code = await asyncio.wait_for(self.process.wait(), STOP_S)
        assert time.monotonic() - began < STOP_S
        return code

    async def status(self) -> dict[str, Any]:
        """Read the status page."""
        async with aiohttp.ClientSession() as session, session.get(self.place("status page")) as answer:
            (chain,) = (await answer.json())["chains"]
        return dict(chain)

    async def beyond(self, block: int) -> dict[str, Any]:
        """Wait until it has indexed more than that, and return its status."""

        async def is_beyond() -> bool:
            return bool((await self.status())["checkpoint_block"] > block)

        await until(is_beyond, f"it goes on from block {block}")
        return await self.status()

    async def fetchval(self, statement: str) -> Any:
        """Ask the demo's database at the address that it shows."""
        connection = await asyncpg.connect(self.place("database"))
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    def nothing_runs(self) -> bool:
        """Tell whether all of it is gone."""
        servers = (EmbeddedPostgres(self.home.folder), EmbeddedValkey(self.home.folder))
        return not any(server.alive() for server in servers) and not is_locked(
            self.home.daemon_lock, shared_counts=True
        )


@pytest.fixture
async def live(folder: Path) -> AsyncIterator[LiveDemo]:
    """Yield a demo that has not begun, and leave nothing of it running."""
    demo = LiveDemo(folder)
    yield demo
    if demo.process.returncode is None:
        await demo.stop(signal.SIGTERM)


async def test_the_fixed_amount_is_indexed_through_reorgs_and_verified(folder: Path) -> None:
    """One JSON document; every event; the same blocks again in a second run, which begins anew."""
    async with Programs(folder, **ELSEWHERE) as programs:
        runs = [await programs.run("demo", "--until", "head", "--json") for _ in range(2)]
    home = Home(folder / "data" / "demo-until-head")
    async with postgres(home.folder) as dsn:
        connection = await asyncpg.connect(dsn)
        events = {row["event"] for row in await connection.fetch("SELECT event FROM erc8004.erc8004_events")}
        logs = await connection.fetchval("SELECT count(*) FROM erc8004.erc8004_events")
        checkpoint = await connection.fetchval("SELECT checkpoint_hash FROM erc8004.v_erc8004_indexer_status")
        await connection.close()

    assert [code for code, _ in runs] == [0, 0], runs[-1][1].stderr
    first, second = (program.document for _, program in runs)
    (chain,) = second["chains"]
    assert chain["chain_id"] == 31337
    assert chain["from_block"] == 1
    assert chain["logs"] >= logs >= 1000
    assert chain["reorgs"] == 2
    assert chain["block_hash"] == checkpoint == first["chains"][0]["block_hash"]
    assert second["verify"]["checked"] > 1000
    assert (second["verify"]["differences"], second["verify"]["unchecked"]) == (0, 0)
    abis = [item for name in ("identity", "reputation", "validation") for item in artifact(name).abi]
    assert events == {item["name"] for item in abis if item["type"] == "event"}
    assert not is_locked(home.daemon_lock, shared_counts=True)


async def test_the_live_demo_stops_cleanly_and_goes_on_with_what_it_kept(live: LiveDemo) -> None:
    """Ctrl-C; again on kept data; killed and taken over; then its chain is lost, and the database begins anew."""
    await live.start()
    status = await live.status()
    database = await live.fetchval(WHICH_DATABASE)
    assert status["state"] == "live"
    assert await live.fetchval("SELECT count(*) FROM erc8004.erc8004_agents") > 10
    shell = await asyncio.create_subprocess_shell(
        live.place("psql").removeprefix('psql "$(').removesuffix(')"'),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, **live._environ},
    )
    assert (await shell.communicate())[0].decode().strip() == live.place("database")
    assert await live.stop(signal.SIGINT) == 0
    assert live.nothing_runs()

    await live.start()
    kept = await live.beyond(status["checkpoint_block"])
    assert await live.fetchval(WHICH_DATABASE) == database
    live.process.kill()
    await live.process.wait()

    await live.start()
    taken_over = await live.beyond(kept["checkpoint_block"])
    assert taken_over["halt_reason"] is None
    assert await live.fetchval(WHICH_DATABASE) == database
    assert await live.stop(signal.SIGTERM) == 0
    assert live.nothing_runs()

    live.home.state.unlink()
    await live.start()
    anew = await live.status()
    assert anew["checkpoint_block"] < kept["checkpoint_block"] + 10
    assert anew["halt_reason"] is None
    assert await live.fetchval(WHICH_DATABASE) != database

    os.kill(int(live.home.daemon_pid.read_text()), signal.SIGKILL)
    assert await asyncio.wait_for(live.process.wait(), STOP_S) == 1
    assert "the daemon ended with exit code -9" in live.said
    assert live.nothing_runs()


async def test_an_interrupted_fixed_amount_is_no_success(folder: Path) -> None:
    """Ctrl-C in the middle: 130 as a shell expects, still one JSON document, and nothing runs on."""
    async with Programs(folder, **ELSEWHERE) as programs:
        program = await programs.start("demo", "--until", "head", "--json")

        async def begun() -> bool:
            return any("indexing" in line for line in program.messages)

        await until(begun, "the traffic begins")
        code = await program.stop(signal.SIGINT)

    home = Home(folder / "data" / "demo-until-head")
    assert code == 130
    assert "verify" not in program.document
    assert not EmbeddedPostgres(home.folder).alive()
    assert not is_locked(home.daemon_lock, shared_counts=True)


async def test_another_until_than_head_is_refused(folder: Path) -> None:
    """The traffic is a fixed amount."""
    async with Programs(folder) as programs:
        code, program = await programs.run("demo", "--until", "5")

    assert code == 2
    assert program.messages == ["error: --until = 5: must be head, as the demo's traffic is a fixed amount"]


async def test_two_demos_do_not_share_a_folder(folder: Path) -> None:
    """The second one says so."""
    home = Home(folder / "demo")
    with home.claim(), pytest.raises(Fatal, match="another demo runs"), home.claim():
        pass


async def test_data_belongs_to_one_chain(folder: Path) -> None:
    """Of another chain it is taken away, a server that still runs on it too."""
    home = Home(folder / "demo")
    home.folder.mkdir()
    assert not await home.belong_to("one")
    async with postgres(home.folder, keep=True):
        pass
    assert await home.belong_to("one")
    assert EmbeddedPostgres(home.folder).alive()

    assert not await home.belong_to("another")

    assert not (home.folder / "postgres").exists()


DEPLOYMENT = Deployment(b"\x01" * 20, b"\x02" * 20, (b"\x03" * 20,), 0)


@pytest.mark.parametrize("given", [True, False], ids=["chosen", "default"])
def test_only_the_default_port_gives_way(folder: Path, given: bool) -> None:
    """What a user chose stays, for the daemon to refuse; what nobody chose must not be in the way."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        settings = load_settings({"ERC8004_DATA_DIR": str(folder)}, need_chains=False)
        origins = {"ERC8004_HTTP_BIND": "environment"} if given else {}
        settings = settings.model_copy(update={"http_bind": ("127.0.0.1", port), "origins": origins})
        home = Home(folder)

        home.write_config(settings, "http://127.0.0.1:1", DEPLOYMENT)

    read = load_settings({"ERC8004_CONFIG": str(home.config)})
    assert read.http_bind == ("127.0.0.1", port if given else 0)
    assert read.data_dir == folder
    assert read.chains[0].deployments == (DEPLOYMENT,)


def test_the_daemon_gets_nothing_of_the_callers_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by environment nor in the commands that are shown."""
    home = Home(folder / "it's here")
    for name in ("DATABASE_URL", "REDIS_URL", "ERC8004_CHAIN", "ERC8004_LOG_LEVEL"):
        monkeypatch.setenv(name, "theirs")

    environ = home.environment()

    assert "theirs" not in environ.values()
    assert environ["ERC8004_CONFIG"] == str(home.config)
    line = home.shell_command("url", "database")
    assert "env -u DATABASE_URL -u ERC8004_CHAIN" in line
    assert line.endswith(" url database")


def test_the_end_of_the_log_is_shown_without_addresses(folder: Path) -> None:
    """A URL may hold a key."""
    home = Home(folder)
    home.log.write_text("first\n" * 50 + "failed at http://node.example/v3/s3cret\n")

    assert home.tail().endswith("failed at node.example")
    assert home.tail().count("first") < 20


def test_figures_are_readable() -> None:
    """A line without a terminal, figures beside the newest events on one; a placeholder before the first block."""
    assert as_line(SNAPSHOT).startswith("state live  head 9  checkpoint 8  lag 1  finalized -  logs 70  agents 7 ")
    page = io.StringIO()
    Console(file=page, width=100).print(as_table(SNAPSHOT))
    assert "Registered" in page.getvalue()
    assert "agent 6" in page.getvalue()
    assert "may still change" in page.getvalue()
    assert "waiting" in str(as_table(None))


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("out", [Terminal(), io.StringIO()], ids=["terminal", "lines"])
async def test_a_database_that_is_away_or_empty_is_waited_for(database_url: str, out: io.StringIO) -> None:
    """Showing goes on until it is cancelled; lines are left out where there is nothing to say."""
    here, gone = await Database.open(database_url, size=1), await Database.open("postgresql://a@127.0.0.1:9/b", size=1)
    for database in (here, gone):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await Screen(out).follow(database)
        await database.close()

    assert ("waiting for the daemon" in out.getvalue()) == out.isatty()
