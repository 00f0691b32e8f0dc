"""The anvil process: started on a free port, stopped with its state written, found again after a crash."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from indexer.errors import Fatal

Options = dict[str, str | int | bool]
_START_S = 30.0  # anvil needs 0.1 s; a big state on a slow disk needs more
_STOP_S = 30.0  # the state is written on SIGTERM
_POLL_S = 0.01
_PORTS = 5  # free ports tried, as another process may take one in between


@dataclass(slots=True)
class AnvilProcess:
    """A running anvil and, where its chain is kept, the lock on the state file."""

    url: str
    fresh: bool
    _process: subprocess.Popen[bytes]
    _kept: _KeptState | None

    @classmethod
    def start(cls, binary: Path, port: int, state: Path | None, options: Options) -> AnvilProcess:
        """Start anvil and wait for its port. Raises Fatal where it does not start or the state is in use."""
        if state is None:
            process, url = _launch(binary, port, options)
            return cls(url, fresh=True, _process=process, _kept=None)
        kept = _KeptState.claim(state.absolute())
        try:
            kept.stop_orphan()
            fresh, (process, url) = kept.launch(binary, port, options)
        except BaseException:
            kept.release()
            raise
        return cls(url, fresh, process, kept)

    @property
    def pid(self) -> int:
        """Return the id of the process."""
        return self._process.pid

    def stop(self) -> None:
        """End anvil, which writes its state, and give the state file free. Blocks until it is gone."""
        _end(self._process)
        if self._kept:
            self._kept.release()


@dataclass(slots=True)
class _KeptState:
    """A state file, locked: two anvils on one of them would overwrite each other's chain."""

    state: Path
    lock: IO[str]

    @classmethod
    def claim(cls, state: Path) -> _KeptState:
        state.parent.mkdir(parents=True, exist_ok=True)
        lock = state.with_suffix(".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            lock.close()
            raise Fatal(f"another process runs the local chain kept in {state.parent}") from exc
        return cls(state, lock)

    @property
    def pid_file(self) -> Path:
        return self.state.with_suffix(".pid")

    def release(self) -> None:
        self.pid_file.unlink(missing_ok=True)
        self.lock.close()

    def stop_orphan(self) -> None:
        """End the anvil of a process that was killed; it writes its state, so the chain goes on."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(self.pid_file.read_text())
            if self._owns(pid):
                os.kill(pid, signal.SIGTERM)
                _wait_until(lambda: not self._owns(pid))

    def launch(self, binary: Path, port: int, options: Options) -> tuple[bool, tuple[subprocess.Popen[bytes], str]]:
        """Start anvil on this state, or on a new chain where it is lost or not loadable."""
        wanted = {**options, "state": str(self.state)}
        fresh = not self.state.is_file()
        try:
            started = _launch(binary, port, wanted)
        except Fatal:
            if fresh:
                raise
            self.state.unlink()  # cut off in the middle, or of another version
            fresh, started = True, _launch(binary, port, wanted)
        self.pid_file.write_text(str(started[0].pid))
        self.state.unlink(missing_ok=True)
        return fresh, started

    def _owns(self, pid: int) -> bool:
        return f"--state={self.state}" in _command_line(pid)


def _launch(binary: Path, port: int, options: Mapping[str, str | int | bool]) -> tuple[subprocess.Popen[bytes], str]:
    if port and _taken(port):
        raise Fatal(f"anvil does not start: port {port} is in use")
    flags = [_flag(name, value) for name, value in options.items() if value is not False]
    text = ""
    for _ in range(1 if port else _PORTS):
        chosen = port or _free_port()
        command = [str(binary), "--quiet", "--host=127.0.0.1", f"--port={chosen}", *flags]
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(  # noqa: S603 - the binary was found by us or named by the user
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
            )
            if _answers(process, chosen):
                return process, f"http://127.0.0.1:{chosen}"
            _end(process)
            text = _tail(said)
        if "in use" not in text:
            break
    raise Fatal(f"anvil does not start: {text or 'no word from it'}")


def _flag(name: str, value: str | int | bool) -> str:
    flag = f"--{name.replace('_', '-')}"
    return flag if value is True else f"{flag}={value}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _taken(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the port is open and the process that should hold it still lives."""

    def listening() -> bool:
        return _taken(port) or process.poll() is not None

    return _wait_until(listening) and process.poll() is None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(said: IO[bytes]) -> str:
    said.seek(0)
    return said.read()[-500:].decode(errors="replace").strip()


def _command_line(pid: int) -> str:
    """Return the arguments of a process, or an empty text where there is none."""
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    asked = ["/bin/ps", "-o", "command=", "-p", str(pid)]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout  # noqa: S603 - fixed command


def _wait_until(done: Callable[[], bool], timeout_s: float = _START_S) -> bool:
    deadline = time.monotonic() + timeout_s
    while not (over := done()) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return over
