"""Run server programs: as whom, with which environment, and what to say when they fail."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from indexer.embedded import namespace
from indexer.errors import Fatal

T = TypeVar("T")

_RUN_TIMEOUT_S = 120  # initdb takes 0.5 s; a slow disk may need much longer to sync
_MAX_LOG_BYTES = 10_000_000
_KEPT_VARIABLES = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # RPC keys stay with us

_children: list[subprocess.Popen[bytes]] = []


class EmbeddedError(Fatal):
    """An embedded server cannot be found or started; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Identity:
    """As whom a program runs: a prefix of the command line, or another user (None: as we are)."""

    prefix: tuple[str, ...] = ()
    user: pwd.struct_passwd | None = None

    def own(self, path: Path) -> None:
        """Give `path` to the user that the program runs as."""
        if self.user is not None:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)


def never_root() -> Identity:
    """Return an identity that PostgreSQL accepts; as root an own user namespace or, where forbidden, user nobody."""
    if os.geteuid() != 0:
        return Identity()
    if user_namespaces_work():
        return Identity(prefix=_namespace_command())
    return Identity(user=pwd.getpwnam("nobody"))


@cache
def user_namespaces_work() -> bool:
    """Try once to enter one, in a process of its own."""
    if sys.platform != "linux":
        return False
    return subprocess.run(_namespace_command(), stderr=subprocess.DEVNULL, check=False).returncode == 0  # noqa: S603 - own script


def _namespace_command() -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", str(Path(namespace.__file__)))


def run(command: Sequence[str | Path], identity: Identity) -> str:
    """Run to the end and return stdout. Raises EmbeddedError with the end of stderr."""
    arguments = [*identity.prefix, *map(str, command)]
    user = identity.user
    try:
        done = subprocess.run(  # noqa: S603 - programs that `programs.py` found
            arguments,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_RUN_TIMEOUT_S,
            env=_environment(),
            cwd="/",
            check=False,
            user=None if user is None else user.pw_uid,
            group=None if user is None else user.pw_gid,
            extra_groups=None if user is None else [],
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise EmbeddedError(f"{command[0]} does not run{_as_whom(identity)}: {type(exc).__name__}") from exc
    if done.returncode:
        raise EmbeddedError(f"{command[0]} failed{_as_whom(identity)}: {_last_lines(done.stderr)}")
    return done.stdout


def launch(
    command: Sequence[str | Path], identity: Identity, log: Path, inherited: Sequence[int]
) -> subprocess.Popen[bytes]:
    """Start a server that outlives us if need be, with stdout and stderr in `log`, keeping `inherited` descriptors."""
    reap()
    if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    user = identity.user
    try:
        with log.open("ab") as output:  # never our own stdio: a server that outlives us would hold a caller's pipes
            child = subprocess.Popen(  # noqa: S603 - programs that `programs.py` found
                [*identity.prefix, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_environment(),
                cwd="/",
                start_new_session=True,  # Ctrl-C at our terminal is for us to pass on
                pass_fds=inherited,
                user=None if user is None else user.pw_uid,
                group=None if user is None else user.pw_gid,
                extra_groups=None if user is None else [],
            )
    except OSError as exc:
        raise EmbeddedError(f"{command[0]} does not run{_as_whom(identity)}: {type(exc).__name__}") from exc
    _children.append(child)
    return child


def log_tail(log: Path) -> str:
    """Return the last lines of a server's log, for an error message."""
    return _last_lines(log.read_text(errors="replace")[-4000:]) if log.exists() else "no log"


async def finish(work: Callable[[], T]) -> T:
    """Run blocking `work` in a thread; a cancellation takes effect after its end, as a thread cannot be stopped."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        task.exception()  # nobody waits for it any more: not to be told as lost
        raise


def reap() -> None:
    """Forget children that ended. Holding the others avoids a warning about servers that we leave running."""
    _children[:] = [child for child in _children if child.poll() is None]


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}  # a locale that is not installed stops Valkey


def _as_whom(identity: Identity) -> str:
    if identity.user is None:
        return ""
    return (
        " as user nobody (this container forbids root a user namespace; the program and the data directory must be"
        " reachable by nobody, so not below /root: or run as another user, or set DATABASE_URL)"
    )


def _last_lines(text: str) -> str:
    return " | ".join(line.strip() for line in text.strip().splitlines()[-3:])
