"""The deadline of a stop: what is left of it, and what happens when it is over."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from indexer.stopping import Stop

HANGING = """
import sys, time
from indexer import stopping
stopping._LAST_RESORT_S = 0.1
sys.stdout.write("said before")
stopping.Stop(exit_code=3).begin()
time.sleep(60)
"""


def test_without_a_signal_each_part_has_its_own_time() -> None:
    assert Stop().left_s(8.0) == 8.0


@pytest.mark.parametrize(
    ("passed_s", "most_s", "left_s"),
    [(0.0, 4.5, 4.5), (4.5, 3.0, 3.0), (6.0, 3.0, 1.5), (7.0, 8.0, 0.5), (7.6, 8.0, 0.0)],
    ids=["at once", "after the daemon", "after a daemon that was late", "the rest", "nothing is left"],
)
def test_after_a_signal_all_parts_share_one_deadline(passed_s: float, most_s: float, left_s: float) -> None:
    stop = Stop(_began=time.monotonic() - passed_s)

    assert stop.left_s(most_s) == pytest.approx(left_s, abs=0.05)


def test_what_hangs_ends_with_the_process_and_its_exit_code() -> None:
    ended = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=20, check=False)

    assert ended.returncode == 3
    assert "said before" in ended.stdout
