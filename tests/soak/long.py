"""One world for a long time: faults at a steady rate, a reorg a minute, and samples of what the daemon holds."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from processes import chain_table
from simulator.plan import Plan, steady
from simulator.world import World

from indexer.core.types import Proof
from soak.house import Servers, opened
from soak.samples import Sampler, summary, verdict
from soak.season import ADDRESSES, BEGIN_S, calm_down, differences, keep_logs, tables_at, truth
from soak.troubles import Household
from soak.watch import Reader

FAULTY: Final = 0.05  # share of the answers
CHANGE_S: Final = 0.5  # between two changes of the chain
REORG_EVERY_S: Final = 60.0


def plan_of(seed: int, proof: Proof) -> Plan:
    """Plan the steady world of a seed."""
    return steady(seed, proof=proof, faulty=FAULTY, reorgs=CHANGE_S / REORG_EVERY_S)


@dataclass(slots=True)
class LongRun:
    """Runs for `seconds`, prints a JSON line every `sample_s`; `run` returns the summary."""

    plan: Plan
    servers: Servers
    folder: Path
    seconds: float
    sample_s: float = 30.0

    async def run(self) -> dict[str, Any]:
        """Play, sample, wait for calm, compare; `failed` names what grew. Raises AssertionError with what differs."""
        async with AsyncExitStack() as stack:
            world = await stack.enter_async_context(World(self.plan))
            house = await stack.enter_async_context(opened(self.servers, self.folder, own_postgres=True))
            household = Household(house, Random(self.plan.seed))
            stack.callback(keep_logs, self.folder, house)
            house.programs.configure(chain_table("local", world.urls, proof=self.plan.proof))
            daemon = await household.start()
            await daemon.logged("batch_committed", deadline_s=BEGIN_S)
            reader = Reader(house.database_url, world, ADDRESSES, every_s=2.0)
            sampler = Sampler(daemon.pid, house.valkey.pid(), house.database_url)
            async with reader.looking(), world.weather(quickest_s=CHANGE_S, slowest_s=CHANGE_S):
                samples = await self._watch(sampler, household)
            await calm_down(world, household)
            found = await tables_at(house.database_url)
            await household.stop()
            expected = await truth(self.servers, world)
        assert not (told := differences(found, expected)), told
        assert reader.looks > 0, "nobody ever saw a checkpoint and its rows"
        failed = verdict(samples, self.seconds / self.sample_s)
        return {
            "seed": self.plan.seed,
            **({"failed": failed} if failed else {}),
            "seconds": self.seconds,
            "summary": summary(samples),
            **world.figures(),
            "looks": reader.looks,
            "unmended": reader.unmended,
        }

    async def _watch(self, sampler: Sampler, household: Household) -> list[dict[str, Any]]:
        began = time.monotonic()
        samples: list[dict[str, Any]] = []
        while (passed := time.monotonic() - began) < self.seconds:
            samples.append(await sampler.sample(passed))
            print(json.dumps(samples[-1]), flush=True)
            household.check()
            await asyncio.sleep(min(self.sample_s, self.seconds - passed))
        return samples
