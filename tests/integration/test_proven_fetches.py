"""Proof by receipts: what a provider keeps back, invents or cannot prove, and what that costs."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace
from simulator import SimChain, SimLog, SimNode, SimRpcError, event_log
from simulator.receipts import ARBITRUM_KINDS, ETHEREUM_KINDS, OPTIMISM_KINDS
from structlog.testing import capture_logs

from indexer.chain import fetches, proving
from indexer.chain.pool import Pool
from indexer.chain.provider import Provider
from indexer.chain.refusals import Inconsistent, MethodMissing, PastHead, RateLimited, Transport
from indexer.chain.source import Source
from indexer.core.chains import Switches
from indexer.core.types import BlockRange, Proof, RawLog

IDENTITY, REPUTATION, OTHER = b"\x11" * 20, b"\x22" * 20, b"\x33" * 20
OURS = (IDENTITY, REPUTATION)
ALL = BlockRange(0, 40)
Answer = Callable[[str, list[Any], Any], Any]


def registered(agent_id: int, address: bytes = IDENTITY) -> SimLog:
    signature = "Registered(uint256 indexed agentId, string agentURI, address indexed owner)"
    return event_log(address, signature, agent_id, "https://agent.example", OTHER)


def grown(kinds: Sequence[int] = ETHEREUM_KINDS) -> SimChain:
    """Forty blocks: ours and others' logs, others' alone, transactions without logs, none at all, in turn."""
    chain = SimChain(seed=5, receipt_kinds=kinds, most_plain=3)
    for number in range(10):
        chain.mine([registered(number), registered(number, OTHER), registered(number, REPUTATION)])
        chain.mine([registered(number, OTHER)])
        chain.mine_empty(2)
    return chain


@pytest.fixture
def chain() -> SimChain:
    return grown()


@asynccontextmanager
async def proving_source(*nodes: SimNode, proof: Proof = "receipts", **options: Any) -> AsyncIterator[Source]:
    pool = Pool([Provider(node.url) for node in nodes], rounds=2, first_wait_s=0.01)
    async with Source(pool, proof=proof, **options) as source:
        source._receipts.sample = 0.0
        yield source


def truth(chain: SimChain, wanted: BlockRange = ALL) -> tuple[RawLog, ...]:
    return tuple(chain.logs(OURS, wanted))


def keeping_back(position: int) -> Answer:
    """Drop one of the logs, under the right hashes (fault F2)."""
    return lambda method, _, answer: (
        [log for index, log in enumerate(answer) if index != position] if method == "eth_getLogs" else answer
    )


def without_receipts(method: str, _: list[Any], answer: Any) -> Any:
    """Drop the first log of each receipt."""
    if method != "eth_getBlockReceipts":
        return answer
    return [{**receipt, "logs": receipt["logs"][1:]} for receipt in answer]


@pytest.mark.parametrize("kinds", [ETHEREUM_KINDS, OPTIMISM_KINDS, ARBITRUM_KINDS], ids=["eth", "op", "arb"])
async def test_range_is_proven_whatever_the_types_of_transactions(kinds: Sequence[int]) -> None:
    chain = grown(kinds)
    async with SimNode(chain) as node, proving_source(node) as source:
        batch = await source.fetch(ALL, OURS)

        assert batch.logs == truth(chain)
        assert batch.proof == source.level == "receipts"
        assert [block.number for block in batch.blocks] == list(range(41))
        assert source.mismatches == 0


async def test_blocks_that_their_headers_prove_empty_are_not_read(chain: SimChain) -> None:
    async with SimNode(chain) as node, proving_source(node) as source:
        await source.fetch(ALL, OURS)

        assert node.calls["eth_getBlockReceipts"] == 10
        assert node.calls["eth_getBlockByNumber"] == 2 + 41
        assert node.calls["eth_getLogs"] == 1


async def test_sample_of_the_empty_blocks_is_read(chain: SimChain) -> None:
    async with SimNode(chain) as node, proving_source(node) as source:
        source._receipts.sample = 1.0
        await source.fetch(ALL, OURS)

        others = [block for block in chain.blocks if block.receipts]
        assert node.calls["eth_getBlockReceipts"] == len(others) > 10


@pytest.mark.parametrize("position", [0, 7, 19], ids=["first", "middle", "last"])
async def test_log_that_is_kept_back_under_the_right_hash_is_found(chain: SimChain, position: int) -> None:
    """F2."""
    async with SimNode(chain) as node, proving_source(node) as source:
        node.intercept = keeping_back(position)
        with capture_logs() as events:
            assert (await source.fetch(ALL, OURS)).logs == truth(chain)
            assert (await source.fetch_linked(ALL, OURS)).logs == truth(chain)

        assert source.mismatches == 2
        told = [event for event in events if event["event"] == "proof_mismatch"]
        assert [(event["told"], event["proven"]) for event in told] == [(1, 2), (1, 2)]
        assert told[0]["block_number"] == truth(chain)[position].block_number


async def test_without_receipts_the_same_lie_passes(chain: SimChain) -> None:
    """What the level `logs` cannot see: the reason for `receipts`, and for the audit."""
    async with SimNode(chain) as node, proving_source(node, proof="logs") as source:
        node.intercept = keeping_back(7)
        batch = await source.fetch(ALL, OURS)

        assert len(batch.logs) == len(truth(chain)) - 1
        assert batch.proof == "logs"


async def test_log_that_is_invented_is_left_out(chain: SimChain) -> None:
    """Same address and topics as a real one, so that no bloom excludes it."""

    def invent(method: str, _: list[Any], answer: Any) -> Any:
        return [*answer, {**answer[0], "logIndex": "0x77", "data": "0x66"}] if method == "eth_getLogs" else answer

    async with SimNode(chain) as node, proving_source(node) as source:
        node.intercept = invent
        assert (await source.fetch(BlockRange(0, 4), OURS)).logs == truth(chain, BlockRange(0, 4))
        assert source.mismatches == 1


async def test_one_block_is_proven_at_the_tip(chain: SimChain) -> None:
    chain.mine([registered(50), registered(51)])
    async with SimNode(chain) as node, proving_source(node) as source:
        node.intercept = keeping_back(1)
        tip = await source.tip()
        node.forget_counts()
        batch = await source.fetch_block(tip.head, OURS)

        assert batch.logs == truth(chain, BlockRange(41, 41))
        assert batch.proof == "receipts"
        assert node.http_requests == 2


async def test_receipts_that_lack_a_log_are_refused_and_had_elsewhere(chain: SimChain) -> None:
    async with SimNode(chain) as liar, SimNode(chain) as node:
        liar.intercept = without_receipts
        async with proving_source(liar) as source:
            with pytest.raises(Inconsistent, match="do not have its root"):
                await source.fetch(ALL, OURS)
        async with proving_source(liar, node) as source:
            assert (await source.fetch(ALL, OURS)).logs == truth(chain)
            assert source.level == "receipts"


@pytest.mark.parametrize(
    "lie",
    [
        lambda log: {**log, "logIndex": "0x55"},
        lambda log: {**log, "transactionIndex": "0x55"},
        lambda log: {**log, "blockHash": "0x" + "44" * 32},
        lambda log: {**log, "blockNumber": "0x3"},
        lambda log: {**log, "removed": True},
        lambda log: {**log, "data": "0xzz"},
        lambda log: {**log, "topics": ["0x44"]},
    ],
    ids=["log index", "transaction index", "block hash", "block number", "removed", "not hex", "topic"],
)
async def test_receipt_whose_logs_stand_elsewhere_proves_nothing(
    chain: SimChain, lie: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    def twist(method: str, _: list[Any], answer: Any) -> Any:
        if method != "eth_getBlockReceipts":
            return answer
        return [{**receipt, "logs": [lie(log) for log in receipt["logs"]]} for receipt in answer]

    async with SimNode(chain) as node, proving_source(node) as source:
        node.intercept = twist
        with pytest.raises(Inconsistent):
            await source.fetch(BlockRange(0, 3), OURS)


async def test_provider_without_receipts_leaves_the_proof_to_another(chain: SimChain) -> None:
    async with SimNode(chain, receipts=False) as first, SimNode(chain) as node, proving_source(first, node) as source:
        for _ in range(2):
            assert (await source.fetch(ALL, OURS)).proof == "receipts"

        assert first.calls["eth_getBlockReceipts"] <= 8  # one request, then it is known
        assert node.calls["eth_getBlockReceipts"] == 20


async def test_where_nobody_serves_receipts_the_level_is_logs_and_nothing_halts(chain: SimChain) -> None:
    async with SimNode(chain, receipts=False) as node, proving_source(node) as source:
        for fetch in (source.fetch, source.fetch_linked):
            batch = await fetch(ALL, OURS)
            assert (batch.proof, batch.logs) == ("logs", truth(chain))
        assert source.level == "logs"
        asked = node.calls["eth_getBlockReceipts"]
        await source.fetch(ALL, OURS)
        assert node.calls["eth_getBlockReceipts"] == asked
        with pytest.raises(MethodMissing):
            await source.prove([1], OURS)


@pytest.mark.parametrize(("code", "text"), [(-32000, "upgrade your plan to continue"), (-32001, "forbidden")])
async def test_receipts_that_are_not_in_the_plan_do_not_close_the_provider(
    chain: SimChain, code: int, text: str
) -> None:
    def refuse(method: str, _: list[Any], answer: Any) -> Any:
        if method == "eth_getBlockReceipts":
            raise SimRpcError(code, text)
        return answer

    async with SimNode(chain) as node, proving_source(node) as source:
        node.intercept = refuse
        batch = await source.fetch(ALL, OURS)

        assert (batch.proof, batch.logs) == ("logs", truth(chain))


async def test_receipts_that_never_come_lower_the_level_after_a_while(
    chain: SimChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proving, "LATE_S", ())
    async with SimNode(chain) as node, proving_source(node) as source:
        node.intercept = lambda method, _, answer: None if method == "eth_getBlockReceipts" else answer
        for _ in range(proving.FAILURES - 1):
            with pytest.raises(PastHead):
                await source.fetch(ALL, OURS)

        assert (await source.fetch(ALL, OURS)).proof == source.level == "logs"
        assert not source.proof.roots.suspended


async def test_a_provider_that_is_away_may_serve_receipts_once_it_is_back(chain: SimChain) -> None:
    async with SimNode(chain, receipts=False) as plain, SimNode(chain) as node, proving_source(plain, node) as source:
        await source.fetch(ALL, OURS)
        await node.stop()
        for _ in range(proving.FAILURES + 1):
            with pytest.raises(Transport):
                await source.fetch(ALL, OURS)
        await node.start()

        assert (await source.fetch(ALL, OURS)).proof == source.level == "receipts"


async def test_a_provider_that_says_null_is_not_believed_before_one_that_is_limited_was_asked(chain: SimChain) -> None:
    forgetful = SimNode(chain, finalized_depth=5)
    forgetful.intercept = lambda method, _, answer: None if method == "eth_getBlockReceipts" else answer
    async with forgetful, SimNode(chain) as node, proving_source(forgetful, node) as source:
        await source.tip()
        now = time.monotonic()
        source.pool._members[1].failed(RateLimited("node", "slow down", 0.3), now, now, None)

        assert (await source.fetch(BlockRange(0, 20), OURS)).proof == "receipts"


@pytest.mark.parametrize("refusal", [None, (4444, "pruned history unavailable")], ids=["null", "refused"])
async def test_receipts_that_are_gone_lower_the_level_of_their_own_range_alone(
    chain: SimChain, refusal: tuple[int, str] | None
) -> None:
    def forgetful(method: str, params: list[Any], answer: Any) -> Any:
        if method != "eth_getBlockReceipts" or params[0] not in old:
            return answer
        if refusal is not None:
            raise SimRpcError(*refusal)
        return None

    old = {tag for block in chain.blocks[:30] for tag in ("0x" + block.ref.hash.hex(), hex(block.ref.number))}
    async with SimNode(chain, finalized_depth=5) as node, proving_source(node) as source:
        await source.tip()
        node.intercept = forgetful
        for first in range(proving.FAILURES + 1):
            assert (await source.fetch(BlockRange(first, 20), OURS)).proof == "logs"
            asked = node.calls["eth_getBlockReceipts"]
            batch = await source.fetch(BlockRange(31, 40), OURS)

            assert batch.proof == source.level == "receipts"
            assert node.calls["eth_getBlockReceipts"] > asked


async def test_receipts_that_come_late_are_waited_for(chain: SimChain) -> None:
    waits = 2

    def late(method: str, _: list[Any], answer: Any) -> Any:
        nonlocal waits
        if method != "eth_getBlockReceipts" or waits == 0:
            return answer
        waits -= 1
        return None

    async with SimNode(chain) as node, proving_source(node) as source:
        node.intercept = late
        assert (await source.fetch(BlockRange(0, 1), OURS)).proof == "receipts"


async def test_receipts_by_number_are_as_good_where_hashes_are_refused(chain: SimChain) -> None:
    def refuse(method: str, params: list[Any], answer: Any) -> Any:
        if method == "eth_getBlockReceipts" and len(params[0]) == 66:
            raise SimRpcError(-32602, "invalid argument 0: hex number > 64 bits")
        return answer

    async with SimNode(chain) as node, proving_source(node) as source:
        node.intercept = refuse
        assert (await source.fetch(ALL, OURS)).proof == "receipts"


async def test_root_that_never_matches_lowers_the_level_until_it_does(chain: SimChain) -> None:
    now = 0.0
    async with SimNode(chain) as node, proving_source(node) as source:
        source._receipts._clock = lambda: now
        node.intercept = without_receipts
        for _ in range(5):
            with pytest.raises(Inconsistent):
                await source.fetch(ALL, OURS)
        with capture_logs() as events:
            batch = await source.fetch(ALL, OURS)
        assert (batch.proof, batch.logs) == ("logs", truth(chain))
        assert source.level == "logs"
        assert [event["check"] for event in events if event["event"] == "check_suspended"] == ["receipts_root"]

        node.intercept = None
        node.forget_counts()
        await source.fetch(ALL, OURS)
        assert node.calls["eth_getBlockReceipts"] == 0
        now = proving.RETRY_S
        assert (await source.fetch(ALL, OURS)).proof == "receipts"
        assert source.level == "receipts"


async def test_one_odd_block_lowers_the_level_of_its_own_range_alone(chain: SimChain) -> None:
    """It neither stops the chain, however many good blocks lie around it, nor suspends the check for them."""

    def odd(method: str, params: list[Any], answer: Any) -> Any:
        return without_receipts(method, params, answer) if params[0] == "0x" + odd_hash else answer

    block = chain.block(5)
    assert block is not None
    odd_hash = block.ref.hash.hex()
    async with SimNode(chain) as node, proving_source(node) as source:
        node.intercept = odd
        for _ in range(5):
            with pytest.raises(Inconsistent):
                await source.fetch(ALL, OURS)
        batch = await source.fetch(ALL, OURS)

        assert (batch.proof, batch.logs) == ("logs", truth(chain))
        assert source.level == "receipts"
        assert (await source.fetch(BlockRange(6, 40), OURS)).proof == "receipts"


@pytest.mark.parametrize(("proof", "reached"), [("logs", "off"), ("receipts", "logs")])
async def test_one_odd_header_lowers_the_level_of_its_own_range_alone(
    chain: SimChain, proof: Proof, reached: Proof
) -> None:
    def odd(method: str, params: list[Any], answer: Any) -> Any:
        return {**answer, "gasUsed": "0x77"} if method == "eth_getBlockByNumber" and params[0] == "0x7" else answer

    async with SimNode(chain) as node, proving_source(node, proof=proof) as source:
        node.intercept = odd
        for _ in range(5):
            with pytest.raises(Inconsistent):
                await source.fetch_linked(ALL, OURS)
        batch = await source.fetch_linked(ALL, OURS)

        assert (batch.proof, batch.logs) == (reached, truth(chain))
        assert (await source.fetch_linked(BlockRange(8, 40), OURS)).proof == source.level == proof


@pytest.mark.parametrize(("address", "proof"), [(OTHER, "receipts"), (IDENTITY, "logs")], ids=["others", "ours"])
async def test_receipts_outside_of_the_root_are_told_from_those_in_it(
    chain: SimChain, address: bytes, proof: Proof
) -> None:
    """Polygon appends a receipt for what its protocol did itself; logs of ours in it cannot be proven."""

    def append(method: str, _: list[Any], answer: Any) -> Any:
        if method != "eth_getBlockReceipts" or not answer:
            return answer
        count = sum(len(receipt["logs"]) for receipt in answer)
        model = next(log for receipt in answer for log in receipt["logs"])
        place = {"logIndex": hex(count), "transactionIndex": hex(len(answer)), "address": "0x" + address.hex()}
        own = {
            "type": "0x0",
            "status": "0x1",
            "cumulativeGasUsed": "0x0",
            "gasUsed": "0x0",
            "logsBloom": "0x" + "00" * 256,
        }
        return [*answer, {**answer[-1], **own, "logs": [{**model, **place}]}]

    async with SimNode(chain) as node, proving_source(node) as source:
        node.intercept = append
        for _ in range(5 if proof == "logs" else 0):
            with pytest.raises(Inconsistent, match="root does not hold"):
                await source.fetch(BlockRange(0, 3), OURS)
        batch = await source.fetch(BlockRange(0, 3), OURS)

        assert (batch.proof, batch.logs) == (proof, truth(chain, BlockRange(0, 3)))


async def test_bloom_that_lacks_what_the_root_holds_is_not_believed_any_more(chain: SimChain) -> None:
    """An unknown chain with empty blooms: what they call empty before that is seen is read all the same."""
    bare = lambda _, __, answer: (  # noqa: E731 - one expression beside its use
        {**answer, "logsBloom": "0x" + "00" * 256} if isinstance(answer, dict) else answer
    )
    async with SimNode(chain) as node, proving_source(node, switches=Switches(header_hash=False)) as source:
        node.intercept = lambda method, _, answer: (
            bare(method, _, answer)
            if method != "eth_getLogs"
            else [log for log in answer if log["blockNumber"] == "0x25"]
        )
        batch = await source.fetch(ALL, OURS)

        assert batch.logs == truth(chain)
        assert batch.proof == "receipts"
        assert source.level == "receipts"


async def test_chain_whose_receipts_prove_nothing_is_not_asked_for_them(chain: SimChain) -> None:
    async with SimNode(chain) as node, proving_source(node, switches=Switches(False, False, False)) as source:
        batch = await source.fetch(ALL, OURS)

        assert (batch.proof, batch.logs) == ("logs", truth(chain))
        assert node.calls["eth_getBlockReceipts"] == 0
        with pytest.raises(MethodMissing):
            await source.prove([1], OURS)


async def test_chain_that_changes_between_the_requests_is_read_again(chain: SimChain) -> None:
    async with SimNode(chain) as node, proving_source(node) as source:

        def reorganise(method: str, _: list[Any], answer: Any) -> Any:
            if method == "eth_getLogs":
                node.intercept = None
                chain.reorg(5, [[registered(77)]] * 6)
            return answer

        node.intercept = reorganise
        with pytest.raises(Inconsistent, match="changed while being read"):
            await source.fetch_linked(ALL, OURS)
        assert (await source.fetch_linked(ALL, OURS)).logs == truth(chain)


async def test_stretches_of_headers_must_continue_each_other(chain: SimChain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetches, "HEADERS_AT_ONCE", 10)
    other = chain.frozen()
    other.reorg(29, [[registered(number, OTHER)] for number in range(29)])
    branch = SimNode(other)

    def mixed(method: str, params: list[Any], answer: Any) -> Any:
        if method == "eth_getBlockByNumber" and 12 <= int(params[0], 16) < 20:
            return branch.answer(method, params)
        if method == "eth_getLogs":
            return [log for log in answer if not 12 <= int(log["blockNumber"], 16) < 20]
        return answer

    async with SimNode(chain) as node, proving_source(node) as source:
        node.intercept = mixed
        with pytest.raises(Inconsistent, match="block 20 does not follow block 19"):
            await source.fetch(ALL, OURS)
        node.intercept = None
        assert (await source.fetch(ALL, OURS)).logs == truth(chain)


async def test_headers_without_their_hash_prove_no_block_empty(chain: SimChain) -> None:
    async with SimNode(chain) as node, proving_source(node) as source:
        node.intercept = lambda _, __, answer: {**answer, "gasUsed": "0x77"} if isinstance(answer, dict) else answer
        source.proof.hashes.refute()
        batch = await source.fetch(ALL, OURS)

        assert (batch.proof, batch.logs) == ("logs", truth(chain))
        assert node.calls["eth_getBlockReceipts"] == 41


async def test_blocks_are_proven_at_any_level(chain: SimChain) -> None:
    async with SimNode(chain) as node, proving_source(node, proof="off") as source:
        blocks = await source.prove([1, 2, 3, 37], OURS)

        assert [block.ref.number for block in blocks] == [1, 2, 3, 37]
        assert [log for block in blocks for log in block.logs] == [
            log for log in truth(chain) if log.block_number in {1, 2, 3, 37}
        ]
        assert await source.prove([], OURS) == ()


async def test_root_confirms_exactly_what_a_block_holds(chain: SimChain) -> None:
    held = truth(chain, BlockRange(1, 1))
    async with SimNode(chain) as node, proving_source(node) as source:
        node.intercept = keeping_back(0)

        assert await source.confirms(1, held, OURS)
        assert await source.confirms(1, [replace(log, timestamp=0) for log in held], OURS)
        assert not await source.confirms(1, held[:1], OURS)
        assert not await source.confirms(1, [*held[:1], replace(held[1], data=b"\x01")], OURS)
        assert await source.confirms(3, [], OURS)
        assert not await source.confirms(3, held, OURS)


async def test_without_a_root_two_providers_must_agree(chain: SimChain) -> None:
    held = truth(chain, BlockRange(1, 1))
    async with (
        SimNode(chain, receipts=False) as one,
        SimNode(chain, receipts=False) as two,
        SimNode(chain, receipts=False) as liar,
    ):
        liar.intercept = keeping_back(0)
        async with proving_source(one) as source:
            assert not await source.confirms(1, held, OURS)
        async with proving_source(one, two) as source:
            assert await source.confirms(1, held, OURS)
            assert not await source.confirms(1, held[1:], OURS)
        async with proving_source(one, liar) as source:
            assert not await source.confirms(1, held, OURS)
            assert not await source.confirms(1, held[1:], OURS)


async def test_two_providers_on_two_branches_confirm_nothing(chain: SimChain) -> None:
    other = chain.frozen()
    for branch in (chain, other):
        branch.mine([registered(1, OTHER)])
    other.reorg(1)
    one, two = SimNode(chain, receipts=False), SimNode(other, receipts=False)
    async with one, two, proving_source(one, two) as source:
        assert not await source.confirms(41, [], OURS)


async def test_anvils_receipts_of_all_types_have_their_root(anvil: str) -> None:
    async with aiohttp.ClientSession() as session, Source.open([anvil], proof="receipts") as source:

        async def rpc(method: str, *params: Any) -> Any:
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            async with session.post(anvil, json=body) as response:
                answer = await response.json()
            assert "error" not in answer, answer
            return answer["result"]

        accounts = await rpc("eth_accounts")
        emitter = (await _emitter(rpc, accounts[0])).lower()
        kinds: list[dict[str, Any]] = [
            {"gasPrice": hex(10**10)},
            {"gasPrice": hex(10**10), "accessList": []},
            {"maxFeePerGas": hex(10**10), "maxPriorityFeePerGas": "0x1"},
        ]
        sent = [
            await rpc("eth_sendTransaction", {"from": sender, "to": emitter, "data": "0x" + f"{n:064x}", **kind})
            for n, (sender, kind) in enumerate((sender, kind) for sender in accounts[:6] for kind in kinds)
        ]
        await rpc("eth_sendTransaction", {"from": accounts[7], "to": accounts[8], "value": "0x1"})
        await rpc("anvil_mine", "0x1")
        head = (await source.tip()).head
        ours = [bytes.fromhex(emitter[2:])]

        batch = await source.fetch(BlockRange(0, head.number), ours)
        assert batch.proof == source.level == "receipts"
        assert len(batch.logs) == len(sent)
        receipts = await rpc("eth_getBlockReceipts", hex(head.number))
        assert {receipt["type"] for receipt in receipts} == {"0x0", "0x1", "0x2"}
        (proven,) = await source.prove([head.number], ours)
        assert proven.logs == batch.logs
        assert (await source.fetch_block(head, ours)).logs == batch.logs


async def _emitter(rpc: Callable[..., Any], sender: str) -> str:
    """Deploy code that logs its input under one topic: CALLDATACOPY(0, 0, size), LOG1(0, size, 7)."""
    runtime = "366000600037" + "6007366000a1" + "00"
    size = len(runtime) // 2
    creation = f"60{size:02x}600c60003960{size:02x}6000f3" + runtime
    tx_hash = await rpc("eth_sendTransaction", {"from": sender, "data": "0x" + creation})
    await rpc("anvil_mine", "0x1")
    return str((await rpc("eth_getTransactionReceipt", tx_hash))["contractAddress"])
