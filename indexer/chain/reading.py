"""Reading headers and logs from one provider: asked in one request where possible, and every answer checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from msgspec import structs

from indexer.aside import aside
from indexer.chain import checks, codec
from indexer.chain.codec import Header, HeaderJson, hexed
from indexer.chain.provider import Call, Provider, Undecoded
from indexer.chain.questions import Fetched, LogsAnswer, LogsReader, Question, checked_logs, header_call, raw_logs
from indexer.chain.refusals import (
    AddressLimit,
    Inconsistent,
    MethodMissing,
    PastHead,
    ProviderError,
    RangeTooLarge,
    ShrinkRange,
    TooManyResults,
)
from indexer.core.ranges import halves
from indexer.core.types import BlockRange, BlockRef, RawLog


class Reader:
    """Reads from the provider that it is given. Every method may raise a ProviderError."""

    def __init__(self, proof: checks.HeaderProof, far: LogsReader | None = None) -> None:
        """`far` reads large answers elsewhere."""
        self._proof = proof
        self._far = far

    def header(self, provider: Provider, answer: HeaderJson | ProviderError | None) -> Header | None:
        """Decode one answer and hold it against its hash; None where the provider does not have the block."""
        if isinstance(answer, ProviderError):
            raise answer
        if answer is None:
            return None
        try:
            header = codec.header(answer)
        except ValueError as error:
            raise Inconsistent(provider.host, f"a malformed header: {error}") from error
        self._proof.check_hash(provider.host, header)
        return header

    async def headers(self, provider: Provider, numbers: Sequence[int]) -> list[Header]:
        """Read the headers of these ascending numbers. Raises PastHead where one is missing."""
        answers = await provider.batch([header_call(hex(number)) for number in numbers])
        found: list[Header] = []
        for number, answer in zip(numbers, answers, strict=True):
            header = self.header(provider, answer)
            if header is None:
                raise PastHead(provider.host, f"does not have block {number}")
            if header.ref.number != number:
                raise Inconsistent(provider.host, f"gave block {header.ref.number} for {number}")
            found.append(header)
        checks.check_links(provider.host, found)
        return found

    async def logs(self, provider: Provider, question: Question) -> Fetched:
        """Read the logs asked for and the headers of the first and the last block, complete and in order.

        Raises ShrinkRange for two blocks or more, MethodMissing for one whose receipts cannot be had either.
        """
        wanted = question.wanted
        if provider.span_cap is not None and len(wanted) > provider.span_cap:
            raise RangeTooLarge(provider.host, f"at most {provider.span_cap} blocks at a time", (provider.span_cap,))
        try:
            headers, answers = await self._ask(provider, question)
        except ShrinkRange as refusal:
            if len(wanted) == 1:
                return await self.logs_by_receipts(provider, question)
            _learn_cap(provider, refusal, wanted)
            raise
        logs = [log for answer in answers for log in answer]
        if (doubt := provider.cuts.doubt([len(answer) for answer in answers])) is not None:
            logs = await self._uncut(provider, question, logs, doubt)
        checks.check_filter(provider.host, logs, wanted, frozenset(question.addresses))
        return await self._complete(provider, headers, checks.in_order(provider.host, logs))

    async def logs_by_receipts(self, provider: Provider, question: Question) -> Fetched:
        """Read one block's logs from its receipts, where eth_getLogs refuses even one block, or may cut it."""
        header_answer = await provider.call(question.header_call())
        head = self._last_header(provider, question, header_answer)
        logs = await _logs_in_receipts(provider, head, frozenset(question.addresses))
        return await self._complete(provider, [head], checks.in_order(provider.host, logs))

    async def logs_of_blocks(
        self, provider: Provider, blocks: Sequence[BlockRef], addresses: tuple[bytes, ...]
    ) -> list[RawLog]:
        """Read the logs of exactly these blocks, in one request; a node that lacks one of them says so."""
        questions = [Question(BlockRange(block.number, block.number), addresses, block) for block in blocks]
        while True:
            used = _addresses_a_call(provider, addresses)
            calls = [call for question in questions for call in question.logs_calls(provider.max_addresses)]
            try:
                answers = await provider.batch(calls)
                logs = [log for answer in answers for log in await self._raw_logs(provider, answer)]
            except AddressLimit as refusal:
                _learn_addresses(provider, refusal, used)
                continue
            within = BlockRange(blocks[0].number, blocks[-1].number)
            checks.check_filter(provider.host, logs, within, frozenset(addresses))
            return logs

    async def _ask(self, provider: Provider, question: Question) -> tuple[list[Header], list[list[RawLog]]]:
        """Ask for headers and logs in one request, with fewer addresses a call where that is refused.

        The headers are those of the last block and, before it, of the first: its parent tells whether the node is on
        our chain (fault F5). Raises what refuses all of the request or a part of it, ShrinkRange among that.
        """
        while True:
            used = _addresses_a_call(provider, question.addresses)
            bounds = question.header_calls()
            calls: list[Call[Any]] = [*bounds, *_logs_calls(provider, question)]
            try:
                answers = await provider.ask(calls)
                headers = self._bounds(provider, question, answers.results[: len(bounds)])
                logs_answers = answers.results[len(bounds) :]
                parts = [await self._raw_logs(provider, answer) for answer in logs_answers]
            except AddressLimit as refusal:
                _learn_addresses(provider, refusal, used)
                continue
            if not answers.together and question.block is None:
                # Sent one by one, they may have come to different nodes: one that falls behind is seen now (fault F1).
                (later,) = await provider.batch([question.header_call()])
                again = self._last_header(provider, question, later)
                if again.ref.hash != headers[-1].ref.hash:
                    raise Inconsistent(provider.host, f"block {question.wanted.to_block} changed while being read")
            return headers, parts

    async def _raw_logs(self, provider: Provider, answer: LogsAnswer | ProviderError) -> list[RawLog]:
        """Turn an answer of eth_getLogs into logs. Raises the error that came, or Inconsistent."""
        if not isinstance(answer, Undecoded):
            items = answer
        elif self._far is not None and (logs := await self._far(answer.result)) is not None:
            return logs
        else:  # here, where it is told what is wrong with it
            count = len(answer.result) // codec.JSON_BYTES_A_LOG
            items = await aside(lambda: provider.decoded("eth_getLogs", codec.LOGS, answer.result), count)
        return await aside(lambda: raw_logs(provider.host, items), len(items) if isinstance(items, list) else 0)

    def _bounds(self, provider: Provider, question: Question, answers: Sequence[Any]) -> list[Header]:
        """Decode the headers of the first block, where that is another, and of the last one."""
        last = self._last_header(provider, question, answers[-1])
        headers = [self.header(provider, answer) for answer in answers[:-1]]
        first = question.wanted.from_block
        if any(header is None or header.ref.number != first for header in headers):
            raise Inconsistent(provider.host, f"does not give block {first}, but later ones")
        return [*(header for header in headers if header is not None), last]

    def _last_header(self, provider: Provider, question: Question, answer: HeaderJson | ProviderError | None) -> Header:
        head = self.header(provider, answer)
        if head is None:  # then this node's logs are not to be trusted either (faults F1, F6)
            raise PastHead(provider.host, f"does not have block {question.wanted.to_block}")
        question.check_asked(provider.host, head)
        return head

    async def _uncut(self, provider: Provider, question: Question, logs: list[RawLog], doubt: int) -> list[RawLog]:
        """Ask again in halves, one block by its receipts, as answers of `doubt` logs may be cut (fault F20).

        Raises TooManyResults where there is more than `logs`, or a half is as large: a cut would show the same.
        """
        if len(question.wanted) == 1:
            try:
                return list((await self.logs_by_receipts(provider, question)).logs)
            except MethodMissing:
                return logs
        counts: list[int] = []
        for half in halves(question.wanted):
            _, parts = await self._ask(provider, replace(question, wanted=half))
            counts += map(len, parts)
        if sum(counts) != len(logs) or max(counts) >= doubt:
            raise TooManyResults(provider.host, f"may have cut an answer at {doubt} logs")
        provider.cuts.proved_whole(doubt, len(question.wanted))
        return logs

    async def _complete(self, provider: Provider, bounds: Sequence[Header], logs: list[RawLog]) -> Fetched:
        """Add the times, from the logs themselves or from headers, and hold logs and headers against each other."""
        headers, head = {header.ref.number: header for header in bounds}, bounds[-1]
        if not _timed(provider, logs, head):
            missing = sorted({log.block_number for log in logs} - headers.keys())
            if missing:
                headers |= {header.ref.number: header for header in await self.headers(provider, missing)}
            logs = [structs.replace(log, timestamp=headers[log.block_number].ref.timestamp) for log in logs]
        checks.check_hashes(provider.host, logs, headers)
        known = tuple(headers[number] for number in sorted(headers))
        checks.check_links(provider.host, known)
        self._proof.check_blooms(provider.host, known, logs)
        return Fetched(provider, head, known, tuple(logs))


def _logs_calls(provider: Provider, question: Question) -> list[Call[Any]]:
    """Ask for the logs of all blocks at once, or of both halves where that spares asking again."""
    parts = [question]
    if provider.cuts.halves_spare_doubt(len(question.wanted)):
        parts = [replace(question, wanted=half) for half in halves(question.wanted)]
    return [call for part in parts for call in part.logs_calls(provider.max_addresses)]


def _addresses_a_call(provider: Provider, addresses: Sequence[bytes]) -> int:
    return min(provider.max_addresses or len(addresses), len(addresses))


def _learn_addresses(provider: Provider, refusal: AddressLimit, used: int) -> None:
    """Halve what was `used` in a call, however many calls under way are refused; raises the refusal where it was 1."""
    if used <= 1:
        raise refusal
    provider.max_addresses = min(provider.max_addresses or used, used // 2)


def _learn_cap(provider: Provider, refusal: ShrinkRange, wanted: BlockRange) -> None:
    told = refusal.refusal(wanted)
    if told.structural and told.hint is not None:
        provider.span_cap = told.hint


def _timed(provider: Provider, logs: Sequence[RawLog], head: Header) -> bool:
    """Say whether the logs' own times can be used; a provider whose times contradict a header is asked for headers."""
    if any(log.timestamp != head.ref.timestamp for log in logs if log.block_number == head.ref.number):
        provider.log_times = False
    return provider.log_times and all(log.timestamp for log in logs)


async def _logs_in_receipts(provider: Provider, head: Header, addresses: frozenset[bytes]) -> list[RawLog]:
    """Read the logs of a block from its receipts; by its hash, as those of another branch may hold no log at all."""
    receipts = await provider.call(Call("eth_getBlockReceipts", [hexed(head.ref.hash)], codec.RECEIPTS))
    if receipts is None:
        raise PastHead(provider.host, f"has no receipts of block {head.ref.number}")
    logs = [log for receipt in receipts for log in checked_logs(provider.host, receipt.logs)]
    checks.check_hashes(provider.host, logs, {head.ref.number: head})
    return [log for log in logs if log.address in addresses]
