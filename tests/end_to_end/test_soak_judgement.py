"""What makes a soak fail: lines of a log that nothing excuses."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from processes import Program, Programs
from soak.house import House
from soak.troubles import Household, is_broken

from indexer.embedded.valkey import EmbeddedValkey

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
