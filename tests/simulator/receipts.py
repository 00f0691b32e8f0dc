"""Receipts of every type in use, encoded as the block's root wants them and as nodes tell them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from eth_hash.auto import keccak
from msgspec import structs
from trie import HexaryTrie

from indexer.core.proof import bloom_of, rlp_bytes, rlp_list
from indexer.core.types import RawLog

GAS_A_TX: Final = 21_000
PLAIN_KINDS: Final = (2,)
ETHEREUM_KINDS: Final = (0, 0, 1, 2, 2, 2, 3, 4)  # legacy, EIP-2930, 1559, 4844, 7702
OPTIMISM_KINDS: Final = (0, 2, 0x7E)
ARBITRUM_KINDS: Final = (0, 2, 0x64, 0x68, 0x6A)
DEPOSIT: Final = 0x7E


@dataclass(frozen=True, slots=True)
class SimReceipt:
    """What a transaction left. `post_state` stands in place of the status before Byzantium.

    `deposit_nonce` alone is told but not hashed (OP Regolith); with `deposit_version` both are hashed (Canyon).
    """

    kind: int
    tx_hash: bytes
    tx_index: int
    cumulative_gas: int
    logs: tuple[RawLog, ...] = ()
    succeeded: bool = True
    post_state: bytes | None = None
    deposit_nonce: int | None = None
    deposit_version: int | None = None

    def encoded(self) -> bytes:
        """Encode for the trie: the type's byte, unless legacy, then the RLP list (EIP-2718)."""
        outcome = self.post_state if self.post_state is not None else minimal(int(self.succeeded))
        fields = [
            rlp_bytes(outcome),
            rlp_bytes(minimal(self.cumulative_gas)),
            rlp_bytes(self.bloom),
            rlp_list(_encoded_log(log) for log in self.logs),
        ]
        if self.deposit_version is not None:
            fields += [rlp_bytes(minimal(self.deposit_nonce or 0)), rlp_bytes(minimal(self.deposit_version))]
        return (bytes((self.kind,)) if self.kind else b"") + rlp_list(fields)

    @property
    def bloom(self) -> bytes:
        """The bloom of its own logs."""
        return bloom_of(value for log in self.logs for value in (log.address, *log.topics))

    def of_block(self, block_hash: bytes) -> SimReceipt:
        """Return it with the block's hash in its logs."""
        return replace(self, logs=tuple(structs.replace(log, block_hash=block_hash) for log in self.logs))

    def told(self, block_number: int, block_hash: bytes, logs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Write it as `eth_getBlockReceipts` does; `logs` are its logs as the node writes them."""
        answer: dict[str, Any] = {
            "transactionHash": "0x" + self.tx_hash.hex(),
            "transactionIndex": hex(self.tx_index),
            "blockHash": "0x" + block_hash.hex(),
            "blockNumber": hex(block_number),
            "type": hex(self.kind),
            "from": "0x" + bytes(20).hex(),
            "to": "0x" + bytes(20).hex(),
            "contractAddress": None,
            "cumulativeGasUsed": hex(self.cumulative_gas),
            "gasUsed": hex(GAS_A_TX),
            "effectiveGasPrice": "0x7",
            "logsBloom": "0x" + self.bloom.hex(),
            "logs": list(logs),
        }
        if self.post_state is None:
            answer["status"] = hex(int(self.succeeded))
        else:
            answer["root"] = "0x" + self.post_state.hex()
        if self.deposit_nonce is not None:
            answer["depositNonce"] = hex(self.deposit_nonce)
        if self.deposit_version is not None:
            answer["depositReceiptVersion"] = hex(self.deposit_version)
        return answer


def root_of(receipts: Iterable[SimReceipt]) -> bytes:
    """Compute the receipts root of a block, in order of their index."""
    trie = HexaryTrie({}, prune=True)
    for receipt in receipts:
        trie.set(rlp_bytes(minimal(receipt.tx_index)), receipt.encoded())
    return trie.root_hash


def receipts_of(
    transactions: Sequence[tuple[bytes, Sequence[RawLog]]], *, kinds: Sequence[int], salt: str
) -> tuple[SimReceipt, ...]:
    """Give each transaction a type drawn from `kinds`; one without logs may have failed. `salt` seeds the drawing."""
    return tuple(
        _drawn(tx_hash, index, tuple(logs), kinds, keccak(f"{salt}/{index}".encode()))
        for index, (tx_hash, logs) in enumerate(transactions)
    )


def _drawn(tx_hash: bytes, index: int, logs: tuple[RawLog, ...], kinds: Sequence[int], luck: bytes) -> SimReceipt:
    kind = kinds[luck[0] % len(kinds)]
    mixed = len(kinds) > 1
    deposit = kind == DEPOSIT and luck[1] % 4 > 0
    return SimReceipt(
        kind=kind,
        tx_hash=tx_hash,
        tx_index=index,
        cumulative_gas=GAS_A_TX * (index + 1),
        logs=logs,
        succeeded=bool(logs) or not mixed or luck[2] % 3 > 0,
        post_state=luck if mixed and kind == 0 and luck[3] % 5 == 0 else None,
        deposit_nonce=luck[4] if deposit else None,
        deposit_version=1 if deposit and luck[1] % 4 > 1 else None,
    )


def _encoded_log(log: RawLog) -> bytes:
    topics = rlp_list(rlp_bytes(topic) for topic in log.topics)
    return rlp_list((rlp_bytes(log.address), topics, rlp_bytes(log.data)))


def minimal(value: int) -> bytes:
    """Write an integer without leading zeroes; 0 is empty."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")
