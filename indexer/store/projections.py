"""Typed rows → state: which projections run, in which order, over which scope (statements in sql/projections/)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final
from uuid import UUID

from indexer.store.database import Connection
from indexer.store.queries import projection, queries

# State that belongs to agents alone; cleared for the touched ones before their rows are applied again.
STATE_TABLES: Final = ("agents", "agent_stats", "agent_clients", "agent_values", "agent_metadata", "agent_days")
_CLEARED: Final = (*STATE_TABLES, "feedback", "validation_requests")
# Each projection and the tables whose rows it reads; it runs when the batch has any of them.
_STEPS: Final[tuple[tuple[str, frozenset[str]], ...]] = (
    ("agents", frozenset({"logs"})),  # events without a typed row, as MetadataUpdate, move `updated_at` too
    ("feedback", frozenset({"logs"})),
    ("metadata", frozenset({"metadata_writes"})),
    ("standing", frozenset({"revocations"})),
    ("last_feedback", frozenset({"revocations"})),
    ("responses", frozenset({"feedback_responses"})),
    ("validations", frozenset({"validation_requests", "validation_responses"})),
    ("days", frozenset({"uris", "feedback", "revocations", "feedback_responses", "validation_requests"})),
)
_LAST_BLOCK: Final = 2**63 - 1


async def extend(
    connection: Connection,
    chain_id: int,
    from_block: int,
    to_block: int,
    tables: Collection[str],
    agents: Sequence[UUID] | None = None,
    touched: Sequence[UUID] | None = None,
) -> None:
    """Apply the typed rows of a range above all that was applied before; `tables` are those with rows in it.

    With `agents`, of them alone: then only theirs must all lie below. `touched` are those that the range's logs name;
    whoever knows them saves looking through the ledger.
    """
    scope = (chain_id, from_block, to_block, None if agents is None else list(agents))
    await _apply(connection, scope, frozenset(tables), touched=touched)


async def mend(connection: Connection, chain_id: int, agents: Sequence[UUID]) -> None:
    """Apply all rows of `agents` again. Their state must have been taken away with `clear` before rows were changed."""
    everything = frozenset(table for _, tables in _STEPS for table in tables)
    await _apply(connection, (chain_id, 0, _LAST_BLOCK, list(agents)), everything, totals_before=False)


async def clear(connection: Connection, chain_id: int, agents: Sequence[UUID]) -> None:
    """Take the agents' state away: their share of the chain's totals, their rows, the state columns of typed rows."""
    await connection.execute(projection("totals"), chain_id, 0, _LAST_BLOCK, list(agents), -1)
    for table in _CLEARED:
        await connection.execute(queries()[f"clear_{table}"], list(agents))


async def _apply(
    connection: Connection,
    scope: tuple[int, int, int, list[UUID] | None],
    tables: frozenset[str],
    *,
    totals_before: bool = True,
    touched: Sequence[UUID] | None = None,
) -> None:
    counted = scope if touched is None else (*scope[:3], touched)
    if totals_before:
        await connection.execute(projection("totals"), *counted, -1)
    wanted = set(tables)
    for step, reads in _STEPS:
        if reads & wanted:
            result = await connection.fetchval(projection(step), *scope)
            if step == "feedback" and result:
                # An epoch that was opened takes rows out of the count, as revocations do.
                wanted.add("revocations")
    await connection.execute(projection("totals"), *counted, 1)
