from __future__ import annotations

import pytest
import rlp
from hypothesis import given
from hypothesis import strategies as st
from trie import HexaryTrie

from indexer.core.receipts import EMPTY_ROOT, encode_receipt, receipts_root


def reference_root(receipts: list[bytes]) -> bytes:
    trie = HexaryTrie({}, prune=True)
    for index, receipt in enumerate(receipts):
        trie.set(rlp.encode(index), receipt)
    return trie.root_hash


@given(st.lists(st.binary(min_size=1, max_size=90), max_size=40))
def test_root_equals_the_reference(receipts: list[bytes]) -> None:
    assert receipts_root(receipts) == reference_root(receipts)


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 127, 128, 129, 255, 256, 257, 300])
def test_root_equals_the_reference_at_every_turn_of_the_keys(count: int) -> None:
    receipts = [bytes([1 + index % 255]) * (1 + index % 70) for index in range(count)]

    assert receipts_root(receipts) == reference_root(receipts)


def test_block_without_transactions_has_the_empty_root() -> None:
    known = "56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"

    assert receipts_root([]).hex() == EMPTY_ROOT.hex() == known


@pytest.mark.parametrize("kind", [0, 1, 4, 0x7E])
@pytest.mark.parametrize("extra", [(), (5,), (0, 1)], ids=str)
@pytest.mark.parametrize("outcome", [b"\x01", b"", b"\x07" * 32], ids=["done", "failed", "state root"])
def test_receipt_equals_the_reference_encoding(kind: int, extra: tuple[int, ...], outcome: bytes) -> None:
    log = [b"\x11" * 20, [b"\x22" * 32, b"\x33" * 32], b"\x01"]
    encoded = encode_receipt(kind, outcome, 21_000, bytes(256), [rlp.encode(log)], extra)

    expected = rlp.encode([outcome, 21_000, bytes(256), [log], *extra])
    assert encoded == (bytes([kind]) if kind else b"") + expected
