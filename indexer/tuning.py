"""What interpreter and C library are told at the start of a long run; for the whole process."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from typing import Final

# A statement's answer is not left lying for longer than that by a thread that works on logs (Python's default is 5 ms);
# still shorter costs more than it gives.
_SWITCH_S: Final = 0.0005
# Answers of many MB come and go; small objects that outlive them would keep what was theirs from the system.
_OWN_PAGES_FROM: Final = 12 << 20
_M_MMAP_THRESHOLD: Final = -3  # malloc.h of glibc


def tune() -> None:
    """Have threads give way to each other quickly, and large blocks of memory go back to the system once unused."""
    sys.setswitchinterval(_SWITCH_S)
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES_FROM)
