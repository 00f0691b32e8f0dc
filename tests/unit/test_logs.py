from __future__ import annotations

import ast
import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

import indexer
from indexer.logs import EVENTS, configure, redact

LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
PACKAGE = Path(indexer.__file__).parent


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _own_set_up() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, sys.excepthook
    yield
    root.handlers[:], sys.excepthook = handlers, hook
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def logged(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def events_in(source: str) -> set[str]:
    """Return the first argument of every call that looks like one of a logger; `?` where it is no plain string."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(attr=level, value=receiver), args=[event, *_]) if level in LEVELS:
                if "log" in ast.unparse(receiver).lower():
                    found |= {str(event.value) if isinstance(event, ast.Constant) else "?"}
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE).with_suffix(""))
)
def test_every_logged_event_is_listed(path: Path) -> None:
    assert events_in(path.read_text(encoding="utf-8")) <= EVENTS


def test_search_for_events_finds_calls_in_every_form() -> None:
    source = 'log.info("a", n=1)\nself._log.bind(x=1).exception("b")\nstructlog.get_logger().warning(f"c {1}")'

    assert events_in(source) == {"a", "b", "?"}


def test_lines_are_json_with_level_time_and_context() -> None:
    stream = io.StringIO()
    configure("info", stream=stream)

    with structlog.contextvars.bound_contextvars(chain_id=5):
        structlog.get_logger().info("batch_committed", rows=2, block_hash=b"\x01\xff")

    (line,) = logged(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "batch_committed", "level": "info", "chain_id": 5, "rows": 2, "block_hash": "0x01ff"}


def test_lines_below_the_level_are_left_out() -> None:
    stream = io.StringIO()
    configure("warning", stream=stream)

    structlog.get_logger().info("batch_committed")
    structlog.get_logger().warning("range_shrunk")

    assert [line["event"] for line in logged(stream)] == ["range_shrunk"]


def test_terminal_gets_words_instead_of_json() -> None:
    stream = Terminal()
    configure("info", stream=stream)

    structlog.get_logger().info("batch_committed", url="https://h.example/s3cret")

    assert "batch_committed" in stream.getvalue()
    assert "h.example" in stream.getvalue()
    assert "s3cret" not in stream.getvalue()
    assert not stream.getvalue().startswith("{")


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["json", "terminal"])
def test_no_url_leaves_whole(stream: io.StringIO) -> None:
    url = "https://user:s3cret@h.example/v2/s3cret?key=s3cret"
    configure("info", stream=stream)
    log = structlog.get_logger()

    log.info("settings_loaded", url=url, text=f"asked {url}, got 5", error=ValueError(url), nested={url: [url, (url,)]})
    try:
        int(f"'{url}'")
    except ValueError:
        log.exception("provider_failed")
    logging.getLogger("asyncio").error("lost %s", url, exc_info=ValueError(url))
    sys.excepthook(ValueError, ValueError(url), None)

    assert "s3cret" not in stream.getvalue()
    assert stream.getvalue().count("h.example") >= 9
    assert "process_crashed" in stream.getvalue()


def test_libraries_are_heard_from_warning_on_in_the_same_form() -> None:
    stream = io.StringIO()
    configure("debug", stream=stream)

    logging.getLogger("uvicorn").info("left out")
    logging.getLogger("uvicorn").warning("told")

    assert [(line["event"], line["level"]) for line in logged(stream)] == [("told", "warning")]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no address here", "no address here"),
        ("POST https://h.example/key: refused", "POST h.example refused"),
        ("('wss://h.example/key', 1)", "('h.example 1)"),
        ('{"url":"https://h.example/key"}', '{"url":"h.example"}'),
        ("redis://pass/word@h", "***"),
    ],
)
def test_redact_leaves_the_host(text: str, shown: str) -> None:
    assert redact(text) == shown
