"""Who writes a chain: a lease row by the database's clock. It needs no session, so any pooler may stand between.

Beside it the instances that live, by the same clock, so that they can share the chains.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from indexer.core.sharing import Instance
from indexer.errors import StoreUnavailable
from indexer.store.database import Connection, Database
from indexer.store.queries import queries

RENEW_EVERY_S: Final = 3.0
LOST_AFTER_S: Final = 10.0
_ANSWER_S: Final = 5.0  # a row that someone else keeps locked is not waited for: the caller has to notice
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
        async with _soon(self._database) as connection:
            before = await connection.fetchrow(queries()["lease_epoch"], chain_id)
            epoch = await connection.fetchval(queries()["acquire_lease"], chain_id, self.holder, LOST_AFTER_S)
        if epoch is None:
            return None
        if before is not None and before["holder"] != self.holder:
            await self._end_frozen_writer(chain_id)
        return Lease(chain_id, self.holder, epoch)

    async def _end_frozen_writer(self, chain_id: int) -> None:
        async with _soon(self._database) as connection:
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
        with suppress(StoreUnavailable):
            async with _soon(self._database, _RELEASE_S) as connection:
                await connection.execute(queries()["release_lease"], lease.chain_id, lease.holder, lease.epoch)

    async def holder_of(self, chain_id: int) -> str | None:
        """Name whoever holds an unexpired lease."""
        async with _soon(self._database) as connection:
            row = await connection.fetchrow(queries()["lease_holder"], chain_id)
        return row["holder"] if row is not None and row["seconds_left"] > 0 else None

    async def halt_of(self, chain_id: int) -> str | None:
        """Return why the chain is halted; None where it is not."""
        async with _soon(self._database) as connection:
            reason: str | None = await connection.fetchval(queries()["halt_of"], chain_id)
        return reason


class Instances:
    """The daemons that live, one of them under the name `holder`; dead is who has not beaten for LOST_AFTER_S."""

    def __init__(self, database: Database, holder: str) -> None:
        self._database = database
        self.holder = holder

    async def beat(self, chain_ids: Iterable[int]) -> None:
        """Tell the others that this one lives, and which chains it could index."""
        async with _soon(self._database) as connection:
            await connection.execute(queries()["beat_instance"], self.holder, sorted(chain_ids), LOST_AFTER_S)

    async def look(self) -> tuple[list[Instance], dict[int, str]]:
        """Return who lives, and who holds an unexpired lease, by chain."""
        async with _soon(self._database) as connection:
            instances = await connection.fetch(queries()["live_instances"])
            leases = await connection.fetch(queries()["live_leases"])
        return (
            [Instance(row["holder"], frozenset(row["chain_ids"])) for row in instances],
            {row["chain_id"]: row["holder"] for row in leases},
        )

    async def leave(self) -> None:
        """Let the others have our share at once; where the database is away or slow, they wait until we seem dead."""
        with suppress(StoreUnavailable):
            async with _soon(self._database, _RELEASE_S) as connection:
                await connection.execute(queries()["leave_instances"], self.holder)


async def forget_dead(database: Database) -> None:
    """Drop the instances that have been dead for long: nobody else does it for one that was killed."""
    async with _soon(database) as connection:
        await connection.execute(queries()["forget_instances"])


@asynccontextmanager
async def _soon(database: Database, within_s: float = _ANSWER_S) -> AsyncIterator[Connection]:
    """Open a transaction that shall not last. Raises StoreUnavailable too when the time is over."""
    try:
        async with asyncio.timeout(within_s), database.transaction() as connection:
            yield connection
    except TimeoutError:
        raise StoreUnavailable(f"the database at {database.host} does not answer within {within_s:g} s") from None
