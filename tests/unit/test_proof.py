from __future__ import annotations

import rlp
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from indexer.core.proof import (
    HEADER_FIELDS,
    NO_BLOOM,
    bloom_excludes,
    bloom_may_hold,
    bloom_of,
    header_hash,
    rlp_bytes,
    rlp_list,
)

# Ethereum's genesis header: its hash is known to everyone.
GENESIS = {
    "parentHash": "0x" + "00" * 32,
    "sha3Uncles": "0x1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347",
    "miner": "0x" + "00" * 20,
    "stateRoot": "0xd7f8974fb5ac78d9ac099b9ad5018bedc2ce0a72dad1827a1709da30580f0544",
    "transactionsRoot": "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421",
    "receiptsRoot": "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421",
    "logsBloom": "0x" + "00" * 256,
    "difficulty": "0x400000000",
    "number": "0x0",
    "gasLimit": "0x1388",
    "gasUsed": "0x0",
    "timestamp": "0x0",
    "extraData": "0x11bbe8db4e347b4e8c937c1c8370e4b5ed33adb3db69cbdb7a38e1e50b1b82fa",
    "mixHash": "0x" + "00" * 32,
    "nonce": "0x0000000000000042",
}
GENESIS_HASH = "d4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3"
values = st.binary(min_size=20, max_size=32)


def test_hash_of_ethereums_genesis_is_recomputed() -> None:
    computed = header_hash(GENESIS)

    assert computed is not None
    assert computed.hex() == GENESIS_HASH


def test_missing_field_that_every_chain_has_leaves_the_hash_unknown() -> None:
    assert header_hash({**GENESIS, "mixHash": None}) is None


@given(st.lists(st.integers(0, 2**64), min_size=22, max_size=22))
def test_hash_of_all_fields_equals_the_reference_encoding(numbers: list[int]) -> None:
    fields: dict[str, str | None] = {}
    items: list[bytes | int] = []
    for (name, is_integer), number in zip(HEADER_FIELDS, numbers, strict=True):
        digest = keccak(number.to_bytes(9, "big"))
        fields[name] = hex(number) if is_integer else "0x" + digest.hex()
        items.append(number if is_integer else digest)

    assert header_hash(fields) == keccak(rlp.encode(items))


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_rlp_equals_the_reference(items: list[bytes]) -> None:
    assert rlp_list(rlp_bytes(item) for item in items) == rlp.encode(items)


@given(st.lists(values, max_size=20))
def test_bloom_holds_what_went_into_it(members: list[bytes]) -> None:
    bloom = bloom_of(members)

    assert len(bloom) == 256
    assert all(bloom_may_hold(bloom, member) for member in members)


def test_empty_bloom_excludes_everything() -> None:
    assert not bloom_may_hold(NO_BLOOM, b"\x01" * 20)


def test_bloom_excludes_a_log_by_address_and_by_topic() -> None:
    address, topic = b"\x01" * 20, b"\x02" * 32
    bloom = bloom_of([address, topic])

    assert not bloom_excludes(bloom, [(address, [topic])])
    assert bloom_excludes(bloom, [(address, [b"\x03" * 32])])
    assert bloom_excludes(bloom, [(b"\x04" * 20, [topic])])
