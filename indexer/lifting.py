"""Where a halted chain can begin again: the newest stored block that is still on the chain its providers serve."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from indexer.chain.refusals import Inconsistent
from indexer.chain.source import Tip
from indexer.core.types import BlockRef
from indexer.errors import Fatal
from indexer.store.positions import StoredBlock

StoredBelow = Callable[[int], Awaitable[StoredBlock | None]]
"""Return the newest stored block at or below a number."""


class NoAncestor(Fatal):
    """The providers do not show a block from which to go on; nothing was taken back."""


class Headers(Protocol):
    """The chain as far as canonical headers go; errors are RpcErrors."""

    async def tip(self) -> Tip:
        """Newest and final block."""

    async def blocks(self, numbers: Sequence[int], *, elsewhere: bool = False) -> tuple[BlockRef, ...]:
        """Canonical headers of ascending numbers; `elsewhere` asks another provider where there is one."""


@dataclass(slots=True)
class AncestorSearch:
    """Finds the block to roll a halted chain back to; reads only.

    The hash of a block vouches for all blocks below it, so the canonical ones of the stored blocks lie below those that
    are not, and some twenty headers of a chain of millions tell where they part.
    """

    source: Headers
    stored_below: StoredBelow
    start_block: int
    _ancestor: BlockRef | None = field(default=None, init=False)
    _replaced: StoredBlock | None = field(default=None, init=False)  # the lowest one known that is not canonical

    async def find(self, newest: int) -> BlockRef:
        """Return the newest stored block at or below `newest` that is canonical, as two reads agree.

        Where nothing is stored so low, or `newest` is below the first block, the block before the first is returned,
        without a hash. Raises NoAncestor where nothing that is stored is canonical, or the providers are behind what is
        stored; RpcError where they do not answer, or not alike.
        """
        head = (await self.source.tip()).head.number
        await self._search(min(newest, head))
        if self._replaced is None and await self._is_above(head, newest):
            raise NoAncestor(f"the providers are at block {head}, behind what is stored: try again when they are not")
        if self._ancestor is None and self._replaced is not None:
            raise NoAncestor(
                f"none of the stored blocks is on the chain that the providers serve: check them; if they are right, "
                f"--from {self.start_block} begins anew"
            )
        await self._confirm()
        return self._ancestor or BlockRef(self.start_block - 1, b"", b"", 0)

    async def _search(self, newest: int) -> None:
        """Narrow down: what is stored up to `low` is canonical, what is stored above `high` is not."""
        low, high, probe = self.start_block - 1, newest, newest
        while low < high:
            stored = await self.stored_below(probe)
            if stored is None or stored.number <= low:
                low = probe
            elif (block := (await self.source.blocks([stored.number]))[0]).hash == stored.hash:
                low, self._ancestor = probe, block
            else:
                high, self._replaced = stored.number - 1, stored
            probe = (low + high + 1) // 2

    async def _is_above(self, head: int, newest: int) -> bool:
        """Say whether a stored block, up to `newest`, lies above the head."""
        stored = await self.stored_below(newest)
        return stored is not None and stored.number > head

    async def _confirm(self) -> None:
        """Read both sides of the parting once more, best elsewhere: one answer takes nothing back (fault F4)."""
        sides = {
            one.number: (one.hash, is_canonical)
            for one, is_canonical in ((self._ancestor, True), (self._replaced, False))
            if one is not None
        }
        for block in await self.source.blocks(sorted(sides), elsewhere=True):
            block_hash, is_canonical = sides[block.number]
            if (block.hash == block_hash) is not is_canonical:
                raise Inconsistent("", f"block {block.number} has two hashes in two answers")
