"""The ground truth: blocks with real header hashes, blooms and receipts roots, deterministic from a seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, groupby

from eth_hash.auto import keccak
from msgspec import structs

from indexer.core.proof import NO_BLOOM, bloom_of, header_hash, rlp_bytes, rlp_list
from indexer.core.types import BlockRange, BlockRef, RawLog
from simulator.logs import SimLog
from simulator.receipts import GAS_A_TX, PLAIN_KINDS, SimReceipt, receipts_of, root_of

EMPTY_TRIE = keccak(rlp_bytes(b""))
EMPTY_UNCLES = keccak(rlp_list([]))
START_TIME = 1_700_000_000  # of the first real block; seconds since 1970


@dataclass(frozen=True, slots=True)
class SimBlock:
    """One block: its header as JSON, its receipts in order, its logs."""

    ref: BlockRef
    header: dict[str, str]
    receipts: tuple[SimReceipt, ...] = ()
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
    receipt_kinds: Sequence[int] = PLAIN_KINDS  # types of transactions, drawn for each
    most_plain: int = 0  # transactions without logs that a block may hold beside the others
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
        copy = self.frozen()
        copy._branch += 1_000_000
        return copy

    def frozen(self) -> SimChain:
        """Copy the chain as it is now: what a node still tells that hears nothing new."""
        return replace(
            self, blocks=list(self.blocks), without_code=set(self.without_code), _imported=dict(self._imported)
        )

    def only(self, addresses: Iterable[bytes]) -> SimChain:
        """Copy the chain with the logs of these addresses alone; headers and positions stay as they are."""
        wanted = frozenset(addresses)
        copy = self.frozen()
        copy.blocks = [
            replace(block, logs=tuple(log for log in block.logs if log.address in wanted)) for block in copy.blocks
        ]
        return copy

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
            time = log.timestamp or self._time(log.block_number)
            by_block[log.block_number].append(structs.replace(log, timestamp=time))
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
        by_tx = [(tx_hash, list(own)) for tx_hash, own in groupby(logs, key=lambda log: log.tx_hash)]
        return SimBlock(ref, header, receipts_of(by_tx, kinds=PLAIN_KINDS, salt=""), logs)

    def _build(self, number: int, sim_logs: Sequence[SimLog], timestamp_step: int | None = None) -> SimBlock:
        parent_hash = self.head.hash if self.blocks and number > self.start else self._derived_hash(number - 1)
        if self.blocks and number > self.start:
            timestamp = self.head.timestamp + (self.block_time_s if timestamp_step is None else timestamp_step)
        else:
            timestamp = self._time(number)
        place = f"{self.seed}/{self._branch}/{number}"
        transactions = _placed(number, timestamp, self._transactions(place, sim_logs))
        receipts = receipts_of(transactions, kinds=self.receipt_kinds, salt=f"receipt/{place}")
        logs = [log for receipt in receipts for log in receipt.logs]
        bloom = bloom_of(_bloom_values(logs)) if logs else NO_BLOOM
        header = self._header(number, parent_hash, timestamp, bloom, root_of(receipts), len(receipts))
        block_hash = header_hash(header)
        assert block_hash is not None
        header["hash"] = "0x" + block_hash.hex()
        told = tuple(receipt.of_block(block_hash) for receipt in receipts)
        ref = BlockRef(number, block_hash, parent_hash, timestamp)
        return SimBlock(ref, header, told, tuple(log for receipt in told for log in receipt.logs))

    def _transactions(self, place: str, sim_logs: Sequence[SimLog]) -> list[tuple[bytes, list[SimLog]]]:
        named = [(log.tx_hash or keccak(f"tx/{place}/{index}".encode()), log) for index, log in enumerate(sim_logs)]
        with_logs = [
            (tx_hash, [log for _, log in group]) for tx_hash, group in groupby(named, key=lambda pair: pair[0])
        ]
        luck = keccak(f"plain/{place}".encode())
        plain = range(luck[0] % (self.most_plain + 1))
        return [*with_logs, *((keccak(luck + bytes((index,))), []) for index in plain)]

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


def _bloom_values(logs: Iterable[RawLog]) -> Iterable[bytes]:
    for log in logs:
        yield log.address
        yield from log.topics


def _placed(
    number: int, timestamp: int, transactions: Sequence[tuple[bytes, Sequence[SimLog]]]
) -> list[tuple[bytes, list[RawLog]]]:
    """Give every log its place in the block; the block's hash is not known yet."""
    indexes = count()
    return [
        (
            tx_hash,
            [
                RawLog(number, next(indexes), bytes(32), tx_hash, index, log.address, log.topics, log.data, timestamp)
                for log in logs
            ],
        )
        for index, (tx_hash, logs) in enumerate(transactions)
    ]
