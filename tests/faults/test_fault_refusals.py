"""Faults F15, F17 to F19, F21 and F24: pruned history, caps, odd hints, hostile content, storms."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

import asyncpg
import pytest
from enduring import caught_up, following, index_enduring, ranges_asked
from indexing import expect_truth, grown, index, open_worker
from ledger import tables_of
from poison import Case, Poisons
from repairing import alter_log, blocks_with_logs, drop_logs, invent_log, reindex
from simulator.chain import SimChain
from simulator.logs import form_log
from simulator.node import Fault, SimNode, SimRpcError
from simulator.texts import RangeText
from stepping import SteppingDatabase
from workload import REPUTATION, Workload

from indexer.chain import pace, pool
from indexer.store.database import Connection

PRUNED = {"first_block": 60, "receipts": False}

# --- F15 ------------------------------------------------------------------------------------------------------------


async def test_f15_history_that_every_provider_has_pruned_costs_no_row(database) -> None:
    chain, _ = grown(115, 120)
    async with SimNode(chain) as node, SimNode(chain) as second:
        await index(database, [node.url])
        before = await tables_of(database)
        for one in (node, second):
            one.knobs.first_block, one.knobs.receipts = 60, False
        outcome = await reindex(database, [node.url, second.url], max_block_range=20, patience_s=0.1)

    assert (outcome.exit_code, outcome.next_block) == (1, 0)
    assert await tables_of(database) == before


async def test_f15_providers_that_pruned_their_logs_without_a_word_cannot_outvote_the_blooms(database) -> None:
    chain, _ = grown(115, 120)

    def pruned(method: str, _params: list[Any], answer: Any) -> Any:
        return [log for log in answer if int(log["blockNumber"], 16) >= 60] if method == "eth_getLogs" else answer

    async with SimNode(chain) as node, SimNode(chain) as second:
        await index(database, [node.url])
        before = await tables_of(database)
        for one in (node, second):
            one.knobs.receipts, one.intercept = False, pruned
        outcome = await reindex(database, [node.url, second.url], max_block_range=20, patience_s=0.1)

    assert (outcome.exit_code, outcome.logs_removed) == (1, 0)
    assert await tables_of(database) == before


async def test_f15_the_replacement_is_fetched_elsewhere_and_swapped_in_before_anything_is_gone(
    database_url: str, clean
) -> None:
    chain, _ = grown(115, 120)
    database = await SteppingDatabase.open(database_url, size=4)
    reader = await asyncpg.connect(database_url)
    async with SimNode(chain, **PRUNED) as pruned, SimNode(chain) as archive:
        await index(database, [archive.url])
        lost, altered, invented = (await blocks_with_logs(database))[3:6]
        await drop_logs(database, lost, lost)
        await alter_log(database, altered)
        await invent_log(database, invented)
        seen: set[int] = set()

        async def look(_: Connection, _statement: str) -> None:
            seen.add(await reader.fetchval("SELECT count(*) FROM erc8004_data.logs"))

        await look(None, "")  # type: ignore[arg-type]  # it looks for itself
        database.step = look
        outcome = await reindex(database, [pruned.url, archive.url])
        database.step = None
        await look(None, "")  # type: ignore[arg-type]  # as above
    await reader.close()

    assert outcome.exit_code == 0, outcome.reason
    assert len(seen) == 2  # all of it at once
    await expect_truth(database, clean, chain)
    await database.close()


# --- F17 ------------------------------------------------------------------------------------------------------------


async def test_f17_a_cap_that_dense_blocks_taught_is_forgotten(database, clean) -> None:
    workload, chain = Workload(117), SimChain(seed=117)
    for _ in range(20):
        chain.mine(workload.block(12))
    chain.mine_empty(1200)
    async with SimNode(chain, max_results=30) as node:
        asked = ranges_asked(node)
        worker = await index(database, [node.url], finality_blocks=10, span=600)

    assert min(last - first for first, last in asked) < 8
    assert worker._fetcher.span.density is None
    assert len(asked) < 100
    await expect_truth(database, clean, chain)


async def test_f17_the_cap_of_a_fallback_ends_when_the_preferred_provider_is_back(
    database, clean, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "SURVEY_EVERY_S", 0.1)
    chain, workload = grown(1170, 60)
    async with SimNode(chain) as preferred, SimNode(chain, max_range=3) as fallback:
        asked = ranges_asked(preferred)
        await preferred.stop()
        async with (
            open_worker(database, [preferred.url, fallback.url], until=None, finality_blocks=10) as worker,
            following(worker),
        ):
            await caught_up(worker, chain)
            assert not asked
            await preferred.start()
            while not asked:
                for _ in range(3):  # a block alone is asked for by its hash
                    chain.mine(workload.block(4))
                await caught_up(worker, chain)
            chain.mine_empty(300)
            await caught_up(worker, chain)

    assert max(last - first + 1 for first, last in asked) > 30
    await expect_truth(database, clean, chain)


# --- F18 ------------------------------------------------------------------------------------------------------------


async def test_f18_no_range_is_ever_sent_inverted_whatever_is_suggested_and_wherever_the_head_is(
    database, clean
) -> None:
    chain, workload = grown(118, 80)
    inverted = RangeText("this block range should work: [{hint_hex}, {first_hex}]")
    async with SimNode(chain, max_range=7, range_refusal=inverted) as node:
        asked = ranges_asked(node)
        async with open_worker(database, [node.url], until=None, finality_blocks=10) as worker, following(worker):
            for lag in (0, 30, 1, 60, 0):
                node.knobs.lag_blocks = lag
                requests = node.http_requests
                while node.http_requests < requests + 4:
                    await worker.source.bell.wait(0.01)
                chain.mine(workload.block(4))
            await caught_up(worker, chain)

    assert asked
    assert all(first <= last for first, last in asked)
    await expect_truth(database, clean, chain)


# --- F19 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        (RangeText("this block range should work: [{first_hex}, 0xfffffff]"), 7),
        (RangeText("maximum block range: {limit}", printed_above=1), 7),
        (RangeText("the cursor went beyond its horizon", -32099), 1),
        (RangeText("the cursor went beyond its horizon {first} {last}", -32000), 3),
    ],
    ids=["larger than asked", "wrong by one", "new text, one block", "new text"],
)
async def test_f19_a_hint_that_is_wrong_or_a_text_that_nobody_knows_still_leads_to_a_range_that_works(
    database, clean, text: RangeText, limit: int
) -> None:
    chain, _ = grown(119, 90)
    async with SimNode(chain, max_range=limit, range_refusal=text) as node:
        asked = ranges_asked(node)
        await index_enduring(database, [node.url], finality_blocks=10)

    assert len(asked) < 3 * 90 // limit + 30
    await expect_truth(database, clean, chain)


# --- F21 ------------------------------------------------------------------------------------------------------------


async def test_f21_hostile_content_is_stored_as_it_came_and_marked(database, clean) -> None:
    poisons = Poisons(121)
    cases = [*poisons.rare(), *poisons.cases(100)]
    tag = b"nul\x00inside \xff"
    values = (2**256 - 1, b"\x07" * 20, 2**64 - 1, 7, 0, tag, tag, "", "", "", bytes(32))
    feedback = form_log(REPUTATION, "reputation/new_feedback", *values)
    chain = SimChain(seed=121)
    by_position = fill(chain, cases)
    chain.mine([feedback])
    async with SimNode(chain) as node:
        await index(database, [node.url], span=5)
    async with database.transaction() as connection:
        rows = await connection.fetch("SELECT * FROM erc8004.erc8004_events ORDER BY block_number, log_index")
        told = await connection.fetchrow("SELECT * FROM erc8004.erc8004_reputation WHERE tag1_raw = $1", tag)

    for row, log in zip(rows, chain.logs(), strict=True):
        assert (row["data"], row["block_number"], row["log_index"]) == (log.data, log.block_number, log.log_index)
        case = by_position.get((log.block_number, log.log_index))
        assert case is None or (row["event"], row["defect"]) == (case.event, case.defect)
    assert told is not None
    assert (told["tag1"], told["agent_id"], told["feedback_index"]) == ("nul�inside �", 2**256 - 1, 2**64 - 1)
    assert json.loads(rows[-1]["args"])["tag1_raw"] == f"0x{tag.hex()}"
    await expect_truth(database, clean, chain)


def fill(chain: SimChain, cases: list[Case]) -> dict[tuple[int, int], Case]:
    """Mine the cases without dividing a transaction; return each by its position."""
    blocks: list[list[Case]] = [[]]
    for tx_hash, group in groupby(cases, key=lambda case: case.log.tx_hash):
        for part in [list(group)] if tx_hash else [[case] for case in group]:
            if len(blocks[-1]) >= 20:
                blocks.append([])
            blocks[-1] += part
    numbers = [chain.mine([case.log for case in block]).number for block in blocks]
    return {
        (number, index): case for number, block in zip(numbers, blocks, strict=True) for index, case in enumerate(block)
    }


# --- F24 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["429", "rate", "null", "html", "closed"])
async def test_f24_a_provider_that_only_fails_is_left_alone_and_the_other_serves(database, clean, fault: Fault) -> None:
    chain, _ = grown(124, 60)
    async with SimNode(chain) as broken, SimNode(chain) as node:
        broken.on_request = lambda: fault
        await index(database, [broken.url, node.url], span=2)

    assert 0 < broken.http_requests < 12
    await expect_truth(database, clean, chain)


@pytest.mark.parametrize("kind", ["null for logs", "an error in every answer", "a storm of 429"])
async def test_f24_a_lone_provider_that_fails_for_a_while_costs_time_and_no_log(
    database, clean, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(pace, "MIN_RATE", 200.0)  # how slowly it is asked afterwards is tested elsewhere
    chain, _ = grown(124, 80)
    left = 3

    def fail(method: str, _params: list[Any], answer: Any) -> Any:
        nonlocal left
        if method != "eth_getLogs" or left == 0 or kind.startswith("a storm"):
            return answer
        left -= 1
        if kind.startswith("an error"):
            raise SimRpcError(-32000, "internal error: the backend is confused")
        return None

    async with SimNode(chain, retry_after="0.1") as node:
        node.intercept = fail
        node.fail(3 if kind.startswith("a storm") else 0, "429")
        await index_enduring(database, [node.url], finality_blocks=10)

    await expect_truth(database, clean, chain)
