"""What a node may send in the place of a number, and what becomes of it."""

from __future__ import annotations

import pytest

from indexer.chain import codec

LOG = {
    "address": "0x" + "80" * 20,
    "topics": ["0x" + "11" * 32],
    "data": "0x",
    "blockNumber": "0x10",
    "blockHash": "0x" + "22" * 32,
    "transactionHash": "0x" + "33" * 32,
    "transactionIndex": "0x1",
    "logIndex": "0x2",
    "blockTimestamp": "0x65f00000",
}


def test_a_plain_log_keeps_its_numbers() -> None:
    (log,) = codec.raw_logs([codec.LogJson(**LOG)])

    assert (log.block_number, log.log_index, log.tx_index, log.timestamp) == (16, 2, 1, 0x65F00000)


@pytest.mark.parametrize("field", ["blockNumber", "transactionIndex", "logIndex", "blockTimestamp"])
@pytest.mark.parametrize("value", ["0x" + "f" * 64, "-0x1", "0xzz", ""], ids=["huge", "negative", "no hex", "empty"])
def test_a_number_that_no_table_holds_is_a_value_error(field: str, value: str) -> None:
    if field == "blockTimestamp" and not value:
        value = "0x"

    with pytest.raises(ValueError):  # noqa: PT011 - the caller translates any
        codec.raw_logs([codec.LogJson(**{**LOG, field: value})])
