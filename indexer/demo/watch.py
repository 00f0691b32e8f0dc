"""What the demo shows of its database, read as any consumer reads it: through the status document and the views."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from indexer.demo.home import CHAIN_ID
from indexer.store.database import Database
from indexer.store.reader import ChainStatus, read_status

_EVENTS: Final = 10
_POLL_S: Final = 0.02

_STATS: Final = """
SELECT s.agents, s.owners, s.feedback, s.revoked, s.responses, s.validations, s.answered,
       (SELECT count(*) FROM erc8004.erc8004_events e WHERE e.chain_id = s.chain_id) AS logs
FROM erc8004.v_erc8004_chain_stats s
WHERE s.chain_id = $1
"""
_NEWEST: Final = """
SELECT e.block_number, e.log_index, coalesce(e.event, 'undecodable') AS event, e.agent_id::text AS agent_id, e.finalized
FROM erc8004.erc8004_events e
WHERE e.chain_id = $1
ORDER BY e.block_number DESC, e.log_index DESC
LIMIT $2
"""


@dataclass(frozen=True, slots=True)
class Event:
    """One log of the ledger; `agent_id` is None where it concerns no agent."""

    block_number: int
    log_index: int
    event: str
    agent_id: str | None
    finalized: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The chain's status, its figures by name, and its newest events, newest first."""

    status: ChainStatus
    stats: dict[str, int]
    events: tuple[Event, ...]


async def look(database: Database) -> Snapshot | None:
    """Read one snapshot; None as long as the daemon has not come to the chain. Raises StoreUnavailable."""
    status = await chain_status(database)
    if status is None:
        return None
    async with database.transaction() as connection:
        stats = await connection.fetchrow(_STATS, CHAIN_ID)
        events = await connection.fetch(_NEWEST, CHAIN_ID, _EVENTS)
    return Snapshot(status, dict(stats) if stats else {}, tuple(Event(**dict(event)) for event in events))


async def chain_status(database: Database) -> ChainStatus | None:
    """Return the demo's chain from the status document; None as long as it is not there."""
    document = await read_status(database)
    return next((chain for chain in document["chains"] if chain["chain_id"] == CHAIN_ID), None)


async def wait_until_indexed(database: Database, block_hash: str) -> None:
    """Wait until the checkpoint is at this block, not merely at its height."""
    while True:
        status = await chain_status(database)
        if status is not None and status["checkpoint_hash"] == block_hash:
            return
        await asyncio.sleep(_POLL_S)
