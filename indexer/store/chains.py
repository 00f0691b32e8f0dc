"""What is stored of a chain beside its rows: where it stands, what its nodes say, which contracts belong to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from indexer.core.types import BlockRef, Deployment
from indexer.store.database import Database
from indexer.store.queries import queries


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a chain stands. `held` are the stored headers, oldest first; the checkpoint's is among them.

    `proven_final` is what was final when they last proved canonical. `halt_reason` is None unless the chain is halted.
    """

    start_block: int
    checkpoint_block: int
    checkpoint_hash: bytes | None
    held: tuple[BlockRef, ...]
    proven_final: int
    was_live: bool
    halt_reason: str | None


class Chains:
    """Reads and writes the bookkeeping of chains; none of it decides what the tables hold."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def prepare(
        self,
        chain_id: int,
        name: str,
        deployments: Sequence[Deployment],
        *,
        proof: str,
        max_lag_s: float,
        stall_after_s: float,
    ) -> None:
        """Make the chain's rows, and hold the list of its contracts to the settings; those that left keep theirs.

        `proof` is the level that is wanted: it stands until a batch says which one was reached.
        """
        start_block = min(deployment.start_block for deployment in deployments)
        async with self._database.transaction() as connection:
            await connection.execute(queries()["upsert_chain"], chain_id, name, start_block, proof)
            await connection.execute(queries()["ensure_head"], chain_id, max_lag_s, stall_after_s)
            await connection.execute(queries()["retire_registries"], chain_id)
            for position, (deployment, address, kind) in enumerate(_roles(deployments)):
                row = (chain_id, address, kind, deployment.identity, position, deployment.start_block)
                await connection.execute(queries()["upsert_registry"], *row)

    async def standing(self, chain_id: int) -> Standing:
        """Read where the chain stands; it must have been prepared."""
        async with self._database.transaction(snapshot=True) as connection:
            chain = await connection.fetchrow(queries()["read_chain"], chain_id)
            rows = await connection.fetch(queries()["held_blocks"], chain_id)
        assert chain is not None
        held = tuple(
            BlockRef(
                row["block_number"], row["block_hash"], row["parent_hash"], int(row["block_timestamp"].timestamp())
            )
            for row in rows
        )
        halted = chain["state"] == "halted"
        return Standing(
            chain["start_block"],
            chain["checkpoint_block"],
            chain["checkpoint_hash"],
            held,
            chain["proven_final"],
            chain["state"] == "live",
            (chain["halt_reason"] or "halted") if halted else None,
        )

    async def observe(
        self,
        chain_id: int,
        head: BlockRef,
        finalized: int | None,
        providers: Sequence[object],
        *,
        keeps_up: bool = True,
        durable: bool = True,
    ) -> int | None:
        """Store what the nodes say now, and that the chain `keeps_up`, which is its sign of life.

        Returns the highest finalized block ever seen. `durable` as in `Database.transaction`.
        """
        async with self._database.transaction(durable=durable) as connection:
            known: int | None = await connection.fetchval(
                queries()["observe_head"],
                chain_id,
                head.number,
                datetime.fromtimestamp(head.timestamp, UTC),
                finalized,
                msgspec.json.encode(list(providers)).decode(),
                keeps_up,
            )
        return known

    async def learned(self, chain_id: int) -> list[dict[str, object]]:
        """Return what was known of each provider when the chain was last observed; nothing for an unknown chain."""
        async with self._database.transaction() as connection:
            providers = await connection.fetchval(queries()["read_providers"], chain_id)
        return msgspec.json.decode(providers, type=list[dict[str, object]]) if providers is not None else []

    async def warn(self, chain_id: int, warnings: Sequence[str]) -> None:
        """Replace the warnings that `status` shows."""
        async with self._database.transaction() as connection:
            await connection.execute(queries()["set_warnings"], chain_id, msgspec.json.encode(list(warnings)).decode())

    async def tell_publisher(self, chain_id: int, figures: Mapping[str, object]) -> None:
        """Store how far the chain is published, for `status`."""
        async with self._database.transaction() as connection:
            await connection.execute(queries()["set_publisher"], chain_id, msgspec.json.encode(figures).decode())

    async def prune_changes(self, retention_s: float) -> None:
        """Drop what is older than the change feed promises to keep."""
        async with self._database.transaction() as connection:
            await connection.execute(queries()["prune_changes"], retention_s)


def _roles(deployments: Sequence[Deployment]) -> list[tuple[Deployment, bytes, str]]:
    """List each contract with its role; a deployment's place in the settings orders them."""
    return [
        role
        for deployment in deployments
        for role in (
            (deployment, deployment.identity, "identity"),
            (deployment, deployment.reputation, "reputation"),
            *((deployment, address, "validation") for address in deployment.validation),
        )
    ]
