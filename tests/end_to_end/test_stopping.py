"""SIGTERM in the phases that other tests leave out: exit 0 within the promised time, nothing held, nothing told."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from processes import Program, Programs, chain_table, frozen, until
from simulator.chain import SimChain
from simulator.node import SimNode
from workload import DEPLOYMENT, Workload

from indexer.core.types import Deployment
from indexer.embedded.postgres import EmbeddedPostgres
from indexer.embedded.server import Server
from indexer.embedded.valkey import EmbeddedValkey

HANGING_DNS = """
import socket, sys, time
sys.modules["uvloop"] = None  # resolves names in C, where nothing can be put in place of it
resolve = socket.getaddrinfo

def hang(host, *more, **options):
    if host != "node.invalid":
        return resolve(host, *more, **options)
    print("the resolver hangs", file=sys.stderr, flush=True)
    time.sleep(60)

socket.getaddrinfo = hang
"""
STOPPED_ALL_THE_TIME = """
import asyncio, signal, uvloop
from indexer.stopping import stop_signals

async def body():
    with stop_signals() as stop:
        await stop.wait()

signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
for make in (asyncio.new_event_loop, uvloop.new_event_loop):
    for _ in range(200):
        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(body())
"""
OTHER = Deployment(b"\x90" * 20, b"\x91" * 20, (b"\x92" * 20,), 0)


def grown(seed: int, blocks: int = 60, *, chain_id: int = 31337) -> tuple[SimChain, Workload]:
    workload, chain = Workload(seed), SimChain(seed=seed, chain_id=chain_id)
    for _ in range(blocks):
        chain.mine(workload.block(4))
    return chain, workload


async def ready(program: Program) -> None:
    async def answers() -> bool:
        return (await program.get("/ready"))[0] == 200

    await until(answers, lambda: f"/ready, logged {program.stderr[-5:]}")


async def expect_nothing_held(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        held = await connection.fetchval(
            "SELECT count(*) FROM erc8004_data.leases WHERE expires_at > clock_timestamp()"
        )
        live = await connection.fetchval("SELECT count(*) FROM erc8004_data.instances")
    finally:
        await connection.close()
    assert (held, live) == (0, 0)


def running(folder: Path) -> list[str]:
    servers: tuple[Server, ...] = (EmbeddedPostgres(folder / "data"), EmbeddedValkey(folder / "data"))
    return [one.name for one in servers if one.folder.exists() and one.alive()]


def family(server: Server) -> list[int]:
    """Return the server's process and its children, parent first: all that has to hang with it."""
    pid = server.pid()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in (pid or 0, *children)]


@asynccontextmanager
async def all_locked(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Keep whoever reads or migrates waiting; the server may end meanwhile."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("BEGIN; LOCK TABLE erc8004_data.migrations, erc8004_data.chains")
        yield connection
    finally:
        connection.terminate()


async def until_one_waits(connection: asyncpg.Connection) -> None:
    async def waits() -> bool:
        return bool(await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

    await until(waits, "a session waits for the lock")


def expect_silence(*programs: Program) -> None:
    for program in programs:
        assert program.messages == []
        assert "Traceback" not in "".join(program.stderr)


async def test_sigterm_while_the_watchdog_begins_a_chain_anew(programs: Programs, database_url: str) -> None:
    chain, workload = grown(31)
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", node.url))
        program = await programs.start("run", ERC8004_STALL_AFTER_S="2")
        await ready(program)
        node.knobs.latency_s = 3600
        chain.mine(workload.block())
        await program.logged("chain_stalled")
        status, verdict = await program.get("/ready")
        code = await program.stop()

    assert code == 0
    assert status == 503
    assert "stalled" in verdict["reasons"][0]
    expect_silence(program)
    await expect_nothing_held(database_url)


async def test_sigterm_of_both_sides_of_a_hand_over(programs: Programs, database_url: str) -> None:
    chain, _ = grown(32)
    other, _ = grown(33, chain_id=5)
    async with SimNode(chain, latency_s=0.3) as node, SimNode(other, latency_s=0.3) as second:
        programs.configure(
            chain_table("local", node.url, max_block_range=2),
            chain_table("other", second.url, chain_id=5, max_block_range=2),
        )
        giver = await programs.start("run")
        await giver.logged("batch_committed", chain="other")
        taker = await programs.start("run", ERC8004_DATA_DIR=str(programs.folder / "second"))
        await giver.logged("chain_handed_over")
        codes = await asyncio.gather(giver.stop(), taker.stop())

    assert codes == [0, 0]
    expect_silence(giver, taker)
    await expect_nothing_held(database_url)


async def test_sigterm_while_the_keeper_fills_a_gap(programs: Programs, database_url: str) -> None:
    chain, _ = grown(34, 200)
    before = replace(DEPLOYMENT, validation=())
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", node.url, deployment=before))
        assert (await programs.run("run", "--until", "head"))[0] == 0
        programs.configure(chain_table("local", node.url, max_block_range=3))
        node.knobs.latency_s = 0.2
        program = await programs.start("run")
        await program.logged("gap_filled")
        code = await program.stop()

    assert code == 0
    assert program.count("gap_filled") < 60
    expect_silence(program)
    await expect_nothing_held(database_url)


async def test_sigterm_while_one_chain_is_halted(programs: Programs, database_url: str) -> None:
    chain, workload = grown(35)
    other, _ = grown(36, chain_id=5)
    async with SimNode(chain, finalized_depth=10) as node, SimNode(other) as second:
        programs.configure(
            chain_table("local", node.url), chain_table("other", second.url, chain_id=5, deployment=OTHER)
        )
        program = await programs.start("run")
        await ready(program)
        chain.reorg(30, [workload.block(4) for _ in range(31)])
        halt = await program.logged("chain_halted")
        code = await program.stop()

    assert code == 0
    assert "erc8004-indexer reindex --chain local" in halt["reason"]
    expect_silence(program)
    await expect_nothing_held(database_url)


async def test_a_halt_is_lifted_under_a_running_daemon(programs: Programs) -> None:
    chain, workload = grown(37)
    other, _ = grown(38, chain_id=5)
    async with SimNode(chain, finalized_depth=10) as node, SimNode(other) as second:
        programs.configure(
            chain_table("local", node.url), chain_table("other", second.url, chain_id=5, deployment=OTHER)
        )
        program = await programs.start("run")
        await ready(program)
        chain.reorg(30, [workload.block(4) for _ in range(31)])
        await program.logged("chain_halted", chain="local")
        code, reindexed = await programs.run("reindex", "--chain", "local")
        await program.logged("chain_resumed", chain="local")
        chain.mine(workload.block(4))

        async def there() -> bool:
            _, document = await program.get("/status")
            return any(
                (one["chain"], one["checkpoint_block"]) == ("local", chain.head.number) for one in document["chains"]
            )

        await until(there, "the chain goes on")
        await ready(program)
        assert await program.stop() == 0

    assert code == 0, reindexed.stderr
    assert program.count("chain_halted") == 1
    expect_silence(program)


@pytest.mark.parametrize(
    "words", [("verify",), ("publish", "--rebuild"), ("migrate",), ("reindex", "--rebuild")], ids=" ".join
)
async def test_sigterm_of_a_verb_that_ends_stops_the_embedded_servers(
    embedded_folder: Path, words: tuple[str, ...]
) -> None:
    async with Programs(embedded_folder) as programs:
        assert (await programs.run("migrate"))[0] == 0
        _, kept = await programs.run("url", "database")
        async with all_locked(kept.stdout.strip()) as connection:
            program = await programs.start(*words)
            await until_one_waits(connection)
            code = await program.stop()

    assert code == 0, program.stderr
    expect_silence(program)
    assert running(embedded_folder) == []


@pytest.mark.parametrize("words", [("run",), ("run", "--until", "head", "--json")], ids=["run", "until"])
async def test_sigterm_while_names_are_not_resolved(programs: Programs, tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANGING_DNS)
    programs.configure(chain_table("local", "http://node.invalid"))
    program = await programs.start(*words, PYTHONPATH=str(tmp_path))

    async def hangs() -> bool:
        return "the resolver hangs" in program.messages

    await until(hangs, "a name is asked for")
    code = await program.stop()

    assert code == 0
    assert set(program.messages) == {"the resolver hangs"}
    assert "--json" not in words or program.document["chains"]


async def test_sigterm_while_the_embedded_servers_hang(embedded_folder: Path) -> None:
    chain, _ = grown(39)
    data = embedded_folder / "data"
    async with SimNode(chain) as node, Programs(embedded_folder) as programs:
        programs.configure(chain_table("local", node.url))
        program = await programs.start("run")
        await ready(program)
        async with frozen(*family(EmbeddedValkey(data)), *family(EmbeddedPostgres(data))):
            code = await program.stop()

    async def ended() -> bool:
        return not running(embedded_folder)

    assert code == 0
    expect_silence(program)
    await until(ended, "both were asked to end, and do once they can")


async def test_a_second_sigterm_changes_nothing(embedded_folder: Path) -> None:
    chain, _ = grown(40)
    async with SimNode(chain) as node, Programs(embedded_folder) as programs:
        programs.configure(chain_table("local", node.url))
        program = await programs.start("run")
        await ready(program)
        while program.process.returncode is None:
            program.send(signal.SIGTERM)
            await asyncio.sleep(0.005)
        code = await program.ended()

    assert code == 0
    expect_silence(program)
    assert running(embedded_folder) == []


def test_no_moment_of_a_stop_leaves_a_signal_to_the_system() -> None:
    with subprocess.Popen([sys.executable, "-c", STOPPED_ALL_THE_TIME], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            while process.poll() is None:
                process.send_signal(signal.SIGTERM)
                time.sleep(5e-5)  # without a pause, a loop does nothing but read signals
        finally:
            process.kill()  # one that hangs

    assert process.returncode == 0
