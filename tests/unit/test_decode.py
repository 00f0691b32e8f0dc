from __future__ import annotations

import time

import msgspec
import pytest
from abi_strategies import (
    FORMS,
    ROLES,
    altered_logs,
    form_named,
    forms,
    log_of,
    matching_hashes,
    plain_values,
    raw_log,
    second_opinion,
    values_of,
)
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from indexer.core.abi import EventForm, Registry
from indexer.core.decode import MARKS, Decoder, Defect, Event, args_of, text_of
from indexer.core.types import RawLog

# No deadline: a busy machine is no fault of the decoder.
few = settings(max_examples=30, deadline=None)
many = settings(max_examples=400, deadline=None)

DECODER = Decoder(FORMS)
FEEDBACK = form_named("NewFeedback")
FEEDBACK_VALUES = matching_hashes(
    FEEDBACK,
    (7, b"\x0c" * 20, 3, -(10**38), 18, bytes(32), b"starred", b"", b"https://a.example", b"ipfs://Qm", b"\x11" * 32),
)
FEEDBACK_LOG = log_of(FEEDBACK, FEEDBACK_VALUES)
URI_LOG = log_of(form_named("Registered"), (1, b"ab", b"\x0a" * 20))


def word(value: int) -> bytes:
    return value.to_bytes(32)


def with_word(log: RawLog, index: int, value: bytes) -> RawLog:
    """Replace one 32-byte word of the data."""
    return replace(log, data=log.data[: 32 * index] + value + log.data[32 * index + 32 :])


def with_topic(log: RawLog, index: int, value: bytes) -> RawLog:
    return replace(log, topics=(*log.topics[:index], value, *log.topics[index + 1 :]))


def decoded(log: RawLog) -> Event:
    event = DECODER.decode(log, ROLES)
    assert isinstance(event, Event)
    return event


def event_args(event: Event) -> dict[str, object]:
    found: dict[str, object] = msgspec.json.decode(args_of(event.form)(event))
    return found


# --- equal to eth-abi -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.event}-{form.version}")
@few
@given(data=st.data())
def test_what_was_encoded_is_decoded(form: EventForm, data: st.DataObject) -> None:
    values = matching_hashes(form, data.draw(values_of(form)))

    event = decoded(log_of(form, values))

    assert (event.form, event.values) == (form, values)
    assert set(event.marks) <= {"bad_utf8", "nul"}


@many
@given(altered_logs())
def test_altered_logs_are_taken_exactly_where_eth_abi_takes_them(altered: tuple[EventForm, RawLog]) -> None:
    form, log = altered

    result = DECODER.decode(log, ROLES)

    if (expected := second_opinion(form, log)) is not None:
        assert isinstance(result, Event)
        assert result.values == expected
        assert "dirty_padding" not in result.marks
    else:
        assert isinstance(result, Defect) or "dirty_padding" in result.marks


@many
@given(
    st.one_of(st.just(()), st.tuples(st.binary(max_size=40)), st.lists(st.binary(max_size=33)).map(tuple)), st.binary()
)
def test_arbitrary_bytes_never_raise(topics: tuple[bytes, ...], data: bytes) -> None:
    assert isinstance(DECODER.decode(raw_log(topics, data), ROLES), Event | Defect)


@many
@given(forms, st.lists(st.binary(max_size=33), max_size=4), st.binary(max_size=400))
def test_arbitrary_bytes_under_a_known_topic_never_raise(form: EventForm, topics: list[bytes], data: bytes) -> None:
    assert isinstance(DECODER.decode(raw_log((form.topic0, *topics), data), ROLES), Event | Defect)


# --- roles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.event}-{form.version}")
@pytest.mark.parametrize("role", ["identity", "reputation", "validation"])
def test_an_event_is_known_only_where_its_role_is_played(form: EventForm, role: Registry) -> None:
    log = log_of(form, plain_values(form))

    result = DECODER.decode(log, frozenset({role}))

    assert isinstance(result, Event) if form.registry in {role, "proxy"} else result == Defect("unknown_event")


def test_proxy_events_are_known_at_an_address_without_a_role() -> None:
    log = log_of(form_named("Upgraded"), (b"\x01" * 20,))

    assert isinstance(DECODER.decode(log, frozenset()), Event)


# --- defects ----------------------------------------------------------------------------------------------------------

TRANSFER_LOG = log_of(form_named("Transfer"), (b"\x01" * 20, b"\x02" * 20, 3))
APPROVED_LOG = log_of(form_named("ApprovalForAll"), (b"\x01" * 20, b"\x02" * 20, True))
REVOKED_LOG = log_of(form_named("FeedbackRevoked"), (1, b"\x01" * 20, 2**64 - 1))


@pytest.mark.parametrize(
    ("code", "log"),
    [
        pytest.param("no_topics", raw_log(()), id="anonymous log"),
        pytest.param("unknown_event", raw_log((bytes(32),)), id="event of somebody else"),
        pytest.param("unknown_event", raw_log((b"",)), id="empty topic0"),
        pytest.param("topic_count", replace(TRANSFER_LOG, topics=TRANSFER_LOG.topics[:3]), id="ERC-20 Transfer"),
        pytest.param("topic_count", replace(URI_LOG, topics=(*URI_LOG.topics, bytes(32))), id="more topics"),
        pytest.param("topic_size", with_topic(TRANSFER_LOG, 1, bytes(20)), id="topic of 20 bytes"),
        pytest.param("data_short", replace(FEEDBACK_LOG, data=FEEDBACK_LOG.data[:255]), id="head cut"),
        pytest.param("data_short", replace(APPROVED_LOG, data=b""), id="no data"),
        pytest.param("bad_offset", with_word(URI_LOG, 0, word(0)), id="offset into the head"),
        pytest.param("bad_offset", with_word(URI_LOG, 0, word(96)), id="offset at the end"),
        pytest.param("bad_offset", with_word(URI_LOG, 0, word(65)), id="length word cut"),
        pytest.param("bad_offset", with_word(URI_LOG, 0, word(2**256 - 1)), id="offset that would wrap"),
        pytest.param("bad_length", with_word(URI_LOG, 1, word(33)), id="length past the end"),
        pytest.param("bad_length", with_word(URI_LOG, 1, word(2**256 - 1)), id="length that would wrap"),
        pytest.param("bad_length", replace(URI_LOG, data=URI_LOG.data[:-1]), id="padding cut"),
        pytest.param("out_of_range", with_word(FEEDBACK_LOG, 0, word(2**64)), id="uint64 too large"),
        pytest.param("out_of_range", with_word(FEEDBACK_LOG, 1, word(2**127)), id="int128 too large"),
        pytest.param("out_of_range", with_word(FEEDBACK_LOG, 1, word(2**256 - 2**127 - 1)), id="int128 too small"),
        pytest.param("out_of_range", with_word(FEEDBACK_LOG, 2, word(256)), id="uint8 too large"),
        pytest.param("out_of_range", with_word(APPROVED_LOG, 0, word(2)), id="bool of 2"),
        pytest.param("out_of_range", with_topic(TRANSFER_LOG, 1, word(2**160)), id="address with upper bytes"),
        pytest.param("out_of_range", with_topic(REVOKED_LOG, 3, word(2**64)), id="indexed uint64 too large"),
    ],
)
def test_a_log_that_is_no_valid_encoding_gets_its_defect(code: str, log: RawLog) -> None:
    assert DECODER.decode(log, ROLES) == Defect(code)


# --- marks ------------------------------------------------------------------------------------------------------------


def registered(uri: bytes) -> RawLog:
    return log_of(form_named("Registered"), (1, uri, bytes(20)))


# Five words of head, then one empty string that all four offsets share.
SHARED_TAIL = b"".join([*map(word, (1, 5, 0, 256, 256, 256, 256)), b"\x11" * 32, word(0)])
# Two words of head, then the second string before the first.
SWAPPED_TAIL = b"".join([*map(word, (128, 64, 1)), b"b".ljust(32, b"\0"), word(1), b"a".ljust(32, b"\0")])
METADATA_LOG = log_of(form_named("MetadataSet"), (1, keccak(b"key"), b"key", b"\xff\0"))


@pytest.mark.parametrize(
    ("marks", "log"),
    [
        pytest.param((), FEEDBACK_LOG, id="plain"),
        pytest.param((), registered("\U0001f916 ü".encode()), id="every plane of Unicode"),
        pytest.param((), METADATA_LOG, id="bytes may hold anything"),
        pytest.param((), registered(b"x" * 65_536), id="just not huge"),
        pytest.param(("bad_utf8",), registered(b"\xff\xfe"), id="invalid UTF-8"),
        pytest.param(("bad_utf8",), registered(b"\xed\xa0\x80"), id="surrogate"),
        pytest.param(("nul",), registered(b"a\0b"), id="NUL"),
        pytest.param(("bad_utf8", "nul"), registered(b"\0\xff"), id="NUL and invalid UTF-8"),
        pytest.param(("hash_mismatch",), with_topic(FEEDBACK_LOG, 3, bytes(32)), id="tag1 is not what was hashed"),
        pytest.param(("hash_mismatch",), with_topic(METADATA_LOG, 2, keccak(b"Key")), id="key is not what was hashed"),
        pytest.param(("trailing_bytes",), replace(URI_LOG, data=URI_LOG.data + b"\0"), id="one byte more"),
        pytest.param(("trailing_bytes",), replace(TRANSFER_LOG, data=bytes(32)), id="data where none belongs"),
        pytest.param(("dirty_padding",), replace(URI_LOG, data=URI_LOG.data[:-1] + b"\1"), id="dirty padding"),
        pytest.param(
            ("noncanonical",), with_word(replace(URI_LOG, data=URI_LOG.data + bytes(32)), 0, word(96)), id="gap"
        ),
        pytest.param(
            ("hash_mismatch", "noncanonical"),
            replace(FEEDBACK_LOG, data=SHARED_TAIL),
            id="strings that share their bytes",
        ),
        pytest.param(
            ("noncanonical",),
            replace(METADATA_LOG, topics=(*METADATA_LOG.topics[:2], keccak(b"a")), data=SWAPPED_TAIL),
            id="other order",
        ),
        pytest.param(("huge",), registered(b"x" * 65_537), id="huge"),
        pytest.param(
            ("bad_utf8", "nul", "trailing_bytes", "dirty_padding", "huge"),
            replace(
                registered(b"\xff\0" + b"x" * 65_536),
                data=registered(b"\xff\0" + b"x" * 65_536).data[:-1] + b"\1" + bytes(7),
            ),
            id="several, in order",
        ),
    ],
)
def test_what_is_valid_but_odd_is_marked(marks: tuple[str, ...], log: RawLog) -> None:
    assert decoded(log).marks == marks


def test_a_marked_log_keeps_its_values() -> None:
    assert decoded(replace(FEEDBACK_LOG, data=FEEDBACK_LOG.data + b"\7")).values == FEEDBACK_VALUES


def test_an_indexed_tag_without_its_text_cannot_mismatch() -> None:
    form = form_named("NewFeedback", "1.1.0")

    event = decoded(log_of(form, (1, bytes(20), 100, b"\x05" * 32, b"", b"", bytes(32))))

    assert (event.values[3], event.marks) == (b"\x05" * 32, ())


@many
@given(altered_logs())
def test_marks_are_known_in_order_and_each_once(altered: tuple[EventForm, RawLog]) -> None:
    result = DECODER.decode(altered[1], ROLES)

    if isinstance(result, Event):
        assert result.marks == tuple(mark for mark in MARKS if mark in result.marks)


def test_a_log_of_ten_megabytes_is_decoded_in_no_time() -> None:
    log = log_of(FEEDBACK, (*FEEDBACK_VALUES[:7], b"x" * 10_000_000, *FEEDBACK_VALUES[8:]))
    shared = with_word(with_word(log, 5, log.data[128:160]), 6, log.data[128:160])

    began = time.process_time()
    event = decoded(shared)

    assert time.process_time() - began < 1
    assert event.marks == ("trailing_bytes", "noncanonical", "huge")
    assert event.values[7] == event.values[8] == event.values[9] == b"x" * 10_000_000


# --- text -------------------------------------------------------------------------------------------------------------


@many
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_text_that_postgresql_can_hold_is_unchanged(text: str) -> None:
    assert text_of(text.encode()) == (text, None)


@many
@given(st.binary())
def test_text_never_loses_anything_without_the_raw_bytes_beside_it(raw: bytes) -> None:
    text, lost = text_of(raw)

    assert "\0" not in text
    assert text.encode().decode() == text
    assert lost == (None if text.encode() == raw else raw)


@pytest.mark.parametrize(
    ("raw", "text"),
    [(b"a\0b", "a\ufffdb"), (b"a\xffb", "a\ufffdb"), (b"\xed\xa0\x80", "\ufffd" * 3), (b"\0\xff", "\ufffd\ufffd")],
    ids=["NUL", "invalid", "surrogate", "both"],
)
def test_what_postgresql_cannot_hold_becomes_the_replacement_character(raw: bytes, text: str) -> None:
    assert text_of(raw) == (text, raw)


# --- arguments --------------------------------------------------------------------------------------------------------


def test_arguments_are_shown_as_the_ledger_shows_them() -> None:
    assert event_args(decoded(FEEDBACK_LOG)) == {
        "agentId": "7",
        "clientAddress": "0x" + "0c" * 20,
        "feedbackIndex": "3",
        "value": "-1" + "0" * 38,
        "valueDecimals": "18",
        "indexedTag1": "0x" + keccak(b"starred").hex(),
        "tag1": "starred",
        "tag2": "",
        "endpoint": "https://a.example",
        "feedbackURI": "ipfs://Qm",
        "feedbackHash": "0x" + "11" * 32,
    }


def test_a_text_that_lost_something_has_its_bytes_beside_it() -> None:
    assert event_args(decoded(registered(b"a\0\xff"))) == {
        "agentId": "1",
        "agentURI": "a\ufffd\ufffd",
        "agentURI_raw": "0x6100ff",
        "owner": "0x" + "00" * 20,
    }


def test_truth_values_stay_truth_values() -> None:
    assert event_args(decoded(APPROVED_LOG))["approved"] is True


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.event}-{form.version}")
@few
@given(data=st.data())
def test_arguments_of_every_form_are_json_that_postgresql_takes(form: EventForm, data: st.DataObject) -> None:
    args = event_args(decoded(log_of(form, data.draw(values_of(form)))))

    encoded = msgspec.json.encode(args)

    assert msgspec.json.decode(encoded) == args
    assert b"\\u0000" not in encoded
    assert {name for name in args if not name.endswith("_raw")} == {field.name for field in form.fields}
