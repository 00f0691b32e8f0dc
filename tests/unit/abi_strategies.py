"""Strategies and an encoder for event logs, with eth-abi as the second opinion on the ABI."""

from __future__ import annotations

import json
from collections.abc import Sequence

from eth_abi.abi import decode, encode
from eth_hash.auto import keccak
from hypothesis import strategies as st

from indexer.core.abi import EventForm, Field, Registry, Value, load_forms
from indexer.core.types import RawLog
from indexer.resources import data_dir

DOCUMENTS = {
    f"{path.parent.name}/{path.stem}": json.loads(path.read_text(encoding="utf-8"))
    for path in data_dir("abi").glob("*/*.json")
}
FORMS = load_forms(DOCUMENTS)
ROLES: frozenset[Registry] = frozenset({"identity", "reputation", "validation"})

forms = st.sampled_from(FORMS)
_texts = st.text(max_size=70).map(str.encode)  # all planes, NUL among them; no surrogates
_sometimes_broken = st.one_of(_texts, st.binary(max_size=70), st.sampled_from([b"", b"\xed\xa0\x80", b"a\0b", b"\xff"]))


def form_named(event: str, version: str = "2.0.0") -> EventForm:
    """Return one form."""
    return next(form for form in FORMS if (form.event, form.version) == (event, version))


def value_of(field: Field) -> st.SearchStrategy[Value]:
    """Give any value the field can have, as `Event.values` would show it."""
    if field.dynamic:
        return st.binary(min_size=32, max_size=32) if field.indexed else _sometimes_broken
    match field.type:
        case "bool":
            return st.booleans()
        case "address":
            return st.binary(min_size=20, max_size=20)
        case "bytes32":
            return st.binary(min_size=32, max_size=32)
    bits = int(field.type.lstrip("uint"))
    if field.type.startswith("uint"):
        return st.integers(0, 2**bits - 1)
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def values_of(form: EventForm) -> st.SearchStrategy[tuple[Value, ...]]:
    """Give any values of a form, in order of its fields."""
    return st.tuples(*map(value_of, form.fields))


def plain_values(form: EventForm) -> tuple[Value, ...]:
    """Return values of a form that are all zero or empty."""
    empty: dict[str, Value] = {"bool": False, "address": bytes(20), "bytes32": bytes(32)}
    return tuple(
        (bytes(32) if field.indexed else b"") if field.dynamic else empty.get(field.type, 0) for field in form.fields
    )


def log_of(form: EventForm, values: Sequence[Value]) -> RawLog:
    """Encode values as a contract would emit them; an indexed string is given by its hash."""
    pairs = list(zip(form.fields, values, strict=True))
    plain = [(field, value) for field, value in pairs if not field.indexed]
    indexed = [encode([raw_type(field)], [value]) for field, value in pairs if field.indexed]
    data = encode([raw_type(field) for field, _ in plain], [value for _, value in plain])
    return raw_log((form.topic0, *indexed), data)


def raw_log(topics: tuple[bytes, ...], data: bytes = b"") -> RawLog:
    """Wrap topics and data in a log of no particular block."""
    return RawLog(1, 0, bytes(32), bytes(32), 0, bytes(20), topics, data, 0)


def raw_type(field: Field) -> str:
    """Return the type for eth-abi to use: bytes for string, so that invalid UTF-8 passes; bytes32 for a hash."""
    if field.dynamic:
        return "bytes32" if field.indexed else "bytes"
    return field.type


def second_opinion(form: EventForm, log: RawLog) -> tuple[Value, ...] | None:
    """Return the values eth-abi's strict decoder finds in a log, or None where it refuses."""
    indexed = [field for field in form.fields if field.indexed]
    if len(log.topics) != len(indexed) + 1 or any(len(topic) != 32 for topic in log.topics):
        return None
    try:
        found = iter(
            [decode([raw_type(field)], topic)[0] for field, topic in zip(indexed, log.topics[1:], strict=True)]
        )
        rest = iter(decode([raw_type(field) for field in form.fields if not field.indexed], log.data))
    except Exception:  # noqa: BLE001 - eth-abi leaves with OverflowError and others too: each is a refusal
        return None
    values = [next(found if field.indexed else rest) for field in form.fields]
    return tuple(bytes.fromhex(value[2:]) if isinstance(value, str) else value for value in values)


def matching_hashes(form: EventForm, values: Sequence[Value]) -> tuple[Value, ...]:
    """Replace the hash of each `indexedX` by the keccak of the clear `x` beside it."""
    texts = {
        field.name.lower(): value
        for field, value in zip(form.fields, values, strict=True)
        if isinstance(value, bytes) and not field.indexed
    }
    return tuple(
        keccak(texts[name])
        if field.indexed and (name := field.name.lower().removeprefix("indexed")) in texts
        else value
        for field, value in zip(form.fields, values, strict=True)
    )


@st.composite
def _altered_data(draw: st.DrawFn, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        match draw(st.sampled_from(["word", "byte", "cut", "grow"])):
            case "word" if len(changed) >= 32:
                place = 32 * draw(st.integers(0, len(changed) // 32 - 1))
                small = st.integers(0, len(changed) + 64)
                word = draw(st.one_of(small, small.map(lambda n: n & ~31), st.integers(0, 2**256 - 1)))
                changed[place : place + 32] = word.to_bytes(32)
            case "byte" if changed:
                changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
            case "cut":
                del changed[draw(st.integers(0, len(changed))) :]
            case _:
                changed += draw(st.binary(max_size=64))
    return bytes(changed)


@st.composite
def altered_logs(draw: st.DrawFn) -> tuple[EventForm, RawLog]:
    """Give a form and a log of it of which some words, bytes or topics were changed."""
    form = draw(forms)
    log = log_of(form, draw(values_of(form)))
    data = draw(_altered_data(log.data))
    topics = log.topics
    match draw(st.sampled_from([*["same"] * 8, "other", "fewer", "more", "short"])):
        case "other":
            topics = (topics[0], *(draw(st.binary(min_size=32, max_size=32)) for _ in topics[1:]))
        case "fewer":
            topics = topics[:-1]
        case "more":
            topics = (*topics, draw(st.binary(max_size=33)))
        case "short":
            topics = (topics[0], *(topic[:31] for topic in topics[1:]))
    return form, raw_log(topics, data)
