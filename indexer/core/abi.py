"""Event forms, and readers compiled from them. Receives parsed JSON, opens no file.

A form is one layout of one event; the same event has had several. Its reader turns the topics and the
data of a log into values and flags, following what eth-abi's strict decoder accepts, with two deliberate
differences: strings stay bytes (one invalid byte on chain must not stop a batch) and dirty padding of a
string is flagged instead of refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
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
_SIZES: Final = frozenset(map(str, range(8, 257, 8)))  # of integers, in bits
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
    """Return the reader of a form's topics and data. Raises ValueError for names and types no event form has.

    It is written out as source, a few lines for each field, and compiled: calls for each value would be most of what
    decoding costs.
    """
    if not all(field.name.isidentifier() for field in form.fields):
        raise ValueError("a parameter's name is no identifier")
    names = dict(_NAMES)
    exec("\n".join(_source(form, names)), names)  # noqa: S102 - of the words below, places and sizes
    return names["read"]  # type: ignore[return-value]


def keccak_cached(text: bytes) -> bytes:
    """Return keccak-256 of a byte string; short ones are remembered (bounded)."""
    return _keccak_short(text) if len(text) <= _CACHED_BYTES else keccak(text)


_keccak_short = lru_cache(_CACHED_HASHES)(keccak.__call__)


def _source(form: EventForm, names: dict[str, object]) -> Iterator[str]:
    """Write the reader: topics first, then the data's head, and each tail where the head points at it."""
    indexed = [place for place, field in enumerate(form.fields) if field.indexed]
    plain = [place for place, field in enumerate(form.fields) if not field.indexed]
    head = _WORD * len(plain)
    names["split"] = Struct("32s" * len(plain)).unpack_from
    yield "def read(topics, data):"
    yield f" if len(topics) != {len(indexed) + 1}: raise Malformed('topic_count')"
    if indexed:
        words = [f"w{place}" for place in indexed]
        yield f" _, {', '.join(words)} = topics"
        yield f" if {' or '.join(f'len({word}) != {_WORD}' for word in words)}: raise Malformed('topic_size')"
    for place in indexed:
        yield from _whole(place) if form.fields[place].dynamic else _word(place, form.fields[place].type)
    yield " size = len(data)"
    yield f" if size < {head}: raise Malformed('data_short')"
    if plain:
        yield f" {', '.join(f'w{place}' for place in plain)}, = split(data)"
    yield f" flags, end = 0, {head}"
    for place in plain:
        field = form.fields[place]
        yield from _tail(place, head, is_text=field.is_text) if field.dynamic else _word(place, field.type)
    yield f" if end < size: flags |= {TRAILING_BYTES}"
    for at_hash, at_text in _hashed_pairs(form.fields):
        yield f" if isinstance(v{at_text}, bytes) and keccak(v{at_text}) != v{at_hash}: flags |= {HASH_MISMATCH}"
    yield f" return ({''.join(f'v{place}, ' for place in range(len(form.fields)))}), flags"


def _tail(place: int, head: int, *, is_text: bool) -> Iterator[str]:
    """Write how the bytes are read that the head's word points at: their length, and they in whole words."""
    yield f" start = number(w{place})"
    yield f" body = start + {_WORD}"
    yield f" if start < {head} or body > size: raise Malformed('bad_offset')"
    yield " length = number(data[start:body])"
    yield " stop = body + length"
    yield f" padded = stop + -length % {_WORD}"
    yield " if padded > size: raise Malformed('bad_length')"
    yield f" v{place} = data[body:stop]"
    yield f" if length > {HUGE_BYTES}: flags |= {HUGE}"
    yield f" if not ZEROS.startswith(data[stop:padded]): flags |= {DIRTY_PADDING}"
    yield f" if start != end: flags |= {NONCANONICAL}"
    yield " if padded > end: end = padded"
    if is_text:
        yield f" if not v{place}.isascii() or 0 in v{place}: flags |= text_flags(v{place})"


def _word(place: int, abi_type: str) -> Iterator[str]:
    """Write how a 32-byte word is read; it is refused where eth-abi refuses. Raises ValueError for another type."""
    match abi_type:
        case "bytes32":
            yield from _whole(place)
            return
        case "address":
            yield f" v{place} = w{place}[12:]"
            yield f" if not w{place}.startswith(NO_ADDRESS): raise Malformed('out_of_range')"
            return
        case "bool":
            yield f" v{place} = number(w{place})"
            yield f" if v{place} > 1: raise Malformed('out_of_range')"
            yield f" v{place} = v{place} == 1"
            return
    kind, bits = abi_type.rstrip("0123456789"), abi_type.lstrip("uint")
    if kind not in {"int", "uint"} or bits not in _SIZES:
        raise ValueError(f"type {abi_type!r} is not supported")
    if kind == "uint":
        yield f" v{place} = number(w{place})"
        if int(bits) < 8 * _WORD:
            yield f" if v{place} >> {bits}: raise Malformed('out_of_range')"
    else:
        limit = 1 << (int(bits) - 1)
        yield f" v{place} = number(w{place}, signed=True)"
        yield f" if not -{limit} <= v{place} < {limit}: raise Malformed('out_of_range')"


def _whole(place: int) -> Iterator[str]:
    yield f" v{place} = w{place}"


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


def _text_flags(raw: bytes) -> int:
    flags = NUL if 0 in raw else 0
    if not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError:
            flags |= BAD_UTF8
    return flags


_NAMES: Final = {
    "Malformed": MalformedError,
    "number": int.from_bytes,
    "keccak": keccak_cached,
    "text_flags": _text_flags,
    "ZEROS": _ZEROS,
    "NO_ADDRESS": bytes(12),
}
