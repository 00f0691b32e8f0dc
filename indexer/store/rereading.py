"""A slice of the ledger as COPY sent it, read again: what its logs decode to today, and what is stored otherwise.

Pure; the format is that of PostgreSQL's documentation, "COPY", "Binary Format".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from struct import Struct
from typing import Final, NamedTuple

import msgspec

from indexer.core.rows import TYPED_TABLES, RowBuilder
from indexer.core.types import RawLog
from indexer.store.difference import DECODED, LOG_KEY, Difference, shown
from indexer.store.encoding import Encoded, encode, encode_rows, values_encoder

BYTES_A_LOG: Final = 1_000  # about
# Of the ledger the projections read these alone; raw data need not be copied.
SHADOW_COLUMNS: Final = (*LOG_KEY, "block_timestamp", "agent_uuid", "agent_id", "address", "tx_hash")
_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0"
_FLAGS: Final = Struct(">ii").unpack_from  # and the length of what follows them
# How many columns there are, and the first five, which have one size: chain, block, place in it, transaction, time.
_FIXED: Final = Struct(">hiqiqiiiiiq")
_SIZE: Final = Struct(">i").unpack_from
_LATER: Final = ("agent_uuid", "agent_id", "event", "event_version", "args", "defect")  # each null, or not
_ARGS: Final = _LATER.index("args")
_WORD: Final = 32
_SECOND: Final = 1_000_000  # microseconds
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH_S: Final = 946_684_800  # since 1970
_MAX_TIME: Final = 253_402_300_799  # seconds since 1970: the last of the year 9999

assert ("block_timestamp", *_LATER) == DECODED


class Held(NamedTuple):
    """A log as it is stored; `time` is in microseconds since 2000, `decoded` the columns _LATER as COPY sends them."""

    log: RawLog
    time: int
    decoded: bytes


class Reread(msgspec.Struct, gc=False):
    """What a slice should lead to; all bytes are ready for COPY.

    `ledger` has the columns SHADOW_COLUMNS, `otherwise` the LOG_KEY and DECODED of the logs of which something else is
    stored than they decode to. `doubts` are what contradicts itself, or can belong to nobody.
    """

    logs: int
    ledger: memoryview
    rows: Encoded
    otherwise: memoryview | None
    doubts: list[Difference]


def reread(builder: RowBuilder, known: frozenset[bytes], data: bytes) -> Reread:
    """Read what COPY sent of `ledger_slice`: whole blocks, in order. Logs of contracts that are not `known` are doubts.

    Raises ValueError for other bytes.
    """
    try:
        stored = list(_held(data))
    except struct.error as error:
        raise ValueError("the bytes of a COPY end early") from error
    readable = [held for held in stored if held.log.address in known]
    rows = builder.build(held.log for held in readable)
    encoder = values_encoder("logs", _LATER)
    pairs = zip(readable, rows["logs"], strict=True)
    otherwise = [row for held, row in pairs if not _says(held, encoder(row))]
    return Reread(
        len(stored),
        memoryview(encode("logs", rows["logs"], SHADOW_COLUMNS)),
        encode_rows(rows, TYPED_TABLES),
        memoryview(encode("logs", otherwise, (*LOG_KEY, *DECODED))) if otherwise else None,
        [*_strangers(stored, known), *_contradictions(stored)],
    )


def _held(data: bytes) -> Iterator[Held]:
    if not data.startswith(_SIGNATURE):
        raise ValueError("not the bytes of a binary COPY")
    at = len(_SIGNATURE) + 8 + _FLAGS(data, len(_SIGNATURE))[1]
    while data[at : at + 2] != b"\xff\xff":
        _, _, _, _, number, _, index, _, tx_index, _, time = _FIXED.unpack_from(data, at)
        at += _FIXED.size
        address, at = _value(data, at)
        block_hash, at = _value(data, at)
        tx_hash, at = _value(data, at)
        topics, at = _value(data, at)
        body, at = _value(data, at)
        begins = at
        for _ in _LATER:
            at += 4 + max(0, _SIZE(data, at)[0])
        words = tuple([topics[start : start + _WORD] for start in range(0, len(topics), _WORD)])
        seconds = min(max(0, time // _SECOND + _EPOCH_S), _MAX_TIME)  # infinity is what a time may be set to by hand
        log = RawLog(number, index, block_hash, tx_hash, tx_index, address, words, body, seconds)
        yield Held(log, time, data[begins:at])


def _value(data: bytes, at: int) -> tuple[bytes, int]:
    begins = at + 4
    ends = begins + _SIZE(data, at)[0]
    return data[begins:ends], ends


def _says(held: Held, expected: bytes) -> bool:
    """Say whether a log is stored as it decodes to."""
    whole_seconds = held.time == (held.log.timestamp - _EPOCH_S) * _SECOND
    return whole_seconds and (held.decoded == expected or _same(held.decoded, expected))


def _same(stored: bytes, expected: bytes) -> bool:
    """Say whether two encodings say the same, their arguments being the same JSON in other words."""
    one, other = list(_fields(stored)), list(_fields(expected))
    args = one[_ARGS], other[_ARGS]
    one[_ARGS] = other[_ARGS] = None
    if one != other or None in args:
        return False
    try:
        return _in_order(args[0] or b"") == _in_order(args[1] or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _in_order(json: bytes) -> bytes:
    """Return the same JSON, written in one way: compared as values, 1 would be true."""
    return msgspec.json.encode(msgspec.json.decode(json), order="sorted")


def _fields(encoded: bytes) -> Iterator[bytes | None]:
    at = 0
    while at < len(encoded):
        (size,) = _SIZE(encoded, at)
        yield None if size < 0 else encoded[at + 4 : at + 4 + size]
        at += 4 + max(0, size)


def _strangers(stored: Iterable[Held], known: frozenset[bytes]) -> Iterator[Difference]:
    """Find logs of contracts that were never configured: nothing can be decoded of them."""
    for held in stored:
        if held.log.address not in known:
            yield Difference("logs", _key(held), "address", shown(held.log.address), None)


_SHARED: Final[tuple[tuple[str, Callable[[Held], bytes | int]], ...]] = (
    ("block_hash", lambda held: held.log.block_hash),
    ("block_timestamp", lambda held: held.time),
    ("tx_hash", lambda held: held.log.tx_hash),
)


def _contradictions(stored: Sequence[Held]) -> Iterator[Difference]:
    """Find neighbours of one block, or one transaction, that do not agree on what they share."""
    for before, held in pairwise(stored):
        one, other = before.log, held.log
        if one.block_number != other.block_number:
            continue
        shared = _SHARED if one.tx_index == other.tx_index else _SHARED[:2]
        for column, value_of in shared:
            if value_of(held) != value_of(before):
                yield Difference("logs", _key(held), column, _told(value_of(held)), _told(value_of(before)))


def _told(value: bytes | int) -> str | None:
    if isinstance(value, bytes):
        return shown(value)
    try:
        return shown(_EPOCH + timedelta(microseconds=value))
    except OverflowError:
        return "infinity" if value > 0 else "-infinity"


def _key(held: Held) -> str:
    return f"block_number={held.log.block_number} log_index={held.log.log_index}"
