"""A chain in bad weather: it grows and reorganises, its providers keep to the habits of a plan."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Self, assert_never

from workload import Workload

from simulator.chain import SimBlock, SimChain
from simulator.lies import Fairness, Lie, Situation, tell
from simulator.logs import SimLog
from simulator.node import Fault, SimNode
from simulator.plan import DEEPEST, FINAL, Habits, Plan, Turn

STRANGER = b"\x99" * 20  # a contract that nobody asks for


@dataclass(slots=True)
class Provider:
    """One node that keeps to its habits; `calm` ends its faults and lies, its limits stay."""

    node: SimNode
    habits: Habits
    random: Random
    fairness: Fairness
    alone: bool
    calm: bool = False
    spell: Turn | None = None
    faults: int = 0
    lies: dict[Lie, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.node.on_request = self._next_fault
        self.node.intercept = self._bend

    def _next_fault(self) -> Fault | None:
        self.node.knobs.lag_blocks = 0 if self.calm else self.random.choice(self.habits.lags)
        if self.calm:
            return None
        if self.spell is not None and self.spell.spell == "storm":
            return "429"
        if self.spell is not None and self.spell.spell == "silent":
            return "hang"
        for fault, share in self.habits.faults.items():
            if self.random.random() < share:
                self.faults += 1
                return fault
        return None

    def _bend(self, method: str, params: list[Any], answer: Any) -> Any:
        """Tell one lie at most about one answer."""
        if self.calm:
            return answer
        for lie, share in self.habits.lies.items():
            if self.random.random() < share:
                at = Situation(self.random, self.node.chain, self.fairness, self.alone, params)
                bent = tell(lie, at, method, answer)
                if bent is not answer:
                    self.lies[lie] = self.lies.get(lie, 0) + 1
                    return bent
        return answer


@dataclass(slots=True)
class World:
    """The truth, every block that it ever had, and the providers that tell of it."""

    plan: Plan
    first_port: int | None = None  # of the providers, which follow one another; None: any free ones
    chain: SimChain = field(init=False)
    workload: Workload = field(init=False)
    random: Random = field(init=False)
    fairness: Fairness = field(init=False)
    known: dict[bytes, SimBlock] = field(default_factory=dict)
    providers: list[Provider] = field(default_factory=list)
    changes: int = 0
    reorgs: int = 0
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def __post_init__(self) -> None:
        plan = self.plan
        self.workload, self.random = Workload(plan.seed), Random(f"world/{plan.seed}")
        self.chain = SimChain(seed=plan.seed, receipt_kinds=plan.receipt_kinds, most_plain=3)
        self.fairness = Fairness(proven=plan.proof == "receipts")
        for _ in range(plan.blocks):
            self.chain.mine(self._block(plan.most))
        self.known = {block.ref.hash: block for block in self.chain.blocks}
        self._note()

    async def __aenter__(self) -> Self:
        for number, habits in enumerate(self.plan.providers):
            node = SimNode(self.chain, **habits.knobs)
            self._stack.push_async_callback(node.stop)
            await node.start(0 if self.first_port is None else self.first_port + number)
            random = Random(f"answers/{self.plan.seed}/{number}")
            self.providers.append(Provider(node, habits, random, self.fairness, self.plan.alone))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def urls(self) -> list[str]:
        """The providers' addresses, in order of preference."""
        return [provider.node.url for provider in self.providers]

    def ledger(self, block_hash: bytes, addresses: frozenset[bytes], *, above: int = -1) -> set[tuple[int, int, bytes]]:
        """Every log of these addresses up to a block, along its own branch, and above a number."""
        logs = set()
        while (block := self.known.get(block_hash)) is not None and block.ref.number > above:
            ours = (log for log in block.logs if log.address in addresses)
            logs |= {(log.block_number, log.log_index, log.block_hash) for log in ours}
            block_hash = block.ref.parent_hash
        return logs

    async def change(self) -> None:
        """Mine a block, or replace some of the last ones, now and then by fewer; then let the weather turn."""
        if self.random.random() >= self.plan.reorgs:
            self.chain.mine(self._block(4))
        else:
            depth = self.random.choice((1, 1, 2, 3, self.random.randrange(1, DEEPEST)))
            self.reorg(min(depth, self.chain.head.number - self.fairness.final - 1))
        self._note()
        self.changes += 1
        for turn in self.plan.turns:
            if turn.begin + turn.length == self.changes:
                await self._clear(self.providers[turn.provider])
            if turn.begin == self.changes:
                await self._cast(turn)

    def reorg(self, depth: int) -> None:
        """Replace the last blocks; some of the new ones are empty."""
        if depth < 1:
            return
        self.reorgs += 1
        count = max(1, depth + self.random.choice((-1, 0, 1, 1, 2)))
        self.chain.reorg(depth, [self._block(3) if self.random.random() < 0.8 else [] for _ in range(count)])

    @asynccontextmanager
    async def weather(self, *, quickest_s: float = 0.02, slowest_s: float = 0.2) -> AsyncIterator[None]:
        """Let the chain change while the body runs."""

        async def blow() -> None:
            while True:
                await asyncio.sleep(self.random.uniform(quickest_s, slowest_s))
                await self.change()

        task = asyncio.create_task(blow())
        try:
            yield
        finally:
            if not task.done():
                task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def calm(self) -> None:
        """End all faults and lies: from now on every provider tells the truth about a chain that stands still."""
        for provider in self.providers:
            provider.calm = True
            await self._clear(provider)

    def figures(self) -> dict[str, Any]:
        """Tell what went on."""
        lies: dict[str, int] = {}
        for provider in self.providers:
            for lie, count in provider.lies.items():
                lies[lie] = lies.get(lie, 0) + count
        return {
            "changes": self.changes,
            "reorgs": self.reorgs,
            "head": self.chain.head.number,
            "logs": sum(len(block.logs) for block in self.chain.blocks),
            "faults": sum(provider.faults for provider in self.providers),
            "lies": lies,
            "requests": [provider.node.http_requests for provider in self.providers],
        }

    def _block(self, most: int) -> list[SimLog]:
        """Draw a block: what the registries say, and between it a stranger now and then."""
        logs: list[SimLog] = []
        for log in self.workload.block(most):
            if self.random.random() < 0.15:
                logs.append(SimLog(STRANGER, log.topics, b"not ours", log.tx_hash))
            logs.append(log)
        return logs

    def _note(self) -> None:
        self.known |= {block.ref.hash: block for block in self.chain.blocks[-3 * DEEPEST :]}
        self.fairness.final = max(self.fairness.final, self.chain.head.number - FINAL)

    async def _cast(self, turn: Turn) -> None:
        provider = self.providers[turn.provider]
        provider.spell = turn
        match turn.spell:
            case "down":
                await provider.node.stop()
            case "stale":
                provider.node.chain = self.chain.frozen()
            case "foreign":
                await provider.node.stop()
                provider.node.chain = self._other_network()
                await provider.node.start()
            case "syncing":
                provider.node.knobs.syncing = True
                await provider.node.stop()
                await provider.node.start()
            case "storm" | "silent":
                pass
            case other:
                assert_never(other)

    async def _clear(self, provider: Provider) -> None:
        if provider.spell is None:
            return
        if provider.spell.spell == "foreign":
            await provider.node.stop()
        provider.spell = None
        provider.node.chain = self.chain
        provider.node.knobs.syncing = False
        if not provider.node.is_up:
            await provider.node.start()

    def _other_network(self) -> SimChain:
        other = SimChain(seed=-1 - self.plan.seed)
        workload = Workload(-1 - self.plan.seed)
        for _ in range(FINAL + 10):
            other.mine(workload.block(2))
        other.mine_empty(max(0, self.chain.head.number - other.head.number))
        return other
