"""The verb `reindex`: what it needs opened, which of its forms fits, and the document that it prints."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

import structlog

from indexer.apart import Apart
from indexer.chain.source import Source
from indexer.core.counters import ChainCounters
from indexer.core.decode import Decoder
from indexer.core.ranges import start_span
from indexer.core.rows import RowBuilder
from indexer.core.types import BlockRef, ChainId
from indexer.decoder import load_decoder
from indexer.errors import BeyondFinality, Retryable, SettingsError
from indexer.lifting import AncestorSearch
from indexer.publisher import Publisher
from indexer.reindexing import PATIENCE_S, Outcome, Reindex, first_block
from indexer.services import open_source, open_valkey
from indexer.settings import ChainSettings, Settings
from indexer.store.chains import Chains, Standing
from indexer.store.database import Database
from indexer.store.leases import RENEW_EVERY_S, Lease, Leases
from indexer.store.marks import Marks
from indexer.store.positions import Positions
from indexer.store.reader import ChainStatus, read_status
from indexer.store.rebuild import MAX_TOLD, rebuild, stored_deployments
from indexer.store.slices import Slices
from indexer.store.writer import Writer
from indexer.worker import Plan, Progress, Worker

log = structlog.get_logger()

Reached = Callable[[str, int, int, int], None]
"""Hears how far a chain is: its name, first block, block reached, checkpoint."""

_RAW: Final = frozenset({"address", "block_hash", "tx_hash"})  # what no stored log can put right
_LEASE_S: Final = 30.0  # a holder that was killed loses its lease in 10
_LOOK_S: Final = 0.5


async def stored_chain(database: Database, name: str) -> ChainStatus:
    """Find a chain of this database by its name. Raises SettingsError where there is none."""
    chains = (await read_status(database))["chains"]
    for one in chains:
        if one["chain"] == name:
            return one
    names = ", ".join(one["chain"] for one in chains) or "none yet"
    raise SettingsError(f"--chain: {name} is not in this database; it holds: {names}")


@dataclass(slots=True)
class Repair:
    """One chain and its providers, opened for `reindex`."""

    chain: ChainSettings
    database: Database
    source: Source
    builder: RowBuilder
    addresses: tuple[bytes, ...]
    outcome: Outcome
    progress: Progress = field(default_factory=Progress)
    patience_s: float = PATIENCE_S

    @classmethod
    async def open(cls, stack: AsyncExitStack, database: Database, chain: ChainSettings) -> Self:
        """Look what the database has of the chain, and whether its providers answer.

        Raises SettingsError for a chain that is not there, Transport where no provider can be reached.
        """
        await stored_chain(database, chain.name)
        async with database.transaction() as connection:
            known = await stored_deployments(connection, chain.id)
        stored = {address for one in known for address in one.addresses}
        # A contract that is new in the settings is fetched as a whole by the daemon, once that knows it.
        configured = dict.fromkeys(address for one in chain.deployments for address in one.addresses)
        if stored.isdisjoint(configured):
            raise SettingsError(f"{chain.name}: none of its contracts is in this database: `run` indexes them first")
        source = await stack.enter_async_context(open_source(chain))
        await source.check_chain(chain.id)
        return cls(
            chain,
            database,
            source,
            RowBuilder(ChainId(chain.id), known, load_decoder()),
            tuple(address for address in configured if address in stored),
            Outcome(chain.id, chain.name, -1, -1),
        )

    async def run(self, first: int | None, last: int | None) -> None:
        """Reindex the range, or lift the chain's halt; `outcome` says what happened."""
        standing = await Chains(self.database).standing(self.chain.id)
        if standing.halt_reason is not None:
            await self._lift(standing, first, last)
            return
        self.outcome.from_block = first_block(first, standing)
        self.source.hold_to(_anchor(standing))
        reindex = Reindex(
            self.source,
            Slices(self.database, self.chain.id, self.builder),
            Chains(self.database),
            Marks(self.database, self.chain.id),
            self.outcome,
            self.addresses,
            self.chain.max_concurrency,
            start_span(self.chain.max_block_range or self.chain.range_hint),
            self.progress,
            self.patience_s,
        )
        await reindex.run(self.outcome.from_block, last)

    async def _lift(self, standing: Standing, first: int | None, last: int | None) -> None:
        """Roll back to the newest canonical block below `first`, and index from there up to `last`, or to the head.

        Up to the head, as what became of rows that were told of has to be told too.
        """
        checkpoint = standing.checkpoint_block
        positions = Positions(self.database, self.chain.id)
        search = AncestorSearch(self.source, positions.stored_below, standing.start_block)
        async with _held_lease(self.database, self.chain.id) as lease:
            ancestor = await search.find(checkpoint if first is None else min(first - 1, checkpoint))
            writer = Writer(self.database, lease, self.addresses)
            taken = await writer.lift(ancestor)
            log.warning("halt_lifted", ancestor=ancestor.number, rows=taken.logs, agents=taken.agents)
            self.outcome.ancestor, self.outcome.logs_removed = ancestor.number, taken.logs
            self.outcome.from_block = self.outcome.next_block = ancestor.number + 1
            head = (await self.source.tip()).head.number
            self.outcome.to_block = head if last is None else min(last, head)
            await self._index(writer)

    async def _index(self, writer: Writer) -> None:
        """Index up to the end of the range; from there a daemon goes on."""
        counters = ChainCounters(ChainId(self.chain.id), self.chain.name)
        worker = Worker(
            self._plan(self.outcome.to_block),
            self.source,
            writer,
            Chains(self.database),
            self.builder,
            counters,
            self.progress,
            start_span(self.chain.max_block_range or self.chain.range_hint),
            lambda: None,
            lambda: None,
        )
        try:
            await worker.run()
        except (Retryable, BeyondFinality) as error:
            self.outcome.reason = str(error)
        finally:
            self.outcome.logs_added = counters.logs
            done = self.progress.checkpoint >= self.outcome.to_block
            self.outcome.next_block = None if done else self.progress.checkpoint + 1

    def _plan(self, until: int) -> Plan:
        return Plan(
            chain_id=ChainId(self.chain.id),
            name=self.chain.name,
            addresses=self.addresses,
            finality_blocks=self.chain.finality_blocks,
            default_finality_blocks=self.chain.default_finality_blocks,
            poll_interval_s=self.chain.poll_interval_s,
            max_concurrency=self.chain.max_concurrency,
            announce_backfill=True,
            until=until,
        )


def _anchor(standing: Standing) -> BlockRef | None:
    """Return the newest block that is final and proven: who has another one there is of another chain."""
    first = next(iter(standing.held), None)
    return first if first is not None and first.number <= standing.proven_final else None


@asynccontextmanager
async def _held_lease(database: Database, chain_id: int) -> AsyncIterator[Lease]:
    """Hold the chain's lease for the length of the body. Raises SettingsError where another keeps it."""
    leases = Leases(database, f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}")
    lease = await _taken_lease(leases, chain_id)
    renewal = asyncio.create_task(_renew(leases, lease), name=f"lease {chain_id}")
    try:
        yield lease
    finally:
        renewal.cancel()
        await asyncio.gather(renewal, return_exceptions=True)
        await asyncio.shield(leases.release(lease))


async def _taken_lease(leases: Leases, chain_id: int) -> Lease:
    try:
        async with asyncio.timeout(_LEASE_S):
            while (lease := await leases.acquire(chain_id)) is None:  # noqa: ASYNC110 - the holder is another process
                await asyncio.sleep(_LOOK_S)
            return lease
    except TimeoutError:
        holder = await leases.holder_of(chain_id)
        raise SettingsError(
            f"chain {chain_id} is written by another instance ({holder}): stop it, then try again"
        ) from None


async def _renew(leases: Leases, lease: Lease) -> None:
    """Renew until cancelled; where that fails for long, the fence refuses what is written."""
    while True:
        await asyncio.sleep(RENEW_EVERY_S)
        with suppress(Retryable):
            await leases.renew(lease)


async def rebuild_chains(database: Database, chains: Sequence[ChainStatus], reached: Reached) -> dict[str, Any]:
    """Compute the projections of these chains anew and merge what differs; return the document that is printed."""
    decoder = load_decoder()
    async with Apart() as apart:
        documents = [await _rebuild_chain(database, chain, decoder, apart, reached) for chain in chains]
    return {"chains": documents, "merged": sum(one["merged"] for one in documents)}


async def _rebuild_chain(
    database: Database, chain: ChainStatus, decoder: Decoder, apart: Apart, reached: Reached
) -> dict[str, Any]:
    chain_id, name, last = chain["chain_id"], chain["chain"], chain["checkpoint_block"]
    async with database.transaction() as connection:
        builder = RowBuilder(ChainId(chain_id), await stored_deployments(connection, chain_id), decoder)
    done = await rebuild(
        database, chain_id, builder, reached=lambda block: reached(name, 0, block, last), rereading=apart.reread
    )
    log.info("ledger_rebuilt", chain=name, rows=done.rows, merged=done.merged)
    return {
        "chain_id": chain_id,
        "chain": name,
        "checked": done.rows,
        "merged": done.merged,
        "differences": [asdict(one) for one in done.differences],
        "truncated": len(done.differences) >= MAX_TOLD,
        "unsettled": sum(one.table == "logs" and one.column in _RAW for one in done.differences),
    }


async def ask_publisher(settings: Settings, database: Database, chain_ids: Sequence[int]) -> None:
    """Have Valkey filled again by whoever publishes these chains; where it is away, it is filled once it is back."""
    try:
        async with (
            open_valkey(settings) as address,
            Publisher(database, address, chain_ids=chain_ids) as publisher,
        ):
            for chain_id in chain_ids:
                await publisher.request_rebuild(chain_id)
    except (Retryable, SettingsError) as error:
        log.warning("publisher_failed", error=str(error))
