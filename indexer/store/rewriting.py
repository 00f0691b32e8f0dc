"""Single logs taken out of the ledger or put into it, and everything that follows from them; inside a transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

from indexer.core.differences import Change, Position
from indexer.core.rows import COLUMNS, TYPED_TABLES, RowBuilder, Rows
from indexer.core.typed import Row
from indexer.core.types import BlockRange, RawLog
from indexer.store import projections
from indexer.store.copying import copy_rows
from indexer.store.database import Connection
from indexer.store.encoding import encode_rows
from indexer.store.fence import Locked
from indexer.store.ledger import raw_log
from indexer.store.queries import queries

_AGENT: Final = COLUMNS["logs"].index("agent_uuid")
_EVENT: Final = COLUMNS["logs"].index("event")


@dataclass(frozen=True, slots=True)
class Stored:
    """What the ledger has of some contracts in some blocks: logs in chain order, and what they were decoded to."""

    logs: tuple[RawLog, ...]
    agents: Mapping[Position, UUID | None]
    undecodable: frozenset[Position]

    @classmethod
    def of(cls, rows: Sequence[asyncpg.Record]) -> Stored:
        """Read rows of the table `logs`."""
        logs = tuple(raw_log(row) for row in rows)
        agents = {(row["block_number"], row["log_index"]): row["agent_uuid"] for row in rows}
        undecodable = frozenset((row["block_number"], row["log_index"]) for row in rows if row["event"] is None)
        return cls(logs, agents, undecodable)


@dataclass(frozen=True, slots=True)
class Rewriting:
    """What has to be written so that `changes` take place.

    What a row says may depend on its neighbours in the block (section 4 of the registries' rules, re-entrancy): in
    blocks that change, the typed rows of the agents concerned are all built anew. `dropped` are the positions where
    some may stand now, `rows` what will stand there, and of the ledger what is new. `within` spans the changes.
    `is_first`: these blocks were never stored before, so nothing but what is in the ledger can follow from them.
    """

    within: BlockRange
    removed: tuple[Position, ...]
    added: tuple[RawLog, ...]
    dropped: tuple[Position, ...]
    rows: Rows
    agents: tuple[UUID, ...]
    undecodable: int
    is_first: bool

    @classmethod
    def plan(
        cls,
        stored: Stored,
        fetched: Sequence[RawLog],
        changes: Sequence[Change],
        builder: RowBuilder,
        *,
        is_first: bool,
    ) -> Rewriting:
        """Plan how the differences between `stored` and `fetched`, whole blocks of both, are written."""
        changed = frozenset(one.position for one in changes)
        blocks = frozenset(one.block_number for one in changes)
        built = builder.build(log for log in fetched if log.block_number in blocks)
        becomes = {_position(row): _agent(row) for row in built["logs"]}
        either = (stored.agents, becomes)
        agents = {agent for decoded in either for position in changed if (agent := decoded.get(position)) is not None}
        rebuilt = changed | {
            position for decoded in either for position, agent in decoded.items()
            if position[0] in blocks and agent in agents
        }  # fmt: skip
        rows = Rows({table: [row for row in built[table] if _position(row) in rebuilt] for table in TYPED_TABLES})
        rows.tables["logs"] = [row for row in built["logs"] if _position(row) in changed]
        return cls(
            BlockRange(min(blocks), max(blocks)),
            tuple(one.position for one in changes if one.stored is not None),
            tuple(one.fetched for one in changes if one.fetched is not None),
            tuple(sorted(rebuilt & stored.agents.keys() if is_first else rebuilt)),
            rows,
            tuple(agents),
            sum(row[_EVENT] is None for row in rows["logs"]) - len(stored.undecodable & changed),
            is_first,
        )

    async def write(self, connection: Connection, at: Locked) -> None:
        """Write it behind the fence; what is taken away gets its `revert` changes, what is new none yet.

        In blocks that are stored for the first time, an agent all of whose rows lie below the first change is carried
        on; any other is computed from all its rows.
        """
        first, last = self.within.from_block, self.within.to_block
        amended = list(self.agents)
        if self.is_first:
            found = await connection.fetch(queries()["agents_above"], at.chain_id, amended, first)
            amended = [row["agent_uuid"] for row in found]
        extended = [agent for agent in self.agents if agent not in frozenset(amended)]
        if amended:
            await projections.clear(connection, at.chain_id, amended)
        await self._replace(connection, at)
        if extended:
            filled = [table for table in COLUMNS if self.rows[table]]
            await projections.extend(connection, at.chain_id, first, last, filled, extended)
        if amended:
            await projections.mend(connection, at.chain_id, amended)

    async def _replace(self, connection: Connection, at: Locked) -> None:
        """Take out the ledger's and the typed rows that go, and put in those that come."""
        for table in TYPED_TABLES if self.dropped else ():
            await connection.execute(queries()[f"drop_{table}"], at.chain_id, *_columns(self.dropped))
        if self.removed:
            removed = _columns(self.removed)
            await connection.execute(queries()["archive_positions"], at.chain_id, *removed, at.cursor)
            at.cursor += len(self.removed)
        await copy_rows(connection, encode_rows(self.rows))
        if self.undecodable:
            await connection.execute(queries()["count_undecodable"], at.chain_id, self.undecodable)

    async def announce(self, connection: Connection, at: Locked, *, each: bool) -> None:
        """Put what is new into the feed: a change for `each` log, or one for the publisher alone."""
        if not self.added:
            return
        numbers, indexes = _columns([(log.block_number, log.log_index) for log in self.added])
        if each:
            hashes = [log.block_hash for log in self.added]
            await connection.execute(queries()["announce_positions"], at.chain_id, numbers, indexes, hashes, at.cursor)
            at.cursor += len(self.added)
        else:
            within = BlockRange(numbers[0], numbers[-1])
            await at.refresh(connection, within, self.added[-1].block_hash, self.agents)


def _columns(positions: Sequence[Position]) -> tuple[list[int], list[int]]:
    return [block_number for block_number, _ in positions], [log_index for _, log_index in positions]


def _position(row: Row) -> Position:
    _, block_number, log_index, *_ = row
    assert isinstance(block_number, int)
    assert isinstance(log_index, int)
    return block_number, log_index


def _agent(row: Row) -> UUID | None:
    agent = row[_AGENT]
    assert agent is None or isinstance(agent, UUID)
    return agent
