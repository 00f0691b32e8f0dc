"""What makes a soak fail: lines of a log that nothing excuses, and a daemon that holds more and more."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from processes import Program, Programs
from soak.house import House
from soak.samples import ENOUGH, verdict
from soak.troubles import Household, is_broken

from indexer.embedded.valkey import EmbeddedValkey

BEGIN = {
    "rss": 80_700_000,
    "fds": 31,
    "threads": 6,
    "sessions": 5,
    "dead_rows": 963,
    "live_rows": 6126,
    "bytes_a_row": 116_643,
    "lag_blocks": 2,
    "valkey_rss": 8_500_000,
    "table_bytes": 20_000_000,
}
END = {
    **BEGIN,
    "rss": 81_400_000,
    "fds": 35,
    "sessions": 4,
    "dead_rows": 3676,
    "live_rows": 37_158,
    "bytes_a_row": 727,
    "lag_blocks": 0,
    "valkey_rss": 15_100_000,
    "table_bytes": 27_000_000,
}
"""A run of forty minutes, as it was measured."""
TRACE = "Traceback (most recent call last):\n  ..."


@pytest.mark.parametrize(
    "line",
    [
        json.dumps({"event": "keeper_failed", "level": "error", "exception": TRACE}),
        json.dumps({"event": "housekeeping_failed", "level": "error", "exception": TRACE}),
        json.dumps({"event": "Task exception was never retrieved", "level": "error", "exception": TRACE}),
        json.dumps({"event": "task_abandoned", "level": "error", "task": "attempt local"}),
        json.dumps({"event": "chain_restarted", "level": "error"}),
        json.dumps({"event": "chain_halted", "level": "critical"}),
        "Traceback (most recent call last):",
    ],
    ids=["keeper", "housekeeping", "lost task", "abandoned", "restarted", "halted", "interpreter"],
)
def test_errors_of_our_own_making_break_a_soak(line: str) -> None:
    assert is_broken(line)


@pytest.mark.parametrize(
    "line",
    [
        json.dumps({"event": "provider_failed", "level": "warning", "error": "h.example: HTTP 500"}),
        json.dumps({"event": "keeper_failed", "level": "warning", "error": "h.example: away"}),
        json.dumps({"event": "chain_stalled", "level": "error", "silent_s": 90}),
        "error: no provider can be reached",
        '{"event": "batch_comm',
        "null",
    ],
    ids=["provider", "keeper", "stalled", "message", "cut off", "no object"],
)
def test_what_nodes_and_kills_bring_about_does_not(line: str) -> None:
    assert not is_broken(line)


def test_processes_that_are_gone_are_judged_too(tmp_path: Path) -> None:
    process: Any = type("Gone", (), {"pid": 1, "returncode": -9})()
    programs = Programs(tmp_path)
    programs.started.append(Program(process, [], stderr=[json.dumps({"event": "keeper_failed", "exception": TRACE})]))
    household = Household(House(programs, "", EmbeddedValkey(tmp_path), None), Random(0))

    with pytest.raises(AssertionError, match="keeper_failed"):
        household.check()


def test_a_run_that_stays_flat_passes_whatever_it_holds_for_a_moment() -> None:
    samples = [BEGIN] * 4 + [{**END, "fds": 44}] * 2 + [END] * 10

    assert verdict(samples, 16) is None


@pytest.mark.parametrize(
    ("grown", "told"),
    [
        ({"rss": 112_000_000}, "rss"),
        ({"fds": 60}, "fds"),
        ({"threads": 14}, "threads"),
        ({"sessions": 10}, "sessions"),
        ({"dead_rows": 30_000}, "dead rows"),
        ({"bytes_a_row": 200_000}, "bytes_a_row"),
        ({"lag_blocks": 40}, "lag_blocks"),
    ],
    ids=lambda one: one.replace(" ", "_") if isinstance(one, str) else "",
)
def test_a_run_fails_for_what_grew(grown: dict[str, int], told: str) -> None:
    failed = verdict([BEGIN] * 4 + [END] * 8 + [{**END, **grown}] * 4, 16)

    assert failed is not None
    assert failed.startswith(told)
    assert ";" not in failed


def test_a_long_run_has_to_bring_samples_and_a_short_one_is_not_judged() -> None:
    few = [BEGIN] * (ENOUGH - 1)

    assert verdict(few, 80) == "only 7 samples of 80"
    assert verdict(few, 4) is None
