"""Drives the real worker over a simulated node, as the daemon does, inside the test's own loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

from ledger import CHAIN_ID, Ledger, decoder, tables_of
from simulator.chain import SimChain
from workload import DEPLOYMENT, Workload

from indexer.chain.source import Source
from indexer.core.counters import ChainCounters
from indexer.core.ranges import start_span
from indexer.core.rows import RowBuilder
from indexer.core.types import ChainId, Deployment, Proof
from indexer.store.chains import Chains
from indexer.store.database import Database
from indexer.store.leases import Leases
from indexer.store.writer import Writer
from indexer.worker import Plan, Progress, Worker


@asynccontextmanager
async def open_worker(
    database: Database,
    urls: Sequence[str],
    *,
    chain_id: int = CHAIN_ID,
    name: str = "local",
    deployment: Deployment = DEPLOYMENT,
    proof: Proof = "logs",
    until: int | Literal["head"] | None = "head",
    span: int = 1000,
    finality_blocks: int | None = 64,
    announce_backfill: bool = False,
    holder: str = "test",
    **plan: Any,
) -> AsyncIterator[Worker]:
    """Prepare the chain, take its lease, and yield a worker that has not begun."""
    books = Chains(database)
    await books.prepare(chain_id, name, [deployment], proof=proof, max_lag_s=60, stall_after_s=90)
    lease = await Leases(database, holder).acquire(chain_id)
    assert lease is not None
    settings = Plan(
        chain_id=ChainId(chain_id),
        name=name,
        addresses=deployment.addresses,
        finality_blocks=finality_blocks,
        default_finality_blocks=64,
        poll_interval_s=0.01,
        max_concurrency=3,
        announce_backfill=announce_backfill,
        until=until,
        **plan,
    )
    usual_finality = settings.default_finality_blocks if finality_blocks is None else None
    async with Source.open(urls, proof=proof, usual_finality=usual_finality) as source:
        yield Worker(
            settings,
            source,
            Writer(database, lease, deployment.addresses),
            books,
            RowBuilder(ChainId(chain_id), [deployment], decoder()),
            ChainCounters(ChainId(chain_id), name),
            Progress(),
            start_span(span),
            lambda: None,
            lambda: None,
        )


async def index(database: Database, urls: Sequence[str], **options: Any) -> Worker:
    """Index up to the head, or to `until`, and return the worker for what it counted."""
    async with open_worker(database, urls, **options) as worker:
        await worker.run()
    return worker


def grown(seed: int, blocks: int, most: int = 4) -> tuple[SimChain, Workload]:
    """Mine a chain of random blocks, of up to `most` actions each; the workload goes on from there."""
    workload, chain = Workload(seed), SimChain(seed=seed)
    for _ in range(blocks):
        chain.mine(workload.block(most))
    return chain, workload


async def expect_truth(database: Database, clean: Database, chain: SimChain) -> None:
    """Compare every table with those of a run that saw only the final chain."""
    straight = await Ledger.open(clean)
    await straight.index(chain)
    assert await tables_of(database) == await straight.tables()
