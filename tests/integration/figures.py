"""The views' figures once more, in plain Python: every log in order, every figure counted anew at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

from eth_hash.auto import keccak
from ledger import decoder

from indexer.core.decode import Event
from indexer.core.types import Deployment, RawLog

NO_TAG = keccak(b"")
WIDE = Context(prec=500)  # in which nothing is rounded


@dataclass(slots=True)
class Given:
    """A feedback; tags are their bytes, or ("hash", …) where only that is known."""

    agent: int
    client: bytes
    index: int
    epoch: int
    value: Decimal
    decimals: int
    tag1: Hashable
    tag2: Hashable
    time: int
    value_raw: int
    revoked: bool = False
    responses: int = 0

    @property
    def score(self) -> Decimal | None:
        return self.value if 0 <= self.value <= 100 else None


@dataclass(slots=True)
class Request:
    """A validation request and its latest answer."""

    registry: bytes
    agent: int
    validator: bytes
    hash: bytes
    time: int
    answers: list[tuple[int, int]] = field(default_factory=list)  # response, time


@dataclass(slots=True)
class Figures:
    """One deployment's history; feed it with `read`, then ask."""

    deployment: Deployment
    given: list[Given] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    owners: dict[int, bytes] = field(default_factory=dict)
    agents: dict[int, int] = field(default_factory=dict)  # time of the last event
    responses: int = 0
    days: dict[date, dict[str, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))

    def read(self, logs: Iterable[RawLog]) -> Figures:
        for log in logs:
            roles = {"identity"} if log.address == self.deployment.identity else set()
            roles |= {"reputation"} if log.address == self.deployment.reputation else set()
            roles |= {"validation"} if log.address in self.deployment.validation else set()
            event = decoder().decode(log, frozenset(roles))  # type: ignore[arg-type]  # names of roles
            if isinstance(event, Event):
                args = dict(zip((f.name for f in event.form.fields), event.values, strict=True))
                self._apply(event.form.event, event, args, log)
        return self

    def _apply(self, name: str, event: Event, args: dict[str, Any], log: RawLog) -> None:
        agent = args.get("agentId", args.get("tokenId", args.get("_tokenId")))
        if agent is not None:
            self.agents[agent] = log.timestamp
        day = self.days[datetime.fromtimestamp(log.timestamp, UTC).date()]
        if name == "Transfer":
            self.owners[agent] = args["to"]
        elif name == "Registered":
            day["registrations"] += 1
        elif name == "NewFeedback":
            day["feedback"] += 1
            self._feedback(agent, event, args, log)
        elif name == "FeedbackRevoked":
            day["revoked"] += 1
            if (meant := self._meant(agent, args)) is not None:
                meant.revoked = True
        elif name == "ResponseAppended":
            day["responses"] += 1
            self.responses += 1
            if (meant := self._meant(agent, args)) is not None:
                meant.responses += 1
        elif name == "ValidationRequest":
            day["validations"] += 1
            request = Request(log.address, agent, args["validatorAddress"], args["requestHash"], log.timestamp)
            self.requests.append(request)
        elif name == "ValidationResponse":
            for request in reversed(self.requests):
                if (request.registry, request.agent, request.hash) == (log.address, agent, args["requestHash"]):
                    request.answers.append((args["response"], log.timestamp))
                    break

    def _feedback(self, agent: int, event: Event, args: dict[str, Any], log: RawLog) -> None:
        before = [one for one in self.given if (one.agent, one.client) == (agent, args["clientAddress"])]
        last, epoch = (before[-1].index, before[-1].epoch) if before else (0, 0)
        index = args.get("feedbackIndex", last + 1)
        raw, decimals = args.get("value", args.get("score")), args.get("valueDecimals", 0)
        kinds = {f.name: ("hash" if f.indexed and f.type == "string" else f.type) for f in event.form.fields}
        self.given.append(
            Given(
                agent=agent,
                client=args["clientAddress"],
                index=index,
                epoch=epoch + (index <= last),
                value=Decimal(raw).scaleb(-decimals, WIDE),
                decimals=decimals,
                tag1=_tag(args["tag1"], kinds["tag1"]),
                tag2=_tag(args["tag2"], kinds["tag2"]),
                time=log.timestamp,
                value_raw=raw,
            )
        )

    def _meant(self, agent: int, args: dict[str, Any]) -> Given | None:
        """Return the feedback of the newest epoch by then."""
        pair = [one for one in self.given if (one.agent, one.client) == (agent, args["clientAddress"])]
        newest = [one for one in pair if one.epoch == pair[-1].epoch and one.index == args["feedbackIndex"]]
        return newest[0] if newest else None

    def current(self) -> list[Given]:
        """Return the feedback of each pair's newest epoch, revoked or not."""
        newest = {(one.agent, one.client): one.epoch for one in self.given}
        return [one for one in self.given if one.epoch == newest[one.agent, one.client]]

    def counting(self) -> list[Given]:
        return [one for one in self.current() if not one.revoked]


def _tag(value: bytes, kind: str) -> Hashable:
    if kind == "bytes32":
        stripped = value.rstrip(b"\0")
        try:
            return stripped if "\0" not in stripped.decode() else value
        except UnicodeDecodeError:
            return value
    if kind == "hash":
        return b"" if value == NO_TAG else ("hash", value)
    return value


def mean(values: Sequence[Decimal | int]) -> Decimal | None:
    """Round the mean to 4 decimals as PostgreSQL does, half away from zero; None without a value."""
    if not values:
        return None
    total = Decimal(0)
    for value in values:
        total = WIDE.add(total, Decimal(value))
    return WIDE.divide(total, Decimal(len(values))).quantize(Decimal("0.0001"), ROUND_HALF_UP, WIDE)
