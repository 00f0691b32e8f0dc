"""Become the user 65534 in an own user namespace, then run the command given as arguments (Linux, root only).

PostgreSQL refuses to run as uid 0. Outside of the namespace the process is still root, so it reaches folders such as
/root and its files stay root's. A script of its own, as running code between fork and exec of a threaded process
(`preexec_fn`) may deadlock. Without arguments it only tries, for the exit code.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_CLONE_NEWUSER = 0x10000000  # linux/sched.h
_NOBODY = 65534


def enter() -> None:
    """Raise OSError where the kernel or a container's seccomp profile forbids user namespaces."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "unshare")
    this = Path("/proc/self")
    (this / "setgroups").write_text("deny")
    (this / "uid_map").write_text(f"{_NOBODY} 0 1")
    (this / "gid_map").write_text(f"{_NOBODY} 0 1")


if __name__ == "__main__":
    enter()
    if sys.argv[1:]:
        os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - the launcher's own command, no shell wanted
