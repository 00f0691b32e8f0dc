"""Heads, headers and registry logs of one chain, as core values that passed every check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self, TypeVar

from indexer.chain import checks, codec
from indexer.chain.admission import identity
from indexer.chain.codec import Header, HeaderJson, LogJson, hexed
from indexer.chain.doorbell import Doorbell
from indexer.chain.pool import Pool
from indexer.chain.provider import REQUEST_TIMEOUT_S, Call, Provider
from indexer.chain.refusals import (
    AddressLimit,
    Billing,
    Inconsistent,
    PastHead,
    ProviderError,
    RangeTooLarge,
    RateLimited,
    ShrinkRange,
    TimedOut,
    TooManyResults,
)
from indexer.chain.survey import heads_calls
from indexer.core.ranges import halves
from indexer.core.types import Batch, BlockRange, BlockRef, Proof, RawLog

T = TypeVar("T")

ROUND_CAPS: Final = frozenset(
    {1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000}
)  # where silent cuts are made (F20)


@dataclass(frozen=True, slots=True)
class Tip:
    """The newest block, and the number of the newest final one; None where no provider ever served that tag."""

    head: BlockRef
    finalized: int | None


@dataclass(frozen=True, slots=True)
class _Fetched:
    provider: Provider
    head: Header  # of the last block of the range
    headers: tuple[Header, ...]  # all that are known of the range, oldest first
    logs: tuple[RawLog, ...]


@dataclass(frozen=True, slots=True)
class _Question:
    """Which logs: of a range, or of exactly one block by its hash."""

    wanted: BlockRange
    addresses: tuple[bytes, ...]
    block: BlockRef | None = None

    @property
    def where(self) -> dict[str, str]:
        if self.block is not None:
            return {"blockHash": hexed(self.block.hash)}
        return {"fromBlock": hex(self.wanted.from_block), "toBlock": hex(self.wanted.to_block)}

    def header_call(self) -> Call[HeaderJson | None]:
        if self.block is not None:
            return Call("eth_getBlockByHash", [hexed(self.block.hash), False], codec.HEADER)
        return Call("eth_getBlockByNumber", [hex(self.wanted.to_block), False], codec.HEADER)

    def logs_calls(self, chunk: int | None) -> list[Call[list[LogJson] | None]]:
        """Ask for all addresses at once, or for `chunk` of them at a time."""
        size = chunk or max(1, len(self.addresses))
        texts = [hexed(address) for address in self.addresses]
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        return [Call("eth_getLogs", [{**self.where, "address": part}], codec.LOGS) for part in parts]


class Source:
    """One chain as its providers tell it. Every method may raise an RpcError of `chain.refusals`."""

    def __init__(self, pool: Pool, *, proof: Proof = "logs", bell: Doorbell | None = None) -> None:
        self.pool = pool
        self.bell = bell or Doorbell()
        self.proof = checks.HeaderProof(enabled=proof != "off")

    @classmethod
    def open(cls, urls: Sequence[str], *, proof: Proof = "logs", timeout_s: float = REQUEST_TIMEOUT_S) -> Self:
        """Make a source over http(s) URLs in order of preference; ws(s) URLs among them ring `bell`.

        Connects to nothing yet. Raises SettingsError where no http(s) URL is given.
        """
        usable = [url for url in urls if url.lower().startswith(("http://", "https://"))]
        bell = Doorbell([url for url in urls if url.lower().startswith(("ws://", "wss://"))])
        return cls(Pool([Provider(url, timeout_s=timeout_s) for url in usable]), proof=proof, bell=bell)

    async def aclose(self) -> None:
        """Close all connections."""
        await self.bell.aclose()
        await self.pool.aclose()

    def figures(self) -> list[dict[str, object]]:
        """Tell what is known of each provider, as `Pool.figures` does."""
        return self.pool.figures()

    def remember(self, figures: Sequence[Mapping[str, Any]]) -> None:
        """Take up what the figures of an earlier run say, as `Pool.remember` does."""
        self.pool.remember(figures)

    @property
    def span_cap(self) -> int | None:
        """Blocks a request that the provider that is asked first now takes; None where it has no rule."""
        return self.pool.span_cap

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def chain_id(self) -> int:
        """Ask the first provider that answers for its chain id."""
        return (await self.pool.run(identity))[0]

    async def check_chain(self, expected: int) -> None:
        """Hold all providers to this chain id. Raises SettingsError or Transport, as `Pool.check_chain` says."""
        await self.pool.check_chain(expected)

    def hold_to(self, block: BlockRef | None) -> None:
        """Hear from now on only providers that have this block, which is final here; None: any (fault F5)."""
        self.pool.anchor = block

    @property
    def is_on_other_branch(self) -> bool:
        """Say whether every provider has another block where the one held to is: then finality broke."""
        return self.pool.all_on_other_branch

    async def has_code(self, address: bytes) -> bool:
        """Say whether a contract lives at the address now."""
        call = Call("eth_getCode", [hexed(address), "latest"], codec.QUANTITY)
        return await self.pool.run(lambda provider: provider.call(call)) not in {"0x", ""}

    async def tip(self) -> Tip:
        """Ask for the newest and the final block in one HTTP request; neither is promised never to go back.

        All providers are heard before the first answer, and in the background from then on: a provider that is
        behind is asked late, and one that lies cannot make final what is not.
        """
        await self.pool.watch()
        return await self.pool.run(self._tip_of)

    async def _tip_of(self, provider: Provider) -> Tip:
        latest, final = await provider.batch(heads_calls())
        head = self._header(provider, latest)
        if head is None:
            raise Inconsistent(provider.host, "has no latest block")
        if isinstance(final, (RateLimited, Billing)):
            raise final
        known = None if isinstance(final, ProviderError) else self._header(provider, final)
        self.pool.hear(provider, head.ref, None if known is None else known.ref.number)
        if self.pool.is_absurd(provider):
            raise Inconsistent(provider.host, f"claims a head, {head.ref.number}, that no other provider comes near")
        return Tip(head.ref, self.pool.finalized(head.ref.number))

    async def block(self, number: int) -> BlockRef | None:
        """Return the canonical block of that number; None where no provider has one."""
        try:
            return (await self.blocks([number]))[0]
        except PastHead:
            return None

    async def blocks(self, numbers: Sequence[int], *, elsewhere: bool = False) -> tuple[BlockRef, ...]:
        """Return the canonical blocks of these ascending numbers, all from one provider.

        `elsewhere` asks the provider that is preferred now last. Raises PastHead where one is missing everywhere
        (fault F6), Inconsistent where neighbours do not link.
        """
        if not numbers:
            return ()
        avoid = self.pool.preferred if elsewhere else None
        headers = await self.pool.run(lambda provider: self._headers(provider, numbers), avoid=avoid)
        return tuple(header.ref for header in headers)

    async def fetch(self, wanted: BlockRange, addresses: Sequence[bytes]) -> Batch:
        """Fetch all logs of the addresses in the range, and the header of its last block, in one HTTP request.

        `Batch.blocks` also holds the headers of the blocks with logs, where they had to be asked for to
        know the time. Raises ShrinkRange (never for one block), PastHead, or another RpcError.
        """
        return _batch(wanted, await self._fetch(_Question(wanted, tuple(addresses))))

    async def fetch_linked(self, wanted: BlockRange, addresses: Sequence[bytes]) -> Batch:
        """Fetch as `fetch` does, and every header: the logs are all of one chain, and of the blocks' own times.

        A block whose bloom speaks for logs that the answer lacks is asked for again by its hash (fault F3). Raises
        Inconsistent too where the chain changed between the requests.
        """
        fetched = await self._fetch(_Question(wanted, tuple(addresses)))
        numbers = range(wanted.from_block, wanted.to_block + 1)
        found = await self.pool.run(lambda provider: self._headers(provider, numbers))
        headers = {header.ref.number: header for header in found}
        if found[-1].ref.hash != fetched.head.ref.hash:
            raise Inconsistent("", f"block {wanted.to_block} changed while being read")
        logs = [*fetched.logs, *await self._kept_back(fetched, found[:-1], addresses)]
        checks.check_hashes("", logs, headers)
        self._check_blooms(fetched.provider, headers, logs)
        timed = [replace(log, timestamp=headers[log.block_number].ref.timestamp) for log in logs]
        return Batch(wanted, tuple(header.ref for header in found), tuple(checks.in_order("", timed)))

    async def _kept_back(
        self, fetched: _Fetched, headers: Sequence[Header], addresses: Sequence[bytes]
    ) -> list[RawLog]:
        """Return the logs of the blocks that seem to lack some, asked for by hash, best at another provider."""
        answered = {log.block_number for log in fetched.logs}
        doubtful = [
            header.ref
            for header in headers
            if header.ref.number not in answered and self.proof.hints_at(header, addresses)
        ]
        if not doubtful:
            return []
        return await self.pool.run(
            lambda provider: _logs_of_blocks(provider, doubtful, tuple(addresses)), avoid=fetched.provider
        )

    async def fetch_block(self, block: BlockRef, addresses: Sequence[bytes]) -> Batch:
        """Fetch the logs of exactly this block, by its hash. Raises PastHead where a reorg removed it."""
        wanted = BlockRange(block.number, block.number)
        return _batch(wanted, await self._fetch(_Question(wanted, tuple(addresses), block)))

    async def call(self, to: bytes, data: bytes, block_hash: bytes) -> bytes:
        """Call a contract on the state after that block.

        Raises CallFailed where the contract reverts or runs out of gas, Pruned where the state is gone,
        PastHead where the block is not known.
        """
        params = [{"to": hexed(to), "data": hexed(data)}, {"blockHash": hexed(block_hash)}]
        return await self.pool.run(lambda provider: _called(provider, Call("eth_call", params, codec.QUANTITY)))

    async def _fetch(self, question: _Question) -> _Fetched:
        fetched = await self._fetch_once(question, avoid=None)
        if self._doubtful(fetched, question) and not await self._empty_elsewhere(fetched, question):
            fetched = await self._fetch_once(question, avoid=fetched.provider)
            if self._doubtful(fetched, question):
                raise Inconsistent(fetched.provider.host, f"keeps back the logs of block {question.wanted.to_block}")
        return fetched

    async def _fetch_once(self, question: _Question, avoid: Provider | None) -> _Fetched:
        try:
            return await self.pool.run(lambda provider: self._fetch_from(provider, question), avoid=avoid)
        except TimedOut as error:
            if len(question.wanted) == 1:
                raise
            raise TooManyResults(error.host, error.text) from error

    def _doubtful(self, fetched: _Fetched, question: _Question) -> bool:
        """Say whether the bloom of the last block speaks for logs that the answer lacks (fault F3)."""
        lacks = not fetched.logs or fetched.logs[-1].block_number < question.wanted.to_block
        return lacks and self.proof.hints_at(fetched.head, question.addresses)

    async def _empty_elsewhere(self, fetched: _Fetched, question: _Question) -> bool:
        """Ask for the last block's logs again by hash, best another provider: blooms may speak falsely."""
        last = fetched.head.ref
        again = _Question(BlockRange(last.number, last.number), question.addresses, last)
        return not (await self._fetch_once(again, avoid=fetched.provider)).logs

    async def _fetch_from(self, provider: Provider, question: _Question) -> _Fetched:
        wanted = question.wanted
        if provider.span_cap is not None and len(wanted) > provider.span_cap:
            raise RangeTooLarge(provider.host, f"at most {provider.span_cap} blocks at a time", (provider.span_cap,))
        head, answer = await self._ask(provider, question)
        if isinstance(answer, ShrinkRange):
            if len(wanted) > 1:
                _learn_cap(provider, answer, wanted)
                raise answer
            logs = await _logs_of_receipts(provider, head, question.addresses)
        else:
            logs = answer
            await self._check_not_cut(provider, question, logs)
        checks.check_filter(provider.host, logs, wanted, frozenset(question.addresses))
        ordered = checks.in_order(provider.host, logs)
        return await self._complete(provider, head, ordered)

    async def _ask(self, provider: Provider, question: _Question) -> tuple[Header, list[RawLog] | ShrinkRange]:
        """Ask for the last header and the logs in one request, with fewer addresses a call where that is refused."""
        while True:
            calls: list[Call[Any]] = [question.header_call(), *question.logs_calls(provider.max_addresses)]
            header_answer, *answers = await provider.batch(calls)
            head = self._header(provider, header_answer)
            if head is None:  # then this backend's logs are not to be trusted either (faults F1, F6)
                raise PastHead(provider.host, f"does not have block {question.wanted.to_block}")
            _check_asked(provider, head, question)
            try:
                return head, [log for answer in answers for log in _raw_logs(provider, answer)]
            except ShrinkRange as refusal:
                return head, refusal
            except AddressLimit as refusal:
                _learn_addresses(provider, refusal, len(question.addresses))

    async def _check_not_cut(self, provider: Provider, question: _Question, logs: Sequence[RawLog]) -> None:
        """Ask again in halves where the count is one at which answers are cut silently (fault F20)."""
        if len(logs) not in ROUND_CAPS or len(question.wanted) == 1:
            return
        count = 0
        for half in halves(question.wanted):
            _, part = await self._ask(provider, replace(question, wanted=half))
            if isinstance(part, ShrinkRange):
                raise part
            count += len(part)
        if count != len(logs):
            raise TooManyResults(provider.host, f"gave {len(logs)} logs of at least {count}")

    async def _complete(self, provider: Provider, head: Header, logs: list[RawLog]) -> _Fetched:
        """Add the times, from the logs themselves or from headers, and hold logs and headers against each other."""
        headers = {head.ref.number: head}
        if not _timed(provider, logs, head):
            missing = sorted({log.block_number for log in logs} - headers.keys())
            if missing:
                headers |= {header.ref.number: header for header in await self._headers(provider, missing)}
            logs = [replace(log, timestamp=headers[log.block_number].ref.timestamp) for log in logs]
        checks.check_hashes(provider.host, logs, headers)
        known = tuple(headers[number] for number in sorted(headers))
        checks.check_links(provider.host, known)
        self._check_blooms(provider, headers, logs)
        return _Fetched(provider, head, known, tuple(logs))

    def _check_blooms(self, provider: Provider, headers: dict[int, Header], logs: Sequence[RawLog]) -> None:
        by_block: dict[int, list[RawLog]] = {number: [] for number in headers}
        for log in logs:
            if log.block_number in by_block:
                by_block[log.block_number].append(log)
        for number, own in by_block.items():
            self.proof.check_bloom(provider.host, headers[number], own)

    async def _headers(self, provider: Provider, numbers: Sequence[int]) -> list[Header]:
        answers = await provider.batch([_by_number(hex(number)) for number in numbers])
        found: list[Header] = []
        for number, answer in zip(numbers, answers, strict=True):
            header = self._header(provider, answer)
            if header is None:
                raise PastHead(provider.host, f"does not have block {number}")
            if header.ref.number != number:
                raise Inconsistent(provider.host, f"gave block {header.ref.number} for {number}")
            found.append(header)
        checks.check_links(provider.host, found)
        return found

    def _header(self, provider: Provider, answer: HeaderJson | ProviderError | None) -> Header | None:
        if isinstance(answer, ProviderError):
            raise answer
        if answer is None:
            return None
        try:
            header = codec.header(answer)
        except ValueError as error:
            raise Inconsistent(provider.host, f"a malformed header: {error}") from error
        self.proof.check_hash(provider.host, header)
        return header


def _batch(wanted: BlockRange, fetched: _Fetched) -> Batch:
    return Batch(wanted, tuple(header.ref for header in fetched.headers), fetched.logs)


def _by_number(tag: str) -> Call[HeaderJson | None]:
    return Call("eth_getBlockByNumber", [tag, False], codec.HEADER)


def _check_asked(provider: Provider, head: Header, question: _Question) -> None:
    number_differs = head.ref.number != question.wanted.to_block
    if number_differs or (question.block is not None and head.ref.hash != question.block.hash):
        raise Inconsistent(provider.host, f"gave another block for {question.wanted.to_block}")


def _raw_logs(provider: Provider, answer: list[LogJson] | ProviderError | None) -> list[RawLog]:
    if isinstance(answer, ProviderError):
        raise answer
    if answer is None:
        raise Inconsistent(provider.host, "answered eth_getLogs with null")
    if any(item.removed for item in answer):  # fault F7
        raise Inconsistent(provider.host, "gave logs of a block that a reorg removed")
    try:
        return codec.raw_logs(answer)
    except ValueError as error:
        raise Inconsistent(provider.host, f"a malformed log: {error}") from error


async def _logs_of_blocks(provider: Provider, blocks: Sequence[BlockRef], addresses: tuple[bytes, ...]) -> list[RawLog]:
    """Ask for the logs of exactly these blocks, in one request; a node that lacks one of them says so."""
    questions = [_Question(BlockRange(block.number, block.number), addresses, block) for block in blocks]
    while True:
        calls = [call for question in questions for call in question.logs_calls(provider.max_addresses)]
        try:
            logs = [log for answer in await provider.batch(calls) for log in _raw_logs(provider, answer)]
        except AddressLimit as refusal:
            _learn_addresses(provider, refusal, len(addresses))
            continue
        checks.check_filter(provider.host, logs, BlockRange(blocks[0].number, blocks[-1].number), frozenset(addresses))
        return logs


def _learn_addresses(provider: Provider, refusal: AddressLimit, asked: int) -> None:
    """Halve the addresses a call; raises the refusal where there was but one."""
    chunk = provider.max_addresses or asked
    if chunk == 1:
        raise refusal
    provider.max_addresses = chunk // 2


def _learn_cap(provider: Provider, refusal: ShrinkRange, wanted: BlockRange) -> None:
    hint = next((span for span in refusal.spans if 1 <= span < len(wanted)), None)
    if refusal.structural and hint is not None:
        provider.span_cap = hint


def _timed(provider: Provider, logs: Sequence[RawLog], head: Header) -> bool:
    """Say whether the logs' own times can be used; a provider whose times contradict a header is asked for headers."""
    if any(log.timestamp != head.ref.timestamp for log in logs if log.block_number == head.ref.number):
        provider.log_times = False
    return provider.log_times and all(log.timestamp for log in logs)


async def _logs_of_receipts(provider: Provider, head: Header, addresses: Sequence[bytes]) -> list[RawLog]:
    """Read one block's logs from its receipts, where eth_getLogs refuses even one block."""
    receipts = await provider.call(Call("eth_getBlockReceipts", [hex(head.ref.number)], codec.RECEIPTS))
    if receipts is None:
        raise PastHead(provider.host, f"has no receipts of block {head.ref.number}")
    wanted = frozenset(addresses)
    logs = [log for receipt in receipts for log in _raw_logs(provider, receipt.logs)]
    checks.check_hashes(provider.host, logs, {head.ref.number: head})
    return [log for log in logs if log.address in wanted]


async def _called(provider: Provider, call: Call[str]) -> bytes:
    answer = await provider.call(call)
    try:
        return codec.octets(answer)
    except ValueError as error:
        raise Inconsistent(provider.host, "answered eth_call with something that is not hex") from error
