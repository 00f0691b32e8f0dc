"""What is told of a value that is not as it should be. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final

WHOLE_ROW: Final = "(row)"  # stands for the column where a row is missing or should not be there
LOG_KEY: Final = ("chain_id", "block_number", "log_index")
# What the ledger holds beside raw data; the time is compared as well, for it has whole seconds.
DECODED: Final = ("block_timestamp", "agent_uuid", "agent_id", "event", "event_version", "args", "defect")

_MAX_SHOWN: Final = 300  # characters of a value in a report; a URI may have megabytes


@dataclass(frozen=True, slots=True)
class Difference:
    """A stored value that is not what the ledger, or a contract, says.

    `column` is WHOLE_ROW, and one of the values None, where a row is missing or should not be there. Long values are
    cut, with their length and a hash.
    """

    table: str
    key: str
    column: str
    stored: str | None
    expected: str | None


def shown(value: object) -> str | None:
    """Return a value as text: bytes as hex, whole rows as JSON, the long ones cut."""
    match value:
        case None:
            return None
        case bytes():
            text = f"0x{value.hex()}"
        case bool():
            text = str(value).lower()
        case datetime():
            text = value.isoformat()
        case dict():
            text = json.dumps(value, default=str, ensure_ascii=False)
        case _:
            text = str(value)
    return shortened(text)


def shortened(text: str) -> str:
    """Cut a long text; its length and hash stay, so that two that begin alike can be told apart."""
    if len(text) <= _MAX_SHOWN:
        return text
    digest = sha256(text.encode()).hexdigest()[:16]
    return f"{text[:_MAX_SHOWN]}… ({len(text)} characters, sha256 {digest}…)"
