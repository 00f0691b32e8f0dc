"""Drives the store without a node: batches of a simulated chain go in, whole tables come out for comparison."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from simulator.chain import SimChain
from workload import DEPLOYMENT

from indexer.core.abi import load_forms
from indexer.core.decode import Decoder
from indexer.core.rows import TYPED_TABLES, RowBuilder
from indexer.core.types import Batch, BlockRange, BlockRef, ChainId, Deployment
from indexer.resources import data_dir
from indexer.store.database import Database
from indexer.store.encoding import encode_rows
from indexer.store.leases import Leases
from indexer.store.projections import STATE_TABLES
from indexer.store.queries import queries
from indexer.store.writer import Committed, RolledBack, Writer

CHAIN_ID = ChainId(31337)
COMPARED = ("logs", *TYPED_TABLES, *STATE_TABLES, "chain_totals")


@cache
def decoder() -> Decoder:
    """Compile every form of `abi/` once a test run."""
    files = data_dir("abi").glob("*/*.json")
    return Decoder(load_forms({f"{path.parent.name}/{path.stem}": json.loads(path.read_text()) for path in files}))


@dataclass(slots=True)
class Ledger:
    """One chain in one database, written as the worker writes it."""

    database: Database
    writer: Writer
    builder: RowBuilder
    chain_id: int
    tip: BlockRef | None = None
    committed: list[Committed] = field(default_factory=list)

    @classmethod
    async def open(
        cls,
        database: Database,
        *,
        chain_id: int = CHAIN_ID,
        deployment: Deployment = DEPLOYMENT,
        name: str = "local",
        start_block: int = 0,
        holder: str = "test",
    ) -> Ledger:
        """Make the chain's rows as the daemon does at start, and take its lease."""
        async with database.transaction() as connection:
            await connection.execute(queries()["upsert_chain"], chain_id, name, start_block, "logs")
            await connection.execute(queries()["ensure_head"], chain_id, 60.0, 90.0)
            roles = [
                (deployment.identity, "identity", 0),
                (deployment.reputation, "reputation", 0),
                *((address, "validation", n) for n, address in enumerate(deployment.validation)),
            ]
            for address, kind, position in roles:
                row = (chain_id, address, kind, deployment.identity, position, start_block)
                await connection.execute(queries()["upsert_registry"], *row)
        lease = await Leases(database, holder).acquire(chain_id)
        assert lease is not None
        writer = Writer(database, lease, deployment.addresses)
        return cls(database, writer, RowBuilder(ChainId(chain_id), [deployment], decoder()), chain_id)

    async def commit(self, chain: SimChain, first: int, last: int, *, announce: bool = False) -> Committed:
        """Commit the blocks `first` to `last` of `chain` as one batch."""
        within = BlockRange(first, last)
        logs = tuple(chain.logs(within=within))
        blocks = tuple(block.ref for n in range(first, last + 1) if (block := chain.block(n)) is not None)
        batch = Batch(within, blocks, logs)
        parent = self.tip.hash if self.tip else None
        done = await self.writer.commit(
            batch, encode_rows(self.builder.build(logs)), parent=parent, state="live", announce=announce, finalized=None
        )
        self.tip = blocks[-1]
        self.committed.append(done)
        return done

    async def index(self, chain: SimChain, sizes: Sequence[int] = (), *, announce: bool = False) -> None:
        """Commit everything from the tip to the chain's head, in batches of `sizes` blocks, the last size repeating."""
        first = self.tip.number + 1 if self.tip else chain.start
        turn = 0
        while first <= chain.head.number:
            size = sizes[min(turn, len(sizes) - 1)] if sizes else chain.head.number - first + 1
            last = min(first + size - 1, chain.head.number)
            await self.commit(chain, first, last, announce=announce)
            first, turn = last + 1, turn + 1

    async def rollback(self, ancestor: BlockRef) -> RolledBack:
        """Take back what lies above `ancestor`."""
        done = await self.writer.rollback(ancestor)
        self.tip = ancestor
        return done

    async def tables(self) -> dict[str, list[Any]]:
        """Return every row of the ledger, typed rows and state; see `tables_of`."""
        return await tables_of(self.database)


async def tables_of(database: Database) -> dict[str, list[Any]]:
    """Return every row of the ledger, typed rows and state, as comparable values, in a fixed order."""
    found = {}
    async with database.transaction() as connection:
        for table in COMPARED:
            rows = await connection.fetch(f"SELECT to_jsonb(t)::text AS row FROM {table} t")
            found[table] = sorted(row["row"] for row in rows)
    return found
