"""The values that travel from the chain to the tables. Bytes inside; hex is for the edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NewType

import msgspec

ChainId = NewType("ChainId", int)
Proof = Literal["off", "logs", "receipts"]
"""How sure a stretch is: structural checks alone; also blooms and header hashes; also the receipts root of its logs."""


@dataclass(frozen=True, slots=True)
class BlockRef:
    """A block as far as order and reorgs are concerned. `timestamp` is in seconds since 1970."""

    number: int
    hash: bytes
    parent_hash: bytes
    timestamp: int


@dataclass(frozen=True, slots=True, order=True)
class BlockRange:
    """Blocks `from_block` to `to_block`, both inclusive; never inverted."""

    from_block: int
    to_block: int

    def __post_init__(self) -> None:
        """Refuse an inverted range where it is made (fault F18)."""
        if not 0 <= self.from_block <= self.to_block:
            raise ValueError(f"inverted block range {self.from_block}..{self.to_block}")

    def __len__(self) -> int:
        """Count the blocks in the range."""
        return self.to_block - self.from_block + 1


class RawLog(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One log as the node gave it, hex decoded. `timestamp` is its block's time in seconds.

    A struct, as millions are made: it takes a tenth of the time of a frozen dataclass. Sent to another process it is an
    array, without names.
    """

    block_number: int
    log_index: int
    block_hash: bytes
    tx_hash: bytes
    tx_index: int
    address: bytes
    topics: tuple[bytes, ...]
    data: bytes
    timestamp: int


@dataclass(frozen=True, slots=True)
class Deployment:
    """One set of registries that belong together; addresses are 20 bytes. `validation` may be empty."""

    identity: bytes
    reputation: bytes
    validation: tuple[bytes, ...]
    start_block: int

    @property
    def addresses(self) -> tuple[bytes, ...]:
        """Every address whose logs belong to this deployment, each once, identity first."""
        return tuple(dict.fromkeys((self.identity, self.reputation, *self.validation)))


@dataclass(frozen=True, slots=True)
class Batch:
    """A fetched stretch of the chain: whole blocks, logs in (block_number, log_index) order.

    `blocks` holds the headers that are known of the range, oldest first; the last one is always
    `range.to_block` and becomes the checkpoint. `proof` is the level that every block of the range reached.
    """

    range: BlockRange
    blocks: tuple[BlockRef, ...]
    logs: tuple[RawLog, ...]
    proof: Proof = "logs"
