"""The pool of providers: who is asked, who rests, who comes back; against nodes that are slow, behind, dead or lie."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from simulator import Fault, SimChain, SimNode, SimRpcError
from structlog.testing import capture_logs

from indexer.chain import pool as pool_module
from indexer.chain.codec import ANY_JSON, QUANTITY
from indexer.chain.latency import Latency
from indexer.chain.pool import Pool
from indexer.chain.provider import Call, Provider
from indexer.chain.refusals import (
    Billing,
    NobodyLeft,
    OtherBranch,
    ProviderError,
    Pruned,
    RateLimited,
    TooManyResults,
    Transport,
)
from indexer.chain.source import Source
from indexer.core.types import BlockRange

ADDRESSES = (b"\x11" * 20,)


class Clock:
    """Real time, and what a test adds to it."""

    def __init__(self) -> None:
        self.added = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.added


@pytest.fixture
def chain() -> SimChain:
    chain = SimChain(seed=3)
    chain.mine_empty(200)
    return chain


@asynccontextmanager
async def pool_of(*nodes: SimNode, clock: Callable[[], float] = time.monotonic, **options: Any) -> AsyncIterator[Pool]:
    pool = Pool([Provider(node.url, **options) for node in nodes], rounds=3, first_wait_s=0.01, clock=clock)
    try:
        yield pool
    finally:
        await pool.aclose()


async def height(provider: Provider) -> Provider:
    """Ask something small; returns who answered."""
    await provider.call(Call("eth_blockNumber", [], QUANTITY))
    return provider


class Fixed(Latency):
    """Asks elsewhere after a time that a test sets."""

    @property
    def hedge_after_s(self) -> float:
        return 0.02


def impatient(pool: Pool) -> None:
    """Let every provider's answers be usual after 20 ms."""
    for member in pool._members:
        member.latency = Fixed()


async def until(true: Callable[[], bool], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.005)


# --- order ----------------------------------------------------------------------------------------------------------


async def test_providers_are_asked_in_order_of_preference(chain: SimChain) -> None:
    async with SimNode(chain) as first, SimNode(chain) as second, pool_of(first, second) as pool:
        a, b = pool.providers

        assert await pool.run(height) is a
        assert await pool.run(height, avoid=a) is b
        assert await pool.run(height, exclude=(a,)) is b
        with pytest.raises(NobodyLeft):
            await pool.run(height, exclude=pool.providers)


async def test_excluded_provider_is_not_asked_though_all_others_fail(chain: SimChain) -> None:
    async with SimNode(chain) as first, SimNode(chain) as second, pool_of(first, second) as pool:
        await second.stop()

        with pytest.raises(Transport):
            await pool.run(height, exclude=pool.providers[:1])
        assert first.http_requests == 0


async def test_cap_is_that_of_the_provider_asked_first_now(chain: SimChain) -> None:
    """F17: the cap of a fallback is forgotten when the preferred provider is back."""
    clock = Clock()
    async with SimNode(chain) as first, SimNode(chain) as second, pool_of(first, second, clock=clock) as pool:
        pool.providers[1].span_cap = 10
        assert pool.span_cap is None

        first.fail(1, "500")
        await pool.run(height)
        assert pool.span_cap == 10

        clock.added += 60
        assert pool.span_cap is None


# --- breakers -------------------------------------------------------------------------------------------------------


async def test_dead_provider_costs_one_request_a_rest_and_comes_back_by_itself(chain: SimChain) -> None:
    clock = Clock()
    async with SimNode(chain) as first, SimNode(chain) as second, pool_of(first, second, clock=clock) as pool:
        a, b = pool.providers
        first.fail(1000, "500")
        with capture_logs() as logs:
            assert {await pool.run(height) for _ in range(20)} == {b}
            assert first.http_requests == 1

            first.heal()
            clock.added += 10
            assert await pool.run(height) is a
        assert [entry["event"] for entry in logs] == ["provider_failed", "provider_recovered"]


async def test_half_open_provider_is_tried_by_one_operation_at_a_time(chain: SimChain) -> None:
    clock = Clock()
    async with SimNode(chain) as first, SimNode(chain) as second, pool_of(first, second, clock=clock) as pool:
        first.fail(1000, "500")
        await pool.run(height)
        clock.added += 10
        first.knobs.latency_s = 0.05
        first.forget_counts()

        await asyncio.gather(*(pool.run(height) for _ in range(10)))

        assert first.http_requests == 1


async def test_lone_provider_recovers_at_once_whatever_it_did(chain: SimChain) -> None:
    async with SimNode(chain) as node, pool_of(node) as pool:
        node.fail(9, "500")
        for _ in range(3):
            with pytest.raises(Transport):
                await pool.run(height)
        assert pool.figures()[0]["resting_s"] != 0

        assert await pool.run(height) is pool.providers[0]
        assert pool.figures()[0]["resting_s"] == 0


async def test_used_up_allowance_is_not_asked_for_again_and_again(chain: SimChain) -> None:
    clock = Clock()
    async with SimNode(chain) as node, pool_of(node, clock=clock) as pool:
        node.fail(1000, "402")
        for _ in range(5):
            with pytest.raises(Billing):
                await pool.run(height)
        assert node.http_requests == 1

        node.heal()
        clock.added += 40  # nobody else is left: then it may be tried
        assert await pool.run(height) is pool.providers[0]


async def test_retry_after_is_kept_to(chain: SimChain) -> None:
    async with SimNode(chain, retry_after="0.3") as node, pool_of(node) as pool:
        node.fail(1, "429")
        began = time.monotonic()

        await pool.run(height)

        assert 0.3 <= time.monotonic() - began < 1.5
        assert node.http_requests == 2


async def test_rate_is_learned_from_refusals(chain: SimChain) -> None:
    async with SimNode(chain, retry_after="0") as node, pool_of(node) as pool:
        assert pool.figures()[0]["rate"] is None
        for _ in range(50):
            await pool.run(height)
        node.fail(1, "429")
        await pool.run(height)

        rate = pool.figures()[0]["rate"]
        assert isinstance(rate, float)
        assert 2 <= rate <= 10
        began = time.monotonic()
        for _ in range(3):
            await pool.run(height)
        assert time.monotonic() - began >= 1.5 / rate


@pytest.mark.parametrize("retry_after", ["0.2", "30"], ids=["waited for", "told"])
async def test_what_only_a_limited_provider_serves_is_not_taken_to_be_served_by_nobody(
    chain: SimChain, retry_after: str
) -> None:
    async with (
        SimNode(chain, retry_after=retry_after) as able,
        SimNode(chain, receipts=False) as other,
        pool_of(able, other) as pool,
    ):
        able.fail(1, "429")
        await pool.run(height)

        if retry_after == "30":
            with pytest.raises(RateLimited):
                await pool.run(receipts)
        else:
            assert await pool.run(receipts) == []


async def receipts(provider: Provider) -> Any:
    return await provider.call(Call("eth_getBlockReceipts", [hex(1)], ANY_JSON))


async def test_storm_of_refusals_on_all_providers_leaves_as_rate_limited(chain: SimChain) -> None:
    """F24."""
    first, second = SimNode(chain, retry_after="3600"), SimNode(chain, retry_after="600")
    async with first, second, pool_of(first, second) as pool:
        first.fail(100, "429")
        second.fail(100, "429")
        for _ in range(5):
            with pytest.raises(RateLimited) as caught:
                await pool.run(height)
        assert caught.value.retry_after_s is not None
        assert 500 < caught.value.retry_after_s <= 600
        assert first.http_requests == second.http_requests == 1


# --- slow answers ---------------------------------------------------------------------------------------------------


async def test_slow_answer_is_asked_for_elsewhere_too(chain: SimChain) -> None:
    async with SimNode(chain, latency_s=3.0) as slow, SimNode(chain) as quick, pool_of(slow, quick) as pool:
        impatient(pool)
        began = time.monotonic()

        assert await pool.run(height) is pool.providers[1]

        assert time.monotonic() - began < 1.0


async def test_provider_that_loses_again_and_again_rests(chain: SimChain) -> None:
    async with SimNode(chain, latency_s=3.0) as slow, SimNode(chain) as quick, pool_of(slow, quick) as pool:
        impatient(pool)
        for _ in range(5):
            await pool.run(height)

        assert slow.http_requests == 2
        assert pool.figures()[0]["state"] == "resting"


async def test_slow_answer_counts_where_the_other_provider_fails(chain: SimChain) -> None:
    async with SimNode(chain, latency_s=0.2) as slow, SimNode(chain) as broken, pool_of(slow, broken) as pool:
        impatient(pool)
        broken.fail(100, "500")

        assert await pool.run(height) is pool.providers[0]


async def test_refusal_by_the_second_asked_does_not_end_what_the_first_still_does(chain: SimChain) -> None:
    async with SimNode(chain, latency_s=0.2) as slow, SimNode(chain) as small, pool_of(slow, small) as pool:
        impatient(pool)

        async def ask(provider: Provider) -> Provider:
            if provider is pool.providers[1]:
                raise TooManyResults(provider.host, "too many for me")
            return await height(provider)

        assert await pool.run(ask) is pool.providers[0]


async def test_avoided_provider_is_never_asked_for_being_quicker(chain: SimChain) -> None:
    async with SimNode(chain) as quick, SimNode(chain, latency_s=0.2) as slow, pool_of(quick, slow) as pool:
        impatient(pool)

        assert await pool.run(height, avoid=pool.providers[0]) is pool.providers[1]
        assert quick.http_requests == 0


async def test_fallback_bears_no_more_than_its_share_of_a_slow_provider(chain: SimChain) -> None:
    slow, slower = SimNode(chain, latency_s=0.04), SimNode(chain, latency_s=0.5)
    async with slow, slower, pool_of(slow, slower) as pool:
        impatient(pool)
        for _ in range(30):
            assert await pool.run(height) is pool.providers[0]

        assert slower.http_requests <= 14


async def test_cancelled_operation_leaves_nothing_running(chain: SimChain) -> None:
    async with SimNode(chain, latency_s=2.0) as one, SimNode(chain, latency_s=2.0) as two, pool_of(one, two) as pool:
        impatient(pool)
        running = 0

        async def ask(provider: Provider) -> Provider:
            nonlocal running
            running += 1
            try:
                return await height(provider)
            finally:
                running -= 1

        task = asyncio.create_task(pool.run(ask))
        await until(lambda: running == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert running == 0


# --- history --------------------------------------------------------------------------------------------------------


def logs_from(from_block: int) -> Callable[[Provider], Awaitable[Provider]]:
    async def ask(provider: Provider) -> Provider:
        query = {"fromBlock": hex(from_block), "toBlock": hex(from_block)}
        await provider.call(Call("eth_getLogs", [query], ANY_JSON))
        return provider

    return ask


async def test_pruned_history_is_asked_for_where_it_is(chain: SimChain) -> None:
    """F15: a node that lacks history is left out for those blocks only."""
    async with SimNode(chain) as pruned, SimNode(chain) as archive, pool_of(pruned, archive) as pool:
        a, b = pool.providers

        def refuse(method: str, params: list[Any], answer: Any) -> Any:
            if method == "eth_getLogs" and int(params[0]["fromBlock"], 16) < 100:
                raise SimRpcError(4444, "pruned history unavailable")
            return answer

        pruned.intercept = refuse
        for block in range(0, 200, 20):
            assert await pool.run(logs_from(block), from_block=block) in {a, b}
        assert pool.figures()[0]["history_floor"] is not None
        pruned.forget_counts()

        assert {await pool.run(logs_from(block), from_block=block) for block in range(50)} == {b}
        assert pruned.http_requests == 0
        assert await pool.run(height) is a


async def test_history_that_nobody_has_is_still_asked_for(chain: SimChain) -> None:
    async with SimNode(chain) as node, pool_of(node) as pool:
        node.intercept = lambda *_: _gone()
        for _ in range(2):
            with pytest.raises(Pruned):
                await pool.run(logs_from(5), from_block=5)
        node.intercept = None

        assert await pool.run(logs_from(5), from_block=5) is pool.providers[0]
        assert pool.figures()[0]["history_floor"] == 5


def _gone() -> Any:
    raise SimRpcError(4444, "pruned history unavailable")


# --- heads ----------------------------------------------------------------------------------------------------------


async def test_survey_hears_every_provider_and_never_raises(chain: SimChain) -> None:
    first, second, dead = SimNode(chain, lag_blocks=2), SimNode(chain, finalized_depth=None), SimNode(chain)
    async with first, second, dead, pool_of(first, second, dead) as pool:
        await dead.stop()
        await pool.survey()

        figures = pool.figures()
        assert [one["head"] for one in figures] == [198, 200, None]
        assert [one["finalized"] for one in figures] == [134, None, None]
        assert [one["state"] for one in figures] == ["ok", "ok", "resting"]
        assert figures[2]["errors"] == {"Transport": 1}
        assert "Transport" in str(figures[2]["last_error"])


async def test_provider_that_is_heard_again_is_tried_at_once(chain: SimChain) -> None:
    async with SimNode(chain) as first, SimNode(chain) as second, pool_of(first, second) as pool:
        await first.stop()
        for _ in range(6):
            await pool.survey()
        assert await pool.run(height) is pool.providers[1]

        await first.start()
        await pool.survey()

        assert await pool.run(height) is pool.providers[0]


async def test_frozen_node_does_not_hold_the_chain_up(chain: SimChain) -> None:
    """F4, F16, F17: the preferred node stands still, the other goes on."""
    clock = Clock()
    async with SimNode(chain) as frozen, SimNode(chain) as node, pool_of(frozen, node, clock=clock) as pool:
        source = Source(pool)
        for lag in range(0, 16, 3):
            frozen.knobs.lag_blocks = lag
            chain.mine_empty(3)
            await pool.survey()
            clock.added += 8
        frozen.knobs.lag_blocks = 18

        assert (await source.tip()).head == chain.head
        assert pool.figures()[0]["state"] == "behind"
        frozen.knobs.lag_blocks = 0
        await pool.survey()
        assert pool.preferred is pool.providers[0]


async def test_node_far_behind_is_not_believed_at_the_first_look(chain: SimChain) -> None:
    async with SimNode(chain, lag_blocks=100) as stale, SimNode(chain) as node, pool_of(stale, node) as pool:
        assert (await Source(pool).tip()).head == chain.head


async def test_liar_cannot_make_final_what_is_not(chain: SimChain) -> None:
    async with SimNode(chain, finalized_depth=0) as liar, SimNode(chain) as node, pool_of(liar, node) as pool:
        source = Source(pool)

        assert (await source.tip()).finalized == 136
        await node.stop()
        assert (await source.tip()).finalized == 136


async def test_finality_that_is_absurd_is_told_once_and_holds_nothing_down() -> None:
    chain = SimChain(seed=4, start=9_000)
    chain.mine_empty(70)
    async with SimNode(chain, finalized_depth=9_060) as odd, SimNode(chain) as node:
        with capture_logs() as logs:
            async with Source.open([odd.url], proof="off", usual_finality=64) as source:
                assert [(await source.tip()).finalized for _ in range(3)] == [None] * 3
        assert [entry for entry in logs if entry["event"] == "finality_disbelieved"] == [
            {
                "event": "finality_disbelieved",
                "log_level": "warning",
                "host": "127.0.0.1",
                "head": 9_070,
                "finalized": 10,
            }
        ]
        async with Source.open([odd.url, node.url], proof="off", usual_finality=64) as source:
            assert (await source.tip()).finalized == 9_006


async def test_absurd_head_is_not_believed_where_two_know_better(chain: SimChain) -> None:
    async with SimNode(chain) as liar, SimNode(chain) as second, SimNode(chain) as third:

        def lie(_: str, params: list[Any], answer: Any) -> Any:
            return {**answer, "number": hex(10**12)} if params[:1] == ["latest"] else answer

        liar.intercept = lie
        async with pool_of(liar, second, third) as pool:
            source = Source(pool, proof="off")

            assert (await source.tip()).head == chain.head
            assert pool.preferred is pool.providers[1]


async def test_lone_provider_is_asked_for_nothing_more(chain: SimChain) -> None:
    async with SimNode(chain) as node, pool_of(node) as pool:
        await Source(pool).tip()

        assert node.http_requests == 1


async def test_survey_goes_on_in_the_background_and_ends_with_the_pool(
    chain: SimChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "SURVEY_EVERY_S", 0.02)
    async with SimNode(chain) as first, SimNode(chain) as second, pool_of(first, second) as pool:
        await Source(pool).tip()
        chain.mine_empty(7)
        await until(lambda: pool.figures()[1]["head"] == 207)
        second.knobs.latency_s = 30.0
        await pool.aclose()

        assert not [task for task in asyncio.all_tasks() if task.get_name() == "survey"]


@pytest.mark.parametrize("fault", ["nested", "digits"])
async def test_nonsense_is_that_nodes_own_fault_and_ends_no_survey(chain: SimChain, fault: Fault) -> None:
    async with SimNode(chain) as liar, SimNode(chain) as node, pool_of(liar, node) as pool:
        liar.fail(1000, fault)

        await pool.survey()
        assert await pool.run(height) is pool.providers[1]
        assert [one["state"] for one in pool.figures()] == ["resting", "ok"]
        assert pool.figures()[0]["errors"] == {"Inconsistent": 1}


async def test_survey_goes_on_after_a_fault_of_our_own(chain: SimChain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "SURVEY_EVERY_S", 0.02)
    async with SimNode(chain) as first, SimNode(chain) as second, pool_of(first, second) as pool:
        faults = [ZeroDivisionError(), RecursionError()]

        def sample(_: float) -> None:
            if faults:
                raise faults.pop()

        monkeypatch.setattr(pool._heads, "sample", sample)
        with capture_logs() as logs:
            await pool.watch()
            chain.mine_empty(7)
            await until(lambda: not faults and pool.figures()[1]["head"] == 207)
        assert [entry["event"] for entry in logs] == ["survey_failed", "survey_failed"]


# --- admission ------------------------------------------------------------------------------------------------------


async def test_provider_that_never_answers_does_not_hold_up_the_check_of_the_chain(
    chain: SimChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.chain.admission.GRACE_S", 0.05)
    async with SimNode(chain, latency_s=30) as hung, SimNode(chain) as node, pool_of(hung, node) as pool:
        async with asyncio.timeout(2):
            await pool.check_chain(31337)

        assert [one["admitted"] for one in pool.figures()] == [False, True]


async def test_provider_on_another_branch_is_heard_again_when_another_block_is_final(chain: SimChain) -> None:
    """F5, F11: after a halt was lifted, those that had the right chain all along are not kept waiting."""
    async with SimNode(chain) as node, pool_of(node) as pool:
        await pool.check_chain(31337)
        block = chain.block(100)
        assert block
        other = SimChain(seed=4)
        other.mine_empty(100)
        pool.anchor = other.head
        with pytest.raises(OtherBranch):
            await pool.run(height)
        assert pool.all_on_other_branch
        assert pool.figures()[0]["state"] == "other branch"

        pool.anchor = block.ref

        assert await pool.run(height) is pool.providers[0]
        assert not pool.all_on_other_branch


# --- what is kept ---------------------------------------------------------------------------------------------------


async def test_rules_outlive_the_process_and_density_does_not(chain: SimChain) -> None:
    async with SimNode(chain, max_range=10, max_addresses=1, max_batch=5) as node, pool_of(node) as pool:
        source = Source(pool)
        with pytest.raises(ProviderError):
            await source.fetch(BlockRange(0, 99), ADDRESSES)
        await source.blocks(range(20))
        figures = source.figures()
        assert figures[0]["max_range"] == 10

        async with pool_of(node) as later:
            again = Source(later)
            again.remember(figures)
            assert again.span_cap == 10
            node.forget_counts()
            await again.blocks(range(20))
            assert node.http_requests == 4


async def test_figures_name_hosts_and_no_keys(chain: SimChain) -> None:
    secret = "s3cretApiKey0123"
    async with SimNode(chain) as node:
        pool = Pool([Provider(f"{node.url}/v2/{secret}")], rounds=1)
        node.intercept = lambda *_: _echo(f"project {secret} at http://x.example/{secret} is sad")
        with pytest.raises(ProviderError):
            await pool.run(height)

        assert pool.figures()[0]["host"] == "127.0.0.1"
        assert pool.figures()[0]["last_error"]
        assert secret not in repr(pool.figures())
        await pool.aclose()


def _echo(text: str) -> Any:
    raise SimRpcError(-32000, text)
