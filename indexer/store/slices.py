"""Stored blocks held against the same blocks fetched again, and what differs swapped in: one transaction a slice.

Everything that corrects what was committed goes this way: gaps, proof levels, audits, `reindex`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from indexer.core.differences import Change, Position, differences
from indexer.core.rows import RowBuilder
from indexer.core.types import Batch, RawLog
from indexer.errors import Retryable, SettingsError
from indexer.store.coverage import cover, is_covered
from indexer.store.database import Connection, Database
from indexer.store.fence import Locked, fenced
from indexer.store.leases import Lease
from indexer.store.marks import ReindexMark, move_mark
from indexer.store.queries import queries
from indexer.store.rewriting import Rewriting, Stored

_SHOWN: Final = 5  # positions named in an error


class SliceMoved(Retryable):
    """The chain's rows were rewritten since the slice was fetched, or it is of another branch: fetch it again."""


class Unconfirmed(Retryable):
    """The slice would take away stored logs that nobody confirmed to be wrong; nothing was written.

    `positions` are theirs.
    """

    def __init__(self, chain_id: int, positions: Sequence[Position]) -> None:
        named = ", ".join(f"{block_number}/{log_index}" for block_number, log_index in positions[:_SHOWN])
        more = f" and {len(positions) - _SHOWN} more" if len(positions) > _SHOWN else ""
        super().__init__(f"chain {chain_id}: nobody confirms that the stored logs {named}{more} are wrong")
        self.positions = tuple(positions)


@dataclass(frozen=True, slots=True)
class Version:
    """Which rows the chain had: counts of corrections and reorgs, and the last block that the latter do not reach."""

    rewrites: int
    reorgs: int
    proven_final: int

    def after(self, own: Swapped) -> Version:
        """Return the version that a swap of ours led to, if nobody else wrote."""
        return replace(self, rewrites=self.rewrites + bool(own.changes))

    def holds(self, rewrites: int, reorgs: int, to_block: int) -> bool:
        """Say whether the rows up to a block are still those of this version; what grew above does not matter."""
        return rewrites == self.rewrites and (reorgs == self.reorgs or to_block <= self.proven_final)


@dataclass(frozen=True, slots=True)
class Slice:
    """Whole blocks fetched again: what these contracts emitted in `batch.range`, nothing left out.

    `version` is what `Slices.version` said before they were fetched.
    """

    batch: Batch
    addresses: tuple[bytes, ...]
    version: Version

    @property
    def logs(self) -> tuple[RawLog, ...]:
        """Return the logs of these contracts, in chain order."""
        wanted = frozenset(self.addresses)
        return tuple(log for log in self.batch.logs if log.address in wanted)

    def contradicts(self, block_number: int, block_hash: bytes, parent_hash: bytes) -> bool:
        """Say whether a header is of another branch than these blocks, as far as they tell."""
        for block in self.batch.blocks:
            same = (block.number, block.hash), (block.number - 1, block.parent_hash)
            if any(number == block_number and said != block_hash for number, said in same):
                return True
            if block.number == block_number - 1 and block.hash != parent_hash:
                return True
        return any(log.block_number == block_number and log.block_hash != block_hash for log in self.batch.logs)


@dataclass(frozen=True, slots=True)
class Swapped:
    """What a swap changed, in chain order, and how many agents were computed again."""

    changes: tuple[Change, ...]
    agents: int
    cursor: int


class Slices:
    """Corrects one chain. With a lease it writes for as long as that holds, else beside whoever has it."""

    def __init__(self, database: Database, chain_id: int, builder: RowBuilder, lease: Lease | None = None) -> None:
        self._database = database
        self._chain_id = chain_id
        self._builder = builder
        self._lease = lease

    async def version(self) -> Version:
        """Return what a slice bears; read it before fetching. Raises SettingsError for an unknown chain."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(queries()["read_version"], self._chain_id)
        if row is None:
            raise SettingsError(f"chain {self._chain_id} was never indexed into this database")
        return Version(**row)

    async def compare(self, fetched: Slice) -> list[Change]:
        """Return what a swap would change, in chain order; reads only, and waits for nobody. Raises SliceMoved."""
        async with self._database.transaction(snapshot=True) as connection:
            frame = await connection.fetchrow(queries()["read_frame"], self._chain_id)
            assert frame is not None
            await self._hold_to_chain(connection, fetched, **frame)
            stored = await self._stored(connection, fetched)
        return differences(stored.logs, fetched.logs)

    async def swap(
        self, fetched: Slice, *, removable: frozenset[Position], announce: bool, mark: ReindexMark | None = None
    ) -> Swapped:
        """Make the stored rows of the slice's contracts what was fetched, and note how that was proven.

        Takes nothing away but at `removable` positions: where more would go, raises Unconfirmed. `announce` puts a
        change for each new log into the feed; else the publisher is told of the range alone. `mark` is moved along.
        Where nothing differs, no row but those of coverage and mark is touched. Raises SliceMoved, LeaseLost or
        StoreUnavailable too; then nothing of all that took place.
        """
        async with fenced(self._database, self._chain_id, self._lease) as (connection, at):
            await self._hold_to_chain(connection, fetched, at.checkpoint_block, at.state, at.rewrites, at.reorgs)
            stored = await self._stored(connection, fetched)
            changes = differences(stored.logs, fetched.logs)
            if bold := [one.position for one in changes if one.removes and one.position not in removable]:
                raise Unconfirmed(self._chain_id, bold)
            agents = 0
            if changes:
                first = not await is_covered(connection, self._chain_id, fetched.batch.range, fetched.addresses)
                rewriting = Rewriting.plan(stored, fetched.logs, changes, self._builder, is_first=first)
                await self._rewrite(connection, at, rewriting, announce=announce)
                agents = len(rewriting.agents)
            await cover(connection, self._chain_id, fetched.batch.range, fetched.addresses, fetched.batch.proof)
            if mark is not None:
                await move_mark(connection, self._chain_id, mark)
        return Swapped(tuple(changes), agents, at.cursor)

    async def _rewrite(self, connection: Connection, at: Locked, rewriting: Rewriting, *, announce: bool) -> None:
        await rewriting.write(connection, at)
        await rewriting.announce(connection, at, each=announce)
        await connection.execute(queries()["note_rewrite"], self._chain_id, at.cursor)
        await at.notify(connection)

    async def _stored(self, connection: Connection, fetched: Slice) -> Stored:
        within, logs = fetched.batch.range, fetched.logs
        bounds = (within.from_block, within.to_block, list(fetched.addresses))
        positions = ([log.block_number for log in logs], [log.log_index for log in logs])
        return Stored.of(await connection.fetch(queries()["slice_logs"], self._chain_id, *bounds, *positions))

    async def _hold_to_chain(
        self, connection: Connection, fetched: Slice, checkpoint_block: int, state: str, rewrites: int, reorgs: int
    ) -> None:
        """Raise SliceMoved unless the slice is of the chain that is stored, as it is stored now."""
        within = fetched.batch.range
        if state == "halted":
            raise SliceMoved(f"chain {self._chain_id} is halted")
        if not fetched.version.holds(rewrites, reorgs, within.to_block):
            raise SliceMoved(f"chain {self._chain_id}: rows were rewritten since the slice was fetched")
        if within.to_block > checkpoint_block:
            raise SliceMoved(f"chain {self._chain_id}: block {within.to_block} is above the checkpoint")
        bounds = (within.from_block - 1, within.to_block + 1)
        for row in await connection.fetch(queries()["held_between"], self._chain_id, *bounds):
            if fetched.contradicts(row["block_number"], row["block_hash"], row["parent_hash"]):
                raise SliceMoved(f"chain {self._chain_id}: block {row['block_number']} is not the one that is stored")
