"""Several instances on one database: one writes a chain, the others wait, and take over when it is gone."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from ledger import Ledger, tables_of
from processes import Program, Programs, chain_table, frozen, until
from simulator.chain import SimChain
from simulator.node import SimNode
from workload import Workload

from indexer.store.database import Database

TAKEN_OVER_S = 15.0
HANDED_OVER_S = 3.0


def grown(seed: int, blocks: int = 40) -> tuple[SimChain, Workload]:
    workload, chain = Workload(seed), SimChain(seed=seed)
    for _ in range(blocks):
        chain.mine(workload.block(4))
    return chain, workload


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = await Database.open(url, size=2)
    try:
        yield database
    finally:
        await database.close()


async def expect_truth(url: str, clean_url: str, chain: SimChain) -> None:
    """Compare every table with those of a straight run over the chain as it is now."""
    async with opened(url) as database, opened(clean_url) as clean:
        straight = await Ledger.open(clean)
        await straight.index(chain)
        found = await tables_of(database)
        assert found == await straight.tables()


async def at_head(program: Program, chain: SimChain) -> None:
    async def there() -> bool:
        _, document = await program.get("/status")
        return any(one["checkpoint_block"] == chain.head.number for one in document["chains"])

    await until(there, f"the head is indexed; {program.stderr[-5:]}")


async def second(programs: Programs) -> Program:
    """Start another instance beside the one that holds the chain."""
    program = await programs.start("run", ERC8004_DATA_DIR=str(programs.folder / "second"))
    await program.logged("lease_waiting")
    return program


async def test_a_killed_holder_is_followed_by_the_one_that_waits(
    programs: Programs, database_url: str, another_database_url: str
) -> None:
    chain, workload = grown(1)
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", node.url))
        holder = await programs.start("run")
        await at_head(holder, chain)
        waiting = await second(programs)
        refused, impatient = await programs.run("run", "--no-wait")
        assert not waiting.count("lease_acquired")

        killed = time.monotonic()
        await holder.kill()
        chain.mine(workload.block())
        await waiting.logged("lease_acquired", deadline_s=TAKEN_OVER_S)
        after_s = time.monotonic() - killed
        await at_head(waiting, chain)
        assert await waiting.stop() == 0

    told = waiting.events[[one["event"] for one in waiting.events].index("lease_waiting")]
    assert f":{holder.pid}:" in told["holder"]
    assert waiting.count("lease_waiting") == 1
    assert refused == 3
    assert "Traceback" not in "".join(impatient.stderr)
    assert after_s < TAKEN_OVER_S
    await expect_truth(database_url, another_database_url, chain)


async def test_a_holder_that_is_stopped_hands_over_at_once(programs: Programs) -> None:
    chain, workload = grown(2)
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", node.url))
        holder = await programs.start("run")
        await at_head(holder, chain)
        waiting = await second(programs)
        assert await holder.stop() == 0
        await waiting.logged("lease_acquired", deadline_s=HANDED_OVER_S)
        chain.mine(workload.block())
        await at_head(waiting, chain)
        assert await waiting.stop() == 0


@pytest.mark.parametrize("moment", ["inside a commit", "between commits"])
async def test_a_holder_that_was_frozen_writes_nothing_when_it_wakes(
    programs: Programs, database_url: str, another_database_url: str, moment: str
) -> None:
    chain, workload = grown(3)
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", node.url))
        holder = await programs.start("run")
        await at_head(holder, chain)
        waiting = await second(programs)
        if moment == "inside a commit":
            async with held_up(database_url) as holds_up:
                chain.mine(workload.block(4) + workload.block(4))
                await until(holds_up, "the holder is inside a commit")
                os.kill(holder.pid, signal.SIGSTOP)
        else:
            os.kill(holder.pid, signal.SIGSTOP)
        try:
            chain.reorg(3, [workload.block() for _ in range(5)])
            await waiting.logged("lease_acquired", deadline_s=TAKEN_OVER_S)
            await at_head(waiting, chain)
        finally:
            os.kill(holder.pid, signal.SIGCONT)
        await until(lambda: woke(holder), "the first one finds out that it has lost something")
        await holder.logged("lease_waiting")
        chain.mine(workload.block())
        await at_head(waiting, chain)
        committed = holder.count("batch_committed")
        assert await waiting.stop() == 0
        await until(lambda: acquired_again(holder), "the first one takes the chain back")
        await at_head(holder, chain)
        assert await holder.stop() == 0

    assert holder.count("batch_committed") == committed
    assert "Traceback" not in "".join(holder.stderr)
    await expect_truth(database_url, another_database_url, chain)


async def woke(program: Program) -> bool:
    """Say whether it noticed: by its session, which the server ended, or by its lease, whichever it looks at first."""
    return program.count("lease_lost") + program.count("database_recovered") > 0


async def acquired_again(program: Program) -> bool:
    return program.count("lease_acquired") == 2


@asynccontextmanager
async def held_up(url: str) -> AsyncIterator[object]:
    """Keep every commit waiting; yields a function that tells whether one waits."""
    blocking, looking = await asyncpg.connect(url), await asyncpg.connect(url)

    async def waits() -> bool:
        return bool(
            await looking.fetchval(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'erc8004_data.logs'::regclass"
            )
        )

    try:
        async with blocking.transaction():
            await blocking.execute("LOCK TABLE erc8004_data.logs IN SHARE ROW EXCLUSIVE MODE")
            yield waits
    finally:
        await blocking.close()
        await looking.close()


async def test_whoever_waits_can_be_stopped_and_a_short_pause_of_the_holder_costs_nothing(programs: Programs) -> None:
    chain, workload = grown(4)
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", node.url))
        holder = await programs.start("run")
        await at_head(holder, chain)
        async with frozen(holder.pid):
            chain.mine(workload.block())
            waiting = await second(programs)
            assert await waiting.stop() == 0
        await at_head(holder, chain)
        assert await holder.stop() == 0

    assert not holder.count("lease_lost")


# --- behind a pooler ------------------------------------------------------------------------------------------------


@pytest.fixture
async def pooled_url(servers: Path, worker_name: str, database_url: str) -> AsyncIterator[str]:
    """Yield the database's address through a pgbouncer that gives a server connection for one transaction only."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    folder = servers / f"pgbouncer-{worker_name}"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    parts = urlsplit(database_url)
    config = folder / "pgbouncer.ini"
    config.write_text(f"""
[databases]
pooled = host={parts.hostname} port={parts.port} dbname={parts.path[1:]} user={parts.username} password={parts.password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
server_reset_query =
""")
    config.chmod(0o644)
    owner = "nobody" if os.geteuid() == 0 else None  # it refuses root
    process = await asyncio.create_subprocess_exec(
        program, "--quiet", str(config), user=owner, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await until(lambda: listens(port), "pgbouncer listens")
        yield f"postgresql://{parts.username}:{parts.password}@127.0.0.1:{port}/pooled"
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def test_a_transaction_pooler_may_stand_between(
    programs: Programs, pooled_url: str, database_url: str, another_database_url: str
) -> None:
    chain, workload = grown(5, 80)
    programs.environ["DATABASE_URL"] = pooled_url
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", node.url, max_block_range=10))
        migrated, _ = await programs.run("migrate")
        holder = await programs.start("run")
        await at_head(holder, chain)
        waiting = await second(programs)
        chain.reorg(4, [workload.block() for _ in range(6)])
        await at_head(holder, chain)
        await holder.kill()
        chain.reorg(4, [workload.block() for _ in range(6)])
        await waiting.logged("lease_acquired", deadline_s=TAKEN_OVER_S)
        await at_head(waiting, chain)
        healthy, _ = await programs.run("status")
        same, verified = await programs.run("verify", "--sample", "0", "--json")
        assert await waiting.stop() == 0

    assert migrated == healthy == 0
    assert same == 0, verified.stdout
    await expect_truth(database_url, another_database_url, chain)


async def test_who_was_killed_long_ago_is_forgotten(programs: Programs, database_url: str) -> None:
    chain, _ = grown(49, 5)
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(
            "INSERT INTO erc8004_data.instances (holder, chain_ids, expires_at) VALUES"
            " ('killed', '{}', now() - interval '61 minutes'), ('frozen', '{}', now() - interval '50 minutes')"
        )

        async def forgotten() -> bool:
            rows = await connection.fetch("SELECT holder FROM erc8004_data.instances")
            return {row["holder"] for row in rows} & {"killed", "frozen"} == {"frozen"}

        async with SimNode(chain) as node:
            programs.configure(chain_table("local", node.url))
            program = await programs.start("run")
            await until(forgotten, "the killed one is forgotten while the daemon runs")
            assert await program.stop() == 0
    finally:
        await connection.close()
