"""When two texts of arguments say the same."""

from __future__ import annotations

import pytest

from indexer.store.encoding import values_encoder
from indexer.store.rereading import _same


def encoded(args: str | None, event: str = "ApprovalForAll") -> bytes:
    """Encode what of a ledger row comes after its time, as COPY sends it."""
    columns = ("agent_uuid", "agent_id", "event", "event_version", "args", "defect")
    row = (*[None] * 5, None, None, b"", b"", b"", b"", b"", event, "1", args, None)
    return values_encoder("logs", columns)(row)


@pytest.mark.parametrize(
    ("stored", "expected", "same"),
    [
        ('{"a": 1, "b": true}', '{"b":true,"a":1}', True),
        ('{"approved":1}', '{"approved":true}', False),
        ('{"a":1.0}', '{"a":1}', False),
        ('{"a":"1"}', '{"a":1}', False),
        ("{", "{}", False),
        (None, "{}", False),
        ('{"a":"\\u00e4"}', '{"a":"ä"}', True),
    ],
)
def test_the_same_json_in_other_words_is_no_difference(stored: str | None, expected: str, same: bool) -> None:
    assert _same(encoded(stored), encoded(expected)) is same


def test_another_event_with_the_same_arguments_is_one() -> None:
    assert not _same(encoded("{}", event="Approval"), encoded("{}"))
