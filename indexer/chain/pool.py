"""Which provider is asked: in order of preference, with failover, and one policy for each class of error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from indexer.chain import codec
from indexer.chain.codec import ANY_JSON, HEADER, QUANTITY, quantity
from indexer.chain.provider import Call, Provider
from indexer.chain.refusals import (
    AddressLimit,
    Billing,
    CallFailed,
    Inconsistent,
    NobodyLeft,
    OtherBranch,
    PastHead,
    ProviderError,
    RateLimited,
    ShrinkRange,
    TimedOut,
    Transport,
    Unauthorized,
    UnknownRefusal,
    WrongChain,
)
from indexer.core.types import BlockRef
from indexer.errors import SettingsError

T = TypeVar("T")

ROUNDS: Final = 4  # passes over all providers before the caller hears of it; with the waits below about 4 s
FIRST_WAIT_S: Final = 0.2
MAX_WAIT_S: Final = 10.0  # longer than that is the caller's affair: it may have to stop, or to tell an operator
SHAKY_S: Final = 5.0  # after a fault of transport the next provider is asked first, for that long
RATE_REST_S: Final = 5.0  # where a 429 says nothing of its own
CLOCK_SLACK_S: Final = 0.005  # so that a wait does not end just before the rest it waits for
LONG_REST_S: Final = 600.0  # an allowance used up, refused credentials, another chain: seldom mended sooner


class Pool:
    """The providers of one chain. `run` gives an operation to the first that can do it."""

    def __init__(
        self,
        providers: Sequence[Provider],
        *,
        rounds: int = ROUNDS,
        first_wait_s: float = FIRST_WAIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not providers:
            raise SettingsError("no http(s) URL for the RPC of this chain; ws(s) URLs alone are not enough")
        self.providers = tuple(providers)
        self.expected_chain: int | None = None
        self.anchor: BlockRef | None = None  # a final block of ours, which a provider must have to be heard
        self._rounds = rounds
        self._first_wait_s = first_wait_s
        self._clock = clock
        self._shaky_until = dict.fromkeys(self.providers, 0.0)
        self._closed: dict[Provider, tuple[float, ProviderError]] = {}

    async def aclose(self) -> None:
        """Close all connections."""
        for provider in self.providers:
            await provider.aclose()

    def figures(self) -> list[dict[str, object]]:
        """Tell what is known of each provider, in order of preference; `resting_s` is how long it is left alone yet."""
        now = self._clock()
        return [
            {
                "host": one.host,
                "admitted": one.admitted,
                "requests": one.requests,
                "max_range": one.span_cap,
                "resting_s": round(max(0.0, self._closed[one][0] - now), 1) if one in self._closed else 0.0,
            }
            for one in self.providers
        ]

    @property
    def preferred(self) -> Provider | None:
        """The provider that is asked first now; None where all rest."""
        return next(iter(self._in_order(None)), None)

    @property
    def span_cap(self) -> int | None:
        """Blocks a request that the provider that is asked first now takes; None where it has no rule."""
        preferred = self.preferred
        return preferred.span_cap if preferred else None

    def remember(self, figures: Sequence[Mapping[str, Any]]) -> None:
        """Take up what the figures of an earlier run say of the providers' rules."""

    @property
    def all_on_other_branch(self) -> bool:
        """Say whether every provider was asked for the anchor, and has another block there."""
        return all(isinstance(self._closed.get(one, (0.0, None))[1], OtherBranch) for one in self.providers)

    async def check_chain(self, expected: int) -> None:
        """Hold every provider to this chain id from now on, asking each that can be reached at once.

        Raises SettingsError where every reachable one serves another chain, or all refuse our credentials;
        Transport where none can be reached.
        """
        self.expected_chain = expected
        retrying = AsyncRetrying(
            retry=retry_if_exception(_worth_a_wait),
            stop=stop_after_attempt(self._rounds),
            wait=self._wait_s,
            reraise=True,
        )
        await retrying(self._identify, expected)

    async def _identify(self, expected: int) -> None:
        answers = await asyncio.gather(*(_outcome(provider) for provider in self.providers))
        for provider, answer in zip(self.providers, answers, strict=True):
            provider.admitted = answer == (expected, False)
        found = [answer[0] for answer in answers if isinstance(answer, tuple)]
        if expected in found:
            return
        words = ", ".join(
            f"{provider.host}: {f'chain {answer[0]}' if isinstance(answer, tuple) else answer.text}"
            for provider, answer in zip(self.providers, answers, strict=True)
        )
        if found:
            raise SettingsError(f"chain id {expected} is set, but the RPC serves another ({words})")
        if all(isinstance(answer, Unauthorized) for answer in answers):
            raise SettingsError(f"the RPC refuses the credentials ({words})")
        raise Transport(self.providers[0].host, f"no RPC can be reached ({words})")

    async def run(
        self,
        operation: Callable[[Provider], Awaitable[T]],
        *,
        avoid: Provider | None = None,
        exclude: Collection[Provider] = (),
        from_block: int | None = None,
    ) -> T:
        """Do `operation` at the first provider that can, `avoid` being the last to be asked, `exclude` never.

        `from_block` is the lowest block that it needs: a provider known to have dropped that is asked late.
        Raises NobodyLeft where `exclude` leaves nobody. Faults of transport and rate limits are tried again,
        with growing random waits and what Retry-After asks for; then, and for every other class at once, the
        ProviderError leaves.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception(_worth_a_wait),
            stop=stop_after_attempt(self._rounds),
            wait=self._wait_s,
            reraise=True,
        )
        return await retrying(self._round, operation, avoid, exclude)

    def _wait_s(self, state: RetryCallState) -> float:
        jitter = wait_random_exponential(multiplier=self._first_wait_s, max=MAX_WAIT_S)(state)
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after_s if isinstance(error, RateLimited) else None
        return max(jitter, (asked or 0.0) + CLOCK_SLACK_S)

    async def _round(
        self, operation: Callable[[Provider], Awaitable[T]], avoid: Provider | None, exclude: Collection[Provider]
    ) -> T:
        if set(exclude) >= set(self.providers):
            raise NobodyLeft("", "no other provider is configured")
        errors: list[ProviderError] = []
        for provider in self._in_order(avoid):
            if provider in exclude:
                continue
            try:
                await self._admit(provider)
                return await operation(provider)
            except UnknownRefusal as error:  # perhaps this provider's own whim
                errors.append(error)
            except (ShrinkRange, AddressLimit, CallFailed):
                raise  # true elsewhere too, or better served by asking this one for less
            except ProviderError as error:
                self._note(provider, error)
                errors.append(error)
        raise _verdict(errors) if errors else self._all_closed()

    def _in_order(self, avoid: Provider | None) -> list[Provider]:
        now = self._clock()
        self._closed = {provider: closed for provider, closed in self._closed.items() if closed[0] > now}
        usable = [provider for provider in self.providers if provider not in self._closed]
        return sorted(usable, key=lambda provider: (provider is avoid, self._shaky_until[provider] > now))

    def _note(self, provider: Provider, error: ProviderError) -> None:
        """Remember what an error says about the next requests."""
        now = self._clock()
        match error:
            case RateLimited():
                rest_s = RATE_REST_S if error.retry_after_s is None else error.retry_after_s
                self._closed[provider] = (now + rest_s, error)
            case Billing() | Unauthorized() | WrongChain():
                self._closed[provider] = (now + LONG_REST_S, error)
            case Transport():
                self._shaky_until[provider] = now + SHAKY_S
                provider.admitted = provider.anchored = False  # whatever comes back may be something else
            case _:
                pass

    def _all_closed(self) -> ProviderError:
        until, error = min(self._closed.values(), key=lambda closed: closed[0])
        if isinstance(error, RateLimited):
            return RateLimited(error.host, error.text, max(0.0, until - self._clock()))
        return error

    async def _admit(self, provider: Provider) -> None:
        """Let a provider's answers count only after it showed the right chain, and that it is in sync (fault F5)."""
        if not provider.admitted and self.expected_chain is not None:
            found, syncing = await identity(provider)
            if found != self.expected_chain:
                raise WrongChain(provider.host, f"serves chain {found}, not {self.expected_chain}")
            if syncing:
                raise WrongChain(provider.host, "is still syncing")
            provider.admitted = True
        if not provider.anchored and self.anchor is not None:
            # One answer alone condemns nobody: behind one address may stand several nodes.
            if not (await _has(provider, self.anchor) or await _has(provider, self.anchor)):
                raise OtherBranch(
                    provider.host, f"has another block {self.anchor.number} than the one that is final here"
                )
            provider.anchored = True


async def _has(provider: Provider, block: BlockRef) -> bool:
    answer = await provider.call(Call("eth_getBlockByNumber", [hex(block.number), False], HEADER))
    if answer is None:
        raise PastHead(provider.host, f"does not have block {block.number}, which is final here")
    try:
        return codec.header(answer).ref.hash == block.hash
    except ValueError as error:
        raise Inconsistent(provider.host, f"a malformed header: {error}") from error


async def identity(provider: Provider) -> tuple[int, bool]:
    """Ask a provider for its chain id and whether it is still syncing. Raises ProviderError."""
    calls: list[Call[Any]] = [Call("eth_chainId", [], QUANTITY), Call("eth_syncing", [], ANY_JSON)]
    chain_id, syncing = await provider.batch(calls)
    if isinstance(chain_id, ProviderError):
        raise chain_id
    try:
        found = quantity(chain_id)
    except ValueError as error:
        raise Inconsistent(provider.host, "answered eth_chainId with something malformed") from error
    return found, isinstance(syncing, dict)  # false, or an error where the method is not served


async def _outcome(provider: Provider) -> tuple[int, bool] | ProviderError:
    try:
        return await identity(provider)
    except ProviderError as error:
        return error


def _worth_a_wait(error: BaseException) -> bool:
    match error:
        case TimedOut():
            return False  # each try costs the whole time-out; smaller questions are better
        case RateLimited():
            return error.retry_after_s is None or error.retry_after_s <= MAX_WAIT_S
        case _:
            return isinstance(error, Transport)


def _verdict(errors: Sequence[ProviderError]) -> ProviderError:
    """Choose what to report of a round in which all failed: what may pass by waiting, else the last word."""
    return next((error for error in errors if _worth_a_wait(error)), errors[-1])
