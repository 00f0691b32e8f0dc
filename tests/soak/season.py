"""One seed from beginning to end: a world, its processes, and the comparison of all tables with the truth."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import asyncpg
from ledger import Ledger, tables_of
from processes import chain_table
from simulator.plan import Plan
from simulator.world import World
from workload import DEPLOYMENT

from indexer.store.database import Database
from soak.house import AWAY, House, Servers, opened
from soak.troubles import Household
from soak.watch import Reader

ADDRESSES: Final = frozenset(DEPLOYMENT.addresses)
BEGIN_S: Final = 45.0  # until something is indexed, whatever the providers do
CALM_S: Final = 60.0  # without progress once all providers tell the truth: rests and pauses have to end

_STANDING: Final = "SELECT checkpoint_hash, gap_blocks FROM erc8004.v_erc8004_indexer_status"


@dataclass(slots=True)
class Season:
    """Runs a plan; `run` returns figures, and fails with an AssertionError that says what differs."""

    plan: Plan
    servers: Servers
    folder: Path
    troubles: int = 4

    async def run(self) -> dict[str, Any]:
        """Play the plan, wait for calm, compare."""
        began = time.monotonic()
        phases: dict[str, float] = {}
        random = Random(f"season/{self.plan.seed}")
        async with AsyncExitStack() as stack:
            world = await stack.enter_async_context(World(self.plan))
            house = await stack.enter_async_context(
                opened(self.servers, self.folder, own_postgres=random.random() < 0.25)
            )
            household = Household(house, random)
            stack.callback(keep_logs, self.folder, house)
            self._configure(house, world, random)
            reader = Reader(house.database_url, world, ADDRESSES)
            await self._begin(household)
            phases["begin"] = time.monotonic() - began
            await self._play(world, household, reader)
            phases["played"] = time.monotonic() - began
            await calm_down(world, household)
            phases["calm"] = time.monotonic() - began
            found = await tables_at(house.database_url)
            await household.stop()
            expected = await truth(self.servers, world)
        assert not (told := differences(found, expected)), told
        assert reader.looks > 0, "nobody ever saw a checkpoint and its rows"
        return {
            "seed": self.plan.seed,
            "seconds": round(time.monotonic() - began, 1),
            "phases": {name: round(at, 1) for name, at in phases.items()},
            "proof": self.plan.proof,
            "providers": len(self.plan.providers),
            **world.figures(),
            "troubles": household.struck,
            "looks": reader.looks,
            "unmended": reader.unmended,
        }

    def _configure(self, house: House, world: World, random: Random) -> None:
        options: dict[str, object] = {"proof": self.plan.proof}
        if random.random() < 0.6:
            options["max_block_range"] = random.choice((1, 7, 20, 50))
        house.programs.configure(chain_table("local", world.urls, **options))

    async def _begin(self, household: Household) -> None:
        daemon = await household.start()
        await daemon.logged("batch_committed", deadline_s=BEGIN_S)

    async def _play(self, world: World, household: Household, reader: Reader) -> None:
        async with reader.looking(), world.weather():
            for trouble in household.draw(self.troubles):
                await asyncio.sleep(household.random.uniform(0.1, 1.5))
                household.check()
                await household.strike(trouble)
            await asyncio.sleep(household.random.uniform(0.1, 1.5))


def keep_logs(folder: Path, house: House) -> None:
    """Leave what the processes said in the folder."""
    for number, program in enumerate(house.programs.started):
        (folder / f"process-{number}.log").write_text("\n".join(program.stderr) + "\n")


async def calm_down(world: World, household: Household) -> None:
    """Let every provider tell the truth, and wait until the head is indexed without a gap."""
    await world.calm()
    head = (f"0x{world.chain.head.hash.hex()}", 0)
    stands: tuple[object, ...] | None = None
    deadline = time.monotonic() + CALM_S
    while stands != head:
        household.check()
        before, stands = stands, await _standing(household.house.database_url) or stands
        if stands != before:
            deadline = time.monotonic() + CALM_S  # a busy machine may be slow
        if time.monotonic() > deadline:
            said = household.daemon.stderr[-5:] if household.daemon else ()
            raise AssertionError(
                f"no progress for {CALM_S:g} s from {stands} to {head} after {household.struck}: {said}"
            )
        await asyncio.sleep(0.05)


async def _standing(url: str) -> tuple[object, ...] | None:
    """Return the checkpoint's hash and the count of blocks not covered; None where nobody answers."""
    with suppress(*AWAY):
        connection = await asyncpg.connect(url, timeout=5)
        try:
            row = await connection.fetchrow(_STANDING)
        finally:
            connection.terminate()
        return tuple(row) if row else None
    return None


async def truth(servers: Servers, world: World) -> dict[str, list[Any]]:
    """Return the tables of a run that sees the final chain alone."""
    async with servers.fresh() as url:
        database = await Database.open(url, size=2)
        try:
            straight = await Ledger.open(database)
            await straight.index(world.chain.only(ADDRESSES), [1000])
            return await straight.tables()
        finally:
            await database.close()


async def tables_at(url: str) -> dict[str, list[Any]]:
    """Return every row of the ledger, typed rows and state."""
    database = await Database.open(url, size=2)
    try:
        return await tables_of(database)
    finally:
        await database.close()


def differences(found: dict[str, list[Any]], expected: dict[str, list[Any]]) -> str:
    """Name the tables that differ, with some rows of each; empty where all is equal."""
    told = []
    for table, rows in expected.items():
        lacking, besides = Counter(rows) - Counter(found[table]), Counter(found[table]) - Counter(rows)
        if lacking or besides:
            some = _told(sorted(lacking), sorted(besides))
            told.append(f"{table}: {lacking.total()} rows are missing, {besides.total()} are too many: {some}")
    return "\n".join(told)


def _told(lacking: list[str], besides: list[str]) -> list[str]:
    """Write rows of one side whole, and of a row that both sides have by its key what differs."""
    others = {_key(row): json.loads(row) for row in besides}
    told = []
    for row in lacking[:3]:
        mine, other = json.loads(row), others.pop(_key(row), None)
        if other is None:
            told.append(f"missing {row[:400]}")
        else:
            unlike = {name: (mine[name], other[name]) for name in mine if mine[name] != other[name]}
            told.append(f"{_key(row)}: {unlike}"[:400])
    return told + [f"besides {json.dumps(other)[:400]}" for other in [*others.values()][:3]]


def _key(row: str) -> tuple[object, ...]:
    names = ("chain_id", "agent_id", "block_number", "log_index", "key", "client_address", "feedback_index")
    values = json.loads(row)
    return tuple(values.get(name) for name in names)
