"""The daemon in the test's own loop while one thing after the other hangs: told in time, begun anew, no other hurt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from pydantic import SecretStr
from simulator.chain import SimChain
from simulator.node import SimNode
from structlog.testing import capture_logs
from workload import DEPLOYMENT, Workload

from indexer import supervisor as supervision
from indexer import trouble
from indexer.chain import pool
from indexer.daemon import Daemon
from indexer.fetching import Fetcher
from indexer.http.readiness import judge
from indexer.settings import ChainSettings, Settings

STALL_AFTER_S: Final = 3.0
DEADLINE_S: Final = 20.0
SLACK_S: Final = 0.5  # of a busy machine


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SURVEY_EVERY_S", 0.2)
    monkeypatch.setattr(trouble, "_SOONEST_RESTART_S", 0.0)
    monkeypatch.setattr(supervision, "_ABANDON_S", 0.5)
    monkeypatch.setattr(supervision, "_CANCEL_AGAIN_S", 0.1)


@dataclass(slots=True)
class World:
    """Two chains under one daemon: the first is about to be hurt, the second must not notice."""

    settings: Settings
    chains: list[SimChain]
    nodes: list[SimNode]
    workload: Workload = field(default_factory=lambda: Workload(7))
    daemon: Daemon | None = None

    def grow(self, blocks: int = 1) -> None:
        """Mine on both."""
        for chain in self.chains:
            for _ in range(blocks):
                chain.mine(self.workload.block(4))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[list[Any]]:
        """Run the daemon until both chains are at their head, and while the body runs; yields what it logs."""
        with capture_logs() as logs:
            async with AsyncExitStack() as stack:
                self.daemon = await Daemon.open(stack, self.settings, until=None, no_wait=False)
                task = asyncio.create_task(self.daemon.run())
                try:
                    await eventually(self.is_ready, "both chains are ready")
                    yield logs
                finally:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)

    async def reasons(self) -> dict[str, list[str]]:
        """Return what /ready would say against each chain, and where the database is to blame, that."""
        assert self.daemon is not None
        verdict = judge(await self.daemon.status(), self.daemon.problems())
        return {chain["chain"]: chain["reasons"] for chain in verdict["chains"]}

    async def is_ready(self) -> bool:
        return not any((await self.reasons()).values()) and self.at_head(0) and self.at_head(1)

    def at_head(self, index: int) -> bool:
        """Say whether that chain is indexed up to its head."""
        assert self.daemon is not None
        return self.daemon.pipelines[index].progress.block_hash == self.chains[index].head.hash

    async def expect_alarm(self, since: float) -> None:
        """Wait until the first chain is said to stall; it has to be in time, and the second to go on all the while."""

        async def told() -> bool:
            reasons = await self.reasons()
            assert not reasons["well"], reasons
            return any("stalled" in reason for reason in reasons["hurt"])

        await eventually(told, "the stall is told")
        assert time.monotonic() - since <= STALL_AFTER_S + SLACK_S
        await eventually(lambda: is_true(self.at_head(1)), "the other chain is at its head")

    async def expect_recovery(self, logs: list[Any]) -> None:
        """Both chains get to their heads; only the first was restarted."""
        self.grow()
        await eventually(self.is_ready, "both chains are ready again")
        assert self.daemon is not None
        assert self.daemon.pipelines[1].counters.restarts == 0
        assert {one.get("chain") for one in logs if one["event"] == "chain_stalled"} <= {"hurt", None}


async def is_true(value: bool) -> bool:
    return value


async def eventually(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until a condition holds."""
    ends_at = time.monotonic() + DEADLINE_S
    while not await holds():
        assert time.monotonic() < ends_at, f"not within {DEADLINE_S:g} s: {what}"
        await asyncio.sleep(0.05)


@pytest.fixture
async def world(tmp_path: Path, database_url: str, valkey_url: str) -> AsyncIterator[World]:
    chains = [SimChain(seed=1), SimChain(seed=2, chain_id=5)]
    async with SimNode(chains[0]) as one, SimNode(chains[1]) as two, SimNode(chains[0]) as spare:
        yield World(
            Settings(
                database_url=SecretStr(database_url),
                valkey_url=SecretStr(valkey_url),
                data_dir=tmp_path,
                http_bind=None,
                stall_after_s=STALL_AFTER_S,
                chains=(settings_of("hurt", 31337, one.url), settings_of("well", 5, two.url)),
            ),
            chains,
            [one, two, spare],
        )


def settings_of(name: str, chain_id: int, *urls: str) -> ChainSettings:
    return ChainSettings(
        name=name,
        id=chain_id,
        rpc=tuple(map(SecretStr, urls)),
        start_block=0,
        poll_interval_s=0.05,
        deployments=(DEPLOYMENT,),
    )


def with_urls(world: World, *urls: str) -> None:
    """Give the first chain these providers."""
    chains = (settings_of("hurt", 31337, *urls), world.settings.chains[1])
    world.settings = world.settings.model_copy(update={"chains": chains})


async def test_a_provider_that_takes_requests_and_never_answers(world: World) -> None:
    world.grow(20)
    async with world.running() as logs:
        world.nodes[0].knobs.latency_s = 3600
        since = time.monotonic()
        world.grow()
        await world.expect_alarm(since)
        world.nodes[0].knobs.latency_s = 0
        await world.expect_recovery(logs)

        assert world.daemon is not None
        assert world.daemon.pipelines[0].counters.restarts > 0
        assert any(one["event"] == "chain_stalled" for one in logs)


async def test_a_provider_frozen_at_an_old_head_while_another_moves_on(world: World) -> None:
    world.grow(20)
    with_urls(world, world.nodes[0].url, world.nodes[2].url)
    async with world.running() as logs:
        since = time.monotonic()
        world.grow(2)  # so little that the pool has no reason yet to ask the other one first
        world.nodes[0].knobs.lag_blocks = 2
        await world.expect_alarm(since)
        world.nodes[0].knobs.lag_blocks = 0
        await world.expect_recovery(logs)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM erc8004_data.chains WHERE chain_id = 31337 FOR UPDATE",
        "SELECT * FROM erc8004_data.heads WHERE chain_id = 31337 FOR UPDATE",
        "SELECT * FROM erc8004_data.leases WHERE chain_id = 31337 FOR UPDATE",
        "SELECT pg_advisory_xact_lock(8004, hashtext('31337'))",
    ],
    ids=["chain", "heads", "lease", "writer lock"],
)
async def test_a_lock_that_someone_else_holds_in_the_database(world: World, database_url: str, statement: str) -> None:
    world.grow(20)
    async with world.running() as logs:
        holder = await asyncpg.connect(database_url)
        try:
            transaction = holder.transaction()
            await transaction.start()
            await holder.execute(statement)
            since = time.monotonic()
            world.grow()
            if "leases" not in statement:
                await world.expect_alarm(since)
            else:  # the commits go on as long as the lease is believed in
                await eventually(lambda: is_true(bool(count(logs, "lease_lost"))), "the lease is given up")
            await transaction.rollback()
        finally:
            await holder.close()
        await world.expect_recovery(logs)


async def test_a_lock_on_all_logs_hurts_both_and_is_told_of_both(world: World, database_url: str) -> None:
    world.grow(20)
    async with world.running():
        holder = await asyncpg.connect(database_url)
        try:
            async with holder.transaction():
                await holder.execute("LOCK TABLE erc8004_data.logs IN SHARE MODE")
                for chain in world.chains:
                    chain.mine([*world.workload.block(4), *world.workload.block(4), *world.workload.block(8)])

                async def told() -> bool:
                    return all(any("stalled" in one for one in reasons) for reasons in (await world.reasons()).values())

                await eventually(told, "both stalls are told")
        finally:
            await holder.close()
        world.grow()
        await eventually(world.is_ready, "both chains are ready again")


@pytest.mark.parametrize("stubborn", [False, True], ids=["that can be cancelled", "that cannot"])
async def test_a_task_of_ours_that_awaits_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch, stubborn: bool
) -> None:
    world.grow(20)
    async with world.running() as logs:
        hanging = asyncio.Event()
        release = asyncio.Event()
        batches = Fetcher.batches

        async def hang(self: Fetcher, *arguments: Any) -> AsyncIterator[Any]:
            if self.source is world_source(world) and not hanging.is_set():
                hanging.set()
                while not release.is_set():
                    try:
                        await release.wait()
                    except asyncio.CancelledError:
                        if not stubborn:
                            raise
            async for batch in batches(self, *arguments):
                yield batch

        monkeypatch.setattr(Fetcher, "batches", hang)
        since = time.monotonic()
        world.grow()
        await world.expect_alarm(since)
        await world.expect_recovery(logs)
        release.set()  # the one that was left behind wakes up, and has no say any more
        await world.expect_recovery(logs)

    assert count(logs, "task_abandoned") == stubborn


def world_source(world: World) -> object:
    assert world.daemon is not None
    return world.daemon.pipelines[0].source


def count(logs: list[Any], event: str) -> int:
    return sum(one["event"] == event for one in logs)


async def test_a_silent_websocket_costs_nothing(world: World) -> None:
    world.nodes[0].knobs.websocket = "silent"
    with_urls(world, world.nodes[0].url, world.nodes[0].url.replace("http", "ws"))
    world.grow(20)
    async with world.running() as logs:
        since = time.monotonic()
        while time.monotonic() - since < STALL_AFTER_S:
            world.grow()
            await eventually(lambda: is_true(world.at_head(0) and world.at_head(1)), "the poll finds the block")
            assert not any((await world.reasons()).values())
            await asyncio.sleep(0.2)

    assert not count(logs, "chain_stalled")
