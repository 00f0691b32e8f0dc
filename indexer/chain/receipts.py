"""What a block's receipts say of our logs, once they add up to the receipts root in its header.

A lying or broken node can drop a log from eth_getLogs unseen; it cannot drop one from receipts that have the root
(fault F2). What no root binds are the hashes of transactions, and the numbering, which follows from the order here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import structs

from indexer.chain.codec import Header, LogJson, ReceiptJson, hexed, octets, quantity
from indexer.chain.questions import checked_logs
from indexer.chain.refusals import Inconsistent
from indexer.core.proof import bloom_of, rlp_bytes, rlp_list
from indexer.core.receipts import encode_receipt, receipts_root
from indexer.core.types import RawLog

DEPOSIT: Final = 0x7E  # OP stack
CELO_FEE: Final = 0x7B  # CIP-64, a fee in another currency


def proven_logs(
    host: str, header: Header, receipts: Sequence[ReceiptJson], addresses: frozenset[bytes]
) -> list[RawLog]:
    """Return the logs of these addresses in a block; raises Inconsistent where its receipts do not have its root."""
    try:
        seen = _Encoded()
        encoded = [_encoded(receipt, seen) for receipt in receipts]
        if not _has_root(header, encoded):
            encoded = encoded[: _count_of_transactions(receipts)]
            if not _has_root(header, encoded):
                raise Inconsistent(host, f"the receipts of block {header.ref.number} do not have its root")
        own = _own_logs(host, header, receipts, addresses)
    except ValueError as error:
        raise Inconsistent(host, f"malformed receipts of block {header.ref.number}: {error}") from error
    if any(log.tx_index >= len(encoded) for log in own):
        raise Inconsistent(host, f"block {header.ref.number} has logs of ours that its root does not hold")
    return own


def _has_root(header: Header, encoded: Sequence[bytes]) -> bool:
    named = header.fields["receiptsRoot"]
    return named is not None and octets(named) == receipts_root(encoded)


def _count_of_transactions(receipts: Sequence[ReceiptJson]) -> int:
    """Count the receipts without those that the protocol appends outside of the root, for no gas (Polygon)."""
    count = len(receipts)
    while count and receipts[count - 1].gasUsed == "0x0":
        count -= 1
    return count


def same_logs(ours: Sequence[RawLog], theirs: Sequence[RawLog]) -> bool:
    """Say whether both hold the same logs in the same order, their blocks' times aside."""
    return list(map(identity_of, ours)) == list(map(identity_of, theirs))


def identity_of(one: RawLog) -> tuple[object, ...]:
    """Return all of a log but its block's time, which some nodes do not tell."""
    return (
        one.block_number,
        one.log_index,
        one.block_hash,
        one.tx_hash,
        one.tx_index,
        one.address,
        one.topics,
        one.data,
    )


def _own_logs(host: str, header: Header, receipts: Sequence[ReceiptJson], addresses: frozenset[bytes]) -> list[RawLog]:
    wanted = {hexed(address) for address in addresses}
    placed: list[tuple[int, int, LogJson]] = []
    log_index = 0
    for tx_index, receipt in enumerate(receipts):
        for item in receipt.logs:
            if item.address.lower() in wanted:
                placed.append((tx_index, log_index, item))
            log_index += 1
    logs = checked_logs(host, [item for _, _, item in placed])
    ref = header.ref
    for one, (tx_index, log_index, _) in zip(logs, placed, strict=True):
        position = (one.block_number, one.block_hash, one.tx_index, one.log_index)
        if position != (ref.number, ref.hash, tx_index, log_index):
            raise Inconsistent(host, f"log {log_index} of block {ref.number} is not where its receipt stands")
    return [structs.replace(one, timestamp=ref.timestamp) for one in logs]


class _Encoded(dict[str, bytes]):
    """RLP of hex, encoded once a block: addresses and topics repeat from log to log."""

    def __missing__(self, text: str) -> bytes:
        value = self[text] = rlp_bytes(octets(text))
        return value


def _encoded(receipt: ReceiptJson, seen: _Encoded) -> bytes:
    """Encode a receipt from its JSON. Raises ValueError."""
    logs = [
        rlp_list((seen[item.address], rlp_list([seen[topic] for topic in item.topics]), rlp_bytes(octets(item.data))))
        for item in receipt.logs
    ]
    kind = quantity(receipt.type or "0x0")
    if not 0 <= kind < 0x80:
        raise ValueError("a type of transaction that EIP-2718 does not know")
    return encode_receipt(
        kind, _outcome(receipt), quantity(receipt.cumulativeGasUsed), _bloom(receipt), logs, _extra(kind, receipt)
    )


def _outcome(receipt: ReceiptJson) -> bytes:
    """Return status or, before Byzantium, the state root."""
    if receipt.status is None:
        return octets(receipt.root or "0x")
    return b"\x01" if quantity(receipt.status) else b""


def _bloom(receipt: ReceiptJson) -> bytes:
    """Return the bloom as given, which is quicker, and right if the root is; else compute it."""
    if receipt.logsBloom is not None:
        return octets(receipt.logsBloom)
    return bloom_of(octets(value) for item in receipt.logs for value in (item.address, *item.topics))


def _extra(kind: int, receipt: ReceiptJson) -> list[int]:
    """Return what rollups append.

    The OP stack hashes a deposit's nonce since Canyon only, from when on receipts have a version; Celo hashes the base
    fee that was paid in another currency.
    """
    if kind == DEPOSIT and receipt.depositReceiptVersion is not None:
        return [quantity(receipt.depositNonce or "0x0"), quantity(receipt.depositReceiptVersion)]
    if kind == CELO_FEE and receipt.baseFee is not None:
        return [quantity(receipt.baseFee)]
    return []
