"""Named statements from `sql/queries/*.sql`, loaded once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from indexer.resources import data_dir

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


def parse_queries(text: str) -> dict[str, str]:
    """Split a file at its `-- name:` lines. Raises ValueError for a name given twice or without a statement."""
    parts = _NAME.split(text)
    found: dict[str, str] = {}
    for name, statement in zip(parts[1::2], parts[2::2], strict=True):
        body = "\n".join(line for line in statement.splitlines() if not line.startswith("--")).strip()
        if name in found or not body:
            raise ValueError(f"query {name} is empty or stands twice")
        found[name] = body
    return found


@cache
def queries() -> Mapping[str, str]:
    """Return every statement by its name. Raises ValueError where two files use one name."""
    found: dict[str, str] = {}
    for path in sorted((data_dir("sql") / "queries").glob("*.sql")):
        for name, statement in parse_queries(path.read_text(encoding="utf-8")).items():
            if name in found:
                raise ValueError(f"query {name} stands in two files, one is {path.name}")
            found[name] = statement
    return found


@cache
def projection(name: str) -> str:
    """Return one projection, a single statement; see sql/projections/README.md."""
    path: Path = data_dir("sql") / "projections" / f"{name}.sql"
    return path.read_text(encoding="utf-8")
