"""Every known refusal text of providers, in several spellings, against the class and the next span it means."""

from __future__ import annotations

import pytest

from indexer.chain.refusals import (
    AddressLimit,
    BatchLimit,
    Billing,
    CallFailed,
    Failure,
    MethodMissing,
    PastHead,
    ProviderError,
    Pruned,
    RangeTooLarge,
    RateLimited,
    ShrinkRange,
    TooManyResults,
    Transport,
    Unauthorized,
    UnknownRefusal,
    classify,
)
from indexer.core.ranges import after_refusal, start_span
from indexer.core.types import BlockRange

ASKED = BlockRange(1_000_000, 1_099_999)  # 100,000 blocks
HALF = 50_000

RANGE_CASES = [
    # provider, text, next span
    ("alchemy", "Log response size exceeded. this block range should work: [0xf4240, 0xf4628]", 1001),
    ("alchemy inverted", "this block range should work: [0xf4628, 0xf4240]", HALF),
    (
        "alchemy free",
        "up to a 10 block range. Based on your parameters, this block range should work: [0xf4240, 0xf4249]",
        10,
    ),
    ("alchemy 2K", "eth_getLogs requests with up to a 2K block range", 2000),
    ("aurora", "up to a 2,000 block range", 2000),
    ("infura", "query returned more than 10000 results. Try with this block range [0xF4240, 0xF4300].", 193),
    ("zksync", "Query returned more than 10000 results. Try with this block range [0xf4240, 0xf4240].", 1),
    ("tenderly", "try with this block range [0xf4240,0xf4249]", 10),
    ("infura 2026", "range 100000 exceeds limit of 10000", 10_000),
    ("ankr", "query exceeds max results 20000, retry with the range 1000000-1000499", 500),
    ("llamarpc", "retry with the range 1000000-1000499", 500),
    ("llamarpc inverted", "retry with the range 1000499-1000000", HALF),
    ("ankr wide", "block range is too wide", 3000),
    ("ankr tac", "maximum [from, to] blocks distance: 2000", 2000),
    ("moonriver", "block range is too wide (maximum 1024)", 1024),
    ("quicknode", "eth_getLogs is limited to a 10,000 range", 10_000),
    ("quicknode dot", "eth_getLogs is limited to a 10.000 blocks range", 10_000),
    ("1rpc", "eth_getLogs is limited to a 50 range", 50),
    ("zkevm", "logs are limited to a 10000 block range", 10_000),
    ("blockpi", "eth_getLogs is limited to 1024 block range. Please check the parameter requirements", 1024),
    ("blast paid", "the block range exceeds the range allowed for your plan (100000 > 5000).", 5000),
    ("avalanche", "requested too many blocks from 1000000 to 1099999, maximum is set to 2048", 2047),
    ("cloudflare", "Max range: 800", 799),
    ("thirdweb", "Maximum allowed number of requested blocks is 1000", 1000),
    ("chainstack", "Block range limit exceeded. See more details at docs", 10_000),
    ("coinbase", "please limit the query to at most 1000 blocks", 999),
    ("publicnode", "exceed maximum block range: 50000", 50_000),
    ("publicnode plain", "maximum block range: 500", 500),
    ("firefly", "EXCEED MAXIMUM BLOCK RANGE: 5,000", 5000),
    ("hyperliquid", "query exceeds max block range 1000", 1000),
    ("reth", "Query exceeds max block range 100,000", 99_999),
    ("swell", "block range greater than 10000 max", 10_000),
    ("somnia", "block range exceeds 1000", 1000),
    ("merkle 10k", "range is too large, max is 10k blocks", 10_000),
    ("merkle 1k", "eth_getLogs range is too large, max is 1k blocks", 1000),
    ("harmony", "query must be smaller than size 1024", 1024),
    ("tron", "exceed max block range: 5000", 4999),
    ("sei", "block range too large (100000), maximum allowed is 2000 blocks", 2000),
    ("morph", "block range is larger than max block range, block range = 100000, max block range = 1000", 1000),
    ("base", "block range too large", 2000),
    ("optimism", "Block range is too large", HALF),
    ("valtitude", "allowed block range threshold exceeded", HALF),
    ("erpc", "the range exceeded max allowed", HALF),
    ("erpc threshold", "getLogs range threshold exceeded", HALF),
    ("drpc free", "ranges over 10000 blocks are not supported on freetier", 10_000),
    ("hint larger than asked", "block range exceeds 500000", HALF),
    ("optimism response", "backend response too large", HALF),
    ("optimism backend", "no backend is currently healthy to serve traffic", HALF),
    ("geth", "query returned more than 10000 results", HALF),
    ("altitude", "query exceeds max results", HALF),
    ("arbitrum", "logs matched by query exceeds limit of 10000", HALF),
    ("1rpc size", "response size should not greater than 10000000 bytes", HALF),
    ("hyperrpc", "query contains more than 10000 logs", HALF),
    ("hyperrpc returned", "20000 logs returned, narrow your filter", HALF),
    ("hyperrpc many", "too many logs", HALF),
    ("jsonrpsee", "Response is too big", HALF),
    ("jsonrpsee data", "internal error Exceeded max limit of 167772160 is too big", HALF),
    ("others", "too many results", HALF),
    ("others paginate", "please try paginating", HALF),
    ("others over", "logs over more than 5 topics", HALF),
    ("others time", "query timeout exceeded", HALF),
    ("zksync inverted", "Try with this block range [0xf4300, 0xf4240].", HALF),
    ("thirdweb hint", "Query timed out. Try with this block range [0xf4240, 0xf42a3]", 100),
    ("hint of nothing", "Try with this block range [0x0, 0x0]", 1),
    ("ankr hint of all", "query exceeds max results 20000, retry with the range 1000000-1099999", HALF),
    ("blast", "eth_getLogs is limited to a 10,000 block range", 10_000),
    ("zkevm dot", "logs are limited to a 10.000 block range", 10_000),
    ("blockpi short", "limited to 5000 block", 5000),
    ("hyphen", "queries are limited to a 2,000-block range", 2000),
    ("in a row", "limited to 1,000 consecutive blocks", 1000),
    ("bare", "block range is limited to 10,000", 10_000),
    ("of a request", "limited to 500 blocks per request", 500),
    ("avalanche comma", "requested too many blocks from 1000000 to 1099999, maximum is set to 2,048", 2047),
    ("coinbase comma", "please limit the query to at most 1,000 blocks", 999),
    ("drpc comma", "ranges over 10,000 blocks are not supported on freetier", 10_000),
    ("somnia 1k", "block range exceeds 1k", 1000),
    ("swell comma", "block range greater than 10,000 max", 10_000),
    ("erpc exceeded", "exceeded max allowed range", HALF),
    ("infura results", "query returned more than 10,000 results", HALF),
    ("llamarpc results", "query exceeds max results 20000", HALF),
    ("hyperrpc few", "more than 10000 logs", HALF),
    ("geth time", "query timed out", HALF),
    ("proxy", "Request Entity Too Large", HALF),
    ("nobody knows", "the moon is in the wrong phase", HALF),
]
STRUCTURAL = {"alchemy free", "aurora", "infura 2026", "ankr wide", "moonriver", "quicknode", "avalanche", "cloudflare"}


def refusal(text: str, *, code: int | None = -32000, method: str = "eth_getLogs", status: int = 200) -> ProviderError:
    return classify(Failure("node.example", method, text, code, status, words=text))


def spellings(text: str) -> list[str]:
    return [text, text.upper(), f"Error: {text} (request 7)", f'invalid request {{"reason": "{text}"}}']


@pytest.mark.parametrize(("name", "text", "span"), RANGE_CASES, ids=[case[0] for case in RANGE_CASES])
def test_range_refusal_gives_the_next_span(name: str, text: str, span: int) -> None:
    for spelling in spellings(text):
        error = refusal(spelling)

        assert isinstance(error, ShrinkRange), spelling
        assert after_refusal(start_span(100_000), error.refusal(ASKED)).span == span, spelling
        if name in STRUCTURAL:
            assert isinstance(error, RangeTooLarge), spelling


@pytest.mark.parametrize("code", [-32000, -32005, -32600, -32602, 429])
def test_range_text_wins_over_the_code_and_over_words_of_rate_limits(code: int) -> None:
    error = refusal("Block range limit exceeded.", code=code, status=429 if code == 429 else 200)

    assert isinstance(error, RangeTooLarge)


def test_chainstack_hint_has_a_second_step() -> None:
    error = refusal("Block range limit exceeded.")

    assert isinstance(error, ShrinkRange)
    assert after_refusal(start_span(9_999), error.refusal(BlockRange(0, 9_998))).span == 100


OTHER_CASES: list[tuple[str, type[ProviderError]]] = [
    ("specify less number of address", AddressLimit),
    ("exceed max addresses or topics per search position", AddressLimit),
    ("query has 12 filters. The current limit is 10", AddressLimit),
    ("requested from=1 to=9 after last accepted block 8", PastHead),
    ("block range extends beyond current head block", PastHead),
    ("invalid block range params", PastHead),
    ("height 900 must be less than or equal to the current blockchain height 800", PastHead),
    ("BlockOutOfRangeError: block height is 10 but requested was 11", PastHead),
    ("unknown block", PastHead),
    ("pruned history unavailable", Pruned),
    ("missing trie node 8f1a (path ) state 0x8f1a is not available", Pruned),
    ("height is not available, requested 5, base height: 1000", Pruned),
    ("height 5 is not available (requested height: 5, base height: 1000)", Pruned),
    ("height 5 is not available, lowest height is 1000", Pruned),
    ("History has been pruned for this block", Pruned),
    ("specify less number of addresses", AddressLimit),
    ("20 filters. The current limit is 10", AddressLimit),
    ("height 900 must be less than or equal to 800", PastHead),
    ("HTTP 429 Too Many Requests", RateLimited),
    ("limit exceeded: rate limit of 25 per second", RateLimited),
    ("You have exceeded your quota", RateLimited),
    ("Monthly capacity limit exceeded", Billing),
    ("HTTP 402 Payment Required", Billing),
    ("rate limit exceeded", RateLimited),
    ("Your app has exceeded its compute units per second capacity", RateLimited),
    ("too many requests, reason: call rate limit exhausted", RateLimited),
    ("quota exceeded", RateLimited),
    ("Monthly capacity limit exceeded. Visit https://x.example/billing to upgrade", Billing),
    ("see your account at /billing", Billing),
    ("You are limited to 1,000 requests per second", RateLimited),
    ("HTTP 429 limited to 1.000 requests", RateLimited),
    ("Project is limited to 100,000 calls a day", RateLimited),
    ("rate limited to 10 rps", RateLimited),
    ("Your plan is limited to 25 req/s", RateLimited),
    ("limited to 300 compute units per second", RateLimited),
    ("This key is limited to 5 messages per minute", RateLimited),
    ("limited to 10,000 results", TooManyResults),
    ("eth_getLogs is limited to 2,000 logs", TooManyResults),
    ("answers are limited to 10k events", TooManyResults),
    ("you are limited to 1,000 of something", UnknownRefusal),
]


@pytest.mark.parametrize(("text", "kind"), OTHER_CASES, ids=[case[0][:40] for case in OTHER_CASES])
def test_refusal_that_is_no_range_limit_has_its_own_class(text: str, kind: type[ProviderError]) -> None:
    for spelling in spellings(text):
        assert type(refusal(spelling)) is kind, spelling


@pytest.mark.parametrize(
    ("text", "lowest"),
    [
        ("height 5 is not available (requested height: 5, base height: 1,000)", 1000),
        ("height is not available, lowest height is 77", 77),
        ("pruned history unavailable: earliest available block 900", 900),
        ("pruned history unavailable", None),
    ],
)
def test_pruned_history_tells_its_lowest_block_where_the_text_has_it(text: str, lowest: int | None) -> None:
    for spelling in spellings(text):
        error = refusal(spelling, code=4444)

        assert isinstance(error, Pruned)
        assert error.lowest == lowest, spelling


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, Unauthorized),
        (402, Billing),
        (403, Unauthorized),
        (404, Transport),
        (413, TooManyResults),
        (429, RateLimited),
        (500, Transport),
        (503, Transport),
    ],
)
def test_http_status_without_known_words_decides(status: int, kind: type[ProviderError]) -> None:
    assert type(refusal(f"HTTP {status} <html></html>", code=None, status=status)) is kind


def test_code_decides_where_the_text_says_nothing() -> None:
    assert type(refusal("gone", code=4444)) is Pruned
    assert type(refusal("sorry", code=-32601)) is MethodMissing
    assert type(refusal("sorry", code=-32005)) is TooManyResults
    assert type(refusal("sorry", code=-32005, method="eth_call")) is RateLimited
    assert type(refusal("sorry", code=-1)) is UnknownRefusal
    assert type(refusal("sorry", code=-1, method="eth_getBlockByNumber")) is Transport
    assert type(refusal("batch requests are not supported", code=-32600)) is BatchLimit


def test_failed_call_is_told_from_missing_state() -> None:
    reverted = refusal("execution reverted: ERC721NonexistentToken", code=3, method="eth_call")
    starved = refusal("out of gas: gas required exceeds allowance", method="eth_call")

    assert isinstance(reverted, CallFailed)
    assert not reverted.out_of_gas
    assert isinstance(starved, CallFailed)
    assert starved.out_of_gas
    assert type(refusal("missing trie node", method="eth_call")) is Pruned
    assert type(refusal("Resource not found", code=-32001, method="eth_call")) is PastHead
    assert refusal("execution aborted (timeout = 5s)", method="eth_call").out_of_gas


def test_message_names_the_host_and_is_cut_short() -> None:
    error = refusal("x" * 5000)

    assert str(error).startswith("node.example: xxx")
    assert len(str(error)) < 350
