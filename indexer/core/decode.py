"""From a raw log to an event or a defect, and from an event to its public arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

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


def args_of(form: EventForm) -> Callable[[Event], str]:
    """Return what writes the arguments of a form's events as JSON, as `erc8004_events.args` shows them.

    Keys are the ABI's parameter names; integers are decimal strings, bytes and addresses lower-case 0x hex, strings
    text, with `<name>_raw` in hex behind a text that lost something.
    """
    plain, marked = _compile(form, _text), _compile(form, _lossy_text)
    return lambda event: (marked if event.marks else plain)(*event.values)


def _compile(form: EventForm, text: Callable[[bytes, str], str]) -> Callable[..., str]:
    """Compile the writing of all arguments into one expression; `text` writes those that are text."""
    names: dict[str, object] = {"text": text, "WORDS": ("false", "true")}
    names |= {f"n{place}": field.name for place, field in enumerate(form.fields)}
    values = "".join(f"v{place}, " for place in range(len(form.fields)))
    written = ",".join(
        f'"{field.name}":{_written(f"v{place}", place, field)}' for place, field in enumerate(form.fields)
    )
    source = f"def args({values[:-2]}):\n return f'" + "{{" + written + "}}'"
    exec(source, names)  # noqa: S102 - of the form's names and the words above
    return names["args"]  # type: ignore[return-value]


def _written(value: str, place: int, field: Field) -> str:
    """Say how a value stands in the expression."""
    if field.is_text:
        return "{text(" + f"{value}, n{place}" + ")}"
    if field.type == "bool":
        return "{WORDS[" + value + "]}"
    return '"{' + value + '}"' if field.type.lstrip("u").startswith("int") else '"0x{' + value + '.hex()}"'


def _text(raw: bytes, _: str) -> str:
    """Write a text without a mark, which is UTF-8 without NUL."""
    return _JSON.encode(raw.decode()).decode()


def _lossy_text(raw: bytes, name: str) -> str:
    text, lost = text_of(raw)
    written = _JSON.encode(text).decode()
    return written if lost is None else f'{written},"{name}_raw":"0x{lost.hex()}"'


_JSON: Final = msgspec.json.Encoder()
