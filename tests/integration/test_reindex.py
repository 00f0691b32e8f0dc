"""The ranged `reindex` over simulated nodes: what differs is swapped in, and nothing is taken on one word."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from indexing import expect_truth, grown, index
from ledger import CHAIN_ID, tables_of
from repairing import alter_log, blocks_with_logs, drop_logs, execute, invent_log, reindex, value_of, versions
from simulator.node import SimNode
from workload import DEPLOYMENT

from indexer.core.types import Deployment
from indexer.errors import BeyondFinality, SettingsError
from indexer.lifting import NoAncestor
from indexer.store.chains import Chains
from indexer.store.marks import Marks, ReindexMark


async def test_what_was_altered_lost_or_invented_is_put_right_by_receipts(database, clean) -> None:
    chain, _ = grown(1, 150)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        lost, altered, invented = (await blocks_with_logs(database))[5:8]
        gone = await drop_logs(database, lost, lost)
        await alter_log(database, altered)
        await invent_log(database, invented)
        outcome = await reindex(database, [node.url])

    assert outcome.exit_code == 0, outcome.reason
    assert (outcome.logs_added, outcome.logs_removed, outcome.logs_replaced > 0) == (gone, 1, True)
    assert outcome.document()["next_block"] is outcome.document()["go_on"] is None
    columns = {(one.key.split()[0], one.column) for one in outcome.differences}
    assert columns == {
        (f"block_number={lost}", "(row)"), (f"block_number={altered}", "data"), (f"block_number={invented}", "(row)"),
    }  # fmt: skip
    await expect_truth(database, clean, chain)


async def test_a_range_without_differences_touches_no_row(database) -> None:
    chain, _ = grown(2, 100)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        before = await versions(database)
        outcome = await reindex(database, [node.url])

    assert (outcome.exit_code, outcome.differences) == (0, [])
    assert await versions(database) == before
    assert await Marks(database, CHAIN_ID).read() is None


async def test_only_the_rows_that_differ_are_written(database) -> None:
    chain, _ = grown(3, 100)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        before = await versions(database)
        lost = (await blocks_with_logs(database))[8]
        await drop_logs(database, lost, lost)
        await reindex(database, [node.url])

    assert {one[:2] for one in await versions(database) - before} == {one[:2] for one in before if one[0] == lost}


async def test_one_provider_alone_takes_no_log_away(database) -> None:
    chain, _ = grown(4, 120)
    async with SimNode(chain, receipts=False) as node:
        await index(database, [node.url])
        blocks = await blocks_with_logs(database)
        low, high = next(one for one in blocks if one > 10), next(one for one in blocks if one > 60)
        gone = await drop_logs(database, low, low)
        await invent_log(database, high)
        outcome = await reindex(database, [node.url], max_block_range=10)

    start = outcome.next_block
    assert outcome.exit_code == 1
    assert start is not None
    assert start <= high < start + 10
    assert outcome.document()["go_on"].endswith(f"--chain local --from {start} --to {chain.head.number}")
    assert outcome.logs_added == gone  # earlier slices stay swapped
    assert await value_of(database, "SELECT count(*) FROM logs WHERE defect = 'invented'") == 1
    assert await Marks(database, CHAIN_ID).read() == ReindexMark(0, None, start)


async def test_a_second_provider_confirms_that_a_log_is_not_there(database, clean) -> None:
    chain, _ = grown(5, 120)
    async with SimNode(chain, receipts=False) as node, SimNode(chain, receipts=False) as second:
        await index(database, [node.url])
        await invent_log(database, (await blocks_with_logs(database))[4])
        outcome = await reindex(database, [node.url, second.url])

    assert outcome.exit_code == 0, outcome.reason
    assert outcome.logs_removed == 1
    await expect_truth(database, clean, chain)


async def test_a_provider_that_keeps_logs_back_takes_none_away(database, clean) -> None:
    chain, _ = grown(6, 120)
    async with SimNode(chain, receipts=False) as node, SimNode(chain, receipts=False) as second:
        await index(database, [node.url])
        node.intercept = lambda method, _, answer: answer[:-1] if method == "eth_getLogs" else answer
        outcome = await reindex(database, [node.url, second.url], 0, 40)

    assert outcome.exit_code == 1
    assert "confirm" in str(outcome.reason)
    await expect_truth(database, clean, chain)


async def test_receipts_outweigh_a_provider_that_keeps_logs_back(database, clean) -> None:
    chain, _ = grown(7, 120)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        node.intercept = lambda method, _, answer: answer[:-1] if method == "eth_getLogs" else answer
        outcome = await reindex(database, [node.url], 0, 40)

    assert (outcome.exit_code, outcome.differences) == (0, [])
    await expect_truth(database, clean, chain)


async def test_to_ends_the_range_and_from_begins_it(database) -> None:
    chain, _ = grown(8, 120)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        blocks = await blocks_with_logs(database)
        counts = [await drop_logs(database, block, block) for block in (blocks[3], blocks[10], blocks[20])]
        outcome = await reindex(database, [node.url], blocks[10], blocks[20] - 1)

    assert (outcome.from_block, outcome.to_block) == (blocks[10], blocks[20] - 1)
    assert outcome.logs_added == counts[1]


async def test_a_range_above_the_checkpoint_is_a_mistake(database) -> None:
    chain, _ = grown(9, 20)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        with pytest.raises(SettingsError, match="not indexed yet; the checkpoint is at block 20"):
            await reindex(database, [node.url], 21)


async def test_nothing_below_the_first_block_is_fetched(database) -> None:
    chain, _ = grown(9, 40)
    late = replace(DEPLOYMENT, start_block=20)
    async with SimNode(chain) as node:
        await index(database, [node.url], deployment=late)
        before = await tables_of(database)
        outcome = await reindex(database, [node.url], 0, deployments=(late,), start_block=20)

    assert (outcome.from_block, outcome.exit_code) == (20, 0)
    assert await tables_of(database) == before


async def test_a_chain_that_is_not_stored_is_a_mistake(database) -> None:
    chain, _ = grown(9, 5)
    async with SimNode(chain) as node:
        with pytest.raises(SettingsError, match="local is not in this database"):
            await reindex(database, [node.url])


async def test_contracts_that_were_never_indexed_are_a_mistake(database) -> None:
    chain, _ = grown(9, 20)
    others = Deployment(b"\x70" * 20, b"\x71" * 20, (), 0)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        with pytest.raises(SettingsError, match="none of its contracts"):
            await reindex(database, [node.url], deployments=(others,))


async def test_the_same_command_goes_on_where_it_was_stopped(database) -> None:
    chain, _ = grown(10, 120)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        await Marks(database, CHAIN_ID).write(ReindexMark(0, None, 90))
        low, high = (await blocks_with_logs(database))[6], (await blocks_with_logs(database))[-1]
        await drop_logs(database, low, low)
        await drop_logs(database, high, high)
        another = await reindex(database, [node.url], 5, 50)
        await Marks(database, CHAIN_ID).write(ReindexMark(0, None, 90))
        await drop_logs(database, low, low)
        same = await reindex(database, [node.url])
        await Marks(database, CHAIN_ID).write(ReindexMark(0, None, 90))
        await execute(database, "UPDATE reindexes SET updated_at = now() - interval '25 hours'")
        much_later = await reindex(database, [node.url])

    assert {one.key.split()[0] for one in another.differences} == {f"block_number={low}"}
    assert {one.key.split()[0] for one in same.differences} == {f"block_number={high}"}
    assert {one.key.split()[0] for one in much_later.differences} == {f"block_number={low}"}
    assert [one.resumed_at for one in (another, same, much_later)] == [None, 90, None]


async def test_a_provider_that_goes_away_ends_it_with_the_place_to_go_on(database) -> None:
    chain, _ = grown(11, 120)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        node.intercept = lambda method, params, answer: away_above(node, method, params, answer)
        outcome = await reindex(database, [node.url], max_block_range=10, max_concurrency=1, patience_s=0.1)

    assert outcome.exit_code == 1
    assert outcome.next_block is not None
    assert 30 < outcome.next_block <= 60


def away_above(node: SimNode, method: str, params: list, answer: object) -> object:
    if method == "eth_getLogs" and int(params[0]["fromBlock"], 16) >= 40:
        node.fail(1000, "closed")
    return answer


async def test_a_rollback_meanwhile_is_noticed_and_its_blocks_are_fetched_again(database, clean) -> None:
    chain, workload = grown(12, 80)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        held, reorganised = asyncio.Event(), asyncio.Event()

        async def interfere() -> None:
            await held.wait()
            chain.reorg(6, [workload.block(4) for _ in range(8)])
            await index(database, [node.url])
            reorganised.set()

        def hold(method: str, params: list, answer: object) -> object:
            if method == "eth_getBlockByNumber" and params[0] == hex(79):
                held.set()
            return answer

        node.intercept = hold
        node.knobs.latency_s = 0.01
        interfering = asyncio.create_task(interfere())
        outcome = await reindex(database, [node.url])
        node.intercept = None
        await interfering

    assert outcome.exit_code == 0, outcome.reason
    await expect_truth(database, clean, chain)


async def test_a_provider_on_another_branch_is_not_heard(database) -> None:
    chain, workload = grown(17, 100)
    other = chain.fork()
    other.reorg(60, [workload.block(4) for _ in range(60)])
    async with SimNode(chain) as node, SimNode(other) as second:
        await index(database, [node.url], finality_blocks=10)
        before = await versions(database)
        await execute(database, "DELETE FROM logs WHERE block_number > 80")  # nothing there contradicts
        outcome = await reindex(database, [second.url], finality_blocks=10, patience_s=0.1)

    assert outcome.exit_code == 1
    assert "another block" in str(outcome.reason)
    assert await versions(database) <= before


# --- halts ----------------------------------------------------------------------------------------------------------


async def halted(database, node: SimNode) -> None:
    with pytest.raises(BeyondFinality):
        await index(database, [node.url], finality_blocks=10)
    await execute(database, "UPDATE leases SET expires_at = now() - interval '1 second'")


@pytest.mark.parametrize("first", [None, 60, 45, 30], ids=["no --from", "above the parting", "near it", "below it"])
async def test_a_halted_chain_is_rolled_back_to_what_is_canonical_and_indexed_again(
    database, clean, first: int | None
) -> None:
    chain, workload = grown(13, 80)
    async with SimNode(chain) as node:
        await index(database, [node.url], finality_blocks=10)
        chain.reorg(40, [workload.block(4) for _ in range(45)])
        await halted(database, node)
        outcome = await reindex(database, [node.url], first, finality_blocks=10)
        standing = await Chains(database).standing(CHAIN_ID)
        after = await index(database, [node.url], finality_blocks=10)

    assert outcome.exit_code == 0, outcome.reason
    assert outcome.ancestor is not None
    assert outcome.ancestor <= min(40, (first or 100) - 1)
    assert outcome.logs_removed > 0
    assert outcome.logs_added > 0
    assert standing.halt_reason is None
    assert standing.was_live
    assert standing.checkpoint_block == chain.head.number
    assert after.progress.checkpoint == chain.head.number
    await expect_truth(database, clean, chain)


async def test_a_follower_hears_what_takes_the_place_of_what_was_taken_back_whoever_indexes_it(database) -> None:
    chain, workload = grown(13, 80)
    async with SimNode(chain) as node:
        for _ in range(2):
            await index(database, [node.url], finality_blocks=10)
            chain.mine(workload.block(4))
        before, cursor = await ledger_keys(database), await value_of(database, "SELECT cursor FROM chains")
        chain.reorg(40, [workload.block(4) for _ in range(45)])
        await halted(database, node)
        outcome = await reindex(database, [node.url], None, 60, finality_blocks=10)
        assert outcome.to_block == 60 < chain.head.number
        await index(database, [node.url], finality_blocks=10)

    assert await followed(database, before, cursor) == await ledger_keys(database)


async def ledger_keys(database) -> set[tuple[bytes, int]]:
    async with database.transaction() as connection:
        return {tuple(row) for row in await connection.fetch("SELECT block_hash, log_index FROM logs")}


async def followed(database, have: set[tuple[bytes, int]], cursor: int) -> set[tuple[bytes, int]]:
    """Return what a reader of the feed has, who knew `have` at the cursor."""
    async with database.transaction() as connection:
        rows = await connection.fetch(
            "SELECT kind, block_hash, log_index FROM changes WHERE cursor > $1 AND kind IN ('event', 'revert') "
            "ORDER BY cursor",
            cursor,
        )
    keys = set(have)
    for kind, *key in rows:
        (keys.add if kind == "event" else keys.discard)(tuple(key))
    return keys


async def test_what_was_final_on_the_branch_that_was_left_makes_nothing_final_on_the_other(database, clean) -> None:
    """A chain that begins anew is far below the old finalized block: its blocks may be reorganised like any other."""
    chain, workload = grown(18, 80)
    async with SimNode(chain) as node:
        await index(database, [node.url], finality_blocks=10)
        chain.reorg(70, [workload.block(4) for _ in range(40)])
        await execute(database, "UPDATE chains SET state = 'halted'")
        await execute(database, "UPDATE leases SET expires_at = now() - interval '1 second'")
        assert (await reindex(database, [node.url], 8, finality_blocks=10)).exit_code == 0
        assert await value_of(database, "SELECT finalized_block FROM heads") == chain.head.number - 10
        chain.reorg(3, [workload.block(4) for _ in range(5)])
        await index(database, [node.url], finality_blocks=10)

    await expect_truth(database, clean, chain)


async def test_providers_that_were_wrong_and_are_right_again_cost_no_row(database, clean) -> None:
    chain, workload = grown(14, 80)
    async with SimNode(chain) as node:
        await index(database, [node.url], finality_blocks=10)
        before = await versions(database)
        node.chain = chain.fork()
        node.chain.reorg(40, [workload.block(4) for _ in range(45)])
        await halted(database, node)
        node.chain = chain
        outcome = await reindex(database, [node.url], finality_blocks=10)

    assert (outcome.exit_code, outcome.ancestor, outcome.logs_removed) == (0, 80, 0)
    assert await versions(database) == before
    await expect_truth(database, clean, chain)


async def test_a_chain_of_which_nothing_is_stored_is_not_indexed_over_ours_unless_asked_to(database, clean) -> None:
    chain, workload = grown(15, 60)
    async with SimNode(chain) as node:
        await index(database, [node.url], finality_blocks=10)
        before = await tables_of(database)
        chain.reorg(60, [workload.block(4) for _ in range(65)])
        await execute(database, "DELETE FROM blocks WHERE block_number = 0")
        await halted(database, node)
        with pytest.raises(NoAncestor, match="--from 0 begins anew"):
            await reindex(database, [node.url], finality_blocks=10)
        untouched = await tables_of(database)
        outcome = await reindex(database, [node.url], 0, finality_blocks=10)
        await index(database, [node.url], finality_blocks=10)

    assert untouched == before
    assert (outcome.exit_code, outcome.ancestor) == (0, -1)
    await expect_truth(database, clean, chain)


async def test_a_second_provider_of_another_opinion_keeps_a_chain_halted(database) -> None:
    chain, workload = grown(16, 80)
    wrong = chain.fork()
    wrong.reorg(40, [workload.block(4) for _ in range(45)])
    async with SimNode(chain) as node, SimNode(wrong) as second:
        await index(database, [node.url], finality_blocks=10)
        before = await tables_of(database)
        await halted(database, second)
        with pytest.raises(Exception, match="two hashes"):
            await reindex(database, [second.url, node.url], finality_blocks=10)

    assert await tables_of(database) == before
    assert (await Chains(database).standing(CHAIN_ID)).halt_reason is not None
