"""Rows as the bytes of a binary COPY, made before the connection is needed: the server, copying, waits for nobody.

The format is that of PostgreSQL's documentation, "COPY", "Binary Format"; values are as the types' `_recv` functions
read them. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any, Final
from uuid import UUID

import msgspec

from indexer.core.rows import COLUMNS, Rows
from indexer.core.typed import Row

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_AT_ONCE: Final = 500  # rows whose parts are put together; they stay in the processor's cache
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECONDS: Final = 1_000_000
_BASE: Final = 10_000  # of a digit of `numeric`
_MINUS: Final = 0x4000

_LENGTH: Final = struct.Struct(">i").pack


@lru_cache(maxsize=4_096)  # logs of one block share their time
def _timestamptz(value: datetime) -> bytes:
    since = value - _EPOCH
    return struct.pack(">iq", 8, (since.days * 86_400 + since.seconds) * _MICROSECONDS + since.microseconds)


@lru_cache(maxsize=16_384)  # ids, indexes and scores come again and again
def _numeric(value: int) -> bytes:
    digits: list[int] = []
    rest = abs(value)
    while rest:
        rest, digit = divmod(rest, _BASE)
        digits.append(digit)
    weight = max(0, len(digits) - 1)
    digits.reverse()
    while digits and not digits[-1]:
        digits.pop()
    count = len(digits)
    return struct.pack(f">ihhhh{count}H", 8 + 2 * count, count, weight, _MINUS if value < 0 else 0, 0, *digits)


# How a value that is not null becomes its length and its bytes, as source: a call for each of a hundred million values
# would be half of the cost.
_SOURCES: Final = {
    "int2": "INT2(2, {0})",
    "int4": "INT4(4, {0})",
    "bool": "TRUE if {0} else FALSE",
    "bytea": "LENGTH(len({0})) + {0}",
    "text": "LENGTH(len(text := {0}.encode())) + text",
    "timestamptz": "timestamptz({0})",
    "numeric": "numeric({0})",
    "uuid": "UUID + {0}.bytes",
}
_NAMES: Final = {
    "POSITION": struct.Struct(">hiqiqii").pack,  # how many columns, and the first three: chain, block, place in it
    "INT2": struct.Struct(">ih").pack,
    "INT4": struct.Struct(">ii").pack,
    "LENGTH": _LENGTH,
    "TRUE": b"\0\0\0\1\1",
    "FALSE": b"\0\0\0\1\0",
    "UUID": b"\0\0\0\x10",
    "NULL": b"\xff\xff\xff\xff",
    "timestamptz": _timestamptz,
    "numeric": _numeric,
}
_OF_COLUMN: Final = {
    "chain_id": "int8", "block_number": "int8", "log_index": "int4", "tx_index": "int4",
    "block_timestamp": "timestamptz", "agent_uuid": "uuid", "agent_id": "numeric", "event": "text",
    "event_version": "text", "args": "text", "defect": "text", "is_registration": "bool", "token_uri": "text",
    "applies": "bool", "key": "text", "is_wallet": "bool", "feedback_index": "numeric", "has_index": "bool",
    "value_raw": "numeric", "value_decimals": "int2", "tag1": "text", "tag2": "text", "tag": "text", "endpoint": "text",
    "file_uri": "text", "response_uri": "text", "request_uri": "text", "response": "int2",
}  # fmt: skip
Encoder = Callable[[Iterable[Row]], list[bytes]]


def _type_of(table: str, column: str) -> str:
    if (table, column) == ("operator_approvals", "approved"):
        return "bool"
    return _OF_COLUMN.get(column, "bytea")


@cache
def _encoder(table: str, chosen: tuple[str, ...]) -> Encoder:
    """Compile what cuts whole rows of a table into the parts that a COPY of the chosen columns sends."""
    compiled = _compiled(
        f"def encode(rows, parts):\n"
        f" for {_names(table)} in rows:\n"
        f"  parts += (POSITION({len(chosen)}, 8, c0, 8, c1, 4, c2), {_values(table, chosen[3:])})\n"
        f" return parts\n"
    )
    return lambda rows: compiled(rows, [])


@cache
def values_encoder(table: str, chosen: tuple[str, ...]) -> Callable[[Row], bytes]:
    """Compile what encodes a row of a table: what a COPY sends of the chosen columns, and nothing around them."""
    return _compiled(f"def encode(row):\n {_names(table)} = row\n return b''.join(({_values(table, chosen)},))\n")


def _compiled(source: str) -> Callable[..., Any]:
    names = dict(_NAMES)
    exec(source, names)  # noqa: S102 - of the words here alone
    return names["encode"]  # type: ignore[return-value]


def _names(table: str) -> str:
    """Write the names that a row's values get: `c0, c1, …`."""
    return ", ".join(f"c{place}" for place in range(len(COLUMNS[table])))


def _values(table: str, chosen: Iterable[str]) -> str:
    """Write the chosen values of a row as what a COPY sends of them."""
    columns = {name: f"c{place}" for place, name in enumerate(COLUMNS[table])}
    return ", ".join(
        f"NULL if {columns[name]} is None else {_SOURCES[_type_of(table, name)].format(columns[name])}"
        for name in chosen
    )


def encode(table: str, rows: Sequence[Row], columns: tuple[str, ...] | None = None) -> bytes:
    """Return what a binary COPY of these rows sends; `columns` are all, or begin with the three of the position."""
    encoder = _encoder(table, columns or COLUMNS[table])
    some = (b"".join(encoder(rows[start : start + _AT_ONCE])) for start in range(0, len(rows), _AT_ONCE))
    return b"".join((_HEADER, *some, _TRAILER))


class Encoded(msgspec.Struct, gc=False):
    """The rows of whole blocks, ready for COPY: bytes by table, of those that have rows, in the order of COLUMNS.

    `agents` are those that any log names, each once, ascending; the rest is as in Rows.
    """

    tables: dict[str, memoryview]
    agents: list[UUID]
    undecodable: int
    undecoded: tuple[int, str] | None


def encode_rows(rows: Rows, tables: Iterable[str] = COLUMNS) -> Encoded:
    """Encode the rows of these tables; in any thread."""
    encoded = {table: memoryview(encode(table, rows[table])) for table in tables if rows[table]}
    return Encoded(encoded, rows.agents, rows.undecodable, rows.undecoded)
