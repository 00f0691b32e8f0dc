"""The receipts root, which binds every log of a block to its header: encoding of receipts, and the trie over them.

Yellow paper 4.3.2 and appendices B to D; typed receipts: EIP-2718. Rollups append integers of their own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

from eth_hash.auto import keccak

from indexer.core.proof import rlp_bytes, rlp_list

EMPTY_ROOT: Final = keccak(rlp_bytes(b""))
"""The root of a block without transactions."""
HASHED_FROM: Final = 32  # bytes of a node from which its parent holds its hash instead of itself


def rlp_int(value: int) -> bytes:
    """Encode an integer, without leading zeroes."""
    return rlp_bytes(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def encode_receipt(
    kind: int, outcome: bytes, cumulative_gas: int, bloom: bytes, logs: Iterable[bytes], extra: Iterable[int] = ()
) -> bytes:
    """Encode a receipt as the trie holds it.

    `kind` is the type of its transaction, 0 for legacy. `outcome` is one byte 1, none for a failure, or the state root
    of before Byzantium. `logs` are encoded already; `extra` are the integers that a rollup appends.
    """
    items = (rlp_bytes(outcome), rlp_int(cumulative_gas), rlp_bytes(bloom), rlp_list(logs), *map(rlp_int, extra))
    return bytes((kind,) if kind else ()) + rlp_list(items)


def receipts_root(receipts: Sequence[bytes]) -> bytes:
    """Compute the root of the trie of encoded receipts, in the order of their transactions."""
    if not receipts:
        return EMPTY_ROOT
    # Keys as hex digits, so that one character is one nibble. None begins another: they are RLP.
    leaves = sorted((rlp_int(index).hex(), receipt) for index, receipt in enumerate(receipts))
    return keccak(_node(leaves, [key for key, _ in leaves], 0, len(leaves), 0))


def _node(leaves: Sequence[tuple[str, bytes]], keys: Sequence[str], start: int, stop: int, depth: int) -> bytes:
    """Encode the node over leaves `start` to `stop`, whose keys agree in their first `depth` nibbles."""
    key, value = leaves[start]
    if stop - start == 1:
        return rlp_list((rlp_bytes(_compact(key[depth:], leaf=True)), rlp_bytes(value)))
    shared = depth
    while key[shared] == keys[stop - 1][shared]:
        shared += 1
    children: list[bytes] = []
    for nibble in "0123456789abcdef":
        end = bisect_left(keys, key[:shared] + nibble + "g", start, stop)  # g comes after every digit
        children.append(_reference(_node(leaves, keys, start, end, shared + 1)) if end > start else b"\x80")
        start = end
    branch = rlp_list((*children, b"\x80"))
    if shared == depth:
        return branch
    return rlp_list((rlp_bytes(_compact(key[depth:shared], leaf=False)), _reference(branch)))


def _reference(node: bytes) -> bytes:
    return node if len(node) < HASHED_FROM else rlp_bytes(keccak(node))


def _compact(nibbles: str, *, leaf: bool) -> bytes:
    """Pack nibbles into bytes behind a flag (hex-prefix encoding, appendix C)."""
    odd = len(nibbles) % 2
    return bytes.fromhex(f"{2 * leaf + odd:x}{'' if odd else '0'}{nibbles}")
