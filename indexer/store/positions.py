"""Which blocks are stored: by their header, or by the logs that the ledger holds of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from indexer.core.types import Proof
from indexer.store.database import Database
from indexer.store.queries import queries


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block as far as the tables know it."""

    number: int
    hash: bytes


class Positions:
    """Reads where one chain's rows are; writes nothing."""

    def __init__(self, database: Database, chain_id: int) -> None:
        self._database = database
        self._chain_id = chain_id

    async def stored_below(self, block_number: int) -> StoredBlock | None:
        """Return the newest stored block at or below a number; None where there is none."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(queries()["stored_below"], self._chain_id, block_number)
        return None if row is None else StoredBlock(row["block_number"], row["block_hash"])

    async def draw(
        self, count: int, addresses: Sequence[bytes], proof: Proof, newest: int, random: Random
    ) -> list[int]:
        """Draw at most `count` blocks up to `newest` that are covered at level `proof`; ascending, each once.

        Half are drawn from all blocks, since a block whose logs were all kept back looks empty; the other half are
        blocks with logs, as most blocks have none.
        """
        drawn: set[int] = set()
        async with self._database.transaction() as connection:
            covered = await connection.fetch(
                queries()["covered_blocks"], self._chain_id, proof, newest, list(addresses)
            )
            if not covered:
                return []
            weights = [row["to_block"] - row["from_block"] + 1 for row in covered]
            for turn, row in enumerate(random.choices(covered, weights, k=count)):
                number = random.randint(row["from_block"], row["to_block"])
                if turn % 2:
                    bounds = (self._chain_id, number, row["to_block"])
                    number = await connection.fetchval(queries()["next_with_logs"], *bounds) or number
                drawn.add(number)
        return sorted(drawn)
