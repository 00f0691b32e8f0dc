"""The process beside the daemon that decodes what a backfill brings: nothing hangs on it, and it does not stay."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest
from processes import Program, Programs, chain_table, until
from simulator.chain import SimChain
from simulator.node import SimNode
from workload import DEPLOYMENT, Workload

from indexer.core.types import BlockRange

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")


@pytest.fixture(scope="module")
def chain() -> SimChain:
    """Blocks with more logs than are worth another process."""
    workload, chain = Workload(21), SimChain(seed=21)
    for _ in range(1_000):
        chain.mine(workload.block(8))
    return chain


def helpers_of(program: Program) -> list[int]:
    """Return the processes beside a daemon."""
    children: list[int] = []
    for path in Path(f"/proc/{program.pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended meanwhile
            children += map(int, path.read_text().split())
    return [pid for pid in children if b"indexer.apart" in words_of(pid)]


def words_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def expect_helper(program: Program) -> int:
    async def there() -> bool:
        return bool(helpers_of(program))

    await until(there, lambda: f"a helper, logged {program.stderr[-5:]}")
    (pid,) = helpers_of(program)
    return pid


async def expect_all_rows(program: Program, url: str, chain: SimChain) -> None:
    async def ready() -> bool:
        return (await program.get("/ready"))[0] == 200

    await until(ready, lambda: f"/ready, logged {program.stderr[-5:]}")
    connection = await asyncpg.connect(url)
    try:
        stored = await connection.fetchval("SELECT count(*) FROM erc8004_data.logs")
    finally:
        await connection.close()
    assert stored == len(list(chain.logs(DEPLOYMENT.addresses, BlockRange(0, chain.head.number)))) > 4_000


async def test_it_decodes_and_ends_with_the_daemon_also_where_it_hangs(
    programs: Programs, database_url: str, chain: SimChain
) -> None:
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", node.url))
        program = await programs.start("run")
        helper = await expect_helper(program)
        await expect_all_rows(program, database_url, chain)
        assert program.count("decoder_lost") == 0

        os.kill(helper, signal.SIGSTOP)
        assert await program.stop() == 0

    assert b"indexer.apart" not in words_of(helper)


async def test_killed_at_work_it_is_made_up_for(programs: Programs, database_url: str, chain: SimChain) -> None:
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", node.url))
        program = await programs.start("run")
        os.kill(await expect_helper(program), signal.SIGKILL)
        await program.logged("decoder_lost")
        await expect_all_rows(program, database_url, chain)
        assert await program.stop() == 0


async def test_it_does_not_outlive_a_daemon_that_is_killed(programs: Programs, chain: SimChain) -> None:
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", node.url))
        program = await programs.start("run")
        helper = await expect_helper(program)
        await program.kill()

        async def gone() -> bool:
            return b"indexer.apart" not in words_of(helper)

        await until(gone, "the end of the helper")
