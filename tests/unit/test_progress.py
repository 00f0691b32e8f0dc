"""What a bar says of long work: the rate, and the time that is left."""

from __future__ import annotations

import io
import sys
import time

import pytest

from indexer.app import _pace, _progress_bar
from indexer.worker import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_rate_tells_how_long_the_rest_takes() -> None:
    begun = Progress(started=time.monotonic() - 10)

    assert _pace(begun, 1000, 4000) == ("100 blocks/s", "0:00:30 left")
    assert _pace(begun, 0, 4000) == ("0 blocks/s", "? left")


def test_a_terminal_sees_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    monkeypatch.setattr(sys, "stderr", out)

    with _progress_bar({"local": Progress(from_block=0, checkpoint=49, target=99)}):
        pass

    assert "local" in out.getvalue()
    assert "50.0 %" in out.getvalue()
    assert "50 of 100 blocks" in out.getvalue()
    assert "left" in out.getvalue()
