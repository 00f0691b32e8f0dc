"""Heads, headers and registry logs of one chain, as core values that passed every check."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from indexer.chain import checks, codec
from indexer.chain.admission import identity
from indexer.chain.checks import HeaderProof
from indexer.chain.codec import Header, hexed
from indexer.chain.doorbell import Doorbell
from indexer.chain.pool import Pool
from indexer.chain.provider import REQUEST_TIMEOUT_S, Call, Provider
from indexer.chain.proving import ReceiptsProof
from indexer.chain.questions import Fetched, Question
from indexer.chain.reading import Reader
from indexer.chain.receipts import same_logs
from indexer.chain.refusals import (
    Billing,
    Inconsistent,
    MethodMissing,
    NobodyLeft,
    PastHead,
    ProviderError,
    Pruned,
    RateLimited,
    TimedOut,
    TooManyResults,
)
from indexer.chain.survey import heads_calls
from indexer.core.chains import ALL_HOLD, Switches
from indexer.core.types import Batch, BlockRange, BlockRef, Proof, RawLog

HEADERS_AT_ONCE: Final = 500  # 3 kB each, several ranges in flight


@dataclass(frozen=True, slots=True)
class Tip:
    """The newest block, and the number of the newest final one; None where no provider ever served that tag."""

    head: BlockRef
    finalized: int | None


@dataclass(frozen=True, slots=True)
class ProvenBlock:
    """A block and all of its logs of the addresses asked for, bound to each other by the receipts root."""

    ref: BlockRef
    logs: tuple[RawLog, ...]


class Source:
    """One chain as its providers tell it. Every method may raise an RpcError of `chain.refusals`."""

    def __init__(
        self, pool: Pool, *, proof: Proof = "logs", switches: Switches = ALL_HOLD, bell: Doorbell | None = None
    ) -> None:
        self.pool = pool
        self.bell = bell or Doorbell()
        self.proof = HeaderProof(proof, switches)
        self._reader = Reader(self.proof)
        self._receipts = ReceiptsProof(pool, self.proof)

    @classmethod
    def open(
        cls,
        urls: Sequence[str],
        *,
        proof: Proof = "logs",
        switches: Switches = ALL_HOLD,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> Self:
        """Make a source over http(s) URLs in order of preference; ws(s) URLs among them ring `bell`.

        Connects to nothing yet. Raises SettingsError where no http(s) URL is given.
        """
        usable = [url for url in urls if url.lower().startswith(("http://", "https://"))]
        bell = Doorbell([url for url in urls if url.lower().startswith(("ws://", "wss://"))])
        return cls(
            Pool([Provider(url, timeout_s=timeout_s) for url in usable]), proof=proof, switches=switches, bell=bell
        )

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

    @property
    def level(self) -> Proof:
        """The level of proof in force: below the one that was asked for where it cannot be had on this chain now."""
        return self.proof.level if self._receipts.served else self.proof.level_without_receipts

    @property
    def mismatches(self) -> int:
        """Count the blocks so far whose proven logs were not those that eth_getLogs gave."""
        return self._receipts.mismatches

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
        head = self._reader.header(provider, latest)
        if head is None:
            raise Inconsistent(provider.host, "has no latest block")
        if isinstance(final, (RateLimited, Billing)):
            raise final
        known = None if isinstance(final, ProviderError) else self._reader.header(provider, final)
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
        headers = await self.pool.run(lambda provider: self._reader.headers(provider, numbers), avoid=avoid)
        return tuple(header.ref for header in headers)

    async def fetch(self, wanted: BlockRange, addresses: Sequence[bytes]) -> Batch:
        """Fetch all logs of the addresses in the range, and the header of its last block, in one HTTP request.

        `Batch.blocks` also holds the headers of the blocks with logs, where they had to be asked for to know the time;
        at the level "receipts" all headers. Raises ShrinkRange (never for one block), PastHead, or another RpcError.
        """
        question = Question(wanted, tuple(addresses))
        return await self._fetch_proven(question) or await self._fetch_plain(question)

    async def fetch_linked(self, wanted: BlockRange, addresses: Sequence[bytes]) -> Batch:
        """Fetch as `fetch` does, and every header: the logs are all of one chain, and of the blocks' own times.

        A block whose bloom speaks for logs that the answer lacks is asked for again by its hash (fault F3). Raises
        Inconsistent too where the chain changed between the requests.
        """
        question = Question(wanted, tuple(addresses))
        return await self._fetch_proven(question) or await self._fetch_with_headers(question)

    async def fetch_block(self, block: BlockRef, addresses: Sequence[bytes]) -> Batch:
        """Fetch the logs of exactly this block, by its hash. Raises PastHead where a reorg removed it."""
        question = Question(BlockRange(block.number, block.number), tuple(addresses), block)
        return await self._fetch_proven(question) or await self._fetch_plain(question)

    async def prove(self, numbers: Sequence[int], addresses: Sequence[bytes]) -> tuple[ProvenBlock, ...]:
        """Return the canonical blocks of these ascending numbers, with their logs as the receipts root has them.

        Whatever the level of this source. Raises MethodMissing where nobody serves receipts, Inconsistent where they
        do not have the root, or another RpcError.
        """
        if not numbers:
            return ()
        headers = await self._headers(numbers)
        logs = await self._receipts.prove(headers, frozenset(addresses))
        return tuple(ProvenBlock(header.ref, tuple(logs[header.ref.number])) for header in headers)

    async def confirms(self, block_number: int, logs: Sequence[RawLog], addresses: Sequence[bytes]) -> bool:
        """Say whether these are for certain all logs of the addresses in that block; their times are not looked at.

        A receipts root says so or, where none is to be had, two different providers. Raises RpcError where nobody
        answers.
        """
        try:
            (block,) = await self.prove([block_number], addresses)
        except (MethodMissing, Inconsistent, Pruned):
            return await self._two_say(block_number, logs, tuple(addresses))
        return same_logs(block.logs, logs)

    async def _two_say(self, number: int, logs: Sequence[RawLog], addresses: tuple[bytes, ...]) -> bool:
        hashes: set[bytes] = set()
        heard: list[Provider] = []
        while len(heard) < 2:
            try:
                provider, block, said = await self.pool.run(
                    lambda provider: self._said(provider, number, addresses), exclude=heard, from_block=number
                )
            except NobodyLeft:
                return False
            if not same_logs(said, logs):
                return False
            heard.append(provider)
            hashes.add(block.hash)
        return len(hashes) == 1

    async def _said(
        self, provider: Provider, number: int, addresses: tuple[bytes, ...]
    ) -> tuple[Provider, BlockRef, Sequence[RawLog]]:
        (header,) = await self._reader.headers(provider, [number])
        logs = await self._reader.logs_of_blocks(provider, [header.ref], addresses)
        checks.check_hashes(provider.host, logs, {number: header})
        return provider, header.ref, checks.in_order(provider.host, logs)

    async def call(self, to: bytes, data: bytes, block_hash: bytes) -> bytes:
        """Call a contract on the state after that block.

        Raises CallFailed where the contract reverts or runs out of gas, Pruned where the state is gone,
        PastHead where the block is not known.
        """
        params = [{"to": hexed(to), "data": hexed(data)}, {"blockHash": hexed(block_hash)}]
        return await self.pool.run(lambda provider: _called(provider, Call("eth_call", params, codec.QUANTITY)))

    async def _headers(self, numbers: Sequence[int]) -> list[Header]:
        return await self.pool.run(lambda provider: self._reader.headers(provider, numbers), from_block=numbers[0])

    async def _fetch_proven(self, question: Question) -> Batch | None:
        """Fetch with the receipts root of every block that may hold logs; None where that is not to be had."""
        if not self._receipts.worth_trying:
            return None
        before = self.proof.slips
        fetched = await self._fetch_once(question, avoid=None)
        blocks: list[BlockRef] = []
        logs: list[RawLog] = []
        async for headers in self._stretches(question, fetched):
            checks.check_continues("", blocks, headers)
            numbers = {header.ref.number for header in headers}
            told = [log for log in fetched.logs if log.block_number in numbers]
            host = fetched.provider.host
            proven = await self._receipts.settle(host, headers, told, frozenset(question.addresses))
            if proven is None:
                return None
            blocks += (header.ref for header in headers)
            logs += proven
        _check_last(blocks[-1], fetched)
        return Batch(question.wanted, tuple(blocks), tuple(logs), self.proof.reached(before, proven=True))

    async def _stretches(self, question: Question, fetched: Fetched) -> AsyncGenerator[Sequence[Header]]:
        """Yield all headers of the range, so many at a time that they do not fill the memory."""
        wanted = question.wanted
        if len(wanted) == 1:
            yield (fetched.head,)
            return
        for first in range(wanted.from_block, wanted.to_block + 1, HEADERS_AT_ONCE):
            yield await self._headers(range(first, min(first + HEADERS_AT_ONCE, wanted.to_block + 1)))

    async def _fetch_plain(self, question: Question) -> Batch:
        before = self.proof.slips
        fetched = await self._fetch(question)
        blocks = tuple(header.ref for header in fetched.headers)
        return Batch(question.wanted, blocks, fetched.logs, self.proof.reached(before, proven=False))

    async def _fetch_with_headers(self, question: Question) -> Batch:
        before = self.proof.slips
        wanted = question.wanted
        fetched = await self._fetch(question)
        found = await self._headers(range(wanted.from_block, wanted.to_block + 1))
        headers = {header.ref.number: header for header in found}
        _check_last(found[-1].ref, fetched)
        logs = [*fetched.logs, *await self._kept_back(fetched, found[:-1], question.addresses)]
        checks.check_hashes("", logs, headers)
        self.proof.check_blooms(fetched.provider.host, found, logs)
        timed = [replace(log, timestamp=headers[log.block_number].ref.timestamp) for log in logs]
        blocks = tuple(header.ref for header in found)
        return Batch(wanted, blocks, tuple(checks.in_order("", timed)), self.proof.reached(before, proven=False))

    async def _kept_back(
        self, fetched: Fetched, headers: Sequence[Header], addresses: tuple[bytes, ...]
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
            lambda provider: self._reader.logs_of_blocks(provider, doubtful, addresses), avoid=fetched.provider
        )

    async def _fetch(self, question: Question) -> Fetched:
        fetched = await self._fetch_once(question, avoid=None)
        if self._doubtful(fetched, question) and not await self._empty_elsewhere(fetched, question):
            fetched = await self._fetch_once(question, avoid=fetched.provider)
            if self._doubtful(fetched, question):
                raise Inconsistent(fetched.provider.host, f"keeps back the logs of block {question.wanted.to_block}")
        return fetched

    async def _fetch_once(self, question: Question, avoid: Provider | None) -> Fetched:
        first = question.wanted.from_block
        try:
            return await self.pool.run(
                lambda provider: self._reader.logs(provider, question), avoid=avoid, from_block=first
            )
        except TimedOut as error:
            if len(question.wanted) == 1:
                raise
            raise TooManyResults(error.host, error.text) from error

    def _doubtful(self, fetched: Fetched, question: Question) -> bool:
        """Say whether the bloom of the last block speaks for logs that the answer lacks (fault F3)."""
        lacks = not fetched.logs or fetched.logs[-1].block_number < question.wanted.to_block
        return lacks and self.proof.hints_at(fetched.head, question.addresses)

    async def _empty_elsewhere(self, fetched: Fetched, question: Question) -> bool:
        """Ask for the last block's logs again by hash, best another provider: blooms may speak falsely."""
        last = fetched.head.ref
        again = Question(BlockRange(last.number, last.number), question.addresses, last)
        return not (await self._fetch_once(again, avoid=fetched.provider)).logs


def _check_last(last: BlockRef, fetched: Fetched) -> None:
    """Raise Inconsistent where the header that came with the logs is not the last one of the range."""
    if last.hash != fetched.head.ref.hash:
        raise Inconsistent("", f"block {last.number} changed while being read")


async def _called(provider: Provider, call: Call[str]) -> bytes:
    answer = await provider.call(call)
    try:
        return codec.octets(answer)
    except ValueError as error:
        raise Inconsistent(provider.host, "answered eth_call with something that is not hex") from error
