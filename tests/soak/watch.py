"""Someone who reads all the while a seed runs, and must never see a checkpoint that differs from its rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import asyncpg
from simulator.world import World

from soak.house import AWAY

WINDOW: Final = 400  # blocks below the checkpoint that are compared at each look

_STATUS: Final = "SELECT checkpoint_block, checkpoint_hash, finalized_block FROM erc8004.v_erc8004_indexer_status"
_LEDGER: Final = "SELECT block_number, log_index, block_hash FROM erc8004.erc8004_events WHERE block_number > $1"


@dataclass(slots=True)
class Reader:
    """Compares the ledger with the branch that the checkpoint names.

    At proof `receipts` rows above the finalized block may be mended yet; `unmended` counts the looks that saw such.
    """

    url: str
    world: World
    addresses: frozenset[bytes]
    every_s: float = 0.1
    looks: int = 0
    unmended: int = 0

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """Look while the body runs; a difference fails it at its end."""
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
                        await self._once(connection)
                        await asyncio.sleep(self.every_s)
                finally:
                    connection.terminate()
            await asyncio.sleep(self.every_s)

    async def _once(self, connection: asyncpg.Connection) -> None:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            status = await connection.fetchrow(_STATUS)
            above = max(-1, (status["checkpoint_block"] if status and status["checkpoint_hash"] else -1) - WINDOW)
            rows = await connection.fetch(_LEDGER, above)
        self._compare(status, {(row[0], row[1], bytes.fromhex(row[2][2:])) for row in rows}, above)

    def _compare(self, status: asyncpg.Record | None, found: set[tuple[int, int, bytes]], above: int) -> None:
        if status is None or status["checkpoint_hash"] is None:
            assert not found, "rows without a checkpoint"
            return
        self.looks += 1
        block_hash = bytes.fromhex(status["checkpoint_hash"][2:])
        assert block_hash in self.world.known, f"the checkpoint {dict(status)} was never a block of this chain"
        expected = self.world.ledger(block_hash, self.addresses, above=above)
        if found == expected:
            return
        final = status["finalized_block"] if status["finalized_block"] is not None else -1
        limit = final if self.world.plan.proof == "receipts" else 2**63
        lacking = sorted(one[:2] for one in expected - found if one[0] <= limit)
        foreign = sorted(one[:2] for one in found - expected if one[0] <= limit)
        assert not lacking + foreign, f"at {dict(status)} lacks {lacking[:5]}, has besides {foreign[:5]}"
        self.unmended += 1
