"""Asking for receipts, as far as anybody serves them, and proving a range's logs by them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from random import SystemRandom
from typing import Final

import structlog

from indexer.chain import codec
from indexer.chain.admission import identity
from indexer.chain.checks import HeaderProof, excludes, has_no_transactions
from indexer.chain.codec import Header, ReceiptJson, hexed
from indexer.chain.pool import Pool
from indexer.chain.provider import Call, Provider
from indexer.chain.receipts import proven_logs, same_logs
from indexer.chain.refusals import (
    Billing,
    Inconsistent,
    MethodMissing,
    PastHead,
    ProviderError,
    Pruned,
    RateLimited,
    TimedOut,
    Transport,
    Unauthorized,
)
from indexer.core.types import RawLog

log = structlog.get_logger()

A_REQUEST: Final = 8  # blocks whose receipts are asked for at once; one of 250 receipts is about 1 MB of JSON
LATE_S: Final = (0.2, 0.4)  # receipts of the newest block may come a moment after its header
FAILURES: Final = 5  # in a row, after which a provider is taken not to serve receipts
SAMPLE: Final = 0.01  # of the blocks that their blooms call empty: late or partial blooms are found out
RETRY_S: Final = 300.0  # until it is asked for them again, and a suspended check tried again


class ReceiptsProof:
    """Proves logs of blocks over the providers of one chain."""

    def __init__(
        self, pool: Pool, proof: HeaderProof, *, sample: float = SAMPLE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.mismatches = 0  # blocks for which eth_getLogs said something else
        self.sample = sample
        self._pool = pool
        self._proof = proof
        self._clock = clock
        self._failures = dict.fromkeys(pool.providers, 0)
        self._lacking_until = dict.fromkeys(pool.providers, 0.0)
        self._by_number: set[Provider] = set()  # these take no hashes
        self._retry_at = 0.0
        self._random = SystemRandom()

    @property
    def worth_trying(self) -> bool:
        """Say whether a proof is wanted, and likely to be had: somebody serves receipts, and the roots are right."""
        roots = self._proof.roots
        return roots.enabled and self.served and (roots.in_force or self._clock() >= self._retry_at)

    @property
    def served(self) -> bool:
        """Say whether some provider serves receipts, as far as known."""
        now = self._clock()
        return any(until <= now for until in self._lacking_until.values())

    async def prove(self, headers: Sequence[Header], addresses: frozenset[bytes]) -> dict[int, list[RawLog]]:
        """Return the logs of these addresses in each block, by block number; all receipts are read.

        Raises MethodMissing where nobody serves receipts, Inconsistent where they do not have the root, another
        ProviderError where they cannot be had now.
        """
        if not self._proof.receipts_hold:
            raise MethodMissing("", "receipts prove nothing on this chain")
        logs: dict[int, list[RawLog]] = {}
        for start in range(0, len(headers), A_REQUEST):
            part = headers[start : start + A_REQUEST]
            numbers = [header.ref.number for header in part]
            logs |= zip(numbers, await self._read(part, addresses), strict=True)
        return logs

    async def settle(
        self, host: str, headers: Sequence[Header], told: Sequence[RawLog], addresses: frozenset[bytes]
    ) -> list[RawLog] | None:
        """Replace what eth_getLogs `told` of these blocks by what is proven; None where no proof is to be had.

        Blocks of which nothing was told, and that their headers prove empty, are not read, but for a sample. Raises
        ProviderError where a proof may be had by asking again.
        """
        claimed: dict[int, list[RawLog]] = {header.ref.number: [] for header in headers}
        for one in told:
            claimed[one.block_number].append(one)
        try:
            proven = await self._prove_doubtful(headers, claimed, addresses)
        except MethodMissing as error:
            log.debug("receipts_unproven", host=error.host, why=error.text)
            return None
        for number, found in proven.items():
            self._compare(host, number, claimed[number], found)
        return [one for number in sorted(proven) for one in proven[number]]

    async def _prove_doubtful(
        self, headers: Sequence[Header], claimed: Mapping[int, Sequence[RawLog]], addresses: frozenset[bytes]
    ) -> dict[int, list[RawLog]]:
        proven: dict[int, list[RawLog]] = {}
        while True:
            trusted = self._proof.blooms.in_force
            doubtful = [header for header in headers if self._is_doubtful(header, claimed, addresses)]
            proven |= await self.prove([header for header in doubtful if header.ref.number not in proven], addresses)
            if self._proof.blooms.in_force == trusted:
                return proven

    def _is_doubtful(
        self, header: Header, claimed: Mapping[int, Sequence[RawLog]], addresses: frozenset[bytes]
    ) -> bool:
        if claimed[header.ref.number] or not self._proof.proves_empty(header, addresses):
            return True
        return not has_no_transactions(header) and self._random.random() < self.sample

    def _compare(self, host: str, number: int, told: Sequence[RawLog], proven: Sequence[RawLog]) -> None:
        if same_logs(told, proven):
            return
        self.mismatches += 1
        log.warning("proof_mismatch", host=host, block_number=number, told=len(told), proven=len(proven))

    async def _read(self, headers: Sequence[Header], addresses: frozenset[bytes]) -> list[list[RawLog]]:
        try:
            return await self._pool.run(
                lambda provider: self._read_from(provider, headers, addresses),
                from_block=headers[0].ref.number,
                thorough=self._is_final(headers),
            )
        except (PastHead, Pruned) as error:
            if isinstance(error, Pruned) or self._is_final(headers):
                raise MethodMissing(error.host, error.text) from error  # gone for good, which says nothing of others
            raise

    def _is_final(self, headers: Sequence[Header]) -> bool:
        """Say whether nobody can be waited for any more to get these blocks."""
        last = headers[-1].ref.number
        return self._pool.finalized(last) == last

    async def _read_from(
        self, provider: Provider, headers: Sequence[Header], addresses: frozenset[bytes]
    ) -> list[list[RawLog]]:
        if self._lacking_until[provider] > self._clock():
            raise MethodMissing(provider.host, "does not serve receipts")
        try:
            answers = await self._receipts(provider, headers)
        except (MethodMissing, Billing, Unauthorized) as error:  # headers come from it all the same: it is the method
            self._lacking_until[provider] = self._clock() + RETRY_S
            raise MethodMissing(provider.host, error.text) from error
        except (PastHead, Transport) as error:
            if isinstance(error, Transport) or not self._is_final(headers):
                self._failures[provider] += 1
            if self._failures[provider] >= FAILURES and await _lives(provider):
                self._failures[provider] = 0
                self._lacking_until[provider] = self._clock() + RETRY_S
                raise MethodMissing(provider.host, error.text) from error
            raise
        self._failures[provider] = 0
        found: list[list[RawLog]] = []
        for header, receipts in zip(headers, answers, strict=True):
            found.append(self._proven(provider.host, header, receipts, addresses))
            await asyncio.sleep(0)  # a block of a thousand receipts takes 25 ms
        return found

    def _failed(self, header: Header, error: ProviderError) -> ProviderError:
        """Count a root that is wrong; return the error, or after too many of them that there is no proof to be had."""
        if self._proof.roots.refuses(header.ref.number, holds=False):
            return error
        if self._proof.roots.suspended:
            self._retry_at = self._clock() + RETRY_S
        return MethodMissing(error.host, error.text) if self._proof.roots.enabled else error

    async def _receipts(self, provider: Provider, headers: Sequence[Header]) -> list[list[ReceiptJson]]:
        """Ask for the receipts of all blocks; those of new blocks may be late."""
        for pause_s in (*(() if self._is_final(headers) else LATE_S), None):
            answers = await self._ask(provider, headers)
            late = answers.index(None) if None in answers else None
            if late is None:
                return [answer for answer in answers if answer is not None]
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        raise PastHead(provider.host, f"has no receipts of block {headers[late or 0].ref.number}")

    async def _ask(self, provider: Provider, headers: Sequence[Header]) -> list[list[ReceiptJson] | None]:
        """Ask by hash, or by number where hashes are refused; the root tells whether it is the right block."""
        try:
            return await self._ask_once(provider, headers)
        except (MethodMissing, Billing, Unauthorized, RateLimited, TimedOut):
            raise
        except ProviderError:
            if provider in self._by_number:
                raise
            self._by_number.add(provider)
            try:
                return await self._ask_once(provider, headers)
            except ProviderError:
                self._by_number.discard(provider)
                raise

    async def _ask_once(self, provider: Provider, headers: Sequence[Header]) -> list[list[ReceiptJson] | None]:
        by_number = provider in self._by_number
        tags = [hex(header.ref.number) if by_number else hexed(header.ref.hash) for header in headers]
        answers = await provider.batch([Call("eth_getBlockReceipts", [tag], codec.RECEIPTS) for tag in tags])
        good: list[list[ReceiptJson] | None] = []
        for answer in answers:
            if isinstance(answer, ProviderError):
                raise answer
            good.append(answer)
        return good

    def _proven(
        self, host: str, header: Header, receipts: Sequence[ReceiptJson], addresses: frozenset[bytes]
    ) -> list[RawLog]:
        try:
            found = proven_logs(host, header, receipts, addresses)
        except Inconsistent as error:
            raise self._failed(header, error) from error
        self._proof.roots.refuses(header.ref.number, holds=True)
        if excludes(header, found):  # the root holds them, so it is the bloom that says nothing here
            self._proof.blooms.refute()
        return found


async def _lives(provider: Provider) -> bool:
    """Say whether a provider answers anything at all: one that is away may serve receipts once it is back."""
    try:
        await identity(provider)
    except ProviderError:
        return False
    return True
