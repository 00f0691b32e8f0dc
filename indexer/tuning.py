"""What interpreter and C library are told at the start, for the whole process."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from typing import Final

# A statement's answer is not left lying for longer than that by a thread that works on logs (Python's default is 5 ms);
# still shorter costs more than it gives.
_SWITCH_S: Final = 0.0005
# Answers of many MB come and go; small objects that outlive them would keep what was theirs from the system.
_OWN_PAGES_FROM: Final = 12 << 20
_M_MMAP_THRESHOLD: Final = -3  # malloc.h of glibc
# Logs and commands come by the thousand, and next to none are in cycles: looking for some after each 700 objects
# (Python's default) took a twentieth of the publisher's time.
_COLLECT_AFTER: Final = 20_000


def tune() -> None:
    """Have threads give way quickly, cycles looked for seldom, and large blocks of memory go back once unused."""
    sys.setswitchinterval(_SWITCH_S)
    gc.freeze()  # what was imported stays
    gc.set_threshold(_COLLECT_AFTER)
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES_FROM)
