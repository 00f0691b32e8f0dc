"""What is asked of a provider about blocks and logs, and how the parts of its answer become core values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from indexer.chain import codec
from indexer.chain.codec import Header, HeaderJson, LogJson, hexed
from indexer.chain.provider import Call, Provider, Undecoded
from indexer.chain.refusals import Inconsistent, ProviderError
from indexer.core.types import BlockRange, BlockRef, RawLog

LARGE: Final = 1 << 20  # bytes of an answer of eth_getLogs that is not decoded on the event loop: some 600 logs

LogsAnswer = list[LogJson] | Undecoded | None
LogsReader = Callable[[msgspec.Raw], Awaitable[list[RawLog] | None]]
"""Reads an answer of eth_getLogs elsewhere; None where it is null, malformed, or of a block that was removed."""


@dataclass(frozen=True, slots=True)
class Question:
    """Which logs: of a range, or of exactly one block by its hash."""

    wanted: BlockRange
    addresses: tuple[bytes, ...]
    block: BlockRef | None = None

    @property
    def where(self) -> dict[str, str]:
        """The part of the filter of eth_getLogs that names the blocks."""
        if self.block is not None:
            return {"blockHash": hexed(self.block.hash)}
        return {"fromBlock": hex(self.wanted.from_block), "toBlock": hex(self.wanted.to_block)}

    def header_call(self) -> Call[HeaderJson | None]:
        """Ask for the header of the last block."""
        if self.block is not None:
            return Call("eth_getBlockByHash", [hexed(self.block.hash), False], codec.HEADER)
        return header_call(hex(self.wanted.to_block))

    def header_calls(self) -> list[Call[HeaderJson | None]]:
        """Ask for the header of the first block of a range, and for that of the last one."""
        if self.block is not None or len(self.wanted) == 1:
            return [self.header_call()]
        return [header_call(hex(self.wanted.from_block)), self.header_call()]

    def logs_calls(self, chunk: int | None) -> list[Call[LogsAnswer]]:
        """Ask for all addresses at once, or for `chunk` of them at a time."""
        size = chunk or max(1, len(self.addresses))
        texts = [hexed(address) for address in self.addresses]
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        return [Call("eth_getLogs", [{**self.where, "address": part}], codec.LOGS, LARGE) for part in parts]

    def check_asked(self, host: str, head: Header) -> None:
        """Raise Inconsistent where another header came than that of the last block."""
        number_differs = head.ref.number != self.wanted.to_block
        if number_differs or (self.block is not None and head.ref.hash != self.block.hash):
            raise Inconsistent(host, f"gave another block for {self.wanted.to_block}")


@dataclass(frozen=True, slots=True)
class Fetched:
    """The answer to a question, checked as far as one provider's answer can be."""

    provider: Provider
    head: Header  # of the last block of the range
    headers: tuple[Header, ...]  # all that are known of the range, oldest first
    logs: tuple[RawLog, ...]


def header_call(tag: str) -> Call[HeaderJson | None]:
    """Ask for a header by number (hex) or tag."""
    return Call("eth_getBlockByNumber", [tag, False], codec.HEADER)


def raw_logs(host: str, answer: list[LogJson] | ProviderError | None) -> list[RawLog]:
    """Turn one answer of eth_getLogs into logs. Raises the error that came, or Inconsistent."""
    if isinstance(answer, ProviderError):
        raise answer
    if answer is None:
        raise Inconsistent(host, "answered eth_getLogs with null")
    return checked_logs(host, answer)


def checked_logs(host: str, items: Sequence[LogJson]) -> list[RawLog]:
    """Decode logs. Raises Inconsistent where one is malformed, or of a block that a reorg removed (fault F7)."""
    if any(item.removed for item in items):
        raise Inconsistent(host, "gave logs of a block that a reorg removed")
    try:
        return codec.raw_logs(items)
    except ValueError as error:
        raise Inconsistent(host, f"a malformed log: {error}") from error
