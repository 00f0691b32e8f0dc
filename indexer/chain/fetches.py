"""Fetching logs: at the level of proof that is wanted, or else at the one that can be had."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from typing import Final

from msgspec import structs

from indexer.chain import checks
from indexer.chain.checks import HeaderProof
from indexer.chain.codec import Header
from indexer.chain.pool import Pool
from indexer.chain.provider import Provider
from indexer.chain.proving import ReceiptsProof
from indexer.chain.questions import Fetched, Question
from indexer.chain.reading import Reader
from indexer.chain.receipts import identity_of
from indexer.chain.refusals import Inconsistent, ProviderError, TimedOut, TooManyResults
from indexer.core.types import Batch, BlockRange, BlockRef, RawLog

HEADERS_AT_ONCE: Final = 500  # 3 kB each, several ranges in flight


class LogFetch:
    """Fetches from the providers of one chain. Every method may raise an RpcError."""

    def __init__(self, pool: Pool, proof: HeaderProof, reader: Reader, receipts: ReceiptsProof) -> None:
        self._pool = pool
        self._proof = proof
        self._reader = reader
        self._receipts = receipts

    async def fetch(self, question: Question) -> Batch:
        """Fetch all logs asked for, and the headers of the first and the last block, in one HTTP request.

        `Batch.blocks` also holds the headers of the blocks with logs, where they had to be asked for to know the time;
        at the level "receipts" all headers, even where some receipts are gone: made-up blocks have none. Raises
        ShrinkRange (never for one block), PastHead, or another RpcError.
        """
        if (proven := await self._fetch_proven(question)) is not None:
            return proven
        linked = self._receipts.worth_trying
        return await (self._fetch_with_headers(question) if linked else self._fetch_plain(question))

    async def fetch_linked(self, question: Question) -> Batch:
        """Fetch as `fetch` does, and every header: the logs are all of one chain, and of the blocks' own times.

        A block whose bloom speaks for logs that the answer lacks is asked for again by its hash (fault F3). Raises
        Inconsistent too where the chain changed between the requests.
        """
        return await self._fetch_proven(question) or await self._fetch_with_headers(question)

    async def headers(self, numbers: Sequence[int]) -> list[Header]:
        """Read the headers of these ascending numbers, all from one provider."""
        return await self._pool.run(lambda provider: self._reader.headers(provider, numbers), from_block=numbers[0])

    async def _fetch_proven(self, question: Question) -> Batch | None:
        """Fetch with the receipts root of every block that may hold logs; None where that is not to be had."""
        if not self._receipts.worth_trying:
            return None
        before = self._proof.slips
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
        return Batch(question.wanted, tuple(blocks), tuple(logs), self._proof.reached(before, proven=True))

    async def _stretches(self, question: Question, fetched: Fetched) -> AsyncGenerator[Sequence[Header]]:
        """Yield all headers of the range, so many at a time that they do not fill the memory."""
        wanted = question.wanted
        if len(wanted) == 1:
            yield (fetched.head,)
            return
        for first in range(wanted.from_block, wanted.to_block + 1, HEADERS_AT_ONCE):
            yield await self.headers(range(first, min(first + HEADERS_AT_ONCE, wanted.to_block + 1)))

    async def _fetch_plain(self, question: Question) -> Batch:
        before = self._proof.slips
        fetched = await self._fetch(question)
        blocks = tuple(header.ref for header in fetched.headers)
        return Batch(question.wanted, blocks, fetched.logs, self._proof.reached(before, proven=False))

    async def _fetch_with_headers(self, question: Question) -> Batch:
        before = self._proof.slips
        wanted = question.wanted
        fetched = await self._fetch(question)
        found = await self.headers(range(wanted.from_block, wanted.to_block + 1))
        headers = {header.ref.number: header for header in found}
        _check_last(found[-1].ref, fetched)
        logs = [*fetched.logs, *await self._kept_back(fetched, found[:-1], question.addresses)]
        checks.check_hashes("", logs, headers)
        self._proof.check_blooms(fetched.provider.host, found, logs)
        timed = [structs.replace(log, timestamp=headers[log.block_number].ref.timestamp) for log in logs]
        blocks = tuple(header.ref for header in found)
        return Batch(wanted, blocks, tuple(checks.in_order("", timed)), self._proof.reached(before, proven=False))

    async def _kept_back(
        self, fetched: Fetched, headers: Sequence[Header], addresses: tuple[bytes, ...]
    ) -> list[RawLog]:
        """Return all logs of the blocks that seem to lack some, asked for by hash, best at another provider."""
        told = _told(fetched.logs)
        doubtful = [header.ref for header in headers if self._lacks(header, told, addresses)]
        if not doubtful:
            return []
        return await self._pool.run(
            lambda provider: self._reader.logs_of_blocks(provider, doubtful, addresses), avoid=fetched.provider
        )

    async def _fetch(self, question: Question) -> Fetched:
        """Fetch, and hold the last block against its bloom: where that speaks for more, it is asked for again."""
        fetched = await self._fetch_once(question, avoid=None)
        if not self._lacks(fetched.head, _told(_last_logs(fetched)), question.addresses):
            return fetched
        said = (await self._fetch_once(_last_of(fetched, question), avoid=fetched.provider)).logs
        if not _besides(said, fetched):  # blooms may speak falsely
            return fetched
        again = await self._fetch_once(question, avoid=fetched.provider)
        if _besides([*said, *_last_logs(fetched)], again):
            raise Inconsistent(again.provider.host, f"keeps back logs of block {question.wanted.to_block}")
        return again

    async def _fetch_once(self, question: Question, avoid: Provider | None) -> Fetched:
        first = question.wanted.from_block
        try:
            return await self._pool.run(
                lambda provider: self._reader.logs(provider, question), avoid=avoid, from_block=first
            )
        except TimedOut as error:
            if len(question.wanted) > 1:
                raise TooManyResults(error.host, error.text) from error
            return await self._by_receipts(question, error)

    async def _by_receipts(self, question: Question, refusal: ProviderError) -> Fetched:
        """Read one block for whose logs no provider had the time; raises the refusal where none has its receipts."""
        try:
            return await self._pool.run(lambda provider: self._reader.logs_by_receipts(provider, question))
        except ProviderError as error:
            raise refusal from error

    def _lacks(self, header: Header, told: Collection[tuple[int, bytes]], addresses: Iterable[bytes]) -> bool:
        """Say whether a bloom speaks for an address that gave no log in its block (fault F3)."""
        silent = [address for address in addresses if (header.ref.number, address) not in told]
        return self._proof.hints_at(header, silent)


def _told(logs: Iterable[RawLog]) -> frozenset[tuple[int, bytes]]:
    """Return which addresses have logs in which blocks."""
    return frozenset((log.block_number, log.address) for log in logs)


def _last_of(fetched: Fetched, question: Question) -> Question:
    last = fetched.head.ref
    return Question(BlockRange(last.number, last.number), question.addresses, last)


def _last_logs(fetched: Fetched) -> list[RawLog]:
    return [log for log in fetched.logs if log.block_number == fetched.head.ref.number]


def _besides(said: Iterable[RawLog], fetched: Fetched) -> bool:
    """Say whether logs of the last block are lacking."""
    held = {identity_of(log) for log in _last_logs(fetched)}
    return any(identity_of(log) not in held for log in said)


def _check_last(last: BlockRef, fetched: Fetched) -> None:
    """Raise Inconsistent where the header that came with the logs is not the last one of the range."""
    if last.hash != fetched.head.ref.hash:
        raise Inconsistent("", f"block {last.number} changed while being read")
