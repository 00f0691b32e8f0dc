"""What a header proves by itself: its own hash, and which logs its block cannot hold.

The receipts root, which proves the logs themselves, is in `receipts.py`. Nothing raises on odd input;
the caller decides what a failed proof means, as some chains have headers of their own making.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from eth_hash.auto import keccak

BLOOM_BYTES: Final = 256  # 2048 bits, yellow paper section 4.4.3
NO_BLOOM: Final = bytes(BLOOM_BYTES)

# JSON names in the order of the header's RLP list (yellow paper 4.4; later forks append: EIP-1559,
# 4895, 4844, 4788, 7685, 7928). True: an integer, so leading zeroes are cut.
HEADER_FIELDS: Final[tuple[tuple[str, bool], ...]] = (
    ("parentHash", False),
    ("sha3Uncles", False),
    ("miner", False),
    ("stateRoot", False),
    ("transactionsRoot", False),
    ("receiptsRoot", False),
    ("logsBloom", False),
    ("difficulty", True),
    ("number", True),
    ("gasLimit", True),
    ("gasUsed", True),
    ("timestamp", True),
    ("extraData", False),
    ("mixHash", False),
    ("nonce", False),
    ("baseFeePerGas", True),
    ("withdrawalsRoot", False),
    ("blobGasUsed", True),
    ("excessBlobGas", True),
    ("parentBeaconBlockRoot", False),
    ("requestsHash", False),
    ("blockAccessListHash", False),
)
_FIRST_OPTIONAL: Final = 15  # baseFeePerGas, EIP-1559


def rlp_bytes(value: bytes) -> bytes:
    """Encode one byte string (yellow paper, appendix B)."""
    if len(value) == 1 and value[0] < 0x80:
        return value
    return _length_prefix(len(value), 0x80) + value


def rlp_list(items: Iterable[bytes]) -> bytes:
    """Join items that are encoded already into an RLP list."""
    payload = b"".join(items)
    return _length_prefix(len(payload), 0xC0) + payload


def _length_prefix(length: int, offset: int) -> bytes:
    if length < 56:
        return bytes((offset + length,))
    size = (length.bit_length() + 7) // 8
    return bytes((offset + 55 + size,)) + length.to_bytes(size, "big")


def header_hash(fields: Mapping[str, str | None]) -> bytes | None:
    """Compute the block hash from the header's JSON fields; None where a field that every chain has is missing.

    A field of a later fork that is absent or null is left out, as it is in the header's RLP.
    """
    items: list[bytes] = []
    for position, (name, is_integer) in enumerate(HEADER_FIELDS):
        text = fields.get(name)
        if text is None:
            if position < _FIRST_OPTIONAL:
                return None
            continue
        value = _hex_bytes(text)
        items.append(rlp_bytes(value.lstrip(b"\x00") if is_integer else value))
    return keccak(rlp_list(items))


def _hex_bytes(text: str) -> bytes:
    digits = text[2:]
    return bytes.fromhex(digits if len(digits) % 2 == 0 else "0" + digits)


@lru_cache(maxsize=65_536)  # addresses, topic0s and agent ids come again and again; 26 µs a hash
def bloom_mask(value: bytes) -> int:
    """Return the three bits of an address or topic, as an integer with the bloom's byte order (big endian)."""
    digest = keccak(value)
    return (
        1 << (int.from_bytes(digest[0:2], "big") & 2047)
        | 1 << (int.from_bytes(digest[2:4], "big") & 2047)
        | 1 << (int.from_bytes(digest[4:6], "big") & 2047)
    )


def bloom_of(values: Iterable[bytes]) -> bytes:
    """Build the bloom of addresses and topics."""
    bloom = 0
    for value in values:
        bloom |= bloom_mask(value)
    return bloom.to_bytes(BLOOM_BYTES, "big")


def bloom_may_hold(bloom: bytes, value: bytes) -> bool:
    """Say whether a block with this bloom may hold a log with the address or topic; False is certain."""
    mask = bloom_mask(value)
    return int.from_bytes(bloom, "big") & mask == mask


def bloom_excludes(bloom: bytes, logs: Iterable[tuple[bytes, Sequence[bytes]]]) -> bool:
    """Say whether the bloom rules out one of the logs, given as (address, topics)."""
    bits = int.from_bytes(bloom, "big")
    for address, topics in logs:
        for value in (address, *topics):
            mask = bloom_mask(value)
            if bits & mask != mask:
                return True
    return False
