"""Which provider is asked: in order of preference, with failover, and one policy for each class of error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from indexer.chain.admission import admit, identities
from indexer.chain.heads import Heads, Heard
from indexer.chain.latency import HedgeBudget
from indexer.chain.member import Member, remember
from indexer.chain.provider import Provider
from indexer.chain.race import MAX_WAIT_S, Race, worth_a_wait
from indexer.chain.refusals import (
    Inconsistent,
    MethodMissing,
    NobodyLeft,
    OtherBranch,
    PastHead,
    ProviderError,
    Pruned,
    RateLimited,
    Transport,
    Unauthorized,
    WrongChain,
)
from indexer.chain.survey import Routine, heads_of
from indexer.core.types import BlockRef
from indexer.errors import SettingsError

T = TypeVar("T")

log = structlog.get_logger()

ROUNDS: Final = 4  # passes over all providers before the caller hears of it; with the waits below about 4 s
FIRST_WAIT_S: Final = 0.2
CLOCK_SLACK_S: Final = 0.005  # so that a wait does not end just before the rest it waits for
SURVEY_EVERY_S: Final = 10.0
SOON_S: Final = 60.0  # so long a limited provider is waited for where no other has what is asked
LONG_PACE_S: Final = 1.0  # a provider whose turn would come later than that is asked after the others


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Who may be asked for an operation, and what for."""

    avoid: Provider | None = None
    exclude: frozenset[Provider] = frozenset()
    from_block: int | None = None
    thorough: bool = False


class Pool:
    """The providers of one chain. `run` gives an operation to the first that can do it."""

    def __init__(
        self,
        providers: Sequence[Provider],
        *,
        rounds: int = ROUNDS,
        first_wait_s: float = FIRST_WAIT_S,
        usual_finality: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not providers:
            raise SettingsError("no http(s) URL for the RPC of this chain; ws(s) URLs alone are not enough")
        self.providers = tuple(providers)
        self.expected_chain: int | None = None
        self._anchor: BlockRef | None = None
        self._rounds = rounds
        self._first_wait_s = first_wait_s
        self._clock = clock
        self._members = tuple(Member(provider) for provider in providers)
        self._heads: Heads[Provider] = Heads(usual_finality)
        self._disbelieved: set[Provider] = set()  # of whose finality was told
        self._hedges = HedgeBudget()
        self._survey = Routine(self.survey, SURVEY_EVERY_S)

    async def aclose(self) -> None:
        """End the survey and close all connections."""
        await self._survey.aclose()
        for provider in self.providers:
            await provider.aclose()

    # --- what is known ----------------------------------------------------------------------------------------------

    def figures(self) -> list[dict[str, object]]:
        """Tell what is known of each provider, in order of preference; `resting_s` is how long it is left alone yet.

        `errors` counts by class, `rate` is in calls a second, `history_floor` the lowest block it may still have;
        None stands for what is not known, or not limited. `remember` takes this up in a later run.
        """
        now = self._clock()
        return [
            member.figures(now, self._heads.heard.get(member.provider), self._heads.behind(member.provider, now))
            for member in self._members
        ]

    def remember(self, figures: Sequence[Mapping[str, Any]]) -> None:
        """Take up what the figures of an earlier run say of the providers' rules: range, addresses, batch size.

        Providers are matched by host, equal hosts by their order. What only density taught is not kept.
        """
        remember(self._members, figures)

    @property
    def preferred(self) -> Provider | None:
        """The provider that is asked first now; None where all rest and none may be tried."""
        members = self._in_order(_Wanted())
        return members[0].provider if members else None

    @property
    def span_cap(self) -> int | None:
        """Blocks a request that the provider that is asked first now takes; None where it has no rule."""
        preferred = self.preferred
        return preferred.span_cap if preferred else None

    # --- the right chain --------------------------------------------------------------------------------------------

    @property
    def anchor(self) -> BlockRef | None:
        """A final block of ours, which a provider must have to be heard; None: any is heard."""
        return self._anchor

    @anchor.setter
    def anchor(self, block: BlockRef | None) -> None:
        before, self._anchor = self._anchor, block
        goes_on = block is not None and before is not None and block.number > before.number
        if before is None or goes_on or block == before:
            return
        for member in self._members:  # what they were refused for is final no more
            if isinstance(member.breaker.error, OtherBranch):
                member.breaker.reset()

    @property
    def all_on_other_branch(self) -> bool:
        """Say whether every provider was asked for the anchor, and has another block there."""
        return all(isinstance(member.breaker.error, OtherBranch) for member in self._members)

    async def check_chain(self, expected: int) -> None:
        """Hold every provider to this chain id from now on, asking each that can be reached at once.

        Raises SettingsError where every reachable one serves another chain, or all refuse our credentials;
        Transport where none can be reached.
        """
        self.expected_chain = expected
        await self._retrying()(self._identify, expected)

    async def _identify(self, expected: int) -> None:
        answers = await identities(self.providers, expected)
        for provider, answer in answers.items():
            provider.admitted, provider.shown_at = answer == (expected, False), self._clock()
        found = [answer[0] for answer in answers.values() if isinstance(answer, tuple)]
        if expected in found:
            return
        words = ", ".join(
            f"{provider.host}: {f'chain {answer[0]}' if isinstance(answer, tuple) else answer.text}"
            for provider, answer in answers.items()
        )
        if found:
            raise SettingsError(f"chain id {expected} is set, but the RPC serves another ({words})")
        if all(isinstance(answer, Unauthorized) for answer in answers.values()):
            raise SettingsError(f"the RPC refuses the credentials ({words})")
        raise Transport(self.providers[0].host, f"no RPC can be reached ({words})")

    async def _admit(self, provider: Provider) -> None:
        await admit(provider, self.expected_chain, self._anchor, self._clock())

    # --- heads ------------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """See to it that all providers are asked for their heads now and then; returns when that was done once.

        Where there is but one provider nothing is asked: it tells by itself. Ends with `aclose`.
        """
        if len(self._members) > 1:
            await self._survey.begun()

    async def survey(self) -> None:
        """Ask every provider that may be asked for its newest and its final block, all at once; never raises."""
        now = self._clock()
        await asyncio.gather(*(self._look_at(member) for member in self._members if not member.breaker.barred(now)))
        self._heads.sample(self._clock())

    async def _look_at(self, member: Member) -> None:
        started = self._clock()
        answer = await heads_of(member.provider, self._admit)
        if isinstance(answer, ProviderError):
            self._note(member, answer, started)
        else:
            self.hear(member.provider, *answer)
        member.surveyed(self._clock(), heard=not isinstance(answer, ProviderError))

    def hear(self, provider: Provider, head: BlockRef, finalized: int | None) -> None:
        """Take in what a provider says of the chain's newest block and the number of its newest final one."""
        self._heads.hear(provider, Heard(head.number, head.timestamp, finalized, self._clock()))

    def is_absurd(self, provider: Provider) -> bool:
        """Say whether the head that the provider told last is impossible by what the others say."""
        return self._heads.absurd(provider, self._clock())

    def frozen(self) -> tuple[Provider, ...]:
        """Return the providers that stand still behind the others."""
        now = self._clock()
        return tuple(one for one in self.providers if self._heads.frozen(one, now))

    def finalized(self, head: int) -> int | None:
        """Return the newest block that is final by what all providers say, at most `head`.

        None: nobody tells, or nobody who is believed; that is told once of each.
        """
        now = self._clock()
        final = self._heads.finalized(now, head)
        if final is None:
            for provider, heard in self._heads.disbelieved(now).items():
                self._tell_disbelieved(provider, heard)
        return final

    def _tell_disbelieved(self, provider: Provider, heard: Heard) -> None:
        if provider not in self._disbelieved:
            self._disbelieved.add(provider)
            log.warning("finality_disbelieved", host=provider.host, head=heard.head, finalized=heard.finalized)

    # --- asking -----------------------------------------------------------------------------------------------------

    async def run(
        self,
        operation: Callable[[Provider], Awaitable[T]],
        *,
        avoid: Provider | None = None,
        exclude: Collection[Provider] = (),
        from_block: int | None = None,
        thorough: bool = False,
    ) -> T:
        """Do `operation` at the first provider that can, `avoid` being the last to be asked, `exclude` never.

        `from_block` is the lowest block that it needs: a provider known to have dropped that is asked late. `thorough`
        takes the word that a block is not there for nobody's who has not been asked.
        Where an answer takes long, the next provider is asked too, so that an operation may run at two at a time.
        Raises NobodyLeft where `exclude` leaves nobody. Faults of transport and rate limits are tried again,
        with growing random waits and what Retry-After asks for; then, and for every other class at once, the
        ProviderError leaves.
        """
        wanted = _Wanted(avoid, frozenset(exclude), from_block, thorough)
        if wanted.exclude.issuperset(self.providers):
            raise NobodyLeft("", "no other provider is configured")
        self._hedges.earn()
        return await self._retrying()(self._round, operation, wanted)

    def _retrying(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception(worth_a_wait),
            stop=stop_after_attempt(self._rounds),
            wait=self._wait_s,
            reraise=True,
        )

    def _wait_s(self, state: RetryCallState) -> float:
        jitter = wait_random_exponential(multiplier=self._first_wait_s, max=MAX_WAIT_S)(state)
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after_s if isinstance(error, RateLimited) else None
        return max(jitter, (asked or 0.0) + CLOCK_SLACK_S)

    async def _round(self, operation: Callable[[Provider], Awaitable[T]], wanted: _Wanted) -> T:
        members = self._in_order(wanted)
        if not members:
            raise self._all_barred(wanted)
        race = Race(
            members,
            lambda member: self._start(member, operation, wanted.from_block),
            may_hedge=lambda member: self._may_hedge(member, wanted),
            lost=lambda member, seconds: member.outrun(self._clock(), seconds),
        )
        try:
            return await race.run()
        except (Inconsistent, MethodMissing, Pruned, PastHead) as error:
            # Those who were asked cannot, or lie; that says nothing of one who will be asked again in a moment.
            is_final_word = isinstance(error, PastHead) and not wanted.thorough
            if not is_final_word and (limited := self._soon_able(wanted, members)) is not None:
                raise limited from error
            raise

    def _soon_able(self, wanted: _Wanted, asked: Sequence[Member]) -> RateLimited | None:
        """Return the limit of a provider that was not asked for it, and ends before long."""
        now = self._clock()
        left = [one for one in self._members if one.provider not in wanted.exclude and one not in asked]
        rests = [
            (one.breaker.resting_s(now), one.breaker.error)
            for one in left
            if isinstance(one.breaker.error, RateLimited)
        ]
        rest_s, error = min(rests, key=lambda rest: rest[0], default=(0.0, None))
        return RateLimited(error.host, error.text, rest_s) if error is not None and rest_s <= SOON_S else None

    def _start(
        self, member: Member, operation: Callable[[Provider], Awaitable[T]], from_block: int | None
    ) -> asyncio.Task[T]:
        started = self._clock()
        trial = member.breaker.begin(started)  # before anything is awaited, so that nobody else tries it too
        task = asyncio.create_task(self._attempt(member, operation, from_block, started))
        if trial:
            task.add_done_callback(lambda _: member.breaker.end())
        return task

    async def _attempt(
        self,
        member: Member,
        operation: Callable[[Provider], Awaitable[T]],
        from_block: int | None,
        started: float,
    ) -> T:
        try:
            await self._admit(member.provider)
            result = await operation(member.provider)
        except ProviderError as error:
            self._note(member, error, started, from_block)
            raise
        finally:
            member.note_rules()
        member.succeeded(self._clock(), started, from_block)
        return result

    def _in_order(self, wanted: _Wanted) -> list[Member]:
        """Say who is asked, and in which order: whoever can answer well and soon first, then by preference."""
        now = self._clock()
        allowed = [member for member in self._members if member.provider not in wanted.exclude]
        usable = [member for member in allowed if not member.breaker.barred(now)]
        if not usable:
            usable = [member for member in allowed if member.breaker.is_last_resort(now)]
        return sorted(usable, key=lambda member: self._doubts(member, wanted, now))

    def _doubts(self, member: Member, wanted: _Wanted, now: float) -> tuple[bool | float, ...]:
        provider = member.provider
        return (
            provider is wanted.avoid,
            member.lacks(wanted.from_block, now),
            member.breaker.resting_s(now),
            member.deaf or self._heads.behind(provider, now) or self._heads.absurd(provider, now),
            member.breaker.is_tried,
            provider.pace.wait_s(now) > LONG_PACE_S,
        )

    def _may_hedge(self, member: Member, wanted: _Wanted) -> bool:
        now = self._clock()
        fit = member.provider is not wanted.avoid and member.breaker.state(now) == "closed"
        return fit and not member.lacks(wanted.from_block, now) and self._hedges.spend()

    def _all_barred(self, wanted: _Wanted) -> ProviderError:
        """Report the rest that ends first; of those that `wanted` leaves, all rest."""
        now = self._clock()
        breakers = [member.breaker for member in self._members if member.provider not in wanted.exclude]
        first = min(breakers, key=lambda breaker: breaker.resting_s(now))
        if isinstance(first.error, RateLimited):
            return RateLimited(first.error.host, first.error.text, first.resting_s(now))
        assert first.error is not None
        return first.error

    def _note(self, member: Member, error: ProviderError, started: float, from_block: int | None = None) -> None:
        member.failed(error, self._clock(), started, from_block)
        if isinstance(error, WrongChain):
            self._heads.forget(member.provider)
