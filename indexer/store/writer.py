"""The commit: a batch, or a rollback, in one transaction behind the lease's fence. All of it is visible, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from indexer.core.rows import TYPED_TABLES
from indexer.core.types import Batch, BlockRef
from indexer.errors import Retryable
from indexer.store import projections
from indexer.store.copying import copy_rows
from indexer.store.database import Connection, Database
from indexer.store.encoding import Encoded
from indexer.store.fence import Locked, fenced
from indexer.store.leases import Lease
from indexer.store.queries import queries

State = Literal["backfilling", "live"]


class CheckpointMoved(Retryable):
    """The chain's checkpoint is not where this batch begins: read it again and go on from there."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What a batch added."""

    logs: int
    undecodable: int
    cursor: int


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What a rollback took back."""

    logs: int
    agents: int
    cursor: int


class Writer:
    """Writes one chain, for as long as its lease holds."""

    def __init__(self, database: Database, lease: Lease, addresses: Sequence[bytes]) -> None:
        self._database = database
        self._lease = lease
        self._chain_id = lease.chain_id
        self._addresses = list(addresses)

    async def commit(
        self,
        batch: Batch,
        rows: Encoded,
        *,
        parent: bytes | None,
        state: State,
        announce: bool,
        finalized: int | None,
        durable: bool = True,
    ) -> Committed:
        """Append a batch that begins right above the checkpoint, whose hash the caller believes to be `parent`.

        `announce` puts a change for each log into the feed; else the publisher is told of the range alone. Without
        `durable` a server that crashes right after it may take the batch back, checkpoint and rows together. Raises
        LeaseLost, CheckpointMoved or StoreUnavailable; then nothing of the batch is there.
        """
        async with self._fenced(durable=durable) as (connection, at):
            if at.checkpoint_block != batch.range.from_block - 1 or (at.checkpoint_hash or parent) != parent:
                raise CheckpointMoved(
                    f"chain {self._chain_id}: the batch begins at block {batch.range.from_block}, "
                    f"the checkpoint is at {at.checkpoint_block}"
                )
            if batch.logs:
                await self._insert(connection, batch, rows)
                await self._announce(connection, at, batch, rows.agents, each=announce)
            await self._keep_headers(connection, batch.blocks, finalized)
            await self._cover(connection, batch)
            await self._announce_final(connection, at, batch, finalized if announce else None)
            await self._advance(connection, at, batch, state, finalized)
        return Committed(len(batch.logs), rows.undecodable, at.cursor)

    async def rollback(self, ancestor: BlockRef) -> RolledBack:
        """Take back every block above `ancestor`; its agents' remaining rows are applied again.

        Doing it twice changes nothing. Raises LeaseLost or StoreUnavailable; then nothing was taken back.
        """
        async with self._fenced() as (connection, at):
            if at.checkpoint_block <= ancestor.number:
                return RolledBack(0, 0, at.cursor)
            return await self._take_back(connection, at, ancestor)

    async def lift(self, ancestor: BlockRef) -> RolledBack:
        """End a halt: take back every block above `ancestor`, which is canonical, and go on from there.

        Where `ancestor` is at or above the checkpoint, only the halt ends. Raises CheckpointMoved for a chain that is
        not halted, LeaseLost or StoreUnavailable; then nothing was taken back.
        """
        async with self._fenced() as (connection, at):
            if at.state != "halted":
                raise CheckpointMoved(f"chain {self._chain_id} is not halted")
            done = RolledBack(0, 0, at.cursor)
            if at.checkpoint_block > ancestor.number:
                done = await self._take_back(connection, at, ancestor)
            for statement in ("lift_halt", "forget_final"):
                await connection.execute(queries()[statement], self._chain_id, ancestor.number)
        return done

    async def halt(self, reason: str) -> None:
        """Mark the chain as halted; `reason` is for the operator."""
        async with self._fenced() as (connection, _):
            await connection.execute(queries()["halt_chain"], self._chain_id, reason)

    def _fenced(self, *, durable: bool = True) -> AbstractAsyncContextManager[tuple[Connection, Locked]]:
        return fenced(self._database, self._chain_id, self._lease, durable=durable)

    async def _take_back(self, connection: Connection, at: Locked, ancestor: BlockRef) -> RolledBack:
        agents: list[UUID] = (
            await connection.fetchval(queries()["touched_agents"], self._chain_id, ancestor.number) or []
        )
        await projections.clear(connection, self._chain_id, agents)
        for table in TYPED_TABLES:
            await connection.execute(queries()[f"delete_{table}"], self._chain_id, ancestor.number)
        taken = await connection.fetchrow(queries()["archive_logs"], self._chain_id, ancestor.number, at.cursor)
        assert taken is not None
        at.cursor += taken["logs"]
        await projections.mend(connection, self._chain_id, agents)
        await self._rewind(connection, at, ancestor, taken["undecodable"])
        return RolledBack(taken["logs"], len(agents), at.cursor)

    async def _insert(self, connection: Connection, batch: Batch, rows: Encoded) -> None:
        await copy_rows(connection, rows)
        if rows.undecodable:
            await connection.execute(queries()["count_undecodable"], self._chain_id, rows.undecodable)
        bounds = (batch.range.from_block, batch.range.to_block)
        await projections.extend(connection, self._chain_id, *bounds, rows.tables, touched=rows.agents)

    async def _announce(
        self, connection: Connection, at: Locked, batch: Batch, agents: Sequence[UUID], *, each: bool
    ) -> None:
        """Put a change for `each` log into the feed, or one for the publisher alone, about the agents of all."""
        bounds = (batch.range.from_block, batch.range.to_block)
        if each:
            at.cursor += await connection.fetchval(queries()["announce_logs"], self._chain_id, *bounds, at.cursor)
        else:
            await at.refresh(connection, batch.range, batch.blocks[-1].hash, agents)

    async def _announce_final(self, connection: Connection, at: Locked, batch: Batch, finalized: int | None) -> None:
        """Tell consumers once that everything up to a block cannot be taken back any more."""
        if finalized is None:
            return
        block = min(finalized, batch.range.to_block)
        if block > at.announced_final:
            at.announced_final = block
            await at.finalized(connection, block)

    async def _keep_headers(self, connection: Connection, blocks: Sequence[BlockRef], finalized: int | None) -> None:
        """Keep the headers that may still change, and the last one: it is the checkpoint."""
        kept = [block for block in blocks[:-1] if finalized is None or block.number >= finalized] + [blocks[-1]]
        await connection.execute(
            queries()["insert_blocks"],
            self._chain_id,
            [block.number for block in kept],
            [block.hash for block in kept],
            [block.parent_hash for block in kept],
            [_time(block) for block in kept],
        )
        if finalized is not None:
            await connection.execute(queries()["prune_blocks"], self._chain_id, finalized)

    async def _cover(self, connection: Connection, batch: Batch) -> None:
        bounds = (self._chain_id, batch.range.from_block, batch.range.to_block)
        rows = await connection.fetch(queries()["extend_coverage"], *bounds, self._addresses, batch.proof)
        extended = {row["address"] for row in rows}
        if new := [address for address in self._addresses if address not in extended]:
            await connection.execute(queries()["add_coverage"], *bounds, new, batch.proof)

    async def _advance(
        self, connection: Connection, at: Locked, batch: Batch, state: State, finalized: int | None
    ) -> None:
        last = batch.blocks[-1]
        await connection.execute(
            queries()["advance_checkpoint"],
            self._chain_id,
            last.number,
            last.hash,
            _time(last),
            state,
            at.cursor,
            at.announced_final,
            -1 if finalized is None else min(finalized, last.number),
            batch.proof,
        )
        await at.notify(connection)

    async def _rewind(self, connection: Connection, at: Locked, ancestor: BlockRef, undecodable: int) -> None:
        if undecodable:
            await connection.execute(queries()["count_undecodable"], self._chain_id, -undecodable)
        for statement in ("delete_blocks", "cut_coverage", "trim_coverage"):
            await connection.execute(queries()[statement], self._chain_id, ancestor.number)
        header = (ancestor.number, ancestor.hash, ancestor.parent_hash, _time(ancestor))
        if ancestor.hash:
            await connection.execute(queries()["keep_ancestor"], self._chain_id, *header)
        await connection.execute(
            queries()["rewind_checkpoint"],
            self._chain_id,
            ancestor.number,
            ancestor.hash or None,
            _time(ancestor) if ancestor.hash else None,
            at.cursor,
        )
        await at.notify(connection)


def _time(block: BlockRef) -> datetime:
    return datetime.fromtimestamp(block.timestamp, UTC)
