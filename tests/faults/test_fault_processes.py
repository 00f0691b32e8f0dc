"""Faults F16, F22, F23 and F25: what only shows in the real process, or between several."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from enduring import ELSEWHERE
from indexing import expect_truth, grown, open_worker
from processes import Program, Programs, chain_table, frozen, until
from simulator.chain import SimBlock, SimChain
from simulator.node import SimNode
from stepping import SteppingDatabase
from workload import Workload

from indexer.errors import LeaseLost
from indexer.store.database import Connection, Database

SOON_S = 5.0
NOBODY = "http://127.0.0.1:9"  # the port of discard: nothing listens there


async def reached(program: Program, name: str, block: int) -> bool:
    _, document = await program.get("/status")
    return any((one["chain"], one["checkpoint_block"]) == (name, block) for one in document["chains"])


async def at_head(program: Program, chain: SimChain, *, name: str = "local", within_s: float = 20.0) -> None:
    await until(lambda: reached(program, name, chain.head.number), f"{name} is at its head", deadline_s=within_s)


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def forget(url: str, pid: int) -> None:
    """Let the lease and the heartbeat of a process that is gone run out now: waiting for it is tested elsewhere."""
    for table in ("leases", "instances"):
        await execute(url, f"UPDATE erc8004_data.{table} SET expires_at = '-infinity' WHERE holder LIKE '%:{pid}:%'")


async def compare(url: str, clean: Database, chain: SimChain) -> None:
    database = await Database.open(url, size=2)
    try:
        await expect_truth(database, clean, chain)
    finally:
        await database.close()


# --- F16 ------------------------------------------------------------------------------------------------------------


async def test_f16_a_websocket_that_is_open_and_silent_holds_nothing_up(
    programs: Programs, database_url: str, clean
) -> None:
    chain, workload = grown(116, 30)
    async with SimNode(chain, websocket="silent") as node:
        programs.configure(chain_table("local", [node.url, node.ws_url], poll_interval_s=0.2))
        daemon = await programs.start("run", ERC8004_STALL_AFTER_S="4")
        await at_head(daemon, chain)
        for _ in range(5):
            chain.mine(workload.block(4))
            await at_head(daemon, chain, within_s=SOON_S)
        status, verdict = await daemon.get("/ready")
        sockets = node.sockets
        assert await daemon.stop() == 0

    assert sockets == 1
    assert status == 200, verdict
    assert not daemon.count("chain_stalled")
    await compare(database_url, clean, chain)


# --- F22 ------------------------------------------------------------------------------------------------------------


class History:
    """A chain that changes, and every block that it ever had."""

    def __init__(self, seed: int, blocks: int) -> None:
        self.chain, self.workload = grown(seed, blocks)
        self.known: dict[bytes, SimBlock] = {}
        self._note()

    def _note(self) -> None:
        self.known |= {block.ref.hash: block for block in self.chain.blocks}

    def grow(self, *, reorg: int = 0) -> None:
        """Replace the last blocks, if any; then mine some that hold something of everything."""
        blocks = [self.workload.block(20) for _ in range(reorg + 3)]
        if reorg:
            self.chain.reorg(reorg, blocks)
        else:
            for logs in blocks:
                self.chain.mine(logs)
        self._note()

    def ledger(self, block_hash: bytes | None) -> set[tuple[int, int, bytes]]:
        """Every log up to a block, along its own branch."""
        logs: set[tuple[int, int, bytes]] = set()
        while block_hash is not None and (block := self.known.get(block_hash)) is not None:
            logs |= {(log.block_number, log.log_index, log.block_hash) for log in block.logs}
            block_hash = block.ref.parent_hash
        return logs


@asynccontextmanager
async def held_at(url: str, table: str) -> AsyncIterator[Callable[[], Awaitable[list[int]]]]:
    """Let nobody write a table; yields a function that tells the server processes that wait to."""
    blocking, looking = await asyncpg.connect(url), await asyncpg.connect(url)

    async def waiting() -> list[int]:
        rows = await looking.fetch(
            "SELECT pid FROM pg_locks WHERE NOT granted AND relation = $1::regclass", f"erc8004_data.{table}"
        )
        return [row["pid"] for row in rows]

    try:
        transaction = blocking.transaction()
        await transaction.start()
        await blocking.execute(f"LOCK TABLE erc8004_data.{table} IN SHARE ROW EXCLUSIVE MODE")
        yield waiting
        await transaction.rollback()
    finally:
        await blocking.close()
        await looking.close()


async def expect_whole(url: str, history: History) -> None:
    """Compare the rows with the checkpoint, in one snapshot."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            checkpoint = await connection.fetchval("SELECT checkpoint_hash FROM erc8004_data.chains")
            rows = await connection.fetch("SELECT block_number, log_index, block_hash FROM erc8004_data.logs")
    finally:
        await connection.close()
    assert {tuple(row) for row in rows} == history.ledger(checkpoint)


# A table that is written late, early or in the middle of a commit or a rollback, and who dies while it waits for it.
STEPS = [
    ("logs", 0, "daemon"),
    ("blocks", 0, "connection"),
    ("agents", 6, "connection"),
    ("reverted_logs", 6, "daemon"),
    ("chains", 6, "connection"),
]


async def test_f22_kills_and_lost_connections_at_every_step_leave_what_a_clean_run_leaves(
    programs: Programs, database_url: str, clean
) -> None:
    history = History(122, 60)
    async with SimNode(history.chain, finalized_depth=30) as node:
        programs.configure(chain_table("local", node.url, max_block_range=10))
        daemon = await programs.start("run")
        await at_head(daemon, history.chain)
        for table, reorg, victim in STEPS:
            async with held_at(database_url, table) as waiting:
                history.grow(reorg=reorg)
                await until(waiting_for(waiting), f"something waits for {table}")
                await expect_whole(database_url, history)
                if victim == "daemon":
                    await daemon.kill()
                    await forget(database_url, daemon.pid)
                else:
                    for pid in await waiting():
                        await execute(database_url, f"SELECT pg_terminate_backend({pid})")
            await expect_whole(database_url, history)
            if victim == "daemon":
                daemon = await programs.start("run")
            await at_head(daemon, history.chain)
            await expect_whole(database_url, history)
        assert await daemon.stop() == 0

    await compare(database_url, clean, history.chain)


def waiting_for(waiting: Callable[[], Awaitable[list[int]]]) -> Callable[[], Awaitable[bool]]:
    async def any_waits() -> bool:
        return bool(await waiting())

    return any_waits


# --- F23 ------------------------------------------------------------------------------------------------------------


async def test_f23_a_second_instance_waits_takes_over_and_leaves_the_first_nothing_to_write(
    programs: Programs, database_url: str, clean
) -> None:
    chain, workload = grown(123, 40)
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", node.url))
        first = await programs.start("run")
        await at_head(first, chain)
        second = await programs.start("run", ERC8004_DATA_DIR=str(programs.folder / "second"))
        await second.logged("lease_waiting")
        impatient, _ = await programs.run("run", "--no-wait", ERC8004_DATA_DIR=str(programs.folder / "third"))
        async with frozen(first.pid):
            chain.reorg(4, [workload.block(4) for _ in range(6)])
            await forget(database_url, first.pid)
            await second.logged("lease_acquired")
            await at_head(second, chain)
            written = first.count("batch_committed")
        await first.logged("lease_waiting")
        chain.mine(workload.block(4))
        await at_head(second, chain)
        assert await first.stop() == 0
        assert await second.stop() == 0

    assert impatient == 3
    assert first.count("batch_committed") == written
    await compare(database_url, clean, chain)


async def test_f23_a_writer_that_was_held_up_in_its_commit_is_turned_away_at_the_fence(
    database_url: str, clean
) -> None:
    database = await SteppingDatabase.open(database_url, size=6)
    chain, workload = grown(123, 60)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def hold(_: Connection, statement: str) -> None:
        if "advisory" in statement and not arrived.is_set():
            arrived.set()
            await go_on.wait()

    async with SimNode(chain) as node:
        async with open_worker(database, [node.url], holder="first") as first:
            database.step = hold
            writing = asyncio.create_task(first.run())
            await asyncio.wait({writing, waited := asyncio.create_task(arrived.wait())}, return_when="FIRST_COMPLETED")
            assert waited.done()
            database.step = None
            chain.reorg(30, [workload.block(4) for _ in range(32)])
            await execute(database_url, "UPDATE erc8004_data.leases SET expires_at = '-infinity'")
            async with open_worker(database, [node.url], holder="second", until=50) as second:
                await second.run()
                go_on.set()
                with pytest.raises(LeaseLost):
                    await writing
                chain.reorg(3, [workload.block(4) for _ in range(5)])
        async with open_worker(database, [node.url], holder="second") as second:
            await second.run()

    await expect_truth(database, clean, chain)
    await database.close()


# --- F25 ------------------------------------------------------------------------------------------------------------


def other_chain(chain_id: int, blocks: int) -> tuple[SimChain, Workload]:
    workload, chain = Workload(chain_id), SimChain(seed=chain_id, chain_id=chain_id)
    for _ in range(blocks):
        chain.mine(workload.block(4))
    return chain, workload


async def test_f25_a_chain_that_ended_is_dead_or_never_answers_hurts_itself_alone(programs: Programs) -> None:
    chain, workload = grown(125, 40)
    ended, _ = other_chain(ELSEWHERE, 40)
    slow, _ = other_chain(7, 40)
    async with SimNode(chain) as node, SimNode(ended) as quiet, SimNode(slow) as hanging:
        programs.configure(
            chain_table("hanging", hanging.url, chain_id=7),
            chain_table("dead", NOBODY, chain_id=6),
            chain_table("ended", quiet.url, chain_id=ELSEWHERE),
            chain_table("local", node.url),
        )
        daemon = await programs.start("run", ERC8004_STALL_AFTER_S="3")
        await at_head(daemon, slow, name="hanging")
        hanging.knobs.latency_s = 3600
        slow.mine()
        hurt: dict[str, list[str]] = {}

        async def told() -> bool:
            chain.mine(workload.block(4))
            await at_head(daemon, chain, within_s=SOON_S)
            hurt.update(await reasons(daemon))
            return any("stalled" in reason for reason in hurt["hanging"]) and bool(hurt["dead"])

        await until(told, "the two that are hurt are told", deadline_s=8.0)
        await at_head(daemon, ended, name="ended", within_s=SOON_S)
        assert hurt["local"] == hurt["ended"] == []
        await daemon.logged("chain_stalled", chain="hanging")
        hanging.knobs.latency_s = 0
        await at_head(daemon, slow, name="hanging")
        chain.mine(workload.block(4))
        await at_head(daemon, chain, within_s=SOON_S)
        assert await daemon.stop() == 0

    restarted = {one["chain"] for one in daemon.events if one["event"] == "chain_stalled"}
    assert "local" not in restarted
    assert "ended" not in restarted
    assert not daemon.count("chain_restarted")


async def reasons(daemon: Program) -> dict[str, list[str]]:
    """Return what /ready says against each chain."""
    _, verdict = await daemon.get("/ready")
    found: list[dict[str, Any]] = verdict["chains"]
    return {one["chain"]: one["reasons"] for one in found}
