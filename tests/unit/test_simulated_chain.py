"""The simulated chain itself: what a test relies on where it takes the chain for the truth."""

from __future__ import annotations

import pytest
from eth_hash.auto import keccak
from simulator import SimChain, SimLog
from simulator.receipts import ARBITRUM_KINDS, ETHEREUM_KINDS, OPTIMISM_KINDS, SimReceipt

from indexer.core.proof import rlp_bytes, rlp_list

OURS, FOREIGN = b"\x80" * 20, b"\x99" * 20


def grown(kinds: tuple[int, ...]) -> SimChain:
    chain = SimChain(seed=3, receipt_kinds=kinds, most_plain=3)
    for number in range(40):
        chain.mine([SimLog((OURS, FOREIGN)[index % 2], (bytes([index]) * 32,), b"data") for index in range(number % 5)])
    return chain


@pytest.mark.parametrize("kinds", [ETHEREUM_KINDS, OPTIMISM_KINDS, ARBITRUM_KINDS], ids=["ethereum", "op", "arbitrum"])
def test_every_type_of_receipt_occurs_with_and_without_logs(kinds: tuple[int, ...]) -> None:
    receipts = [receipt for block in grown(kinds).blocks for receipt in block.receipts]

    assert {(receipt.kind, bool(receipt.logs)) for receipt in receipts} == {(k, has) for k in kinds for has in (0, 1)}
    assert {receipt.succeeded for receipt in receipts} == {True, False}


def test_a_receipt_is_hashed_with_its_deposit_only_where_it_has_a_version() -> None:
    regolith = SimReceipt(0x7E, bytes(32), 0, 5, deposit_nonce=3)
    canyon = SimReceipt(0x7E, bytes(32), 0, 5, deposit_nonce=3, deposit_version=1)
    common = (b"\x01", b"\x05", rlp_bytes(bytes(256)), rlp_list([]))

    assert regolith.encoded() == b"\x7e" + rlp_list(common)
    assert canyon.encoded() == b"\x7e" + rlp_list((*common, b"\x03", b"\x01"))


def test_a_block_without_transactions_has_the_root_of_an_empty_trie() -> None:
    assert SimChain().blocks[0].header["receiptsRoot"] == "0x" + keccak(rlp_bytes(b"")).hex()


def test_the_same_seed_grows_the_same_chain() -> None:
    assert grown(ETHEREUM_KINDS).head == grown(ETHEREUM_KINDS).head


def test_a_chain_of_some_addresses_keeps_headers_and_positions() -> None:
    chain = grown(ETHEREUM_KINDS)
    ours = chain.only([OURS])

    assert [block.ref for block in ours.blocks] == [block.ref for block in chain.blocks]
    assert ours.logs() == [log for log in chain.logs() if log.address == OURS]


def test_a_frozen_copy_hears_of_no_new_block() -> None:
    chain = grown(ETHEREUM_KINDS)
    copy, head = chain.frozen(), chain.head

    chain.reorg(3, [()] * 5)

    assert copy.head == head
    assert copy.block_by_hash(head.hash) is not None
