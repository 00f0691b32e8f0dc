"""What the providers of a world do wrong and when, drawn from a seed: fair, so that the truth can always be found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any, Final, Literal, get_args

from indexer.core.types import Proof
from simulator.lies import NEED_RECEIPTS, Lie
from simulator.node import Fault
from simulator.receipts import ARBITRUM_KINDS, ETHEREUM_KINDS, OPTIMISM_KINDS
from simulator.texts import ADDRESS_TEXTS, PAST_HEAD_TEXTS, PRUNED_TEXTS, RANGE_TEXTS, RATE_TEXTS, RESULT_TEXTS

Spell = Literal["down", "stale", "foreign", "storm", "syncing", "silent"]

LASTING: Final = frozenset({"402", "401"})  # faults after which nobody asks again for minutes
TRANSPORT: Final[tuple[Fault, ...]] = ("500", "429", "html", "closed", "garbage", "null", "rate", "413")
ALONE_SHARE: Final = 0.03  # of a provider that has no other beside it
FINAL: Final = 40  # blocks below the head that nothing changes
DEEPEST: Final = 20  # blocks of a reorg


@dataclass(frozen=True, slots=True)
class Habits:
    """One provider: its knobs, and the shares (0 to 1) of requests and answers that go wrong in each way.

    `honest`: its answers are true, and it is never away for long. `lags`: one is drawn for each request, as behind a
    load balancer.
    """

    honest: bool
    knobs: Mapping[str, Any] = field(default_factory=dict)
    faults: Mapping[Fault, float] = field(default_factory=dict)
    lies: Mapping[Lie, float] = field(default_factory=dict)
    lags: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class Turn:
    """A spell of bad weather over one provider: from the `begin`-th change of the chain, for `length` changes."""

    spell: Spell
    provider: int
    begin: int
    length: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a seed decides before anything runs."""

    seed: int
    proof: Proof
    blocks: int  # mined before anyone looks
    most: int  # actions a block
    receipt_kinds: tuple[int, ...]
    providers: tuple[Habits, ...]
    turns: tuple[Turn, ...]
    reorgs: float = 0.25  # share of the changes

    @property
    def alone(self) -> bool:
        """Say whether there is but one provider, which then lies seldom, and about no block twice."""
        return len(self.providers) == 1

    def document(self) -> dict[str, Any]:
        """Write it for a report."""
        return asdict(self)


def draw(seed: int, *, proof: Proof | None = None, providers: int | None = None) -> Plan:
    """Draw the plan of a seed; `proof` and the number of providers may be given."""
    random = Random(f"plan/{seed}")
    level: Proof = random.choice(("logs", "receipts", "receipts"))
    level = proof or level
    count = random.choice((1, 2, 2, 3, 3, 4))
    count = providers or count
    honest = random.randrange(count) if random.random() < 0.3 else count - 1  # those asked first are seldom honest
    habits = tuple(_habits(Random(f"provider/{seed}/{n}"), level, count, honest=n == honest) for n in range(count))
    dense = random.random() < 0.2
    return Plan(
        seed=seed,
        proof=level,
        blocks=random.choice((60, 90, 150, 250)) if not dense else 110,
        most=12 if dense else 4,
        receipt_kinds=random.choice((ETHEREUM_KINDS, OPTIMISM_KINDS, ARBITRUM_KINDS)),
        providers=habits,
        turns=_turns(Random(f"turns/{seed}"), habits),
    )


def steady(seed: int, *, proof: Proof, faulty: float, reorgs: float) -> Plan:
    """Plan three providers that fail at the same rate all the time; all but the last lie at that rate too."""
    random = Random(f"steady/{seed}")
    told = [lie for lie in get_args(Lie) if proof == "receipts" or lie not in NEED_RECEIPTS]
    faults: tuple[Fault, ...] = ("500", "html", "closed", "garbage", "null", "413")
    failing = dict.fromkeys(faults, faulty / len(faults))
    lying = dict.fromkeys(told, faulty)  # each fits one method or two, so about that share of all answers is bent
    habits = tuple(
        Habits(honest=n == 2, knobs={"finalized_depth": FINAL}, faults=failing, lies=lying if n < 2 else {})
        for n in range(3)
    )
    return Plan(seed, proof, 200, 4, random.choice((ETHEREUM_KINDS, OPTIMISM_KINDS)), habits, (), reorgs)


def _habits(random: Random, proof: Proof, count: int, *, honest: bool) -> Habits:
    knobs: dict[str, Any] = {"finalized_depth": FINAL, "block_timestamp": random.random() < 0.7}
    _limit(random, knobs)
    if not honest:
        knobs["receipts"] = random.random() < 0.7
    if not honest and random.random() < 0.2:
        knobs |= {"first_block": random.randrange(10, 50), "pruned_refusal": random.choice(PRUNED_TEXTS)}
    if not honest and random.random() < 0.15:
        knobs["finalized_depth"] = None
    return Habits(
        honest=honest and count > 1,
        knobs=knobs,
        faults=_faults(random, mild=honest),
        lies=_lies(random, proof, alone=count == 1) if not honest or count == 1 else {},
        lags=(0,) if honest or random.random() < 0.6 else random.choice(((0, 1), (0, 0, 3), (2,), (0, 5, 12))),
    )


def _limit(random: Random, knobs: dict[str, Any]) -> None:
    """Set the rules of the provider's plan: ranges, results, addresses, batches."""
    if random.random() < 0.6:
        knobs |= {"max_range": random.choice((3, 10, 25, 50, 100)), "range_refusal": random.choice(RANGE_TEXTS)}
    if random.random() < 0.3:
        code, words = random.choice(RESULT_TEXTS)
        knobs |= {"max_results": random.choice((30, 60, 200)), "results_code": code, "results_refusal": words}
    if random.random() < 0.2:
        knobs |= {"max_addresses": random.choice((1, 2, 3)), "address_refusal": random.choice(ADDRESS_TEXTS)}
    if random.random() < 0.3:
        knobs["max_batch"] = random.choice((1, 5, 20))
    if random.random() < 0.5:
        knobs["past_head"] = random.choice(PAST_HEAD_TEXTS)
    if random.random() < 0.2:
        knobs["truncate_at"] = 1000
    knobs["rate_refusal"] = random.choice(RATE_TEXTS)
    if random.random() < 0.5:
        knobs["retry_after"] = random.choice(("0.2", "1", "nonsense"))
    if random.random() < 0.3:
        knobs["latency_s"] = random.choice((0.002, 0.01, 0.03))


def _faults(random: Random, *, mild: bool) -> dict[Fault, float]:
    if random.random() < 0.3:
        return {}
    chosen = random.sample(TRANSPORT, random.randrange(1, 4))
    most = 0.03 if mild else 0.2
    faults: dict[Fault, float] = {fault: random.uniform(0.005, most) for fault in chosen}
    if mild:  # a rest of seconds after each: it would be away most of the time
        return {fault: share / 4 if fault in {"429", "rate"} else share for fault, share in faults.items()}
    if random.random() < 0.1:
        faults[random.choice(("402", "401"))] = 0.02
    return faults


def _lies(random: Random, proof: Proof, *, alone: bool) -> dict[Lie, float]:
    told: list[Lie] = [lie for lie in get_args(Lie) if proof == "receipts" or lie not in NEED_RECEIPTS]
    chosen = random.sample(told, random.randrange(1, 9))
    return {lie: random.uniform(0.005, ALONE_SHARE if alone else 0.3) for lie in chosen}


def _turns(random: Random, habits: tuple[Habits, ...]) -> tuple[Turn, ...]:
    """Give each provider a few spells; an honest one is only away for a moment."""
    turns = []
    for number, one in enumerate(habits):
        usual: tuple[Spell, ...] = ("down",) if one.honest or len(habits) == 1 else get_args(Spell)
        begin = 0
        for _ in range(random.randrange(4)):
            begin += random.randrange(3, 25)
            length = random.randrange(1, 4) if one.honest or len(habits) == 1 else random.randrange(2, 20)
            turns.append(Turn(random.choice(usual), number, begin, length))
            begin += length
    return tuple(turns)
