"""Which blocks were fetched for which contract: the table `coverage`, read as gaps and written as intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from indexer.core.coverage import Gap, Interval, gaps, raised
from indexer.core.types import BlockRange, Proof
from indexer.store.database import Connection, Database
from indexer.store.queries import queries

Required = Mapping[bytes, BlockRange]
Covered = Mapping[bytes, Sequence[Interval]]


class Coverage:
    """Reads one chain's coverage."""

    def __init__(self, database: Database, chain_id: int) -> None:
        self._database = database
        self._chain_id = chain_id

    async def gaps(self, wanted: Proof, *, to_block: int | None = None) -> list[Gap]:
        """Return what the configured contracts lack up to the checkpoint, or to `to_block` where that is lower.

        Blocks that were never fetched come first, then those whose level is below `wanted`; each lowest first.
        """
        async with self._database.transaction(snapshot=True) as connection:
            required, covered = await read_coverage(connection, self._chain_id, to_block)
        return gaps(required, covered, wanted)

    async def intervals(self) -> Covered:
        """Return what was fetched for each contract, retired ones too; lowest first."""
        async with self._database.transaction(snapshot=True) as connection:
            _, covered = await read_coverage(connection, self._chain_id)
        return covered


async def read_coverage(connection: Connection, chain_id: int, to_block: int | None = None) -> tuple[Required, Covered]:
    """Return the blocks that each configured contract must have up to the checkpoint, and what there is of any."""
    rows = await connection.fetch(queries()["required_coverage"], chain_id, to_block)
    required = {row["address"]: BlockRange(row["from_block"], row["to_block"]) for row in rows}
    covered: defaultdict[bytes, list[Interval]] = defaultdict(list)
    for row in await connection.fetch(queries()["read_coverage"], chain_id):
        covered[row["address"]].append(Interval(BlockRange(row["from_block"], row["to_block"]), row["proof"]))
    return required, covered


async def is_covered(connection: Connection, chain_id: int, within: BlockRange, addresses: Sequence[bytes]) -> bool:
    """Say whether any block of `within` was ever fetched for any of these contracts."""
    bounds = (within.from_block, within.to_block)
    return bool(await connection.fetch(queries()["touching_coverage"], chain_id, list(addresses), *bounds))


async def cover(
    connection: Connection, chain_id: int, within: BlockRange, addresses: Sequence[bytes], proof: Proof
) -> None:
    """Note that `within` was fetched for these contracts; a level that is there already is never lowered.

    Touches no row where nothing changes.
    """
    before: dict[bytes, list[Interval]] = {address: [] for address in addresses}
    bounds = (within.from_block - 1, within.to_block + 1)
    for row in await connection.fetch(queries()["touching_coverage"], chain_id, list(before), *bounds):
        before[row["address"]].append(Interval(BlockRange(row["from_block"], row["to_block"]), row["proof"]))
    after = {address: raised(intervals, within, proof) for address, intervals in before.items()}
    stays = {address: {*held} & {*after[address]} for address, held in before.items()}
    gone = [(address, one) for address, held in before.items() for one in held if one not in stays[address]]
    new = [(address, one) for address, held in after.items() for one in held if one not in stays[address]]
    if gone:
        columns = ([address for address, _ in gone], [one.range.from_block for _, one in gone])
        await connection.execute(queries()["drop_coverage"], chain_id, *columns)
    if new:
        ranges = ([one.range.from_block for _, one in new], [one.range.to_block for _, one in new])
        columns_of_new = ([address for address, _ in new], *ranges, [one.proof for _, one in new])
        await connection.execute(queries()["put_coverage"], chain_id, *columns_of_new)
