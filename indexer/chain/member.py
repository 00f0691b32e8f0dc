"""One provider of a pool and all that was learned of it: how it fares, what it keeps, what it takes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from indexer.chain.batching import MAX_BATCH
from indexer.chain.breaker import Breaker, rest_after
from indexer.chain.heads import Heard
from indexer.chain.latency import Latency
from indexer.chain.provider import Provider
from indexer.chain.refusals import (
    Billing,
    OtherBranch,
    ProviderError,
    Pruned,
    RateLimited,
    TimedOut,
    Transport,
    Unauthorized,
    WrongChain,
)

log = structlog.get_logger()

FLOOR_KEPT_S: Final = 86_400.0  # after a day it is tried again: providers are exchanged, nodes are synced anew
FIRST_FLOOR_STEP: Final = 1_000  # blocks; doubled at each refusal, so that a floor is found in few steps
RULES_KEPT_S: Final = 7 * 86_400.0  # after which rules of an earlier run are learned anew: plans are changed
LOST_RACES: Final = 2  # in a row, after which a slow provider rests
MAX_SHOWN: Final = 160  # characters of an error in the figures

_STATES: Final = (  # the first that fits
    (RateLimited, "rate limited"),
    (Billing, "allowance used up"),
    (Unauthorized, "credentials refused"),
    (OtherBranch, "other branch"),
    (WrongChain, "other chain or syncing"),
)


@dataclass(slots=True, eq=False)
class Member:
    """A provider as the pool sees it; times are of the pool's clock unless they are named otherwise."""

    provider: Provider
    breaker: Breaker = field(default_factory=Breaker)
    latency: Latency = field(default_factory=Latency)
    errors: Counter[str] = field(default_factory=Counter)
    last_error: str | None = None
    lost: int = 0  # races lost in a row to a provider that was asked later
    deaf: bool = False  # the last survey heard nothing of it
    floor: int | None = None  # the lowest block that it may still have; lower ones it refused as pruned
    _floor_at: float = 0.0
    _floor_step: int = 0
    _rules: tuple[int | None, ...] = (None, None, MAX_BATCH)
    _rules_learned: int | None = None  # seconds since 1970

    def failed(self, error: ProviderError, now: float, started: float, from_block: int | None) -> None:
        """Learn from an error of what began at `started` and needed `from_block`; a new outage is told."""
        self.errors[type(error).__name__] += 1
        self.last_error = f"{type(error).__name__}: {error.text[:MAX_SHOWN]}"
        match error:
            case RateLimited():
                self.provider.pace.refused(now)
            case Transport():
                self.provider.admitted = self.provider.anchored = False  # whatever comes back may be something else
            case Pruned() if from_block is not None:
                self.pruned(error, from_block, now)
            case _:
                pass
        if rest_after(error, 1) is None:  # it refuses this question, and so lives
            self._is_alive(started)
        elif self.breaker.fail(now, started, error):
            rest_s = round(self.breaker.resting_s(now), 1)
            log.info("provider_failed", host=self.provider.host, why=self.last_error, resting_s=rest_s)

    def succeeded(self, now: float, started: float, from_block: int | None) -> None:
        """Learn from a success."""
        self.latency.observe(now - started)
        self.lost = 0
        if from_block is not None:
            self.has(from_block)
        self._is_alive(started)

    def outrun(self, now: float, seconds: float) -> None:
        """Learn that a provider asked later answered first, after `seconds`; again and again, it is left alone."""
        self.latency.observe(seconds)
        self.lost += 1
        if self.lost >= LOST_RACES:
            self.failed(TimedOut(self.provider.host, f"no answer after {seconds:.1f} s"), now, now, None)

    def surveyed(self, now: float, *, heard: bool) -> None:
        """Learn whether a survey heard it; once it is heard again, the next operation may try it."""
        if heard and self.deaf:
            self.breaker.recheck(now)
        self.deaf = not heard

    def _is_alive(self, started: float) -> None:
        if self.breaker.succeed(started):
            log.info("provider_recovered", host=self.provider.host)

    def lacks(self, from_block: int | None, now: float) -> bool:
        """Say whether the provider is known to have dropped that block."""
        if self.floor is not None and now - self._floor_at > FLOOR_KEPT_S:
            self.floor, self._floor_step = None, 0
        return self.floor is not None and from_block is not None and from_block < self.floor

    def pruned(self, error: Pruned, from_block: int, now: float) -> None:
        """Raise the floor: to what the provider says, else a growing step above what it refused."""
        said = error.lowest if error.lowest is not None and error.lowest > from_block else None
        floor = said if said is not None else from_block + 1 + self._floor_step
        self._floor_step = max(FIRST_FLOOR_STEP, 2 * self._floor_step)
        self.floor = max(floor, self.floor or 0)
        self._floor_at = now

    def has(self, from_block: int) -> None:
        """Lower the floor to a block that it served."""
        if self.floor is not None and from_block < self.floor:
            self.floor, self._floor_step = from_block, 0

    def state(self, now: float) -> str:
        """Say in a word or two how the provider fares."""
        if self.breaker.state(now) == "closed":
            return "ok"
        return next((words for kind, words in _STATES if isinstance(self.breaker.error, kind)), "resting")

    def figures(self, now: float, heard: Heard | None, behind: bool) -> dict[str, object]:
        """Tell what is known of the provider, as `Pool.figures` describes it."""
        provider, state = self.provider, self.state(now)
        if state == "ok" and (self.deaf or behind):
            state = "unheard" if self.deaf else "behind"
        rate, mean_s = provider.pace.rate(now), self.latency.mean_s
        return {
            "host": provider.host,
            "admitted": provider.admitted,
            "state": state,
            "requests": provider.requests,
            "errors": dict(self.errors),
            "last_error": self.last_error,
            "resting_s": round(self.breaker.resting_s(now), 1),
            "latency_ms": None if mean_s is None else round(mean_s * 1000, 1),
            "rate": None if rate is None else round(rate, 1),
            "head": heard.head if heard else None,
            "finalized": heard.finalized if heard else None,
            "heard_s": round(now - heard.at, 1) if heard else None,
            "history_floor": self.floor,
            **self._rules_figures(),
        }

    def _rules_figures(self) -> dict[str, object]:
        """Tell what is worth keeping for a later run."""
        provider = self.provider
        return {
            "max_range": provider.span_cap,
            "max_addresses": provider.max_addresses,
            "batch_size": provider.batches.calls,
            "rules_learned": self._rules_learned,
        }

    def note_rules(self) -> None:
        """Remember when the rules changed that the provider's refusals taught."""
        rules = (self.provider.span_cap, self.provider.max_addresses, self.provider.batches.calls)
        if rules != self._rules:
            self._rules, self._rules_learned = rules, int(time.time())

    def take_rules(self, figures: Mapping[str, Any]) -> None:
        """Take up the rules that an earlier run learned, unless they are too old, or make no sense."""
        learned = figures.get("rules_learned")
        if not isinstance(learned, int) or not 0 <= time.time() - learned <= RULES_KEPT_S:
            return
        provider = self.provider
        provider.span_cap = _positive(figures.get("max_range")) or provider.span_cap
        provider.max_addresses = _positive(figures.get("max_addresses")) or provider.max_addresses
        provider.batches.calls = min(
            _positive(figures.get("batch_size")) or provider.batches.calls, provider.batches.calls
        )
        self.note_rules()
        self._rules_learned = learned


def remember(members: Sequence[Member], figures: Sequence[Mapping[str, Any]]) -> None:
    """Give each member the rules of an earlier run: matched by host, equal hosts by their order."""
    seen: Counter[str] = Counter()
    found: dict[tuple[str, int], Mapping[str, Any]] = {}
    for one in figures:
        host = str(one.get("host"))
        found[host, seen[host]] = one
        seen[host] += 1
    seen.clear()
    for member in members:
        host = member.provider.host
        member.take_rules(found.get((host, seen[host]), {}))
        seen[host] += 1


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
