"""The daemon, its PostgreSQL and its Valkey killed at any moment, while reorgs go on: nothing of it shows."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import pytest
from ledger import Ledger, tables_of
from processes import Program, Programs, chain_table, until
from published import assert_equal, is_equal
from redis.asyncio import Redis
from redis.exceptions import RedisError
from simulator.chain import SimBlock, SimChain
from simulator.node import SimNode
from workload import Workload

from indexer.embedded.postgres import EmbeddedPostgres
from indexer.embedded.valkey import EmbeddedValkey
from indexer.store.database import Database

ROUNDS = 6
DEEPEST = 20  # blocks of a reorg
FINAL = 40  # blocks below the head that nothing changes
AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, RedisError)

CHECKPOINT = "SELECT checkpoint_block, checkpoint_hash FROM erc8004.v_erc8004_indexer_status"
LEDGER = "SELECT block_number, log_index, block_hash FROM erc8004.erc8004_events"


@dataclass(slots=True)
class World:
    """A chain in bad weather, and every block that it ever had."""

    seed: int
    chain: SimChain = field(init=False)
    workload: Workload = field(init=False)
    random: Random = field(init=False)
    known: dict[bytes, SimBlock] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.workload, self.random = Workload(self.seed), Random(self.seed)
        self.chain = SimChain(seed=self.seed)
        for _ in range(60):
            self.chain.mine(self.workload.block(4))
            self._note()

    def _note(self) -> None:
        self.known |= {block.ref.hash: block for block in self.chain.blocks[-2 * DEEPEST :]}

    def change(self) -> None:
        """Mine a block, or replace some of the last ones, now and then by fewer."""
        if self.random.random() < 0.7:
            self.chain.mine(self.workload.block(4))
        else:
            depth = self.random.randrange(1, DEEPEST)
            count = max(1, depth + self.random.choice((-1, 0, 1, 1, 2)))
            self.chain.reorg(depth, [self.workload.block(3) for _ in range(count)])
        self._note()

    def ledger(self, block_hash: bytes) -> set[tuple[int, int, bytes]]:
        """Every log up to a block, along its own branch."""
        logs = set()
        while (block := self.known.get(block_hash)) is not None:
            logs |= {(log.block_number, log.log_index, log.block_hash) for log in block.logs}
            block_hash = block.ref.parent_hash
        return logs

    @asynccontextmanager
    async def weather(self) -> AsyncIterator[None]:
        """Let the chain change while the body runs."""

        async def blow() -> None:
            while True:
                await asyncio.sleep(self.random.uniform(0.02, 0.2))
                self.change()

        task = asyncio.create_task(blow())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@dataclass(slots=True)
class Reader:
    """Someone who looks all the while, and must never see a checkpoint that differs from its rows."""

    url: str
    world: World
    looks: int = 0

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._look())
        try:
            yield
        finally:
            if not task.done():
                task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _look(self) -> None:
        while True:
            with suppress(*AWAY):
                connection = await asyncpg.connect(self.url, timeout=5)
                try:
                    while True:
                        async with connection.transaction(isolation="repeatable_read", readonly=True):
                            checkpoint = await connection.fetchrow(CHECKPOINT)
                            rows = await connection.fetch(LEDGER)
                        self._compare(checkpoint, rows)
                        await asyncio.sleep(0.03)
                finally:
                    connection.terminate()
            await asyncio.sleep(0.05)

    def _compare(self, checkpoint: asyncpg.Record | None, rows: list[asyncpg.Record]) -> None:
        known = checkpoint is not None and checkpoint["checkpoint_hash"] is not None
        expected = self.world.ledger(_unhex(checkpoint["checkpoint_hash"])) if known else set()
        assert {(row[0], row[1], _unhex(row[2])) for row in rows} == expected, checkpoint
        self.looks += 1


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text[2:])


@dataclass(slots=True)
class Killer:
    """Kills one of the three, and has the daemon started again where it was that."""

    programs: Programs
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    database_url: str
    random: Random
    daemon: Program
    killed: list[str] = field(default_factory=list)

    async def strike(self) -> None:
        victim = self.random.choice(("daemon", "daemon", "postgres", "postmaster", "valkey", "daemon and postgres"))
        self.killed.append(victim)
        match victim:
            case "daemon":
                await self._kill_daemon()
            case "postgres":
                self._kill_postgres(children=True)
            case "postmaster":
                self._kill_postgres(children=False)
            case "valkey":
                _kill(self.valkey.pid())
            case _:
                self._kill_postgres(children=True)
                await self._kill_daemon()

    async def _kill_daemon(self) -> None:
        await self.daemon.kill()
        self.daemon = await self.programs.start("run")
        await self._free_the_lease()

    def _kill_postgres(self, *, children: bool) -> None:
        pid = self.postgres.pid()
        below = Path(f"/proc/{pid}/task/{pid}/children")
        with suppress(OSError):
            for child in below.read_text().split() if children else ():
                _kill(int(child))
        _kill(pid)

    async def _free_the_lease(self) -> None:
        """Let the dead holder's lease run out now: waiting for it is tested elsewhere."""

        async def freed() -> bool:
            with suppress(*AWAY):
                connection = await asyncpg.connect(self.database_url, timeout=5)
                try:
                    await connection.execute(
                        "UPDATE erc8004_data.leases SET expires_at = '-infinity' WHERE holder NOT LIKE $1",
                        f"%:{self.daemon.pid}:%",
                    )
                finally:
                    connection.terminate()
                return True
            return False

        await until(freed, "the database answers again")


def _kill(pid: int | None) -> None:
    with suppress(ProcessLookupError):
        if pid is not None:
            os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = await Database.open(url, size=2)
    try:
        yield database
    finally:
        await database.close()


@pytest.mark.parametrize("seed", [1, 2])
async def test_kills_at_any_moment_leave_no_trace(embedded_folder: Path, database_url: str, seed: int) -> None:
    world = World(seed)
    async with Programs(embedded_folder) as programs, SimNode(world.chain, finalized_depth=FINAL) as node:
        programs.configure(chain_table("local", node.url, max_block_range=20))
        url = (await programs.run("url", "database"))[1].stdout.strip()
        valkey_url = (await programs.run("url", "valkey"))[1].stdout.strip()
        daemon = await programs.start("run")
        data = embedded_folder / "data"
        killer = Killer(programs, EmbeddedPostgres(data), EmbeddedValkey(data), url, Random(-seed), daemon)
        reader = Reader(url, world)
        await daemon.logged("batch_committed")
        async with reader.looking():
            async with world.weather():
                for _ in range(ROUNDS):
                    await killer.daemon.logged("lease_acquired")
                    await asyncio.sleep(killer.random.uniform(0.0, 1.2))
                    await killer.strike()
            await until(lambda: caught_up(url, world.chain), f"the head is reached after {killer.killed}")
        async with opened(url) as database, Redis.from_url(valkey_url, decode_responses=True) as client:
            await until(lambda: valkey_caught_up(database, client), "Valkey equals PostgreSQL")
            await assert_equal(database, client)
            tables = await tables_of(database)
            gaps = await database_gaps(database)
        code = await killer.daemon.stop()

    async with opened(database_url) as clean:
        straight = await Ledger.open(clean)
        await straight.index(world.chain)
        expected = await straight.tables()
    assert tables == expected
    assert gaps == 0
    assert code == 0
    assert reader.looks > 10


async def caught_up(url: str, chain: SimChain) -> bool:
    with suppress(*AWAY):
        connection = await asyncpg.connect(url, timeout=5)
        try:
            row: Any = await connection.fetchrow(CHECKPOINT)
        finally:
            connection.terminate()
        return row is not None and row["checkpoint_hash"] == f"0x{chain.head.hash.hex()}"
    return False


async def valkey_caught_up(database: Database, client: Redis) -> bool:
    with suppress(*AWAY):
        return await is_equal(database, client)
    return False


async def database_gaps(database: Database) -> int:
    async with database.transaction() as connection:
        return int(await connection.fetchval("SELECT gap_blocks FROM erc8004.v_erc8004_indexer_status"))
