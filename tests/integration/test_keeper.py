"""What keeps the tables whole beside the worker: gaps, proof levels, audits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
from indexing import expect_truth, grown, index
from ledger import CHAIN_ID, Ledger, tables_of
from repairing import blocks_with_logs, drop_logs, execute, invent_log, open_keeper, value_of, versions
from simulator.chain import SimChain
from simulator.node import SimNode
from structlog.testing import capture_logs
from workload import DEPLOYMENT, VALIDATIONS

from indexer.chain.checks import TOLERANCE
from indexer.chain.refusals import Inconsistent, Pruned
from indexer.core.types import BlockRange, Deployment
from indexer.keeper import AUDIT_BLOCKS, Keeper
from indexer.store.chains import Chains
from indexer.store.coverage import Coverage
from indexer.store.slices import Unconfirmed

WITHOUT_VALIDATION = replace(DEPLOYMENT, validation=())
DEADLINE_S = 10.0


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await holds():  # noqa: ASYNC110 - the rows are written by another task
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(keeper: Keeper) -> AsyncIterator[None]:
    task = asyncio.create_task(keeper.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def cut_coverage(database, first: int, last: int) -> None:
    """Forget that the blocks were fetched, and lose their logs."""
    await drop_logs(database, first, last)
    await execute(
        database,
        "INSERT INTO coverage SELECT chain_id, address, $2::bigint + 1, to_block, proof FROM coverage "
        "WHERE from_block < $1 AND to_block > $2",
        first,
        last,
    )
    await execute(
        database, "UPDATE coverage SET to_block = $1::bigint - 1 WHERE $1 BETWEEN from_block AND to_block", first
    )


async def gap_blocks(database) -> int:
    return await value_of(database, "SELECT gap_blocks FROM erc8004.v_erc8004_indexer_status")


async def levels(database) -> set[str]:
    return {one.proof for held in (await Coverage(database, CHAIN_ID).intervals()).values() for one in held}


# --- gaps -----------------------------------------------------------------------------------------------------------


async def test_a_gap_is_filled_by_itself(database, clean) -> None:
    chain, _ = grown(1, 120)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        await cut_coverage(database, 30, 49)
        assert await gap_blocks(database) == 20
        with capture_logs() as lines:
            async with open_keeper(database, [node.url]) as keeper, running(keeper):
                await until(lambda: has_no_gap(database))

    assert [(one["from_block"], one["to_block"]) for one in lines if one["event"] == "gap_filled"] == [(30, 49)]
    assert keeper.counters.filled_blocks == 20
    await expect_truth(database, clean, chain)


async def has_no_gap(database) -> bool:
    return await gap_blocks(database) == 0


async def test_a_gap_up_to_the_head_is_filled_too(database, clean) -> None:
    chain, _ = grown(2, 100)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        await drop_logs(database, 20, 100)
        await execute(database, "UPDATE coverage SET to_block = 19")
        async with open_keeper(database, [node.url], span=25) as keeper:
            await keeper.settle()

    await expect_truth(database, clean, chain)


async def test_a_contract_added_in_the_settings_is_fetched_without_touching_other_rows(database, clean) -> None:
    chain, _ = grown(3, 120)
    async with SimNode(chain) as node:
        await index(database, [node.url], deployment=WITHOUT_VALIDATION)
        before = await versions(database)
        async with open_keeper(database, [node.url], deployments=[DEPLOYMENT]) as keeper:
            await keeper.settle()

    assert before <= await versions(database)
    assert await gap_blocks(database) == 0
    await expect_truth(database, clean, chain)


async def test_an_added_contract_is_fetched_from_its_own_first_block(database) -> None:
    chain, _ = grown(3, 120)
    added = Deployment(b"\x70" * 20, b"\x71" * 20, VALIDATIONS, 40)
    async with SimNode(chain) as node:
        await index(database, [node.url], deployment=WITHOUT_VALIDATION)
        async with open_keeper(database, [node.url], deployments=[WITHOUT_VALIDATION, added]) as keeper:
            await keeper.settle()

    stored = "SELECT count(*) FROM logs WHERE address = ANY ($1::bytea[])"
    assert await value_of(database, stored, list(VALIDATIONS)) == len(chain.logs(VALIDATIONS, BlockRange(40, 120)))
    assert await gap_blocks(database) == 0


async def test_a_contract_that_begins_before_the_chain_does_is_fetched_from_there(database, clean) -> None:
    chain, _ = grown(4, 120)
    late = Deployment(DEPLOYMENT.identity, DEPLOYMENT.reputation, (), 60)
    async with SimNode(chain) as node:
        await index(database, [node.url], deployment=late)
        before = await versions(database)
        async with open_keeper(database, [node.url], deployments=[DEPLOYMENT]) as keeper:
            await keeper.settle()

    assert before <= await versions(database)
    await expect_truth(database, clean, chain)


async def test_a_removed_contract_keeps_its_rows(database) -> None:
    chain, _ = grown(5, 80)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        before = await tables_of(database)
        async with open_keeper(database, [node.url], deployments=[WITHOUT_VALIDATION]) as keeper:
            await keeper.settle()

    assert await tables_of(database) == before
    assert await gap_blocks(database) == 0


async def test_a_gap_that_nobody_confirms_stays_one_and_the_others_are_filled(database) -> None:
    chain, _ = grown(6, 120)
    async with SimNode(chain, receipts=False) as node:
        await index(database, [node.url])
        await cut_coverage(database, 60, 69)
        await cut_coverage(database, 30, 39)
        # In a gap stands a log that nobody vouches for.
        await invent_log(database, next(one for one in await blocks_with_logs(database) if one >= 40))
        await execute(database, "UPDATE coverage SET from_block = 50 WHERE from_block = 40")
        async with open_keeper(database, [node.url], span=10) as keeper:
            with pytest.raises(Unconfirmed):
                await keeper.settle()
        gaps = await Coverage(database, CHAIN_ID).gaps("logs")

    assert [(one.range.from_block, one.range.to_block) for one in gaps] == [(40, 49)]
    assert await value_of(database, "SELECT count(*) FROM logs WHERE defect = 'invented'") == 1


async def test_a_gap_whose_blocks_are_not_to_be_had_keeps_nothing_else_from_being_done(database) -> None:
    chain, _ = grown(20, 120)
    async with SimNode(chain) as node:
        await index(database, [node.url], finality_blocks=10)
        await cut_coverage(database, 10, 12)
        await cut_coverage(database, 50, 59)
        lost = (await blocks_with_logs(database))[-15]
        await drop_logs(database, lost, lost)
        node.knobs.first_block = 20  # pruned
        async with open_keeper(database, [node.url]) as keeper:
            keeper.positions = OneBlock(lost)
            async with running(keeper):
                await until(lambda: holds(database, lost))

    assert await gap_blocks(database) == 3


async def test_a_gap_that_begins_in_pruned_history_is_filled_behind_it(database) -> None:
    chain, _ = grown(20, 120)
    async with SimNode(chain, first_block=30) as node, SimNode(chain, first_block=25) as second:
        async with SimNode(chain) as whole:
            await index(database, [whole.url], finality_blocks=10)
        before = await blocks_with_logs(database)
        await cut_coverage(database, 10, 59)
        async with open_keeper(database, [node.url, second.url]) as keeper:
            with pytest.raises(Pruned):
                await keeper.settle()
            gaps = await Coverage(database, CHAIN_ID).gaps("logs")
            node.forget_counts()
            with pytest.raises(Pruned):
                await keeper.mend()

    assert [(one.range.from_block, one.range.to_block) for one in gaps] == [(10, 24)]
    assert await blocks_with_logs(database) == [number for number in before if not 10 <= number < 25]
    assert node.calls["eth_getLogs"] < 10


async def test_one_block_that_stays_inconsistent_keeps_no_other_of_its_gap_out(database) -> None:
    chain, _ = grown(20, 120)
    async with SimNode(chain) as node:
        await index(database, [node.url], finality_blocks=10)
        odd = [number for number in await blocks_with_logs(database) if 30 < number < 50][1]
        before = await blocks_with_logs(database)
        await cut_coverage(database, 10, 59)
        node.intercept = lambda method, _, answer: (
            [{**log, "removed": int(log["blockNumber"], 16) == odd} for log in answer]
            if method == "eth_getLogs"
            else answer
        )
        async with open_keeper(database, [node.url]) as keeper:
            with pytest.raises(Inconsistent):
                await keeper.settle()
            gaps = await Coverage(database, CHAIN_ID).gaps("logs")

    assert [(one.range.from_block, one.range.to_block) for one in gaps] == [(odd, odd)]
    assert await blocks_with_logs(database) == [number for number in before if number != odd]


async def test_another_instances_contracts_are_left_to_it(database) -> None:
    """Its settings may know of more; this one could not read their logs."""
    chain, _ = grown(3, 60)
    async with SimNode(chain) as node:
        await index(database, [node.url], deployment=WITHOUT_VALIDATION)
        async with open_keeper(database, [node.url], deployments=[WITHOUT_VALIDATION]) as keeper:
            prepared = {"proof": "logs", "max_lag_s": 60, "stall_after_s": 90}
            await Chains(database).prepare(CHAIN_ID, "local", [DEPLOYMENT], **prepared)
            before = await tables_of(database)
            assert not await keeper.mend()

    assert await tables_of(database) == before
    assert await gap_blocks(database) == 61


async def test_a_fault_is_told_once_and_the_gap_is_filled_when_it_has_passed(database, clean) -> None:
    chain, _ = grown(7, 80)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        await cut_coverage(database, 30, 39)
        with capture_logs() as lines:
            async with open_keeper(database, [node.url]) as keeper:
                keeper.source.pool._rounds = 1  # type: ignore[attr-defined]  # its patience is tested elsewhere
                await node.stop()
                async with running(keeper):
                    await until(lambda: failed_twice(keeper))
                    await node.start()
                    await until(lambda: has_no_gap(database))

    assert [one["event"] for one in lines].count("keeper_failed") == 1
    await expect_truth(database, clean, chain)


async def failed_twice(keeper: Keeper) -> bool:
    return keeper._failures >= 2


# --- proof ----------------------------------------------------------------------------------------------------------


async def test_the_proof_is_raised_later_and_finds_what_was_kept_back(database, clean) -> None:
    chain, _ = grown(8, 120)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        lost = (await blocks_with_logs(database))[6]
        gone = await drop_logs(database, lost, lost)
        assert await levels(database) == {"logs"}
        with capture_logs() as lines:
            async with open_keeper(database, [node.url], proof="receipts", span=40) as keeper:
                await keeper.settle()

    assert await levels(database) == {"receipts"}
    assert [(one["from_block"], one["changes"]) for one in lines if one["event"] == "ledger_repaired"] == [
        (lost // 40 * 40, gone)
    ]
    assert keeper.counters.repaired_logs == gone
    await expect_truth(database, clean, chain)


async def test_without_receipts_the_proof_stays_where_it_is_and_nobody_is_asked_again_and_again(database) -> None:
    chain, _ = grown(9, 80)
    async with SimNode(chain, receipts=False) as node:
        await index(database, [node.url])
        async with open_keeper(database, [node.url], proof="receipts") as keeper:
            await keeper.settle()
            asked = node.http_requests
            for _ in range(5):
                await keeper.mend()

    assert await levels(database) == {"logs"}
    assert node.http_requests == asked


async def test_an_odd_block_keeps_no_other_from_a_better_level(database) -> None:
    chain, _ = grown(8, 120)
    odd = chain.block(5)
    assert odd is not None
    async with SimNode(chain) as node:
        await index(database, [node.url])
        node.intercept = with_wrong_receipts(odd.ref.hash)
        async with open_keeper(database, [node.url], proof="receipts", span=20) as keeper:
            async with running(keeper):
                await until(lambda: is_proven(database, 6, 120))
            for _ in range(TOLERANCE):
                with suppress(Inconsistent):
                    await keeper.mend()
            asked = node.calls["eth_getBlockReceipts"]
            assert not await keeper.mend()

    assert node.calls["eth_getBlockReceipts"] == asked
    assert not await is_proven(database, 5, 5)


async def test_old_blocks_without_receipts_keep_no_newer_one_from_a_better_level(database) -> None:
    chain, _ = grown(8, 120)
    old = {"0x" + chain.block(number).ref.hash.hex() for number in range(60)}
    async with SimNode(chain, finalized_depth=10, max_range=5) as node:
        await index(database, [node.url], span=5)
        node.intercept = lambda method, params, answer: (
            None if method == "eth_getBlockReceipts" and params[0] in old else answer
        )
        async with open_keeper(database, [node.url], proof="receipts", span=5) as keeper:
            await keeper.source.tip()
            await keeper.settle()
            asked = node.http_requests
            assert not await keeper.mend()

            assert keeper.source.level == "receipts"
    assert node.http_requests == asked
    assert await is_proven(database, 80, 120)
    assert await levels(database) == {"logs", "receipts"}


async def test_levels_are_raised_behind_where_they_gave_way_last_time(database) -> None:
    chain, _ = grown(8, 120)
    async with SimNode(chain, max_range=20) as node:
        await index(database, [node.url], span=5)
        node.intercept = with_wrong_receipts(*(block.ref.hash for block in chain.blocks[:60]))
        async with open_keeper(database, [node.url], proof="receipts", span=20) as keeper:
            for _ in range(40):
                with suppress(Inconsistent):
                    await keeper.mend()
                keeper._raise_at = keeper.source._receipts._retry_at = 0.0  # type: ignore[attr-defined]

    assert await is_proven(database, 80, 120)


def with_wrong_receipts(*of: bytes) -> Callable[[str, list, object], object]:
    """Change the receipts of some blocks, or of all, so that they do not have their root."""

    def changed(method: str, params: list, answer: object) -> object:
        if method == "eth_getBlockReceipts" and answer and (not of or bytes.fromhex(params[0][2:]) in of):
            assert isinstance(answer, list)
            return [{**one, "cumulativeGasUsed": "0x1"} for one in answer]
        return answer

    return changed


async def is_proven(database, first: int, last: int) -> bool:
    held = (await Coverage(database, CHAIN_ID).intervals()).values()
    return all(
        any(
            one.proof == "receipts" and one.range.from_block <= first <= last <= one.range.to_block for one in intervals
        )
        for intervals in held
    )


# --- audit ----------------------------------------------------------------------------------------------------------


async def test_the_audit_finds_and_repairs_a_log_that_was_kept_back(database, clean) -> None:
    chain, _ = grown(10, 90)
    async with SimNode(chain) as node:
        await index(database, [node.url], finality_blocks=10)
        lost = (await blocks_with_logs(database))[9]
        await drop_logs(database, lost, lost)
        with capture_logs() as lines:
            async with open_keeper(database, [node.url]) as keeper, running(keeper):
                await until(lambda: holds(database, lost))

    [told] = [one for one in lines if one["event"] == "ledger_repaired"]
    assert told["from_block"] == lost
    assert keeper.counters.proof_mismatches == 1
    await expect_truth(database, clean, chain)


async def holds(database, block: int) -> bool:
    return block in await blocks_with_logs(database)


async def test_the_audit_removes_what_the_chain_does_not_have_and_looks_around_it(database, clean) -> None:
    chain, _ = grown(11, 90)
    async with SimNode(chain) as node:
        await index(database, [node.url], finality_blocks=10)
        wrong = (await blocks_with_logs(database))[8]
        near = (await blocks_with_logs(database))[10]
        await invent_log(database, wrong)
        await drop_logs(database, near, near)
        async with open_keeper(database, [node.url]) as keeper:
            keeper.positions = OneBlock(wrong)
            assert await keeper.audit() == [wrong, near]

    await expect_truth(database, clean, chain)


class OneBlock:
    def __init__(self, number: int) -> None:
        self.number = number

    async def draw(self, *_: object) -> list[int]:
        return [self.number]


async def test_the_audit_leaves_what_is_right_untouched_and_coverage_in_one_piece(database) -> None:
    chain, _ = grown(12, 90)
    async with SimNode(chain) as node:
        await index(database, [node.url], finality_blocks=10)
        before = await versions(database)
        pieces = await value_of(database, "SELECT count(*) FROM coverage")
        async with open_keeper(database, [node.url]) as keeper:
            for _ in range(5):
                assert await keeper.audit() == []

    assert node.calls["eth_getBlockReceipts"] > 0
    assert await versions(database) == before
    assert await value_of(database, "SELECT count(*) FROM coverage") == pieces


@pytest.mark.parametrize(("proof", "receipts"), [("off", True), ("logs", False)], ids=["proof off", "no receipts"])
async def test_no_audit_where_none_is_wanted_or_possible(database, proof, receipts: bool) -> None:
    chain, _ = grown(13, 80)
    async with SimNode(chain, receipts=receipts) as node:
        await index(database, [node.url], finality_blocks=10)
        node.forget_counts()
        async with open_keeper(database, [node.url], proof=proof) as keeper, running(keeper):
            await asyncio.sleep(0.3)

    assert node.calls["eth_getBlockReceipts"] <= AUDIT_BLOCKS  # once


async def test_receipts_that_prove_nothing_are_told_of_once(database) -> None:
    chain, _ = grown(13, 80)
    async with SimNode(chain) as node:
        await index(database, [node.url], finality_blocks=10)
        node.intercept = with_wrong_receipts()
        with capture_logs() as lines:
            async with open_keeper(database, [node.url], audit_every_s=0.1) as keeper, running(keeper):
                await asyncio.sleep(1)  # some audits long

    assert [one["event"] for one in lines].count("keeper_failed") == 1


async def test_the_audit_does_not_ask_for_what_was_never_to_be_fetched(database) -> None:
    """Neither below the chain's first block, nor below that of a contract that was added."""
    chain, _ = grown(15, 90)
    first = WITHOUT_VALIDATION.addresses
    start = next(n for n in range(30, 90) if chain.logs(first, BlockRange(n, n)))
    late = replace(WITHOUT_VALIDATION, start_block=start)
    added = Deployment(b"\x70" * 20, b"\x71" * 20, VALIDATIONS, 60)
    async with SimNode(chain) as node:
        await index(database, [node.url], deployment=late, finality_blocks=0)
        before = await blocks_with_logs(database)
        await drop_logs(database, start, start)
        async with open_keeper(database, [node.url], deployments=[late, added]) as keeper:
            await keeper.settle()
            for number in (start, 50, 55):
                keeper.positions = OneBlock(number)
                await keeper.audit()

    assert (await blocks_with_logs(database))[0] == before[0] == start
    early = "SELECT count(*) FROM logs WHERE address = ANY ($1::bytea[]) AND block_number < 60"
    assert await value_of(database, early, list(VALIDATIONS)) == 0 < len(chain.logs(VALIDATIONS, BlockRange(start, 59)))


async def test_only_final_blocks_are_audited(database) -> None:
    chain, _ = grown(14, 60)
    straight = await Ledger.open(database)
    await straight.index(SimChain(seed=14))
    async with SimNode(chain) as node, open_keeper(database, [node.url]) as keeper:
        assert await keeper.audit() == []

    assert node.calls["eth_getBlockReceipts"] == 0
