"""Whether an answer can be true: the structural checks of every range, and the proof by header."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

import structlog

from indexer.chain.codec import Header, hexed
from indexer.chain.refusals import Inconsistent
from indexer.core.chains import ALL_HOLD, Switches
from indexer.core.proof import bloom_excludes, bloom_may_hold, header_hash
from indexer.core.receipts import EMPTY_ROOT
from indexer.core.types import BlockRange, BlockRef, Proof, RawLog

TOLERANCE: Final = 5  # failures in a row, or of one block, after which a check gives way until it holds again

_MAX_ODD: Final = 1_000  # blocks that fail, of which the failures are counted

log = structlog.get_logger()


class Check:
    """A check that gives way where it fails time after time.

    Some chains have headers of their own making (extra fields, late or zero blooms, system transactions), some a single
    odd block. A bad answer is refused and asked for again, elsewhere where possible; but after `TOLERANCE` failures in
    a row, or of one block, answers are accepted without it, at a lower level of proof, so that no chain halts. The next
    success puts it in force again.
    """

    def __init__(self, name: str, *, enabled: bool) -> None:
        self.name = name
        self.enabled = enabled
        self.slips = 0  # answers that were accepted though it failed
        self._failures = 0
        self._of_block: dict[int, int] = {}

    @property
    def suspended(self) -> bool:
        """Say whether it gives way now."""
        return self.enabled and self._failures > TOLERANCE

    @property
    def in_force(self) -> bool:
        """Say whether an answer that fails is refused."""
        return self.enabled and not self.suspended

    def refuses(self, block_number: int, *, holds: bool) -> bool:
        """Count the outcome for an answer about that block; say whether the answer is to be refused."""
        if not self.enabled:
            return False
        if holds:
            if self.suspended:
                log.info("check_resumed", check=self.name)
            self._failures = 0
            self._of_block.pop(block_number, None)
            return False
        self._failures += 1
        failures = self._of_block.pop(block_number, 0) + 1
        self._of_block[block_number] = failures
        if len(self._of_block) > _MAX_ODD:
            del self._of_block[next(iter(self._of_block))]
        if self._failures == TOLERANCE + 1:
            log.warning("check_suspended", check=self.name)
        refused = not self.suspended and failures <= TOLERANCE
        self.slips += not refused
        return refused

    def refute(self) -> None:
        """Suspend it at once: a block is proven to be right, and the check fails on it."""
        if self.in_force:
            log.warning("check_suspended", check=self.name)
        self._failures = TOLERANCE + 1


class HeaderProof:
    """What headers prove, how much of it is wanted, and how much of it is in force.

    `wanted` "off" leaves only the structural checks. `switches` name what never holds on this chain; what is switched
    off lowers no level, as nothing better can be had.
    """

    def __init__(self, wanted: Proof = "logs", switches: Switches = ALL_HOLD) -> None:
        self.wanted = wanted
        self.hashes = Check("header_hash", enabled=wanted != "off" and switches.header_hash)
        self.blooms = Check("bloom", enabled=wanted != "off" and switches.bloom)
        self.roots = Check("receipts_root", enabled=wanted == "receipts" and switches.receipts)
        self.receipts_hold = switches.receipts

    @property
    def level(self) -> Proof:
        """The level in force: suspended checks lower it."""
        suspended = (int(self.hashes.suspended), int(self.blooms.suspended))
        return self._level(suspended, proven=self.roots.in_force)

    @property
    def level_without_receipts(self) -> Proof:
        """The level in force where no receipts are to be had."""
        return self._level((int(self.hashes.suspended), int(self.blooms.suspended)), proven=False)

    @property
    def slips(self) -> tuple[int, int]:
        """How many headers and how many logs were accepted so far though their check failed."""
        return self.hashes.slips, self.blooms.slips

    def reached(self, before: tuple[int, int], *, proven: bool) -> Proof:
        """Return the level of what was fetched since `slips` was `before`; `proven` by receipts roots."""
        hashes, blooms = self.slips
        return self._level((hashes - before[0], blooms - before[1]), proven=proven)

    def _level(self, failing: tuple[int, int], *, proven: bool) -> Proof:
        """Judge by what failed: a receipts root needs no bloom, but is worth less in a header without its hash."""
        if self.wanted == "off":
            return "off"
        hashes, blooms = failing
        if proven:
            return "logs" if hashes else "receipts"
        return "off" if hashes or blooms else "logs"

    def check_hash(self, host: str, header: Header) -> None:
        """Raise Inconsistent where the block hash is not the hash of the header's fields."""
        if not self.hashes.enabled:
            return
        try:
            computed = header_hash(header.fields)
        except ValueError as error:
            raise Inconsistent(host, f"the header of block {header.ref.number} is malformed") from error
        if self.hashes.refuses(header.ref.number, holds=computed == header.ref.hash):
            raise Inconsistent(host, f"the header of block {header.ref.number} does not have its hash")

    def check_bloom(self, host: str, header: Header, logs: Sequence[RawLog]) -> None:
        """Raise Inconsistent where the header's bloom rules out logs that came with it."""
        if not self.blooms.enabled or not logs or header.bloom is None:
            return
        if self.blooms.refuses(header.ref.number, holds=not excludes(header, logs)):
            raise Inconsistent(host, f"the bloom of block {header.ref.number} excludes logs given for it")

    def check_blooms(self, host: str, headers: Iterable[Header], logs: Iterable[RawLog]) -> None:
        """Hold the logs of every block whose header is known against its bloom. Raises Inconsistent."""
        by_block: dict[int, list[RawLog]] = {}
        for one in logs:
            by_block.setdefault(one.block_number, []).append(one)
        for header in headers:
            self.check_bloom(host, header, by_block.get(header.ref.number, ()))

    def hints_at(self, header: Header, addresses: Iterable[bytes]) -> bool:
        """Say whether the bloom speaks for logs of these addresses; it may do so falsely, the more so when full."""
        bloom = header.bloom
        return (
            self.blooms.in_force and bloom is not None and any(bloom_may_hold(bloom, address) for address in addresses)
        )

    def may_hold(self, header: Header, log: RawLog) -> bool:
        """Say whether the bloom speaks for this very log: its address and each of its topics."""
        bloom = header.bloom
        values = (log.address, *log.topics)
        return self.blooms.in_force and bloom is not None and all(bloom_may_hold(bloom, value) for value in values)

    def proves_empty(self, header: Header, addresses: Iterable[bytes]) -> bool:
        """Say whether the header alone proves that its block holds no log of these addresses.

        By the root of a block without transactions, or by a bloom that excludes them. Headers prove nothing while they
        do not have their hash.
        """
        if self.hashes.suspended:
            return False
        if has_no_transactions(header):
            return True
        bloom = header.bloom
        return (
            self.blooms.in_force
            and bloom is not None
            and not any(bloom_may_hold(bloom, address) for address in addresses)
        )


_EMPTY_ROOT: Final = hexed(EMPTY_ROOT)


def has_no_transactions(header: Header) -> bool:
    """Say whether the header has the receipts root of a block without transactions."""
    return header.fields["receiptsRoot"] == _EMPTY_ROOT


def same_root(header: Header, other: Header) -> bool:
    """Say whether two headers have the same receipts root."""
    return header.fields["receiptsRoot"] == other.fields["receiptsRoot"]


def has_its_hash(header: Header) -> bool:
    """Say whether the block hash is the hash of the header's fields; not so on chains with headers of their own."""
    try:
        return header_hash(header.fields) == header.ref.hash
    except ValueError:
        return False


def excludes(header: Header, logs: Iterable[RawLog]) -> bool:
    """Say whether the header has a bloom that rules out one of the logs."""
    return header.bloom is not None and bloom_excludes(header.bloom, ((log.address, log.topics) for log in logs))


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


def check_continues(host: str, blocks: Sequence[BlockRef], headers: Sequence[Header]) -> None:
    """Raise Inconsistent where `headers` (oldest first) do not go on from the last of `blocks`."""
    if blocks and headers[0].ref.parent_hash != blocks[-1].hash:
        raise Inconsistent(host, f"block {headers[0].ref.number} does not follow block {blocks[-1].number}")


def _words(wanted: BlockRange) -> str:
    return f"blocks {wanted.from_block} to {wanted.to_block}"
