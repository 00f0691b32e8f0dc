"""Event forms, and readers compiled from them. Receives parsed JSON, opens no file.

A form is one layout of one event; the same event has had several. Its reader turns the topics and the
data of a log into values and flags, following what eth-abi's strict decoder accepts, with two deliberate
differences: strings stay bytes (one invalid byte on chain must not stop a batch) and dirty padding of a
string is flagged instead of refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from struct import Struct
from typing import Any, Final, Literal, get_args

from eth_hash.auto import keccak

Registry = Literal["identity", "reputation", "validation", "proxy"]
Value = int | bool | bytes
Reading = tuple[tuple[Value, ...], int]  # values in ABI order; the flags below, or-ed
Reader = Callable[[Sequence[bytes], bytes], Reading]  # (topics, data); raises MalformedError only

BAD_UTF8, NUL, HASH_MISMATCH, TRAILING_BYTES, DIRTY_PADDING, NONCANONICAL, HUGE = (1 << bit for bit in range(7))

# Storing 100 kB on chain costs some 72M gas, so an honest text stays below; a log on an L2 can carry megabytes cheaply.
HUGE_BYTES: Final = 65_536
# Tags and keys repeat (a few words make up most feedback) and are short; what is longer is hashed each time, so that
# the cache stays at a few megabytes whatever an attacker writes.
_CACHED_HASHES: Final = 16_384
_CACHED_BYTES: Final = 64
_DYNAMIC: Final = ("string", "bytes")
_WORD: Final = 32
_ZEROS: Final = bytes(_WORD)


class MalformedError(ValueError):
    """The log is not a valid encoding of its form; `code` is the defect's."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Field:
    """One parameter of an event. `type` is its canonical ABI type."""

    name: str
    type: str
    indexed: bool

    @property
    def dynamic(self) -> bool:
        """Say whether the value stands behind an offset (or, indexed, is known by its keccak only)."""
        return self.type in _DYNAMIC

    @property
    def is_text(self) -> bool:
        """Say whether the value is the text of a string, not its hash."""
        return self.type == "string" and not self.indexed


@dataclass(frozen=True, slots=True)
class EventForm:
    """One layout of one event. `version` is unique among the forms of the same `event`."""

    registry: Registry
    event: str
    version: str
    topic0: bytes
    fields: tuple[Field, ...]

    @property
    def signature(self) -> str:
        """Return the canonical signature, whose keccak is topic0."""
        return f"{self.event}({','.join(field.type for field in self.fields)})"


def load_forms(documents: Mapping[str, Mapping[str, Any]]) -> tuple[EventForm, ...]:
    """Check the parsed `abi/<registry>/<form>.json`, keyed "registry/form"; forms come out in order of the keys.

    Raises ValueError, naming the key, for a document that is not of the expected shape, whose topic0 is not
    the keccak of its signature, or which repeats another's topic0 or (event, version).
    """
    forms: dict[bytes, EventForm] = {}
    versions: set[tuple[str, str]] = set()
    for key, document in sorted(documents.items()):
        form = _form(key, document)
        if form.topic0 in forms or (form.event, form.version) in versions:
            raise ValueError(f"abi/{key}: topic0 or version of {form.event} is there already")
        forms[form.topic0] = form
        versions.add((form.event, form.version))
    return tuple(forms.values())


def _form(key: str, document: Mapping[str, Any]) -> EventForm:
    registry = next((name for name in get_args(Registry) if name == key.partition("/")[0]), None)
    if registry is None:
        raise ValueError(f"abi/{key}: no such registry")
    try:
        event = document["event"]
        fields = tuple(Field(str(item["name"]), str(item["type"]), bool(item["indexed"])) for item in event["inputs"])
        topic0 = bytes.fromhex(document["topic0"].removeprefix("0x"))
        form = EventForm(registry, str(event["name"]), str(document["version"]), topic0, fields)
        compile_reader(form)
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        raise ValueError(f"abi/{key}: not an event form: {exc!r}") from exc
    if keccak(form.signature.encode()) != topic0:
        raise ValueError(f"abi/{key}: topic0 is not the keccak of {form.signature}")
    return form


def compile_reader(form: EventForm) -> Reader:
    """Return the reader of a form's topics and data. Raises ValueError for a type no event form uses."""
    indexed = [position for position, field in enumerate(form.fields) if field.indexed]
    plain = [position for position, field in enumerate(form.fields) if not field.indexed]
    read_topics = _topics_reader([form.fields[position] for position in indexed])
    read_data = _data_reader([form.fields[position] for position in plain])
    in_order = _permutation(indexed + plain)
    pairs = _hashed_pairs(form.fields)

    def read(topics: Sequence[bytes], data: bytes) -> Reading:
        hashes = read_topics(topics)
        rest, flags = read_data(data)
        values = in_order(hashes + rest)
        for at_hash, at_text in pairs:
            text = values[at_text]
            if isinstance(text, bytes) and keccak_cached(text) != values[at_hash]:
                flags |= HASH_MISMATCH
        return values, flags

    return read


def keccak_cached(text: bytes) -> bytes:
    """Return keccak-256 of a byte string; short ones are remembered (bounded)."""
    return _keccak_short(text) if len(text) <= _CACHED_BYTES else keccak(text)


_keccak_short = lru_cache(_CACHED_HASHES)(keccak.__call__)


def _permutation(order: list[int]) -> Callable[[list[Value]], tuple[Value, ...]]:
    """Return what moves values from (indexed, plain) order, `order` holding their places, to ABI order."""
    if order == sorted(order):
        return tuple
    return itemgetter(*sorted(range(len(order)), key=order.__getitem__))


def _hashed_pairs(fields: tuple[Field, ...]) -> tuple[tuple[int, int], ...]:
    """Find where a text stands both hashed and in clear, as (place of the hash, place of the text).

    The contracts name such a pair `indexedX` and `x`.
    """
    places = {field.name.lower(): place for place, field in enumerate(fields) if not field.indexed}
    return tuple(
        (place, places[twin])
        for place, field in enumerate(fields)
        if field.indexed and field.dynamic and (twin := field.name.lower().removeprefix("indexed")) in places
    )


def _topics_reader(fields: list[Field]) -> Callable[[Sequence[bytes]], list[Value]]:
    readers = [_whole_word if field.dynamic else _word_reader(field.type) for field in fields]
    count = len(fields) + 1

    def read(topics: Sequence[bytes]) -> list[Value]:
        if len(topics) != count:
            raise MalformedError("topic_count")
        words = topics[1:]
        for word in words:
            if len(word) != _WORD:
                raise MalformedError("topic_size")
        return [reader(word) for reader, word in zip(readers, words, strict=True)]

    return read


def _data_reader(fields: list[Field]) -> Callable[[bytes], tuple[list[Value], int]]:
    steps = [(None if field.dynamic else _word_reader(field.type), field.is_text) for field in fields]
    head = _WORD * len(fields)
    split = Struct("32s" * len(fields)).unpack_from

    def read(data: bytes) -> tuple[list[Value], int]:
        size = len(data)
        if size < head:
            raise MalformedError("data_short")
        values: list[Value] = []
        flags, end = 0, head
        for (reader, is_text), word in zip(steps, split(data), strict=True):
            if reader is not None:
                values.append(reader(word))
                continue
            start = int.from_bytes(word)
            value, stop, found = _dynamic(data, start, head, size)
            if start != end:
                found |= NONCANONICAL
            flags |= found | (_text_flags(value) if is_text else 0)
            end = max(end, stop)
            values.append(value)
        return values, flags | (TRAILING_BYTES if end < size else 0)

    return read


def _dynamic(data: bytes, start: int, head: int, size: int) -> tuple[bytes, int, int]:
    """Read the bytes whose length word is at `start`; return them, the end of their padding, and flags."""
    body = start + _WORD
    if start < head or body > size:
        raise MalformedError("bad_offset")
    length = int.from_bytes(data[start:body])
    stop = body + length
    padded = stop + -length % _WORD
    if padded > size:
        raise MalformedError("bad_length")
    flags = HUGE if length > HUGE_BYTES else 0
    if not _ZEROS.startswith(data[stop:padded]):
        flags |= DIRTY_PADDING
    return data[body:stop], padded, flags


def _text_flags(raw: bytes) -> int:
    flags = NUL if 0 in raw else 0
    if not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError:
            flags |= BAD_UTF8
    return flags


def _word_reader(abi_type: str) -> Callable[[bytes], Value]:
    """Return the reader of a 32-byte word; it raises MalformedError("out_of_range") where eth-abi refuses."""
    match abi_type:
        case "address":
            return _address
        case "bool":
            return _bool
        case "bytes32":
            return _whole_word
    kind, bits = abi_type.rstrip("0123456789"), abi_type.lstrip("uint")
    if kind not in {"int", "uint"} or not bits.isdecimal() or int(bits) not in range(8, 257, 8):
        raise ValueError(f"type {abi_type!r} is not supported")
    return _int_reader(int(bits)) if kind == "int" else _uint_reader(int(bits))


def _uint_reader(bits: int) -> Callable[[bytes], int]:
    if bits == 8 * _WORD:
        return int.from_bytes

    def read(word: bytes) -> int:
        value = int.from_bytes(word)
        if value >> bits:
            raise MalformedError("out_of_range")
        return value

    return read


def _int_reader(bits: int) -> Callable[[bytes], int]:
    limit = 1 << (bits - 1)

    def read(word: bytes) -> int:
        value = int.from_bytes(word, signed=True)
        if not -limit <= value < limit:
            raise MalformedError("out_of_range")
        return value

    return read


def _address(word: bytes) -> bytes:
    if not word.startswith(_ZEROS[:12]):
        raise MalformedError("out_of_range")
    return word[12:]


def _bool(word: bytes) -> bool:
    value = int.from_bytes(word)
    if value > 1:
        raise MalformedError("out_of_range")
    return value == 1


def _whole_word(word: bytes) -> bytes:
    return word
