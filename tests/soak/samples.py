"""What a daemon holds while it runs: memory, file handles, connections, and how much room its tables take."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

_SESSIONS: Final = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
_TABLES: Final = """
SELECT s.relname AS name, s.n_live_tup AS live, s.n_dead_tup AS dead, pg_total_relation_size(s.relid) AS bytes
FROM pg_stat_user_tables s ORDER BY 4 DESC
"""
_STATUS: Final = "SELECT checkpoint_block, lag_blocks, state FROM erc8004.v_erc8004_indexer_status"


@dataclass(slots=True)
class Sampler:
    """Looks at one daemon, its Valkey and its database from outside."""

    pid: int
    valkey_pid: int | None
    url: str

    async def sample(self, at_s: float) -> dict[str, Any]:
        """Return the figures of this moment; sizes in bytes."""
        connection = await asyncpg.connect(self.url, timeout=30)
        try:
            sessions = await connection.fetchval(_SESSIONS)
            tables = await connection.fetch(_TABLES)
            status = await connection.fetchrow(_STATUS)
        finally:
            await connection.close()
        live, dead, size = (sum(row[name] for row in tables) for name in ("live", "dead", "bytes"))
        return {
            "at_s": round(at_s),
            "rss": _rss(self.pid),
            "fds": len(os.listdir(f"/proc/{self.pid}/fd")),  # noqa: PTH208 - names alone are counted
            "threads": len(os.listdir(f"/proc/{self.pid}/task")),  # noqa: PTH208
            "valkey_rss": _rss(self.valkey_pid) if self.valkey_pid else None,
            "sessions": sessions,
            "live_rows": live,
            "dead_rows": dead,
            "table_bytes": size,
            "bytes_a_row": round(size / max(1, live)),
            "tables": {row["name"]: [row["live"], row["dead"], row["bytes"]] for row in tables[:8]},
            **dict(status or {}),
        }


def _rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


ENOUGH: Final = 8  # samples; with fewer, a quarter is a moment, and the first one is the start

FLAT: Final = ("rss", "fds", "threads", "valkey_rss", "sessions", "dead_rows", "bytes_a_row", "lag_blocks")


def summary(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Hold the means of the last quarter against those of the first: what should stay flat, and what may grow."""
    quarter = max(1, len(samples) // 4)
    told = {}
    for name in (*FLAT, "live_rows", "table_bytes"):
        first, last = (
            sum(one.get(name) or 0 for one in part) / len(part) for part in (samples[:quarter], samples[-quarter:])
        )
        told[name] = {
            "first": round(first),
            "last": round(last),
            "ratio": round(last / first, 3) if first else None,
            "most": max(one.get(name) or 0 for one in samples),
        }
    return told


MORE: Final = {"fds": 8, "threads": 3, "sessions": 3}  # connections come and go with faults, in either direction
RSS_GROWS: Final = 1.25  # caches fill; a leak of a few hundred bytes an answer is far beyond
RSS_MORE: Final = 8 << 20
DEAD_SHARE: Final = 0.5  # of the live rows: what a lazy autovacuum leaves
GROWS: Final = 1.5
LAG_BLOCKS: Final = 10


def judge(told: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say what of a summary should have stayed flat and did not; Valkey's memory grows with its keys, and may."""
    first, last = ({name: one[part] for name, one in told.items()} for part in ("first", "last"))
    dead, dead_before = (part["dead_rows"] / max(1, part["live_rows"]) for part in (last, first))
    limits = {
        **{name: (last[name], first[name] + more) for name, more in MORE.items()},
        "rss": (last["rss"], RSS_GROWS * first["rss"] + RSS_MORE),
        "dead rows a live one": (dead, max(DEAD_SHARE, GROWS * dead_before)),
        "bytes_a_row": (last["bytes_a_row"], GROWS * first["bytes_a_row"]),
        "lag_blocks": (last["lag_blocks"], LAG_BLOCKS),
    }
    return [f"{name}: {found:g} at the end, at most {most:g}" for name, (found, most) in limits.items() if found > most]


def verdict(samples: Sequence[Mapping[str, Any]], expected: float) -> str | None:
    """Return why a run failed that should have brought `expected` samples; None where it did not.

    A run too short for a comparison is not judged.
    """
    if len(samples) < ENOUGH:
        return f"only {len(samples)} samples of {expected:g}" if expected > ENOUGH else None
    return "; ".join(judge(summary(samples))) or None
