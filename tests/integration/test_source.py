"""The source against nodes that tell the truth, are behind, refuse, break, or lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from simulator import Fault, SimChain, SimLog, SimNode, SimRpcError, event_log
from simulator.texts import RangeText

from indexer.chain.pool import Pool
from indexer.chain.provider import Provider
from indexer.chain.refusals import (
    Billing,
    CallFailed,
    Inconsistent,
    PastHead,
    ProviderError,
    RangeTooLarge,
    RateLimited,
    TooManyResults,
    Transport,
    UnknownRefusal,
)
from indexer.chain.source import Source
from indexer.core.types import BlockRange, Proof, RawLog
from indexer.errors import SettingsError

IDENTITY, REPUTATION, OTHER = b"\x11" * 20, b"\x22" * 20, b"\x33" * 20
OURS = (IDENTITY, REPUTATION)
Lie = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def registered(agent_id: int, address: bytes = IDENTITY) -> SimLog:
    signature = "Registered(uint256 indexed agentId, string agentURI, address indexed owner)"
    return event_log(address, signature, agent_id, "https://agent.example", OTHER)


@pytest.fixture
def chain() -> SimChain:
    """Ten blocks with logs of ours and of others, an empty one after each; the head (21) has logs."""
    chain = SimChain(seed=7)
    for number in range(10):
        chain.mine([registered(number), registered(number, OTHER), registered(number, REPUTATION)])
        chain.mine_empty(1)
    chain.mine([registered(99)])
    return chain


@asynccontextmanager
async def source_of(*nodes: SimNode, proof: Proof = "logs", **options: Any) -> AsyncIterator[Source]:
    pool = Pool([Provider(node.url, **options) for node in nodes], rounds=3, first_wait_s=0.01)
    async with Source(pool, proof=proof) as source:
        yield source


def truth(chain: SimChain, wanted: BlockRange) -> tuple[RawLog, ...]:
    return tuple(chain.logs(OURS, wanted))


def lying(lie: Lie) -> Callable[[str, list[Any], Any], Any]:
    return lambda method, _, answer: lie([dict(log) for log in answer]) if method == "eth_getLogs" else answer


ALL = BlockRange(0, 21)


@pytest.mark.parametrize("block_timestamp", [True, False], ids=["with times", "without times"])
async def test_fetch_gives_every_log_of_ours_in_order(chain: SimChain, block_timestamp: bool) -> None:
    async with SimNode(chain, block_timestamp=block_timestamp) as node, source_of(node) as source:
        batch = await source.fetch(ALL, OURS)

        assert batch.logs == truth(chain, ALL)
        assert len(batch.logs) == 21
        assert batch.blocks[-1] == chain.head
        assert node.http_requests == (1 if block_timestamp else 2)


async def test_headers_of_blocks_with_logs_come_along_where_logs_carry_no_time(chain: SimChain) -> None:
    async with SimNode(chain, block_timestamp=False) as node, source_of(node) as source:
        batch = await source.fetch(BlockRange(0, 4), OURS)

        expected = [chain.block(number) for number in (0, 1, 3, 4)]
        assert batch.blocks == tuple(block.ref for block in expected if block)


async def test_wrong_times_of_logs_are_replaced_by_those_of_headers(chain: SimChain) -> None:
    async with SimNode(chain) as node, source_of(node) as source:
        node.intercept = lying(lambda logs: [{**log, "blockTimestamp": "0x1"} for log in logs])

        assert (await source.fetch(ALL, OURS)).logs == truth(chain, ALL)


async def test_following_the_head_costs_two_requests_a_block(chain: SimChain) -> None:
    async with SimNode(chain) as node, source_of(node) as source:
        await source.check_chain(31337)
        node.forget_counts()

        tip = await source.tip()
        batch = await source.fetch_block(tip.head, OURS)

        assert tip.head == chain.head
        assert batch.logs == truth(chain, BlockRange(21, 21))
        assert node.http_requests == 2


async def test_tip_has_no_finalized_block_where_the_tag_is_not_served(chain: SimChain) -> None:
    async with SimNode(chain, finalized_depth=None) as node, source_of(node) as source:
        assert (await source.tip()).finalized is None

        node.knobs.finalized_depth = 4
        assert (await source.tip()).finalized == 17

        node.knobs.finalized_depth = None
        assert (await source.tip()).finalized == 17


async def test_block_of_a_replaced_hash_is_past_head(chain: SimChain) -> None:
    old = chain.head
    chain.reorg(1)
    async with SimNode(chain) as node, source_of(node) as source:
        with pytest.raises(PastHead):
            await source.fetch_block(old, OURS)


async def test_blocks_are_all_there_or_an_error(chain: SimChain) -> None:
    async with SimNode(chain) as node, source_of(node) as source:
        assert [block.number for block in await source.blocks(range(22))] == list(range(22))
        assert await source.block(22) is None
        with pytest.raises(PastHead):
            await source.blocks([20, 21, 22])


async def test_node_that_is_behind_is_not_believed(chain: SimChain) -> None:
    """F1, F6: it would answer [] for blocks it does not have."""
    async with SimNode(chain, lag_blocks=3) as behind, SimNode(chain) as node:
        async with source_of(behind) as source:
            with pytest.raises(PastHead):
                await source.fetch(ALL, OURS)
        async with source_of(behind, node) as source:
            assert (await source.fetch(ALL, OURS)).logs == truth(chain, ALL)


async def test_range_past_the_head_is_never_a_reason_to_shrink(chain: SimChain) -> None:
    text = "block range extends beyond current head block"
    async with SimNode(chain, past_head=text) as node, source_of(node) as source:
        with pytest.raises(PastHead):
            await source.fetch(BlockRange(20, 30), OURS)


async def test_logs_kept_back_at_the_last_block_are_fetched_elsewhere(chain: SimChain) -> None:
    """F3: the bloom speaks for logs, the answer has none."""
    async with SimNode(chain) as liar, SimNode(chain) as node:
        liar.intercept = lying(lambda _: [])
        async with source_of(liar, node) as source:
            assert (await source.fetch(ALL, OURS)).logs == truth(chain, ALL)
            assert (await source.fetch_block(chain.head, OURS)).logs == truth(chain, BlockRange(21, 21))


async def test_logs_of_one_contract_kept_back_beside_those_of_another_are_fetched_elsewhere() -> None:
    """F3 in an answer in parts: the bloom speaks for a contract that has no log in the block, though others do."""
    chain = SimChain(seed=7)
    for number in range(1, 7):
        chain.mine([registered(number, OURS[0]), registered(number, OURS[1])])
    expected = truth(chain, BlockRange(1, 6))
    async with SimNode(chain, max_addresses=1) as liar, SimNode(chain) as node:
        liar.intercept = lying(lambda logs: [log for log in logs if log["address"] != f"0x{OURS[1].hex()}"])
        async with source_of(liar, node) as source:
            assert (await source.fetch_linked(BlockRange(1, 6), OURS)).logs == expected
            assert (await source.fetch_block(chain.head, OURS)).logs == expected[-2:]


async def test_bloom_that_speaks_falsely_is_settled_by_asking_again(chain: SimChain) -> None:
    chain.mine([registered(1, OTHER)])
    full = lambda _, __, answer: {**answer, "logsBloom": "0x" + "ff" * 256} if isinstance(answer, dict) else answer  # noqa: E731 - one line beside its use
    async with SimNode(chain) as node, source_of(node) as source:
        node.intercept = full
        source.proof.hashes.enabled = False

        assert (await source.fetch(BlockRange(22, 22), OURS)).logs == ()


LIES: dict[str, Lie] = {
    "removed (F7)": lambda logs: [{**logs[0], "removed": True}, *logs[1:]],
    "differing duplicate (F8)": lambda logs: [*logs, {**logs[0], "data": "0x"}],
    "block outside the range (F9)": lambda logs: [*logs, {**logs[0], "blockNumber": "0x2000"}],
    "address outside the filter (F9)": lambda logs: [
        *logs,
        {**logs[0], "logIndex": "0x77", "address": "0x" + "44" * 20},
    ],
    "two hashes of a block (F10)": lambda logs: [*logs, {**logs[0], "logIndex": "0x77", "blockHash": "0x" + "44" * 32}],
    "another head (F10)": lambda logs: [*logs[:-1], {**logs[-1], "blockHash": "0x" + "44" * 32}],
    "excluded by the bloom": lambda logs: [*logs[:-1], {**logs[-1], "topics": ["0x" + "44" * 32]}],
    "pending log": lambda logs: [{**logs[0], "blockNumber": None}, *logs[1:]],
    "short topic": lambda logs: [{**logs[0], "topics": ["0x44"]}, *logs[1:]],
    "not hex": lambda logs: [{**logs[0], "data": "0xzz"}, *logs[1:]],
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_impossible_answer_is_refused_and_fetched_elsewhere(chain: SimChain, lie: Lie) -> None:
    async with SimNode(chain) as liar, SimNode(chain) as node:
        liar.intercept = lying(lie)
        async with source_of(liar) as source:
            with pytest.raises(Inconsistent):
                await source.fetch(ALL, OURS)
        async with source_of(liar, node) as source:
            assert (await source.fetch(ALL, OURS)).logs == truth(chain, ALL)


async def test_identical_duplicates_count_once(chain: SimChain) -> None:
    async with SimNode(chain) as node, source_of(node) as source:
        node.intercept = lying(lambda logs: [*logs[5:], *logs])

        assert (await source.fetch(ALL, OURS)).logs == truth(chain, ALL)


async def test_silently_cut_answer_is_found_out() -> None:
    """F20."""
    chain = SimChain()
    chain.mine([registered(number) for number in range(600)])
    chain.mine([registered(number) for number in range(600)])
    chain.mine_empty(1)
    async with SimNode(chain, truncate_at=1000) as node, source_of(node) as source:
        with pytest.raises(TooManyResults):
            await source.fetch(BlockRange(0, 3), OURS)
        node.knobs.truncate_at = None
        assert len((await source.fetch(BlockRange(0, 3), OURS)).logs) == 1200


async def test_answer_as_long_as_the_longest_before_it_may_be_cut() -> None:
    """F20: at a cap that nobody knows, which shows itself by the same count again."""
    chain = SimChain()
    for _ in range(4):
        chain.mine([registered(number) for number in range(150)])
    async with SimNode(chain, truncate_at=333) as node, source_of(node, proof="off") as source:
        assert len((await source.fetch(BlockRange(0, 3), OURS)).logs) == 333  # nothing tells yet
        for wanted in (BlockRange(0, 3), BlockRange(1, 3)):
            with pytest.raises(TooManyResults):
                await source.fetch(wanted, OURS)
        assert len((await source.fetch(BlockRange(2, 3), OURS)).logs) == 300


async def test_cut_of_one_of_several_requests_is_found_out() -> None:
    """F20: the cap is on each request, also where addresses are asked for in turns."""
    chain = SimChain()
    for _ in range(2):
        chain.mine([registered(number) for number in range(600)])
    chain.mine([registered(1, REPUTATION)])
    async with SimNode(chain, truncate_at=1000, max_addresses=1) as node, source_of(node) as source:
        with pytest.raises(TooManyResults):
            await source.fetch(BlockRange(0, 3), OURS)


async def test_one_block_that_is_cut_is_read_from_its_receipts() -> None:
    """F20."""
    chain = SimChain()
    chain.mine([registered(number) for number in range(1100)])
    async with SimNode(chain, truncate_at=1000) as node, source_of(node) as source:
        assert len((await source.fetch(BlockRange(1, 1), OURS)).logs) == 1100
        node.knobs.receipts = False
        assert len((await source.fetch(BlockRange(1, 1), OURS)).logs) == 1000


async def test_node_that_falls_behind_between_single_requests_is_not_believed(chain: SimChain) -> None:
    """F1 where batches are refused: the header came from one node behind the address, the logs from another."""
    async with SimNode(chain, max_batch=1) as behind, SimNode(chain) as node:

        def fall_behind(method: str, _: list[Any], answer: Any) -> Any:
            if method != "eth_getLogs":
                return answer
            behind.knobs.lag_blocks = 3
            return answer[:-1]

        async with source_of(behind, node, proof="off") as source:
            await source.fetch(BlockRange(0, 5), OURS)  # learns that batches are refused
            behind.intercept = fall_behind
            assert (await source.fetch(ALL, OURS)).logs == truth(chain, ALL)


async def test_node_that_always_falls_behind_is_never_believed_though_larger_batches_are_tried(chain: SimChain) -> None:
    """F1: now and then a larger batch is tried again, and refused."""
    wanted = BlockRange(0, 5)
    async with SimNode(chain, max_batch=1) as node, source_of(node, proof="off") as source:

        def fall_behind(method: str, params: list[Any], answer: Any) -> Any:
            if method != "eth_getLogs":
                return answer
            node.knobs.lag_blocks = 18
            return node.answer(method, params)

        node.intercept = fall_behind
        for _ in range(60):
            node.knobs.lag_blocks = 0
            with pytest.raises(PastHead):
                await source.fetch(wanted, OURS)

        node.intercept, node.knobs.lag_blocks = None, 0
        assert (await source.fetch(wanted, OURS)).logs == truth(chain, wanted)


async def test_rule_that_is_wrong_by_one_is_learned(chain: SimChain) -> None:
    """F19: "limited to 11 blocks", and 11 are refused."""
    text = RangeText("block range is too large, limited to {limit} blocks", printed_above=1)
    async with SimNode(chain, max_range=10, range_refusal=text) as node, source_of(node) as source:
        for wanted, cap in ((BlockRange(0, 20), 11), (BlockRange(0, 10), 10)):
            with pytest.raises(RangeTooLarge):
                await source.fetch(wanted, OURS)
            assert source.span_cap == cap
        assert (await source.fetch(BlockRange(0, 9), OURS)).logs == truth(chain, BlockRange(0, 9))


async def test_header_that_is_not_its_hash_is_refused_until_it_is_clear_that_the_chain_is_odd(chain: SimChain) -> None:
    async with SimNode(chain) as odd, source_of(odd) as source:
        odd.intercept = lambda _, __, answer: {**answer, "gasUsed": "0x77"} if isinstance(answer, dict) else answer
        for _ in range(5):
            with pytest.raises(Inconsistent, match="does not have its hash"):
                await source.tip()

        assert (await source.tip()).head == chain.head
        assert source.level == "off"

        odd.intercept = None
        await source.tip()
        assert source.level == "logs"


async def test_proof_off_leaves_the_structural_checks_only(chain: SimChain) -> None:
    async with SimNode(chain) as node, source_of(node, proof="off") as source:
        node.intercept = lambda _, __, answer: {**answer, "gasUsed": "0x77"} if isinstance(answer, dict) else answer

        assert (await source.fetch(ALL, OURS)).logs == truth(chain, ALL)


@pytest.mark.parametrize("fault", ["500", "429", "html", "closed", "garbage", "null", "nested", "digits"])
async def test_passing_fault_is_overcome(chain: SimChain, fault: Fault) -> None:
    async with SimNode(chain, retry_after="0.02") as node, SimNode(chain) as second:
        async with source_of(node, second) as source:
            node.fail(1, fault)
            assert (await source.fetch(ALL, OURS)).logs == truth(chain, ALL)
        if fault not in {"null", "nested", "digits"}:  # no waiting makes that true
            async with source_of(node) as source:
                node.fail(1, fault)
                assert (await source.fetch(ALL, OURS)).logs == truth(chain, ALL)


async def test_lasting_fault_leaves_as_its_class(chain: SimChain) -> None:
    expected: dict[Fault, type[ProviderError]] = {
        "500": Transport,
        "html": Transport,
        "402": Billing,
        "429": RateLimited,
    }
    for fault, kind in expected.items():
        async with SimNode(chain, retry_after="3600") as node, source_of(node) as source:
            node.fail(100, fault)
            with pytest.raises(kind):
                await source.tip()
            assert node.http_requests <= 3


async def test_rate_limited_provider_is_left_alone_for_the_time_it_asks(chain: SimChain) -> None:
    limited, second = SimNode(chain, retry_after="3600"), SimNode(chain)
    async with limited, second, source_of(limited, second) as source:
        limited.fail(1, "429")
        for _ in range(3):
            await source.tip()

        assert limited.http_requests == 1


async def test_stopped_provider_is_asked_again_after_it_came_back(chain: SimChain) -> None:
    async with SimNode(chain) as node, source_of(node) as source:
        await source.check_chain(31337)
        await node.stop()
        with pytest.raises(Transport):
            await source.tip()
        await node.start()
        assert (await source.tip()).head == chain.head


async def test_provider_of_another_chain_is_never_used(chain: SimChain) -> None:
    foreign = SimChain(seed=9, chain_id=5)
    foreign.mine_empty(100)
    async with SimNode(foreign) as wrong, SimNode(chain) as node, source_of(wrong, node) as source:
        await source.check_chain(31337)

        assert (await source.tip()).head == chain.head
        assert wrong.calls["eth_getBlockByNumber"] == 0


async def test_syncing_provider_is_never_used(chain: SimChain) -> None:
    syncing, node = SimNode(chain, syncing=True, lag_blocks=5), SimNode(chain)
    async with syncing, node, source_of(syncing, node) as source:
        await source.check_chain(31337)

        assert (await source.tip()).head == chain.head


async def test_chain_check_tells_wrong_settings_from_an_absent_node(chain: SimChain) -> None:
    async with SimNode(chain, chain_id=5) as node, source_of(node) as source:
        assert await source.chain_id() == 5
        with pytest.raises(SettingsError, match=r"chain id 31337 is set.*127\.0\.0\.1: chain 5"):
            await source.check_chain(31337)
        node.fail(9, "401")
        with pytest.raises(SettingsError, match="refuses the credentials"):
            await source.check_chain(31337)
        node.heal()
        await node.stop()
        with pytest.raises(Transport):
            await source.check_chain(31337)


async def test_urls_of_websockets_alone_are_refused() -> None:
    with pytest.raises(SettingsError, match="http"):
        Source.open(["ws://127.0.0.1:1", "wss://node.example/key"])


async def test_range_rule_is_told_once_and_then_kept(chain: SimChain) -> None:
    async with SimNode(chain, max_range=10) as node, source_of(node) as source:
        for _ in range(2):
            with pytest.raises(RangeTooLarge) as caught:
                await source.fetch(ALL, OURS)
            assert caught.value.spans == (10,)
        assert node.http_requests == 1
        assert (await source.fetch(BlockRange(0, 9), OURS)).logs == truth(chain, BlockRange(0, 9))


async def test_one_block_that_is_refused_is_read_from_its_receipts(chain: SimChain) -> None:
    async with SimNode(chain, max_results=1) as node, source_of(node) as source:
        with pytest.raises(TooManyResults):
            await source.fetch(BlockRange(1, 3), OURS)

        assert (await source.fetch(BlockRange(1, 1), OURS)).logs == truth(chain, BlockRange(1, 1))


async def test_refusal_that_nobody_knows_asks_the_others_first(chain: SimChain) -> None:
    def refuse(method: str, _: list[Any], answer: Any) -> Any:
        if method == "eth_getLogs":
            raise SimRpcError(-32000, "the moon is in the wrong phase")
        return answer

    async with SimNode(chain) as whimsical, SimNode(chain) as node:
        whimsical.intercept = refuse
        async with source_of(whimsical) as source:
            with pytest.raises(UnknownRefusal):
                await source.fetch(ALL, OURS)
        async with source_of(whimsical, node) as source:
            assert (await source.fetch(ALL, OURS)).logs == truth(chain, ALL)


async def test_addresses_are_asked_for_in_turns_where_all_are_too_many(chain: SimChain) -> None:
    async with SimNode(chain, max_addresses=1) as node, source_of(node) as source:
        assert (await source.fetch(ALL, OURS)).logs == truth(chain, ALL)
        node.forget_counts()
        assert (await source.fetch(ALL, OURS)).logs == truth(chain, ALL)
        assert node.calls["eth_getLogs"] == 2


async def test_refusals_of_requests_in_flight_teach_one_limit_of_addresses(chain: SimChain) -> None:
    addresses = (*OURS, *(bytes([number]) * 20 for number in range(0x60, 0x66)))
    async with SimNode(chain, max_addresses=5, latency_s=0.05) as node, source_of(node) as source:
        parts = [BlockRange(first, first + 2) for first in range(0, 18, 3)]

        batches = await asyncio.gather(*(source.fetch(part, addresses) for part in parts))

        assert [batch.logs for batch in batches] == [truth(chain, part) for part in parts]
        assert source.figures()[0]["max_addresses"] == 4


@pytest.mark.parametrize("max_batch", [1, 5, 20])
@pytest.mark.parametrize("listed", [False, True], ids=["an error", "a list of one error"])
async def test_refused_batches_become_smaller_ones_for_good(chain: SimChain, max_batch: int, listed: bool) -> None:
    async with SimNode(chain, max_batch=max_batch, listed_refusal=listed) as node, source_of(node) as source:
        assert len(await source.blocks(range(22))) == 22
        assert (await source.fetch(ALL, OURS)).logs == truth(chain, ALL)
        node.forget_counts()
        await source.tip()
        assert node.http_requests == (2 if max_batch == 1 else 1)


async def test_answer_larger_than_the_cap_asks_for_fewer_blocks(chain: SimChain) -> None:
    async with SimNode(chain) as node, source_of(node, max_body_bytes=4000) as source:
        with pytest.raises(TooManyResults):
            await source.fetch(ALL, OURS)


async def test_answer_that_never_comes_asks_for_fewer_blocks(chain: SimChain) -> None:
    async with SimNode(chain, latency_s=5) as slow, SimNode(chain) as node:
        async with source_of(slow, timeout_s=0.1) as source:
            with pytest.raises(TooManyResults):
                await source.fetch(ALL, OURS)
        async with source_of(slow, node, timeout_s=0.5) as source:
            assert (await source.fetch(ALL, OURS)).logs == truth(chain, ALL)


async def test_call_returns_bytes_or_says_why_not(chain: SimChain) -> None:
    def answer(to: bytes, data: bytes, _: object) -> bytes:
        if data == b"\xff":
            raise SimRpcError(3, "execution reverted", "0x08c379a0")
        return to + data

    async with SimNode(chain) as node, source_of(node) as source:
        node.on_call = answer
        assert await source.call(IDENTITY, b"\x01", chain.head.hash) == IDENTITY + b"\x01"
        with pytest.raises(CallFailed):
            await source.call(IDENTITY, b"\xff", chain.head.hash)
        with pytest.raises(PastHead):
            await source.call(IDENTITY, b"\x01", b"\x01" * 32)


async def test_code_is_told_from_no_code(chain: SimChain) -> None:
    chain.without_code.add(OTHER)
    async with SimNode(chain) as node, source_of(node) as source:
        assert await source.has_code(IDENTITY)
        assert not await source.has_code(OTHER)


async def test_no_error_tells_the_key_in_the_url(chain: SimChain) -> None:
    secret = "s3cretApiKey0123"
    async with SimNode(chain) as node:
        keyed = f"{node.url.replace('127.', 'user:passw0rd@127.')}/v2/{secret}?token={secret}x"
        echo = SimRpcError(-32000, f"project {secret} at {keyed} is sad, passw0rd; see https://dash.example/0therKey")

        def refuse(*_: object) -> Any:
            raise echo

        node.intercept = refuse
        pool = Pool([Provider(keyed)], rounds=1)
        async with Source(pool) as source:
            messages = [str(await _error(source, node))]
            await node.stop()
            messages.append(str(await _error(source, node)))

    assert all("127.0.0.1" in message for message in messages)
    assert not any(word in message for message in messages for word in (secret, "passw0rd", "0therKey"))


async def _error(source: Source, _: SimNode) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await source.tip()
    return caught.value


async def test_recorded_logs_keep_their_far_positions() -> None:
    recorded = RawLog(24_339_925, 117, b"\x77" * 32, b"\x78" * 32, 14, IDENTITY, (b"\x79" * 32,), b"", 0)
    chain = SimChain.from_logs([recorded])
    chain.mine_empty(3)
    wanted = BlockRange(24_339_000, 24_340_000 - 100)
    async with SimNode(chain) as node, source_of(node) as source:
        source.proof.hashes.enabled = False
        head = (await source.tip()).head.number

        batch = await source.fetch(BlockRange(wanted.from_block, head), OURS)

        assert [(log.block_number, log.log_index, log.block_hash) for log in batch.logs] == [
            (24_339_925, 117, b"\x77" * 32)
        ]
        assert len(await source.blocks(range(24_339_900, head + 1))) == head - 24_339_899


async def test_real_headers_prove_themselves(anvil: str) -> None:
    async with Source.open([anvil]) as source, aiohttp.ClientSession() as session:
        mine = {"jsonrpc": "2.0", "id": 1, "method": "anvil_mine", "params": ["0x5"]}
        await (await session.post(anvil, json=mine)).read()
        await source.check_chain(31337)

        blocks = await source.blocks(range(6))

        assert [block.number for block in blocks] == list(range(6))
        assert (await source.tip()).head == blocks[-1]
        assert (await source.fetch(BlockRange(0, 5), OURS)).logs == ()
        with pytest.raises(PastHead):
            await source.fetch(BlockRange(0, 6), OURS)
        assert source.level == "logs"
