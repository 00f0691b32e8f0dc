"""Whether an answer can be true: the structural checks of every range, and the proof by header."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

from indexer.chain.codec import Header
from indexer.chain.refusals import Inconsistent
from indexer.core.proof import NO_BLOOM, bloom_excludes, bloom_may_hold, header_hash
from indexer.core.types import BlockRange, RawLog

TOLERANCE: Final = 5  # failures in a row, of all providers, after which a check is taken to not hold on this chain


class Check:
    """A check that gives way where it never holds.

    Some chains have headers of their own making (rpc faults: extra fields, late or zero blooms, system
    transactions). A single bad answer is refused and asked for again, elsewhere where possible; but a
    chain on which the check fails time after time is read without it, not halted.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._failures = 0

    def refuses(self, *, holds: bool) -> bool:
        """Count the outcome; say whether the answer is to be refused."""
        if holds:
            self._failures = 0
            return False
        self._failures += 1
        if self._failures > TOLERANCE:
            self.enabled = False
        return self.enabled


class HeaderProof:
    """What headers prove by themselves. `enabled` False leaves only the structural checks."""

    def __init__(self, *, enabled: bool) -> None:
        self.hashes = Check(enabled=enabled)
        self.blooms = Check(enabled=enabled)

    def check_hash(self, host: str, header: Header) -> None:
        """Raise Inconsistent where the block hash is not the hash of the header's fields."""
        if not self.hashes.enabled:
            return
        try:
            computed = header_hash(header.fields)
        except ValueError as error:
            raise Inconsistent(host, f"the header of block {header.ref.number} is malformed") from error
        if self.hashes.refuses(holds=computed == header.ref.hash):
            raise Inconsistent(host, f"the header of block {header.ref.number} does not have its hash")

    def check_bloom(self, host: str, header: Header, logs: Sequence[RawLog]) -> None:
        """Raise Inconsistent where the header's bloom rules out logs that came with it."""
        if not (self.blooms.enabled and logs and has_bloom(header)):
            return
        excluded = bloom_excludes(header.bloom or NO_BLOOM, ((log.address, log.topics) for log in logs))
        if self.blooms.refuses(holds=not excluded):
            raise Inconsistent(host, f"the bloom of block {header.ref.number} excludes logs given for it")

    def hints_at(self, header: Header, addresses: Iterable[bytes]) -> bool:
        """Say whether the bloom speaks for logs of these addresses; it may do so falsely, the more so when full."""
        return (
            self.blooms.enabled
            and has_bloom(header)
            and any(bloom_may_hold(header.bloom or NO_BLOOM, address) for address in addresses)
        )


def has_bloom(header: Header) -> bool:
    """Say whether the header carries a bloom that says anything: some chains send none, or zeroes."""
    return header.bloom is not None and header.bloom != NO_BLOOM


def check_filter(host: str, logs: Iterable[RawLog], wanted: BlockRange, addresses: frozenset[bytes]) -> None:
    """Raise Inconsistent on a log outside the range or of an address that was not asked for (fault F9)."""
    for log in logs:
        if not wanted.from_block <= log.block_number <= wanted.to_block:
            raise Inconsistent(host, f"a log of block {log.block_number} in the answer for {_words(wanted)}")
        if log.address not in addresses:
            raise Inconsistent(host, f"a log of an address not asked for, in block {log.block_number}")


def in_order(host: str, logs: Sequence[RawLog]) -> list[RawLog]:
    """Sort by position, each once; raises Inconsistent where two differ at one position (fault F8)."""
    by_position: dict[tuple[int, int], RawLog] = {}
    for log in logs:
        if by_position.setdefault((log.block_number, log.log_index), log) != log:
            raise Inconsistent(host, f"two different logs at index {log.log_index} of block {log.block_number}")
    return [by_position[position] for position in sorted(by_position)]


def check_hashes(host: str, logs: Iterable[RawLog], headers: Mapping[int, Header]) -> None:
    """Raise Inconsistent where a block goes by two hashes, among the logs or in its header (fault F10)."""
    hashes = {number: header.ref.hash for number, header in headers.items()}
    for log in logs:
        if hashes.setdefault(log.block_number, log.block_hash) != log.block_hash:
            raise Inconsistent(host, f"block {log.block_number} has two hashes in one answer")


def check_links(host: str, headers: Sequence[Header]) -> None:
    """Raise Inconsistent where neighbours (oldest first) are not parent and child."""
    for parent, child in pairwise(headers):
        if child.ref.number == parent.ref.number + 1 and child.ref.parent_hash != parent.ref.hash:
            raise Inconsistent(host, f"block {child.ref.number} does not follow block {parent.ref.number}")


def _words(wanted: BlockRange) -> str:
    return f"blocks {wanted.from_block} to {wanted.to_block}"
