"""Who writes a chain: a lease row by the database's clock. It needs no session, so any pooler may stand between."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from indexer.errors import StoreUnavailable
from indexer.store.database import Database
from indexer.store.queries import queries

RENEW_EVERY_S: Final = 3.0
LOST_AFTER_S: Final = 10.0
_RELEASE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write `chain_id`, until another takes `epoch` + 1."""

    chain_id: int
    holder: str
    epoch: int


class Leases:
    """Leases in the name of one process; `holder` must differ from that of any other process."""

    def __init__(self, database: Database, holder: str) -> None:
        self._database = database
        self.holder = holder

    async def acquire(self, chain_id: int) -> Lease | None:
        """Take the lease where it is free, expired or ours already; None while another holds it.

        A holder that was frozen in the middle of a transaction loses its session.
        """
        async with self._database.transaction() as connection:
            before = await connection.fetchrow(queries()["lease_epoch"], chain_id)
            epoch = await connection.fetchval(queries()["acquire_lease"], chain_id, self.holder, LOST_AFTER_S)
        if epoch is None:
            return None
        if before is not None and before["holder"] != self.holder:
            await self._end_frozen_writer(chain_id)
        return Lease(chain_id, self.holder, epoch)

    async def _end_frozen_writer(self, chain_id: int) -> None:
        async with self._database.transaction() as connection:
            await connection.fetchval(queries()["end_frozen_writer"], chain_id)

    async def renew(self, lease: Lease) -> bool:
        """Hold on for another LOST_AFTER_S; False where another has taken over."""
        async with self._database.transaction() as connection:
            renewed = await connection.fetchval(
                queries()["renew_lease"], lease.chain_id, lease.holder, lease.epoch, LOST_AFTER_S
            )
        return renewed is not None

    async def release(self, lease: Lease) -> None:
        """Let another instance have it at once; where the database is away or slow, it expires by itself."""
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(_RELEASE_S), self._database.transaction() as connection:
                await connection.execute(queries()["release_lease"], lease.chain_id, lease.holder, lease.epoch)

    async def holder_of(self, chain_id: int) -> str | None:
        """Name whoever holds an unexpired lease."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(queries()["lease_holder"], chain_id)
        return row["holder"] if row is not None and row["seconds_left"] > 0 else None
