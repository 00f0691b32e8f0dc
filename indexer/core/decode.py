"""From a raw log to an event or a defect, and from an event to its public arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from indexer.core.abi import EventForm, Field, MalformedError, Registry, Value, compile_reader
from indexer.core.types import RawLog

# In the order of the flags of indexer.core.abi, which is the order they appear in.
MARKS: Final = ("bad_utf8", "nul", "hash_mismatch", "trailing_bytes", "dirty_padding", "noncanonical", "huge")
_MARKS_BY_FLAGS: Final = tuple(
    tuple(mark for bit, mark in enumerate(MARKS) if flags >> bit & 1) for flags in range(1 << len(MARKS))
)


class Event(msgspec.Struct, frozen=True, gc=False):
    """A decoded log. `values` stand in the order of `form.fields`.

    Integers are int, bool is bool, an address is 20 bytes, bytes32 32 bytes, string and bytes their raw bytes,
    an indexed string or bytes the 32 bytes of its keccak. `marks` tells what is odd about a valid log: a
    subset of MARKS, in that order.
    """

    form: EventForm
    values: tuple[Value, ...]
    marks: tuple[str, ...]


class Defect(msgspec.Struct, frozen=True, gc=False):
    """Why a log is no event of ours.

    `code` is one of no_topics, unknown_event, topic_count, topic_size, data_short, bad_offset, bad_length and
    out_of_range.
    """

    code: str


class Decoder:
    """Decodes logs by topic0 and the roles of the emitting address; knows no address and keeps no state."""

    def __init__(self, forms: Iterable[EventForm]) -> None:
        self._readers = {form.topic0: (form, compile_reader(form)) for form in forms}

    def decode(self, log: RawLog, registries: frozenset[Registry]) -> Event | Defect:
        """Decode a log of an address that plays the roles `registries`; never raises, whatever the bytes.

        Events of the proxies themselves are known at every address. An event of a role that the address does
        not play is as unknown as any other: ERC-20 shares its topics with ERC-721.
        """
        if not log.topics:
            return Defect("no_topics")
        known = self._readers.get(log.topics[0])
        if known is None:
            return Defect("unknown_event")
        form, read = known
        if form.registry not in registries and form.registry != "proxy":
            return Defect("unknown_event")
        try:
            values, flags = read(log.topics, log.data)
        except MalformedError as malformed:
            return Defect(malformed.code)
        return Event(form, values, _MARKS_BY_FLAGS[flags])


def text_of(raw: bytes) -> tuple[str, bytes | None]:
    """Return what PostgreSQL text can hold of a string, and `raw` again where that lost something, else None.

    Invalid UTF-8 and NUL become U+FFFD.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return raw.decode(errors="replace").replace("\0", "\ufffd"), raw
    return (text.replace("\0", "\ufffd"), raw) if "\0" in text else (text, None)


def args_of(form: EventForm) -> Callable[[Event], dict[str, object]]:
    """Return what shows the arguments of a form's events as `erc8004_events.args` does, fit for JSON.

    Keys are the ABI's parameter names; integers are decimal strings, bytes and addresses lower-case 0x hex,
    strings text, with `<name>_raw` in hex beside a text that lost something.
    """
    names = tuple(field.name for field in form.fields)
    shown = tuple(_shown(field) for field in form.fields)
    texts = tuple((place, field.name) for place, field in enumerate(form.fields) if field.is_text)

    def args(event: Event) -> dict[str, object]:
        shows = zip(names, shown, event.values, strict=True)
        if not event.marks:
            return {name: show(value) for name, show, value in shows}
        found = {name: value if show is _TEXT else show(value) for name, show, value in shows}
        for place, name in texts:
            found[name], lost = text_of(event.values[place])  # type: ignore[arg-type]  # a text is bytes
            if lost is not None:
                found[f"{name}_raw"] = _hex(lost)
        return found

    return args


def _hex(value: bytes) -> str:
    return "0x" + value.hex()


_TEXT: Final = bytes.decode  # of text without a mark, which is UTF-8 without NUL


def _shown(field: Field) -> Callable[[Any], object]:
    if field.is_text:
        return _TEXT
    if field.type == "bool":
        return bool
    return str if field.type.lstrip("u").startswith("int") else _hex
