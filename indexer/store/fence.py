"""The fence: whoever writes a chain locks its checkpoint first, and proves that nobody else has its lease."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from indexer.core.types import BlockRange
from indexer.errors import LeaseLost, SettingsError
from indexer.store.database import Connection, Database
from indexer.store.leases import Lease
from indexer.store.queries import queries


@dataclass(slots=True)
class Locked:
    """The locked checkpoint, and the cursor as it rises during the transaction.

    `rewrites` and `reorgs` are as they were found; see `slices.Version`.
    """

    chain_id: int
    checkpoint_block: int
    checkpoint_hash: bytes | None
    cursor: int
    announced_final: int
    state: str
    rewrites: int
    reorgs: int
    cursor_before: int

    async def refresh(
        self, connection: Connection, within: BlockRange, block_hash: bytes, agents: Sequence[UUID]
    ) -> None:
        """Have the publisher look at these agents again, for what became of these blocks."""
        await self._announce(connection, "refresh", within, block_hash, agents)

    async def finalized(self, connection: Connection, block_number: int) -> None:
        """Tell that everything up to this block stays."""
        await self._announce(connection, "finalized", BlockRange(block_number, block_number), None, None)

    async def _announce(
        self,
        connection: Connection,
        kind: str,
        within: BlockRange,
        block_hash: bytes | None,
        agents: Sequence[UUID] | None,
    ) -> None:
        """Put a single change into the feed, at the next cursor."""
        self.cursor += 1
        change = (self.chain_id, self.cursor, kind, within.from_block, within.to_block, block_hash, agents)
        await connection.execute(queries()["announce"], *change)

    async def notify(self, connection: Connection) -> None:
        """Wake those who listen, where there is something new in the feed."""
        if self.cursor > self.cursor_before:
            await connection.execute(queries()["notify"], f"{self.chain_id}:{self.cursor}")


@asynccontextmanager
async def fenced(
    database: Database, chain_id: int, lease: Lease | None, *, durable: bool = True
) -> AsyncIterator[tuple[Connection, Locked]]:
    """Open a transaction that alone writes the chain; commits at the end, or nothing happened.

    Without a lease it takes its turn beside the holder of one; `durable` as in `Database.transaction`. Raises LeaseLost
    where the lease is not ours any more, StoreUnavailable, or SettingsError for a chain that was never stored.
    """
    async with database.transaction(durable=durable) as connection:
        await connection.execute(queries()["writer_lock"], chain_id)
        chain = await connection.fetchrow(queries()["lock_chain"], chain_id)
        if lease is not None:
            held = await connection.fetchrow(queries()["lease_epoch"], chain_id)
            if chain is None or held is None or (held["holder"], held["epoch"]) != (lease.holder, lease.epoch):
                raise LeaseLost(f"chain {chain_id} is written by another instance now")
        if chain is None:
            raise SettingsError(f"chain {chain_id} was never indexed into this database")
        yield connection, Locked(chain_id=chain_id, cursor_before=chain["cursor"], **chain)
