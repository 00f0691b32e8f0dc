"""An own Valkey (or Redis) under the data directory: a unix socket that only we can open, and an append-only file."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from indexer.embedded.process import EmbeddedError, finish
from indexer.embedded.programs import valkey_program
from indexer.embedded.server import Server, use

_MAX_SOCKET_BYTES = 100  # sockaddr_un holds 104 bytes on macOS, 108 on Linux, the closing NUL among them


class EmbeddedValkey(Server):
    """Valkey in `data_dir`/valkey: `appendonlydir/` with the data, and the socket, log and locks beside it."""

    name = "valkey"
    stop_signal = signal.SIGTERM

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir.absolute() / "valkey")
        self.socket = self.folder / "valkey.sock"

    def prepare(self) -> None:
        """Settle where the socket is; end a server whose socket was deleted, as no client can reach it."""
        self.socket = self._settle_socket()
        if self.alive() and not self.socket.exists():
            self.send(self.stop_signal)

    def command(self) -> Sequence[str | Path]:
        """Serve on the socket alone, writing every change to the append-only file."""
        self._pid_file.unlink(missing_ok=True)
        options = {
            "--port": "0",
            "--unixsocket": str(self.socket),
            "--unixsocketperm": "700",
            "--dir": str(self.folder),
            "--pidfile": str(self._pid_file),
            "--save": "",
            "--appendonly": "yes",
            "--appendfsync": "everysec",  # what a power cut takes is filled again from PostgreSQL
        }
        return [valkey_program(), *(part for option in options.items() for part in option)]

    def answers(self) -> bool:
        """Ask for a PONG; a server that still loads its data gives another answer."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def reachable(self) -> bool:
        """Clients need the socket file, which cleaners of temporary folders like to take."""
        return self.alive() and self.socket.exists()

    def pid(self) -> int | None:
        """Return the server's process id."""
        try:
            return int(self._pid_file.read_text())
        except (OSError, ValueError):
            return None

    async def stop(self) -> None:
        """Stop, and take away the folder of a socket that is not in ours."""
        await super().stop()
        if self.socket.parent != self.folder and not self.alive():
            await finish(self._remove_private_folder)

    def url(self) -> str:
        """Return the address of database 0."""
        return f"unix://{quote(str(self.socket))}?db=0"

    @property
    def _pid_file(self) -> Path:
        return self.folder / "valkey.pid"

    def _remove_private_folder(self) -> None:
        self.socket.unlink(missing_ok=True)
        with suppress(OSError):
            self.socket.parent.rmdir()

    def _settle_socket(self) -> Path:
        """Keep the path of a server that runs: it was settled by a process whose TMPDIR may differ from ours."""
        inside = self.folder / "valkey.sock"
        if len(os.fsencode(inside)) < _MAX_SOCKET_BYTES:
            return inside
        remembered = self.folder / "socket"
        if self.alive() and remembered.exists():
            return Path(os.fsdecode(remembered.read_bytes()))
        path = _private_folder(self.folder) / "valkey.sock"
        remembered.write_bytes(os.fsencode(path))
        return path


def _private_folder(folder: Path) -> Path:
    """Return a short folder for the socket, the same for the same data folder, that belongs to us alone."""
    key = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]
    private = Path(tempfile.gettempdir()) / f"erc8004-{os.geteuid()}-{key}"
    private.mkdir(mode=0o700, exist_ok=True)
    found = private.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise EmbeddedError(f"{private} is not a folder of ours alone: remove it, or choose a shorter ERC8004_DATA_DIR")
    return private


@asynccontextmanager
async def valkey(data_dir: Path, *, keep: bool = False) -> AsyncIterator[str]:
    """Yield the `unix://` address of the server on `data_dir`/valkey, started or adopted.

    Killed meanwhile, it comes back on the same socket. The last user to leave stops it, unless that one says `keep`.
    Raises EmbeddedError.
    """
    async with use(EmbeddedValkey(data_dir), keep=keep) as url:
        yield url
