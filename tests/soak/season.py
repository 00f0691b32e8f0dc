"""One seed from beginning to end: a world, its processes, and the comparison of all tables with the truth."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import asyncpg
from ledger import Ledger, tables_of
from processes import chain_table, until
from simulator.plan import Plan
from simulator.world import World
from workload import DEPLOYMENT

from indexer.store.database import Database
from soak.house import AWAY, House, Servers, opened
from soak.troubles import Household
from soak.watch import Reader

ADDRESSES: Final = frozenset(DEPLOYMENT.addresses)
BEGIN_S: Final = 45.0  # until something is indexed, whatever the providers do
CALM_S: Final = 60.0  # until the head is indexed once all providers tell the truth: rests and pauses have to end

_CHECKPOINT: Final = "SELECT checkpoint_hash, gap_blocks FROM erc8004.v_erc8004_indexer_status"


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
        random = Random(f"season/{self.plan.seed}")
        async with AsyncExitStack() as stack:
            world = await stack.enter_async_context(World(self.plan))
            house = await stack.enter_async_context(
                opened(self.servers, self.folder, own_postgres=random.random() < 0.25)
            )
            household = Household(house, random)
            stack.callback(self._keep_logs, house)
            self._configure(house, world, random)
            reader = Reader(house.database_url, world, ADDRESSES)
            await self._play(world, household, reader)
            gaps = await self._calm_down(world, household)
            found = await _tables(house.database_url)
            await household.stop()
            expected = await self._truth(world)
        assert not (told := differences(found, expected)), told
        assert gaps == 0, f"{gaps} blocks are not covered"
        return {
            "seed": self.plan.seed,
            "seconds": round(time.monotonic() - began, 1),
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

    async def _play(self, world: World, household: Household, reader: Reader) -> None:
        daemon = await household.start()
        await daemon.logged("batch_committed", deadline_s=BEGIN_S)
        async with reader.looking(), world.weather():
            for trouble in household.draw(self.troubles):
                await asyncio.sleep(household.random.uniform(0.1, 1.5))
                household.check()
                await household.strike(trouble)
            await asyncio.sleep(household.random.uniform(0.1, 1.5))

    async def _calm_down(self, world: World, household: Household) -> int:
        """Return the blocks not covered once the head is indexed."""
        await world.calm()
        gaps = -1

        async def caught_up() -> bool:
            nonlocal gaps
            household.check()
            with suppress(*AWAY):
                connection = await asyncpg.connect(household.house.database_url, timeout=5)
                try:
                    row = await connection.fetchrow(_CHECKPOINT)
                finally:
                    connection.terminate()
                if row is not None and row["checkpoint_hash"] == f"0x{world.chain.head.hash.hex()}":
                    gaps = row["gap_blocks"]
                    return gaps == 0
            return False

        daemon = household.daemon
        assert daemon is not None
        await until(
            caught_up,
            lambda: f"head {world.chain.head.number} reached after {household.struck}: {daemon.stderr[-5:]}",
            deadline_s=CALM_S,
        )
        return gaps

    async def _truth(self, world: World) -> dict[str, list[Any]]:
        async with self.servers.fresh() as url:
            database = await Database.open(url, size=2)
            try:
                straight = await Ledger.open(database)
                await straight.index(world.chain.only(ADDRESSES))
                return await straight.tables()
            finally:
                await database.close()

    def _keep_logs(self, house: House) -> None:
        """Leave what the processes said in the folder."""
        for number, program in enumerate(house.programs.started):
            (self.folder / f"process-{number}.log").write_text("\n".join(program.stderr) + "\n")


async def _tables(url: str) -> dict[str, list[Any]]:
    database = await Database.open(url, size=2)
    try:
        return await tables_of(database)
    finally:
        await database.close()


def differences(found: dict[str, list[Any]], expected: dict[str, list[Any]]) -> str:
    """Name the tables that differ, with the first rows of each side; empty where all is equal."""
    told = []
    for table, rows in expected.items():
        lacking, besides = Counter(rows) - Counter(found[table]), Counter(found[table]) - Counter(rows)
        if lacking or besides:
            some = [row[:400] for row in (*sorted(lacking)[:2], *sorted(besides)[:2])]
            told.append(f"{table}: {lacking.total()} rows are missing, {besides.total()} are too many: {some}")
    return "\n".join(told)
