"""The ground truth: blocks with real header hashes, blooms and receipts roots, deterministic from a seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from eth_hash.auto import keccak
from trie import HexaryTrie

from indexer.core.proof import NO_BLOOM, bloom_of, header_hash, rlp_bytes, rlp_list
from indexer.core.types import BlockRange, BlockRef, RawLog
from simulator.logs import SimLog

EMPTY_TRIE = keccak(rlp_bytes(b""))
EMPTY_UNCLES = keccak(rlp_list([]))
START_TIME = 1_700_000_000  # of the first real block; seconds since 1970


@dataclass(frozen=True, slots=True)
class SimBlock:
    """One block: its header as JSON, its transactions' hashes in order, its logs."""

    ref: BlockRef
    header: dict[str, str]
    tx_hashes: tuple[bytes, ...] = ()
    logs: tuple[RawLog, ...] = ()


@dataclass(slots=True)
class SimChain:
    """A chain whose real blocks begin at `start`; what lies below is derived on demand from seed and number.

    Real blocks have header hashes that can be recomputed. Derived and imported ones are linked by
    parent hash all the same, but no header hashes to a recorded hash: switch that check off for them.
    """

    seed: int = 0
    start: int = 0
    block_time_s: int = 12
    chain_id: int = 31337
    blocks: list[SimBlock] = field(default_factory=list)
    without_code: set[bytes] = field(default_factory=set)
    _branch: int = 0
    _imported: dict[int, tuple[RawLog, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.blocks:
            self.blocks.append(self._build(self.start, ()))

    @classmethod
    def from_logs(cls, logs: Iterable[RawLog], *, chain_id: int = 1, seed: int = 0) -> SimChain:
        """Hold recorded logs at their own positions; the first real block follows the last of them."""
        recorded = list(logs)
        chain = cls(seed=seed, start=max(log.block_number for log in recorded) + 1, chain_id=chain_id, blocks=[])
        chain.import_logs(recorded)
        return chain

    @property
    def head(self) -> BlockRef:
        """The newest block."""
        return self.blocks[-1].ref

    def mine(self, logs: Sequence[SimLog] = (), *, timestamp_step: int | None = None) -> BlockRef:
        """Append a block with these logs in order; returns it."""
        self.blocks.append(self._build(self.head.number + 1, logs, timestamp_step))
        return self.head

    def mine_empty(self, count: int) -> BlockRef:
        """Append empty blocks; returns the last."""
        for _ in range(count):
            self.mine()
        return self.head

    def reorg(self, depth: int, blocks_of_logs: Sequence[Sequence[SimLog]] | None = None) -> BlockRef:
        """Replace the last `depth` blocks by as many as are given (default: empty); returns the ancestor."""
        if not 0 < depth < len(self.blocks):
            raise ValueError(f"cannot replace {depth} of {len(self.blocks)} real blocks")
        del self.blocks[-depth:]
        ancestor = self.head
        self._branch += 1
        for logs in [()] * depth if blocks_of_logs is None else blocks_of_logs:
            self.mine(logs)
        return ancestor

    def fork(self) -> SimChain:
        """Copy the chain; both go their own way from here, with different hashes."""
        return replace(
            self,
            blocks=list(self.blocks),
            without_code=set(self.without_code),
            _branch=self._branch + 1_000_000,
            _imported=dict(self._imported),
        )

    def logs(self, addresses: Iterable[bytes] | None = None, within: BlockRange | None = None) -> list[RawLog]:
        """All canonical logs in order, of these addresses (default: any) and blocks (default: all)."""
        wanted = None if addresses is None else frozenset(addresses)
        numbers = range(within.from_block, within.to_block + 1) if within else None
        return [log for log in self._all_logs(numbers) if wanted is None or log.address in wanted]

    def _all_logs(self, numbers: range | None) -> Iterable[RawLog]:
        for number in sorted(self._imported):
            if numbers is None or number in numbers:
                yield from self._imported[number]
        first = 0 if numbers is None else max(0, numbers.start - self.start)
        last = len(self.blocks) if numbers is None else max(0, numbers.stop - self.start)
        for block in self.blocks[first:last]:
            yield from block.logs

    def block(self, number: int) -> SimBlock | None:
        """Return the canonical block, or None past the head."""
        if number < 0 or number > self.head.number:
            return None
        return self.blocks[number - self.start] if number >= self.start else self._derive(number)

    def block_by_hash(self, block_hash: bytes) -> SimBlock | None:
        """Return a canonical block that is real or imported; None for blocks that a reorg replaced."""
        for block in reversed(self.blocks):
            if block.ref.hash == block_hash:
                return block
        for number, logs in self._imported.items():
            if logs[0].block_hash == block_hash:
                return self._derive(number)
        return None

    def import_logs(self, logs: Iterable[RawLog]) -> None:
        """Place recorded logs, with their own hashes and indexes, into the derived part below `start`."""
        by_block: dict[int, list[RawLog]] = defaultdict(list)
        for log in logs:
            if log.block_number >= self.start:
                raise ValueError(f"block {log.block_number} is not below the first real block {self.start}")
            by_block[log.block_number].append(replace(log, timestamp=log.timestamp or self._time(log.block_number)))
        for number, found in by_block.items():
            self._imported[number] = tuple(sorted(found, key=lambda log: log.log_index))
        if len(self.blocks) == 1:  # the first real block links to the imported one below
            self.blocks[0] = self._build(self.start, ())

    def _time(self, number: int) -> int:
        return START_TIME + (number - self.start) * self.block_time_s

    def _derived_hash(self, number: int) -> bytes:
        if number < 0:
            return bytes(32)
        if imported := self._imported.get(number):
            return imported[0].block_hash
        return keccak(f"derived/{self.seed}/{number}".encode())

    def _derive(self, number: int) -> SimBlock:
        logs = self._imported.get(number, ())
        timestamp = logs[0].timestamp if logs else self._time(number)
        ref = BlockRef(number, self._derived_hash(number), self._derived_hash(number - 1), timestamp)
        bloom = bloom_of(_bloom_values(logs)) if logs else NO_BLOOM
        header = self._header(ref.number, ref.parent_hash, timestamp, bloom, EMPTY_TRIE, len(logs))
        header["hash"] = "0x" + ref.hash.hex()
        return SimBlock(ref, header, tuple(dict.fromkeys(log.tx_hash for log in logs)), logs)

    def _build(self, number: int, sim_logs: Sequence[SimLog], timestamp_step: int | None = None) -> SimBlock:
        parent_hash = self.head.hash if self.blocks and number > self.start else self._derived_hash(number - 1)
        if self.blocks and number > self.start:
            timestamp = self.head.timestamp + (self.block_time_s if timestamp_step is None else timestamp_step)
        else:
            timestamp = self._time(number)
        transactions = self._transactions(number, sim_logs)
        logs = _place(number, timestamp, transactions)
        bloom = bloom_of(_bloom_values(logs)) if logs else NO_BLOOM
        root = receipts_root(logs, len(transactions)) if logs else EMPTY_TRIE
        header = self._header(number, parent_hash, timestamp, bloom, root, len(transactions))
        block_hash = header_hash(header)
        assert block_hash is not None
        header["hash"] = "0x" + block_hash.hex()
        placed = tuple(replace(log, block_hash=block_hash) for log in logs)
        ref = BlockRef(number, block_hash, parent_hash, timestamp)
        return SimBlock(ref, header, tuple(tx_hash for tx_hash, _ in transactions), placed)

    def _transactions(self, number: int, sim_logs: Sequence[SimLog]) -> list[tuple[bytes, list[SimLog]]]:
        named = [
            (log.tx_hash or keccak(f"tx/{self.seed}/{self._branch}/{number}/{index}".encode()), log)
            for index, log in enumerate(sim_logs)
        ]
        return [(tx_hash, [log for _, log in group]) for tx_hash, group in groupby(named, key=lambda pair: pair[0])]

    def _header(
        self, number: int, parent_hash: bytes, timestamp: int, bloom: bytes, receipts: bytes, transactions: int
    ) -> dict[str, str]:
        return {
            "parentHash": "0x" + parent_hash.hex(),
            "sha3Uncles": "0x" + EMPTY_UNCLES.hex(),
            "miner": "0x" + bytes(20).hex(),
            "stateRoot": "0x" + keccak(f"state/{self.seed}/{self._branch}/{number}".encode()).hex(),
            "transactionsRoot": "0x" + EMPTY_TRIE.hex(),
            "receiptsRoot": "0x" + receipts.hex(),
            "logsBloom": "0x" + bloom.hex(),
            "difficulty": "0x0",
            "number": hex(number),
            "gasLimit": hex(30_000_000),
            "gasUsed": hex(GAS_A_TX * transactions),
            "timestamp": hex(timestamp),
            "extraData": "0x",
            "mixHash": "0x" + bytes(32).hex(),
            "nonce": "0x0000000000000000",
            "baseFeePerGas": "0x7",
            "withdrawalsRoot": "0x" + EMPTY_TRIE.hex(),
            "blobGasUsed": "0x0",
            "excessBlobGas": "0x0",
            "parentBeaconBlockRoot": "0x" + bytes(32).hex(),
        }


GAS_A_TX = 21_000


def _bloom_values(logs: Iterable[RawLog]) -> Iterable[bytes]:
    for log in logs:
        yield log.address
        yield from log.topics


def _place(number: int, timestamp: int, transactions: list[tuple[bytes, list[SimLog]]]) -> list[RawLog]:
    flat = [(tx_index, tx_hash, log) for tx_index, (tx_hash, logs) in enumerate(transactions) for log in logs]
    return [
        RawLog(number, log_index, bytes(32), tx_hash, tx_index, log.address, log.topics, log.data, timestamp)
        for log_index, (tx_index, tx_hash, log) in enumerate(flat)
    ]


def receipts_root(logs: Sequence[RawLog], transactions: int) -> bytes:
    """Compute the root of a block's receipts: all of type 2, successful, `GAS_A_TX` each."""
    trie = HexaryTrie({}, prune=True)
    by_tx: dict[int, list[RawLog]] = defaultdict(list)
    for log in logs:
        by_tx[log.tx_index].append(log)
    for index in range(transactions):
        own = by_tx[index]
        encoded = [
            rlp_list((rlp_bytes(log.address), rlp_list(rlp_bytes(topic) for topic in log.topics), rlp_bytes(log.data)))
            for log in own
        ]
        gas = GAS_A_TX * (index + 1)
        receipt = b"\x02" + rlp_list(
            (
                rlp_bytes(b"\x01"),
                rlp_bytes(_minimal(gas)),
                rlp_bytes(bloom_of(_bloom_values(own))),
                rlp_list(encoded),
            )
        )
        trie.set(rlp_bytes(_minimal(index)), receipt)
    return trie.root_hash


def _minimal(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")
