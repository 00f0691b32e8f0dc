"""structlog set-up: to stderr, JSON lines unless that is a terminal; no URL ever leaves whole."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from indexer.settings import host_of

EVENTS: Final = frozenset(
    {
        "advance_failed",
        "batch_committed",
        "batch_refused",
        "bell_lost",
        "chain_halted",
        "chain_handed_over",
        "chain_restarted",
        "chain_resumed",
        "chain_stalled",
        "chain_started",
        "chain_stopped",
        "check_resumed",
        "check_suspended",
        "code_missing",
        "code_unknown",
        "database_lost",
        "database_recovered",
        "decoder_lost",
        "embedded_adopted",
        "embedded_restart_failed",
        "embedded_restarted",
        "embedded_start_failed",
        "embedded_started",
        "embedded_stopped",
        "finality_disbelieved",
        "finality_regressed",
        "gap_filled",
        "halt_lifted",
        "housekeeping_failed",
        "http_started",
        "keeper_failed",
        "lease_acquired",
        "lease_lost",
        "lease_waiting",
        "ledger_checked",
        "ledger_rebuilt",
        "ledger_repaired",
        "log_undecodable",
        "migrated",
        "process_crashed",
        "proof_raised",
        "proof_mismatch",
        "provider_failed",
        "provider_recovered",
        "provider_switched",
        "publisher_failed",
        "publisher_rebuilt",
        "publisher_recovered",
        "range_reindexed",
        "range_shrunk",
        "receipts_unproven",
        "reindex_resumed",
        "reorg_detected",
        "rollback_committed",
        "settings_loaded",
        "stop_forced",
        "survey_failed",
        "task_abandoned",
    }
)
"""Every event this program logs; a test holds the code to it. Numbers are keys beside it, never part of it."""

# A quote may stand in a URL, yet mostly it closes one: what is cut off too much is a quote, never a secret left over.
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"<>`]*")
_CLOSING: Final = "',;.)]}"


def redact(text: str) -> str:
    """Put its host name in place of every URL in `text`."""
    return _URL.sub(lambda match: host_of(match[0].rstrip(_CLOSING)), text)


def configure(level: str, *, stream: TextIO | None = None) -> None:
    """Send this program's log from `level` on, and the warnings of libraries, to `stream` (default: stderr)."""
    out = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[Processor] = [structlog.processors.format_exc_info, redact_values, _renderer(out)]
    structlog.configure(
        processors=[*shared, *final],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(out),
    )
    _adopt_libraries(out, shared, final)
    sys.excepthook = _log_crash


def redact_values(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Structlog processor: make every value printable and free of URLs, nested ones and exception texts too."""
    return {key: _clean(value) for key, value in event_dict.items()}


def _clean(value: object) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case bytes():
            return f"0x{value.hex()}"
        case BaseException():
            return redact(f"{type(value).__name__}: {value}")
        case Mapping():
            return {redact(str(key)): _clean(one) for key, one in value.items()}
        case Sequence() | set() | frozenset() if not isinstance(value, str):
            return [_clean(one) for one in value]
        case _:
            return redact(str(value))


def _renderer(out: TextIO) -> Processor:
    if out.isatty():
        return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    return structlog.processors.JSONRenderer()


def _adopt_libraries(out: TextIO, shared: Sequence[Processor], final: Sequence[Processor]) -> None:
    """Give what libraries log (asyncio's lost exceptions, uvicorn) the same form and the same redaction."""
    drop_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler = logging.StreamHandler(out)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[drop_meta, *final]))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def _log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    structlog.get_logger().critical("process_crashed", exc_info=(kind, error, trace))
