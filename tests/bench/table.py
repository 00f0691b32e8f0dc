"""`make bench | .venv/bin/python tests/bench/table.py`: the JSON lines of the benchmarks as a Markdown table.

Each line becomes a row: which benchmark and with what, and its figures. Machine and commit stand above.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

# What was asked for; all else was measured.
ASKED: Final = (
    "event",
    "latency_ms",
    "timed",
    "drawn",
    "logs_per_block",
    "logs_per_commit",
    "of_logs",
    "blocks",
    "feedback",
)


def table(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of the table."""
    records = [json.loads(line) for line in lines if line.startswith("{")]
    for machine in (one for one in records if one.get("bench") == "machine"):
        yield f"{machine['cpus']} processors, Python {machine['python']}, commit {machine['commit']}"
        yield ""
    yield "| benchmark | of | figures |"
    yield "|---|---|---|"
    for one in records:
        if one.get("bench") != "machine":
            asked = {name: value for name, value in one.items() if name in ASKED}
            found = {name: value for name, value in one.items() if name not in {*ASKED, "bench"}}
            yield f"| {one['bench']} | {_words(asked)} | {_words(found)} |"


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_word(value)}" for name, value in values.items())


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({_words(value)})"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


if __name__ == "__main__":
    print("\n".join(table(sys.stdin)))
