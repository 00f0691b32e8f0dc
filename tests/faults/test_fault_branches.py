"""Faults F4, F5 and F11 to F14: stale heads, nodes of another chain, reorganisations of every kind."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from enduring import DEADLINE_S, ELSEWHERE, caught_up, endure, following, index_enduring, until
from indexing import expect_truth, grown, index, open_worker
from ledger import CHAIN_ID, Ledger, tables_of
from repairing import execute, reindex, value_of
from simulator.chain import SimChain
from simulator.node import SimNode
from stepping import SteppingDatabase
from structlog.testing import capture_logs
from workload import Workload

from indexer.chain import pool, source
from indexer.core.types import Proof
from indexer.errors import BeyondFinality, StoreUnavailable
from indexer.store.chains import Chains
from indexer.store.database import Connection, Database


def elsewhere(seed: int, blocks: int) -> tuple[SimChain, Workload]:
    """Mine a chain of another id, with the same contracts on it, as CREATE2 gives them."""
    workload, chain = Workload(seed), SimChain(seed=seed, chain_id=ELSEWHERE)
    for _ in range(blocks):
        chain.mine(workload.block(4))
    return chain, workload


async def expect_both(database: Database, clean: Database, chain: SimChain, other: SimChain) -> None:
    """Compare every table with those of a run that saw only the two final chains."""
    for one, name in ((chain, "local"), (other, "other")):
        straight = await Ledger.open(clean, chain_id=one.chain_id, name=name)
        await straight.index(one)
    assert await tables_of(database) == await tables_of(clean)


async def reverted(database: Database) -> int:
    return int(await value_of(database, "SELECT count(*) FROM reverted_logs"))


# --- F4 -------------------------------------------------------------------------------------------------------------


async def test_f04_a_head_that_goes_backwards_takes_nothing_back(database, clean) -> None:
    chain, workload = grown(104, 80)
    random = Random(4)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        node.knobs.lag_blocks = 30
        await index(database, [node.url])

        def route() -> None:
            node.knobs.lag_blocks = random.choice((0, 0, 3, 30))

        node.on_request = route
        async with open_worker(database, [node.url], until=None) as worker, following(worker):
            for _ in range(15):
                chain.mine(workload.block(4))
                await caught_up(worker, chain)

    assert worker.counters.reorgs == 0
    assert await reverted(database) == 0
    await expect_truth(database, clean, chain)


async def test_f04_a_member_that_stayed_on_a_replaced_branch_takes_nothing_back(database, clean) -> None:
    chain, workload = grown(104, 80)
    stale = chain.frozen()
    chain.reorg(5, [workload.block(4) for _ in range(5)])
    async with SimNode(stale) as behind, SimNode(chain) as node:
        await index(database, [node.url])
        async with open_worker(database, [behind.url, node.url], until=None) as worker, following(worker):
            asked = behind.calls["eth_getBlockByNumber"]
            await until(lambda: behind.calls["eth_getBlockByNumber"] > asked + 8)
            assert worker.counters.reorgs == 0
            behind.chain = chain
            chain.mine(workload.block(4))
            await caught_up(worker, chain)

    assert await reverted(database) == 0
    await expect_truth(database, clean, chain)


async def test_f04_a_provider_ahead_on_a_branch_of_its_own_takes_nothing_back(
    database, clean, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_BEHIND_PAUSES_S", (0.05,))
    monkeypatch.setattr(pool, "SURVEY_EVERY_S", 0.2)
    chain, workload = grown(104, 80)
    own = chain.fork()
    own.reorg(5, [workload.block(4) for _ in range(25)])
    async with SimNode(own) as liar, SimNode(chain) as node, SimNode(chain) as third:
        await index(database, [node.url])
        async with open_worker(database, [liar.url, node.url, third.url], until=None) as worker, following(worker):
            asked = liar.calls["eth_getBlockByNumber"]
            await until(lambda: liar.calls["eth_getBlockByNumber"] > asked + 300 or worker.counters.reorgs)
            assert worker.counters.reorgs == 0
            liar.chain = chain
            chain.mine(workload.block(4))
            await caught_up(worker, chain)

    assert await reverted(database) == 0
    await expect_truth(database, clean, chain)


# --- F5 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["another network", "still syncing", "another branch"])
async def test_f05_a_node_that_is_not_of_this_chain_or_not_in_sync_is_never_heard(database, clean, how: str) -> None:
    chain, workload = grown(105, 100)
    async with SimNode(chain) as joining, SimNode(chain) as node:
        if how == "another branch":  # what is final here tells
            await index(database, [node.url], finality_blocks=10)
        match how:
            case "another network":
                joining.chain, _ = elsewhere(1050, 200)
            case "still syncing":
                joining.knobs.syncing = True
                joining.intercept = lambda method, _, answer: [] if method == "eth_getLogs" else answer
            case _:
                joining.chain = chain.fork()
                joining.chain.reorg(60, [workload.block(4) for _ in range(120)])
        for _ in range(40):
            chain.mine(workload.block(4))
        async with open_worker(database, [joining.url, node.url], until=140, finality_blocks=10) as worker:
            await worker.source.check_chain(CHAIN_ID)  # type: ignore[attr-defined]  # as the daemon does at start
            async with asyncio.timeout(DEADLINE_S):
                await endure(worker)

    assert joining.http_requests > 0
    assert joining.calls["eth_getLogs"] == 0
    await expect_truth(database, clean, chain)


@pytest.mark.parametrize(("proof", "every", "length"), [("logs", 5, 1), ("receipts", 17, 5)])
async def test_f05_a_node_exchanged_for_one_of_another_network_gets_no_block_in(
    database, clean, proof: Proof, every: int, length: int
) -> None:
    """The new one answers, `length` times, before it is asked again which network it is of."""
    chain, _ = grown(105, 120)
    other, _ = elsewhere(1050, 120)
    strange: list[int] = []
    async with SimNode(chain, receipts=proof == "logs") as node, SimNode(chain) as second:

        def route() -> None:
            is_strange = node.http_requests > 6 and node.http_requests % every < length
            node.chain = other if is_strange else chain
            if is_strange:
                strange.append(node.http_requests)

        node.on_request = route
        await index_enduring(database, [node.url, second.url], until=120, span=5, finality_blocks=20, proof=proof)

    assert len(strange) > 3
    await expect_truth(database, clean, chain)


# --- F11 ------------------------------------------------------------------------------------------------------------


async def test_f11_a_reorg_beyond_finality_halts_that_chain_alone_until_an_operator_lifts_it(database, clean) -> None:
    chain, workload = grown(111, 80)
    other, others = elsewhere(1110, 80)
    async with SimNode(chain) as node, SimNode(other) as second:
        await index(database, [node.url], finality_blocks=10)
        before = await tables_of(database)
        chain.reorg(40, [workload.block(4) for _ in range(45)])
        for _ in range(2):
            with capture_logs(), pytest.raises(BeyondFinality, match="reindex --chain local"):
                await index(database, [node.url], finality_blocks=10)
        assert await tables_of(database) == before

        options = {"chain_id": ELSEWHERE, "name": "other", "until": None}
        async with open_worker(database, [second.url], **options) as worker, following(worker):
            await caught_up(worker, other)
            other.reorg(5, [others.block(4) for _ in range(6)])
            await caught_up(worker, other)
        await execute(database, "UPDATE leases SET expires_at = '-infinity'")
        outcome = await reindex(database, [node.url], 60, finality_blocks=10)
        await index(database, [node.url], finality_blocks=10)

    assert outcome.exit_code == 0, outcome.reason
    assert (await Chains(database).standing(CHAIN_ID)).halt_reason is None
    await expect_both(database, clean, chain, other)


# --- F12 ------------------------------------------------------------------------------------------------------------


async def test_f12_reorgs_during_rollbacks_of_two_chains_at_once(database_url: str, clean) -> None:
    database = await SteppingDatabase.open(database_url, size=6)
    chain, workload = grown(112, 60)
    other, others = elsewhere(1120, 60)
    worlds = {CHAIN_ID: (chain, workload), ELSEWHERE: (other, others)}
    struck: list[str] = []

    async def strike(_: Connection, statement: str) -> None:
        """Reorganise both chains in the middle of each rollback, and break off every other one."""
        if "DELETE FROM logs" not in statement or len(struck) >= 8:
            return
        struck.append(statement)
        for one, work in worlds.values():
            one.reorg(9, [work.block(4) for _ in range(10)])
        if len(struck) % 2 == 0:
            raise StoreUnavailable("the connection broke")

    async with SimNode(chain) as node, SimNode(other) as second:
        first = open_worker(database, [node.url], until=None)
        both = open_worker(database, [second.url], chain_id=ELSEWHERE, name="other", until=None)
        async with first as one, both as two, following(one), following(two):
            await caught_up(one, chain)
            await caught_up(two, other)
            database.step = strike
            for block_chain, work in worlds.values():
                block_chain.reorg(20, [work.block(4) for _ in range(21)])
            await until(lambda: len(struck) >= 8)
            await caught_up(one, chain)
            await caught_up(two, other)
    database.step = None

    assert one.counters.reorgs >= 2
    assert two.counters.reorgs >= 2
    await expect_both(database, clean, chain, other)
    await database.close()


async def test_f12_rollbacks_of_one_chain_that_meet_end_at_the_lower_ancestor(database, clean) -> None:
    chain, workload = grown(112, 60)
    ledger = await Ledger.open(database)
    await ledger.index(chain)
    ancestors = [block.ref for block in (chain.block(50), chain.block(20), chain.block(35)) if block is not None]
    await asyncio.gather(*map(ledger.writer.rollback, [*ancestors, *ancestors]))
    standing = await Chains(database).standing(CHAIN_ID)
    chain.reorg(40, [workload.block(4) for _ in range(45)])
    async with SimNode(chain) as node:
        await index(database, [node.url])

    assert standing.checkpoint_block == 20
    await expect_truth(database, clean, chain)


# --- F13 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "between two runs"])
async def test_f13_a_reorg_of_blocks_without_logs_rewinds_their_hashes(database, clean, running: bool) -> None:
    chain, workload = grown(113, 50)
    chain.mine_empty(12)
    async with SimNode(chain) as node:
        if running:
            async with open_worker(database, [node.url], until=None) as worker, following(worker):
                await caught_up(worker, chain)
                chain.reorg(10, [()] * 8)
                await caught_up(worker, chain)
        else:
            await index(database, [node.url])
            chain.reorg(10, [()] * 8)
            await index(database, [node.url])
        standing = await Chains(database).standing(CHAIN_ID)
        for _ in range(5):
            chain.mine(workload.block(4))
        await index(database, [node.url])

    canonical = [block.ref for block in chain.blocks]
    assert (standing.checkpoint_block, standing.checkpoint_hash) == (60, canonical[60].hash)
    assert all(block == canonical[block.number] for block in standing.held)
    assert await reverted(database) == 0
    await expect_truth(database, clean, chain)


# --- F14 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [1, 300], ids=["found near the head", "final by the time it is found"])
async def test_f14_a_reorg_while_the_process_was_down_is_undone_before_the_first_write(
    database, clean, more: int
) -> None:
    chain, workload = grown(114, 70)
    async with SimNode(chain) as node:
        await index(database, [node.url], finality_blocks=20)
        chain.reorg(12, [workload.block(2) for _ in range(12 + more)])
        with capture_logs() as lines:
            worker = await index_enduring(database, [node.url], finality_blocks=20)

    written = [str(one["event"]) for one in lines if str(one["event"]) in {"rollback_committed", "batch_committed"}]
    assert written[0] == "rollback_committed"
    assert worker.counters.reorgs == 1
    await expect_truth(database, clean, chain)
