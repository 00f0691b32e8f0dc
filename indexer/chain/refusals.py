"""What a provider's error means: one table from texts and codes to typed errors.

RpcError
├── ShrinkRange          ask for fewer blocks
│   ├── RangeTooLarge    a rule of the provider
│   ├── TooManyResults   the blocks hold too much for one answer; so do time-outs of the provider
│   └── UnknownRefusal   nobody knows; halving finds out
├── AddressLimit         ask for fewer addresses at a time
├── PastHead             the node does not have that block (yet); never a reason to shrink
├── Pruned               the node no longer has that history or state
├── RateLimited          too many requests; `retry_after_s` where the provider says so
├── Billing              the plan is used up; hours, not seconds
├── Unauthorized         the credentials are refused
├── WrongChain           the endpoint serves another chain, or is still syncing
│   └── OtherBranch      the endpoint does not know the block that is final here by its hash
├── Inconsistent         the answer contradicts itself or the question; not to be used
├── Transport            no usable answer: connection, HTTP 5xx, something that is not JSON
│   └── TimedOut         connected, but no answer in time
├── MethodMissing        the endpoint does not serve the method
├── BatchLimit           the endpoint takes no, or only smaller, JSON-RPC batches
├── NobodyLeft           every provider was ruled out by the caller
└── CallFailed           eth_call: the contract reverted or ran out of gas
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from indexer.core.ranges import Refusal
from indexer.core.types import BlockRange
from indexer.errors import RpcError

MAX_TEXT: Final = 300  # characters of a provider's own words in a message


class ProviderError(RpcError):
    """An RpcError of one endpoint, named by its host alone."""

    def __init__(self, host: str, text: str) -> None:
        self.host = host
        self.text = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
        super().__init__(f"{host}: {self.text}")


class ShrinkRange(ProviderError):
    """The same blocks may be had in smaller pieces."""

    structural = False

    def __init__(self, host: str, text: str, spans: tuple[int, ...] = ()) -> None:
        super().__init__(host, text)
        self.spans = spans

    def refusal(self, asked: BlockRange) -> Refusal:
        """Describe the refusal of `asked` to `core.ranges.after_refusal`."""
        return Refusal(asked=len(asked), spans=self.spans, structural=self.structural)


class RangeTooLarge(ShrinkRange):
    """The provider never serves so many blocks; `spans` are counts it would serve, best first, unchecked."""

    structural = True


class TooManyResults(ShrinkRange):
    """These blocks hold too many logs for one answer."""


class UnknownRefusal(ShrinkRange):
    """An error that no row of the table knows."""


class AddressLimit(ProviderError):
    """Too many addresses in one filter."""


class PastHead(ProviderError):
    """The node does not have the block: it is behind, or a reorg removed it."""


class Pruned(ProviderError):
    """The node has dropped the history or state asked for; `lowest` is the first block it has, where it says so."""

    def __init__(self, host: str, text: str, lowest: int | None = None) -> None:
        super().__init__(host, text)
        self.lowest = lowest


class RateLimited(ProviderError):
    """Too many requests."""

    def __init__(self, host: str, text: str, retry_after_s: float | None = None) -> None:
        super().__init__(host, text)
        self.retry_after_s = retry_after_s


class Billing(ProviderError):
    """The account's allowance is used up."""


class Unauthorized(ProviderError):
    """The endpoint refuses the credentials."""


class WrongChain(ProviderError):
    """The endpoint must not be used: another chain, or a node that is still syncing (fault F5)."""


class OtherBranch(WrongChain):
    """The endpoint has another block where ours is final: another network of the same chain id, or finality broke."""


class Inconsistent(ProviderError):
    """The answer cannot be true (faults F3, F7 to F10, F24)."""


class Transport(ProviderError):
    """No usable answer came."""


class TimedOut(Transport):
    """The endpoint took the request and did not answer in time: it is away, or was asked for too much."""


class MethodMissing(ProviderError):
    """The endpoint does not serve this method."""


class BatchLimit(ProviderError):
    """The endpoint refuses JSON-RPC batches of this size."""


class NobodyLeft(ProviderError):
    """No provider is left to ask: the caller ruled them all out."""


class CallFailed(ProviderError):
    """The called contract reverted, or the call ran out of gas; `out_of_gas` tells which."""

    def __init__(self, host: str, text: str, *, out_of_gas: bool) -> None:
        super().__init__(host, text)
        self.out_of_gas = out_of_gas


@dataclass(frozen=True, slots=True)
class Failure:
    """What an endpoint answered instead of a result.

    `text` is message and data as they came, to be searched only; `words` is what may be shown of it.
    """

    host: str
    method: str
    text: str
    code: int | None = None
    http_status: int = 200
    retry_after_s: float | None = None
    words: str = ""


Spans = Callable[[re.Match[str]], tuple[int, ...]]


def _count(match: re.Match[str]) -> tuple[int, ...]:
    """N names blocks at some providers and a distance at others: N blocks are right for both."""
    digits = re.sub(r"[,._']", "", match["n"])
    thousands = 1000 if match.groupdict().get("k") else 1
    return (int(digits) * thousands,)


def _one_less(match: re.Match[str]) -> tuple[int, ...]:
    return (_count(match)[0] - 1,)


def _between(match: re.Match[str]) -> tuple[int, ...]:
    """Count the blocks of a suggested range; an inverted one gives a number below 1, which is ignored (F18)."""
    base = 16 if match["a"].lower().startswith("0x") else 10
    return (int(match["b"], base) - int(match["a"], base) + 1,)


def _fixed(*spans: int) -> Spans:
    return lambda _match: spans


_N: Final = r"(?P<n>(?>\d[\d,._']*))(?P<k>k)?"  # whole or not at all: what follows says what is counted
_A_TO_B: Final = r"(?P<a>0x[0-9a-f]+|\d+)\s*(?:,|-|to)\s*(?P<b>0x[0-9a-f]+|\d+)"


def _no_hint(_match: re.Match[str]) -> tuple[int, ...]:
    return ()


def _row(pattern: str, spans: Spans = _no_hint) -> tuple[re.Pattern[str], Spans]:
    return re.compile(pattern, re.IGNORECASE | re.DOTALL), spans


# Providers by whom each text was seen stand at the end of the line. First match wins, so texts with a
# figure stand before their plain forms.
SUGGESTION_TEXTS: Final = (
    _row(rf"this block range should work: \[?{_A_TO_B}", _between),  # Alchemy
    _row(rf"try with this block range \[?{_A_TO_B}", _between),  # Infura, zkSync, Thirdweb, Tenderly
    _row(rf"retry with the range {_A_TO_B}", _between),  # Ankr, llamarpc
)

RANGE_TEXTS: Final = (
    _row(rf"up to a {_N} block range", _count),  # Alchemy free, Aurora
    _row(rf"maximum \[from, to\] blocks distance: {_N}", _count),  # Ankr TAC
    _row(rf"block range is too wide \(maximum {_N}", _count),  # Moonriver
    _row(rf"exceeds the range allowed for your plan \(\d+ > {_N}", _count),  # Blast paid
    _row(rf"requested too many blocks from \d+ to \d+, maximum is set to {_N}", _one_less),  # Avalanche
    _row(rf"max range: {_N}", _one_less),  # Cloudflare
    _row(rf"maximum allowed number of requested blocks is {_N}", _count),  # Thirdweb
    _row(rf"please limit the query to at most {_N} blocks", _one_less),  # Coinbase
    _row(rf"query exceeds max block range {_N}", _count),  # Hyperliquid, reth
    _row(rf"exceed max block range: {_N}", _one_less),  # Tron
    _row(rf"(?:exceed )?maximum block range: {_N}", _count),  # PublicNode, Firefly
    _row(rf"block range greater than {_N} max", _count),  # Swell
    _row(rf"block range exceeds {_N}", _count),  # Somnia
    _row(rf"range is too large, max is {_N}", _count),  # Merkle
    _row(rf"query must be smaller than size {_N}", _count),  # Harmony
    _row(rf"block range too large \(\d+\), maximum allowed is {_N}", _count),  # Sei
    _row(rf"block range is larger than max block range.*max block range = {_N}", _count),  # Morph
    _row(rf"ranges over {_N} blocks are not supported", _count),  # dRPC free
    _row(rf"range \d+ exceeds limit of {_N}", _count),  # Infura 2026
    _row(rf"limited to (?:an? )?{_N}[ -]?(?:\w+ )?(?:blocks?|range)\b", _count),  # QuickNode, 1RPC, Blast, BlockPI
    _row(rf"(?:range|blocks?) (?:is |are )?limited to {_N}(?!\s*[a-z/])", _count),
    _row(r"block range limit exceeded", _fixed(10_000, 100)),  # Chainstack
    _row(r"block range is too wide", _fixed(3000)),  # Ankr
    _row(r"block range is too large"),  # Optimism, Base
    _row(r"block range too large", _fixed(2000)),  # Base, Monad
    _row(r"allowed block range threshold exceeded|exceeded max allowed|range threshold exceeded"),  # Valtitude, eRPC
    _row(r"exceeds? (?:the )?max(?:imum)? block range|block range (?:is )?too (?:wide|big|long)"),
)

RESULT_TEXTS: Final = (
    _row(r"query exceeds max results"),  # llamarpc, Ankr, Altitude
    _row(r"query returned more than [\d,._]+ results"),  # geth, zkEVM, Infura
    _row(r"logs matched by query exceeds limit of"),  # Arbitrum
    _row(r"response size should not greater than|response size exceeded"),  # 1RPC, Alchemy
    _row(r"more than [\d,._]+ logs|[\d,._]+ logs returned|too many logs|logs over more"),  # HyperRPC
    _row(r"(?:response|message) is too big|is too big|backend response too large|response too large"),  # reth, Optimism
    _row(r"no backend is currently healthy to serve traffic"),  # Optimism, Base
    _row(rf"limited to (?:an? )?{_N} (?:result|log|event|item|entr|record|bytes|[km]i?b\b)"),
    _row(r"too many results|try paginating|request entity too large"),
    _row(r"query time-?out exceeded|query timed out|execution (?:timeout|aborted)"),  # geth and proxies
)

ADDRESS_TEXTS: Final = (
    _row(r"specify less number of address"),
    _row(r"addresses or topics per search position"),
    _row(r"\d+ filters\. the current limit is"),
    _row(r"too many addresses"),
)

PAST_HEAD_TEXTS: Final = (
    _row(r"after last accepted block"),  # Avalanche
    _row(r"block range extends beyond current head block"),
    _row(r"invalid block range params"),  # geth
    _row(r"height \d+ must be less than"),  # Cosmos chains
    _row(r"blockoutofrange|resource not found"),  # anvil
    _row(r"unknown block|header not found|block not found|block does not exist|header for hash not found"),
)

PRUNED_TEXTS: Final = (
    _row(r"pruned history unavailable|history (?:is |has been )?pruned|has been pruned"),
    _row(r"missing trie node|state (?:is )?not available|historical state|state already discarded"),
    _row(r"height (?:\d+ )?is not available.*(?:base|lowest) height"),  # Cosmos chains
    _row(r"archive (?:node|request|data|access)"),
)

LOWEST_TEXTS: Final = (
    _row(rf"(?:base|lowest) height(?: is)?:? {_N}", _count),  # Cosmos chains
    _row(rf"(?:earliest|first|oldest) (?:available )?block(?: is)?:? {_N}", _count),
)

BILLING_TEXTS: Final = (
    _row(r"monthly capacity limit|/billing|payment required|upgrade your (?:plan|tier) to continue"),
)

RATE_TEXTS: Final = (
    _row(r"rate.?limit|too many requests|exceeded its compute units|quota|throughput|requests per second"),
    _row(r"daily request count exceeded|limit of [\d,._]+ (?:requests|calls)"),
    _row(rf"limited to (?:an? )?{_N} ?(?:req|calls?\b|quer|[rtq]ps\b|cups?\b|compute|credit)"),
    _row(rf"limited to (?:an? )?{_N} ?[\w ]*(?:/|\bper |\ban? |\beach )(?:s|sec|second|min|minute|hour|day)\b"),
    _row(r"request limit|capacity (?:limit )?exceeded|slow down"),
)

AUTH_TEXTS: Final = (
    _row(r"unauthori[sz]ed|invalid (?:api|project|access) ?(?:key|id|token)|must be authenticated|forbidden"),
)

BATCH_TEXTS: Final = (_row(r"batch"),)

METHOD_TEXTS: Final = (
    _row(r"method .*(?:not (?:found|supported|available|allowed)|does not exist)|unsupported method"),
)

OUT_OF_GAS_TEXTS: Final = (
    _row(r"out of gas|gas required exceeds|gas limit (?:reached|exceeded)|gas uint64 overflow"),
    _row(r"execution (?:aborted|timeout)"),  # geth's time limit is one of means, as gas is
)
REVERT_TEXTS: Final = (_row(r"revert|invalid opcode|stack (?:underflow|overflow)|invalid jump"),)


def classify(failure: Failure) -> ProviderError:
    """Turn a refusal into the one typed error that says what to do next.

    Order matters: "limit exceeded" and "block range" occur in several classes, so the exact ones come first.
    """
    host, text, words = failure.host, failure.text, failure.words
    if failure.method == "eth_call" and (failed := _call_failed(failure)):
        return failed
    for rows, kind in (
        (ADDRESS_TEXTS, AddressLimit),
        (PAST_HEAD_TEXTS, PastHead),
    ):
        if _find(rows, text) is not None:
            return kind(host, words)
    if failure.code == PRUNED_CODE or _find(PRUNED_TEXTS, text) is not None:
        return Pruned(host, words, next(iter(_find(LOWEST_TEXTS, text) or ()), None))
    if failure.method in RANGE_METHODS and (shrink := _shrink(failure)):
        return shrink
    return _account(failure) or _by_code(failure)


PRUNED_CODE: Final = 4444  # EIP-4444: history expiry
HTTP_TOO_LARGE: Final = 413
RANGE_METHODS: Final = frozenset({"eth_getLogs"})


def _find(rows: tuple[tuple[re.Pattern[str], Spans], ...], text: str) -> tuple[int, ...] | None:
    for pattern, spans in rows:
        if match := pattern.search(text):
            return spans(match)
    return None


def _call_failed(failure: Failure) -> CallFailed | None:
    if _find(OUT_OF_GAS_TEXTS, failure.text) is not None:
        return CallFailed(failure.host, failure.words, out_of_gas=True)
    if failure.code == 3 or _find(REVERT_TEXTS, failure.text) is not None:  # 3: geth's code of a revert
        return CallFailed(failure.host, failure.words, out_of_gas=False)
    return None


def _shrink(failure: Failure) -> ShrinkRange | None:
    """Tell rule from density: a range suggested for these very blocks is density, unless a rule is named."""
    host, text, words = failure.host, failure.text, failure.words
    suggested = _find(SUGGESTION_TEXTS, text) or ()
    if _find(RESULT_TEXTS, text) is not None:
        return TooManyResults(host, words, suggested)
    if (spans := _find(RANGE_TEXTS, text)) is not None:
        return RangeTooLarge(host, words, spans or suggested)
    if suggested or failure.http_status == HTTP_TOO_LARGE:
        return TooManyResults(host, words, suggested)
    return None


def _account(failure: Failure) -> ProviderError | None:
    host, text, words, status = failure.host, failure.text, failure.words, failure.http_status
    if status == 402 or _find(BILLING_TEXTS, text) is not None:
        return Billing(host, words)
    if status == 429 or _find(RATE_TEXTS, text) is not None:
        return RateLimited(host, words, failure.retry_after_s)
    if status in {401, 403} or _find(AUTH_TEXTS, text) is not None:
        return Unauthorized(host, words)
    return None


def _by_code(failure: Failure) -> ProviderError:
    host, text, words = failure.host, failure.text, failure.words
    code, status = failure.code, failure.http_status
    if code == -32601 or _find(METHOD_TEXTS, text) is not None:
        return MethodMissing(host, words)
    if _find(BATCH_TEXTS, text) is not None:
        return BatchLimit(host, words)
    if code == -32005:  # too many results here, a rate limit there: one halving tells
        return TooManyResults(host, words) if failure.method in RANGE_METHODS else RateLimited(host, words)
    if status >= 500 or code is None:
        return Transport(host, words)
    return UnknownRefusal(host, words) if failure.method in RANGE_METHODS else Transport(host, words)
