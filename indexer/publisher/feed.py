"""What PostgreSQL has for the publisher, all of one snapshot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from indexer.publisher.keys import member, uuid_of
from indexer.store.database import Connection
from indexer.store.queries import queries

STRETCH: Final = 2_000
"""Changes taken in one go, and agents in one MULTI: a few MB and tens of milliseconds."""


@dataclass(frozen=True, slots=True)
class Head:
    """How far a chain is in PostgreSQL. Hashes and addresses are hex, the time seconds since 1970.

    `held` counts the changes that follow the cursor that was asked about, at most a stretch of them.
    """

    checkpoint_block: int
    checkpoint_hash: str | None
    checkpoint_time: int | None
    cursor: int
    head_block: int | None
    finalized_block: int | None
    lag_blocks: int | None
    database: str
    first_identity: str | None
    held: int
    backfilling: bool


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent's names, and its fields in Valkey; `state` is None for one that a rollback took back."""

    agent_id: str
    registry: str
    state: Mapping[str, Any] | None


class Feed:
    """Reads one chain on a snapshot that someone else opened."""

    def __init__(self, connection: Connection, chain_id: int, stretch: int = STRETCH) -> None:
        self._connection = connection
        self._chain_id = chain_id
        self.stretch = stretch

    async def head(self, cursor: int) -> Head | None:
        """Return where the chain is, seen from `cursor`; None where the database does not know the chain."""
        row = await self._connection.fetchrow(queries()["publish_head"], self._chain_id, cursor, self.stretch)
        return Head(**row) if row is not None else None

    async def entries(self, after: int, through: int) -> Sequence[Mapping[str, Any]]:
        """Return the stream's entries above `after`, up to `through`, in order."""
        rows = await self._connection.fetch(queries()["publish_entries"], self._chain_id, after, through)
        return [dict(row) for row in rows]

    async def stats(self) -> Mapping[str, Any] | None:
        """Return the chain's totals."""
        row = await self._connection.fetchrow(queries()["publish_stats"], self._chain_id)
        return dict(row) if row is not None else None

    async def touched(self, after: int, through: int) -> AsyncIterator[Sequence[Agent]]:
        """Yield the agents that a stretch of the feed is about, up to a stretch at a time."""
        await self._connection.execute(queries()["publish_touched"], self._chain_id, after, through)
        async for page in self._pages():
            yield page

    async def everyone(self) -> AsyncIterator[Sequence[Agent]]:
        """Yield all agents of the chain, up to a stretch at a time."""
        await self._connection.execute(queries()["publish_all_agents"], self._chain_id)
        async for page in self._pages():
            yield page

    async def known(self, names: Iterable[str], first_identity: str | None) -> set[str]:
        """Return those of `names` that an agent bears now."""
        agents = [agent for name in names if (agent := uuid_of(name, self._chain_id, first_identity)) is not None]
        rows = await self._connection.fetch(queries()["publish_known"], self._chain_id, agents)
        return {member(row["agent_id"], row["registry"], first_identity) for row in rows}

    async def _pages(self) -> AsyncIterator[Sequence[Agent]]:
        while rows := await self._connection.fetch(f"FETCH FORWARD {self.stretch} FROM touched"):
            states = await self._states([row["agent_uuid"] for row in rows])
            yield [Agent(row["agent_id"], row["registry"], states.get(row["agent_uuid"])) for row in rows]
        await self._connection.execute(queries()["publish_close"])

    async def _states(self, agents: Sequence[UUID]) -> dict[UUID, Mapping[str, Any]]:
        rows = await self._connection.fetch(queries()["publish_agents"], agents)
        return {row["agent_uuid"]: dict(row) for row in rows}
