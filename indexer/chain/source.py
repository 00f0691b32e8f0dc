"""Heads, headers and registry logs of one chain, as core values that passed every check."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from indexer.chain import checks, codec
from indexer.chain.admission import identity
from indexer.chain.checks import HeaderProof
from indexer.chain.codec import Header, hexed
from indexer.chain.doorbell import Doorbell
from indexer.chain.fetches import LogFetch
from indexer.chain.pool import Pool
from indexer.chain.provider import REQUEST_TIMEOUT_S, Call, Provider
from indexer.chain.proving import ReceiptsProof
from indexer.chain.questions import LogsReader, Question
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
)
from indexer.chain.survey import heads_calls
from indexer.core.chains import ALL_HOLD, Switches
from indexer.core.types import Batch, BlockRange, BlockRef, Proof, RawLog

_BEHIND_PAUSES_S: Final = (0.3, 0.7, 2.0)  # for a second provider that is a block or two behind to get there


@dataclass(frozen=True, slots=True)
class Tip:
    """The newest block, and the number of the newest final one; None where no provider tells one to be believed."""

    head: BlockRef
    finalized: int | None


@dataclass(frozen=True, slots=True)
class ProvenBlock:
    """A block and all of its logs of the addresses asked for, bound to each other by the receipts root.

    Anybody can make up such a block: what binds it to this chain is that its hash is known (`Source.vouches`).
    """

    header: Header
    logs: tuple[RawLog, ...]

    @property
    def ref(self) -> BlockRef:
        """Return its place in the chain."""
        return self.header.ref


class Source:
    """One chain as its providers tell it. Every method may raise an RpcError of `chain.refusals`."""

    def __init__(
        self,
        pool: Pool,
        *,
        proof: Proof = "logs",
        switches: Switches = ALL_HOLD,
        bell: Doorbell | None = None,
        far: LogsReader | None = None,
    ) -> None:
        self.pool = pool
        self.bell = bell or Doorbell()
        self.proof = HeaderProof(proof, switches)
        self._teller: Provider | None = None  # who gave the last headers
        self._reader = Reader(self.proof, far)
        self._receipts = ReceiptsProof(pool, self.proof)
        self._logs = LogFetch(pool, self.proof, self._reader, self._receipts)

    @classmethod
    def open(
        cls,
        urls: Sequence[str],
        *,
        proof: Proof = "logs",
        switches: Switches = ALL_HOLD,
        usual_finality: int | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
        far: LogsReader | None = None,
    ) -> Self:
        """Make a source over http(s) URLs in order of preference; ws(s) URLs among them ring `bell`.

        `usual_finality` is the depth at which blocks are final as a rule: finality far below that is not believed.
        `far` reads large answers, if anybody does, in another process.
        Connects to nothing yet. Raises SettingsError where no http(s) URL is given.
        """
        usable = [url for url in urls if url.lower().startswith(("http://", "https://"))]
        bell = Doorbell([url for url in urls if url.lower().startswith(("ws://", "wss://"))])
        providers = [Provider(url, timeout_s=timeout_s) for url in usable]
        pool = Pool(providers, usual_finality=usual_finality)
        return cls(pool, proof=proof, switches=switches, bell=bell, far=far)

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

        `elsewhere` asks any provider but the one that gave the last such answer, as long as another one answers at all.
        Where all of those stay behind, the answer is the lowest block alone, if one of them has it and does not stand
        still.
        Raises PastHead where one is missing everywhere (fault F6), Inconsistent where neighbours do not link.
        """
        if not numbers:
            return ()
        if elsewhere and self._teller is not None and (told := await self._told_elsewhere(numbers, self._teller)):
            return told
        return await self._told(numbers)

    async def _told_elsewhere(self, numbers: Sequence[int], teller: Provider) -> tuple[BlockRef, ...]:
        """Return what another provider says, of the lowest alone where all stay behind; nothing where none has that."""
        for pause_s in (*_BEHIND_PAUSES_S, None):
            try:
                if pause_s is not None:
                    return await self._told(numbers, exclude=(teller,))
                return await self._told(numbers[:1], exclude=(teller, *self.pool.frozen()))
            except PastHead:
                if pause_s is not None:
                    await asyncio.sleep(pause_s)
            except ProviderError:
                break
        return ()

    async def _told(self, numbers: Sequence[int], exclude: Sequence[Provider] = ()) -> tuple[BlockRef, ...]:
        self._teller, headers = await self._headers(numbers, exclude)
        return tuple(header.ref for header in headers)

    async def _headers(self, numbers: Sequence[int], exclude: Sequence[Provider]) -> tuple[Provider, list[Header]]:
        async def ask(provider: Provider) -> tuple[Provider, list[Header]]:
            return provider, await self._reader.headers(provider, numbers)

        return await self.pool.run(ask, exclude=exclude)

    async def fetch(self, wanted: BlockRange, addresses: Sequence[bytes]) -> Batch:
        """Fetch all logs of the addresses in a range that is final, and the header of its last block.

        As `LogFetch.fetch` does. Raises ShrinkRange (never for one block), PastHead, or another RpcError.
        """
        return await self._logs.fetch(Question(wanted, tuple(addresses)))

    async def fetch_linked(self, wanted: BlockRange, addresses: Sequence[bytes]) -> Batch:
        """Fetch as `fetch` does, and every header: the logs are all of one chain, and of the blocks' own times."""
        return await self._logs.fetch_linked(Question(wanted, tuple(addresses)))

    async def fetch_block(self, block: BlockRef, addresses: Sequence[bytes]) -> Batch:
        """Fetch the logs of exactly this block, by its hash. Raises PastHead where a reorg removed it."""
        return await self._logs.fetch(Question(BlockRange(block.number, block.number), tuple(addresses), block))

    async def prove(self, numbers: Sequence[int], addresses: Sequence[bytes]) -> tuple[ProvenBlock, ...]:
        """Return the canonical blocks of these ascending numbers, with their logs as the receipts root has them.

        Whatever the level of this source. Raises MethodMissing where nobody serves receipts, Inconsistent where they
        do not have the root, or another RpcError.
        """
        if not numbers:
            return ()
        headers = await self._logs.headers(numbers)
        logs = await self._receipts.prove(headers, frozenset(addresses))
        return tuple(ProvenBlock(header, tuple(logs[header.ref.number])) for header in headers)

    async def vouches(self, block: ProvenBlock, against: Sequence[RawLog]) -> bool:
        """Say whether a proven block is one of this chain, so that it speaks against stored logs of its number.

        It is if all of these are of that very block; else two different providers must have it. Raises RpcError.
        """
        header = block.header
        if checks.has_its_hash(header) and all(log.block_hash == header.ref.hash for log in against):
            return True
        return await self._two_have(header)

    async def _two_have(self, header: Header) -> bool:
        heard: list[Provider] = []
        while len(heard) < 2:
            try:
                provider, (found,) = await self._headers([header.ref.number], exclude=heard)
            except NobodyLeft:
                return False
            if found.ref.hash != header.ref.hash or not checks.same_root(found, header):
                return False
            heard.append(provider)
        return True

    async def confirms(
        self, block_number: int, logs: Sequence[RawLog], addresses: Sequence[bytes], *, against: Sequence[RawLog] = ()
    ) -> bool:
        """Say whether these are for certain all logs of the addresses in that block; their times are not looked at.

        A receipts root says so or, where none is to be had, two different providers: but not against the block's own
        bloom, where that speaks for logs that were known of it before (fault F15: nodes that dropped their logs answer
        with none). Raises RpcError where nobody answers.
        """
        try:
            (block,) = await self.prove([block_number], addresses)
        except (MethodMissing, Inconsistent, Pruned):
            return await self._two_say(block_number, logs, tuple(addresses), against)
        return same_logs(block.logs, logs) and await self.vouches(block, against)

    async def _two_say(
        self, number: int, logs: Sequence[RawLog], addresses: tuple[bytes, ...], against: Sequence[RawLog]
    ) -> bool:
        hashes: set[bytes] = set()
        heard: list[Provider] = []
        while len(heard) < 2:
            try:
                provider, header, said = await self.pool.run(
                    lambda provider: self._said(provider, number, addresses), exclude=heard, from_block=number
                )
            except NobodyLeft:
                return False
            explained = {(log.address, log.topics) for log in said}
            unexplained = [log for log in against if (log.address, log.topics) not in explained]
            if not same_logs(said, logs) or any(self.proof.may_hold(header, log) for log in unexplained):
                return False
            heard.append(provider)
            hashes.add(header.ref.hash)
        return len(hashes) == 1

    async def _said(
        self, provider: Provider, number: int, addresses: tuple[bytes, ...]
    ) -> tuple[Provider, Header, Sequence[RawLog]]:
        (header,) = await self._reader.headers(provider, [number])
        logs = await self._reader.logs_of_blocks(provider, [header.ref], addresses)
        checks.check_hashes(provider.host, logs, {number: header})
        return provider, header, checks.in_order(provider.host, logs)

    async def call(self, to: bytes, data: bytes, block_hash: bytes) -> bytes:
        """Call a contract on the state after that block.

        Raises CallFailed where the contract reverts or runs out of gas, Pruned where the state is gone,
        PastHead where the block is not known.
        """
        params = [{"to": hexed(to), "data": hexed(data)}, {"blockHash": hexed(block_hash)}]
        return await self.pool.run(lambda provider: _called(provider, Call("eth_call", params, codec.QUANTITY)))


async def _called(provider: Provider, call: Call[str]) -> bytes:
    answer = await provider.call(call)
    try:
        return codec.octets(answer)
    except ValueError as error:
        raise Inconsistent(provider.host, "answered eth_call with something that is not hex") from error
