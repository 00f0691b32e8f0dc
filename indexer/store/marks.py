"""Where a ranged reindex that did not come to its end goes on: one mark a chain, moved with each slice it swapped."""

from __future__ import annotations

from dataclasses import dataclass

from indexer.store.database import Connection, Database
from indexer.store.queries import queries


@dataclass(frozen=True, slots=True)
class ReindexMark:
    """A range that is being fetched again, done below `next_block`; `to_block` None means up to the checkpoint."""

    from_block: int
    to_block: int | None
    next_block: int


class Marks:
    """Reads and writes the mark of one chain; a swap moves it in its own transaction."""

    def __init__(self, database: Database, chain_id: int) -> None:
        self._database = database
        self._chain_id = chain_id

    async def read(self) -> ReindexMark | None:
        """Return the mark that an earlier reindex left, within a day."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(queries()["read_mark"], self._chain_id)
        return ReindexMark(**row) if row is not None else None

    async def write(self, mark: ReindexMark) -> None:
        """Set the mark, in the place of any other."""
        async with self._database.transaction() as connection:
            await move_mark(connection, self._chain_id, mark)

    async def clear(self) -> None:
        """Forget the mark: the range is done."""
        async with self._database.transaction() as connection:
            await connection.execute(queries()["clear_mark"], self._chain_id)


async def move_mark(connection: Connection, chain_id: int, mark: ReindexMark) -> None:
    """Set the mark within a transaction of someone else."""
    await connection.execute(queries()["write_mark"], chain_id, mark.from_block, mark.to_block, mark.next_block)
