"""Seeded traffic for the sample registries: blocks of mixed deeds, and a reorg now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from indexer.demo.actions import Action, Actions, Call
from indexer.demo.anvil import AnvilNode
from indexer.demo.contracts import Registries, accounts, send
from indexer.demo.world import World

_REMEMBERED = 16  # blocks whose world is kept, more than the deepest reorg
_CATCH_UP = 2_000  # blocks read when the traffic goes on upon a kept chain
_DEEDS = 20  # in a block of the fixed amount
_LIVE_DEEDS = (1, 6)
_LIVE_REORG_CHANCE = 1 / 40
_MAX_REORG = 3
_BLOCK_TIME_S = 2
_SETTLED = 2  # blocks that follow the last reorg of the fixed amount


class Traffic:
    """Sends transactions and makes the blocks; the same seed on the same chain gives the same blocks.

    `first_block` is the block before the first one made here, `logs` the count in the chain as it stands.
    """

    def __init__(self, node: AnvilNode, registries: Registries, seed: int) -> None:
        self._node = node
        self._registries = registries
        self._seed = seed
        self._worlds: dict[int, World] = {}
        self._nonces: dict[bytes, int] = {}
        self._deck: list[Action] = []
        self._actions: Actions | None = None
        self._rng = Random(seed)  # noqa: S311 - content of a demo
        self.first_block = 0
        self.head = 0
        self.reorgs = 0

    @property
    def logs(self) -> int:
        """Count the registries' logs in the blocks of this traffic."""
        return self._worlds[self.head].logs if self._worlds else 0

    async def step(self, deeds: int = _DEEDS) -> int:
        """Make one block of mixed deeds and return its number."""
        actions = await self._opened()
        world = self._worlds[self.head]
        for _ in range(deeds):
            calls = await self._draw(actions)(world)
            for call in calls or await actions.register(world):
                await self._send(call)
        head = await self._node.mine()
        await self._follow(self.head + 1, head)
        return head

    async def reorg(self, depth: int) -> None:
        """Replace the newest blocks, `depth` of them or as many as are ours.

        The transactions of about half of the senders come again in the new blocks, some a block later,
        the others vanish.
        """
        await self._opened()
        depth = min(depth, self.head - self.first_block, _REMEMBERED - 1)
        if depth < 1:
            return
        again = await self._included_again(self.head - depth + 1, depth)
        await self._node.rpc("anvil_reorg", [depth, again])
        self._nonces.clear()
        self.reorgs += 1
        head, self.head = self.head, self.head - depth
        await self._follow(self.head + 1, head)

    async def run_fixed(
        self, logs_at_least: int = 1000, reorgs: int = 2, before_reorg: Callable[[], Awaitable[None]] | None = None
    ) -> int:
        """Make the fixed amount of traffic, reorgs spread over it, and return the head's number.

        `before_reorg` is awaited before each: whoever shall live through it may still have to see the old blocks.
        """
        await self._opened()
        await self._node.rpc("anvil_setBlockTimestampInterval", [_BLOCK_TIME_S])
        try:
            for turn in range(1, reorgs + 1):
                await self._until(logs_at_least * turn // (reorgs + 1))
                if before_reorg:
                    await before_reorg()
                await self.reorg(self._rng.randint(1, _MAX_REORG))
            await self._until(logs_at_least)
            for _ in range(_SETTLED):
                await self.step()
        finally:
            await self._node.rpc("anvil_removeBlockTimestampInterval")
        return self.head

    async def run_forever(self, interval_s: float) -> None:
        """Make a small block every `interval_s` seconds, until cancelled."""
        while True:
            await self.step(self._rng.randint(*_LIVE_DEEDS))
            if self._rng.random() < _LIVE_REORG_CHANCE:
                await self.reorg(self._rng.randint(1, _MAX_REORG))
            await asyncio.sleep(interval_s)

    async def _until(self, logs: int) -> None:
        while self.logs < logs:
            await self.step()

    async def _opened(self) -> Actions:
        """Take up the chain as it stands, at the first use."""
        if self._actions is None:
            node = self._node
            self.first_block = self.head = await node.head()
            self._rng = Random(f"{self._seed}:{self.head}")  # noqa: S311 - content of a demo; a kept chain goes on anew
            chain_id = int(await node.rpc("eth_chainId"), 16)
            actors = tuple((await accounts(node))[1:])
            self._actions = Actions(node, self._registries, actors, chain_id, self._rng)
            world = World()
            for log in await self._logs(max(0, self.head - _CATCH_UP), self.head):
                world.apply(log)
            world.logs = 0
            self._worlds[self.head] = world
        return self._actions

    def _draw(self, actions: Actions) -> Action:
        """Return the next deed: all of them come, in a new order each time, before any deck begins again."""
        if not self._deck:
            self._deck = [action for action, weight in actions.weighted().items() for _ in range(weight)]
            self._rng.shuffle(self._deck)
        return self._deck.pop()

    async def _send(self, call: Call) -> None:
        nonce = self._nonces.get(call.sender)
        if nonce is None:
            count = await self._node.rpc("eth_getTransactionCount", [f"0x{call.sender.hex()}", "latest"])
            nonce = int(count, 16)
        await send(self._node, call.sender, call.to, call.data, nonce)
        self._nonces[call.sender] = nonce + 1

    async def _follow(self, from_block: int, to_block: int) -> None:
        """Bring the world up to `to_block`, remembering how it was at each block."""
        for number in range(from_block, to_block + 1):
            world = self._worlds[number - 1].copy()
            for log in await self._logs(number, number):
                world.apply(log)
            self._worlds[number] = world
            self._worlds.pop(number - _REMEMBERED, None)
        self.head = to_block

    async def _logs(self, from_block: int, to_block: int) -> list[dict[str, Any]]:
        addresses = [f"0x{address.hex()}" for address in self._registries.deployment.addresses]
        query = {"fromBlock": hex(from_block), "toBlock": hex(to_block), "address": addresses}
        return list(await self._node.rpc("eth_getLogs", [query]))

    async def _included_again(self, from_block: int, depth: int) -> list[tuple[str, int]]:
        """Choose transactions to be kept, as (raw, offset of the new block); a sender's order stays."""
        lucky = {f"0x{actor.hex()}" for actor in self._rng.sample(self._actors(), len(self._actors()) // 2)}
        earliest: dict[str, int] = {}
        again = []
        for offset in range(depth):
            block = await self._node.rpc("eth_getBlockByNumber", [hex(from_block + offset), True])
            for transaction in block["transactions"]:
                sender = transaction["from"].lower()
                if sender in lucky:
                    later = min(depth - 1, offset + self._rng.randrange(2))
                    earliest[sender] = max(earliest.get(sender, 0), later)
                    raw = await self._node.rpc("eth_getRawTransactionByHash", [transaction["hash"]])
                    again.append((raw, earliest[sender]))
        return again

    def _actors(self) -> tuple[bytes, ...]:
        return self._actions.actors if self._actions else ()
