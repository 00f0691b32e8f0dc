"""The status document: how fresh and how whole each chain is, as the database alone can tell from any host."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any, Final, Literal, NotRequired, TypedDict

import asyncpg

from indexer.core.coverage import Gap, blocks_by_level, gaps
from indexer.core.types import Proof
from indexer.store.coverage import Covered, Required, read_coverage
from indexer.store.database import Database
from indexer.store.queries import queries

Problem = Literal["backfilling", "lagging", "stalled", "halted", "gaps"]

_SHOWN_GAPS: Final = 20
_DEFAULT_MAX_LAG_S: Final = 60.0
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"<>`]*")
_NO_CHAINS: Final = "no chain is indexed into this database yet: start `erc8004-indexer run`"
_NO_SCHEMA: Final = "the database lacks the tables of this version: `erc8004-indexer migrate` makes them"


class GapStatus(TypedDict):
    """Blocks, both inclusive, that were not fetched for these contracts."""

    from_block: int
    to_block: int
    addresses: list[str]


class ChainStatus(TypedDict):
    """One chain. Times are ISO 8601 in UTC; a figure is null as long as nobody can know it.

    `proof` is the level in force, `proofs` counts the blocks that all contracts have by the level that they reached,
    `gaps` are the lowest ones.
    """

    chain_id: int
    chain: str
    state: str
    problems: list[Problem]
    head_block: int | None
    finalized_block: int | None
    checkpoint_block: int
    checkpoint_hash: str | None
    checkpoint_time: str | None
    lag_blocks: int | None
    lag_seconds: float | None
    gap_blocks: int
    gaps: list[GapStatus]
    proof: str
    proofs: dict[Proof, int]
    undecodable_logs: int
    reorgs: int
    providers: list[Any]
    warnings: list[Any]
    publisher: dict[str, Any] | None
    holder: str | None
    halt_reason: str | None
    updated_at: str | None


class StatusDocument(TypedDict):
    """What `status --json` prints and `/status` answers. `hint` is there where `chains` is empty."""

    healthy: bool
    chains: list[ChainStatus]
    hint: NotRequired[str]


async def read_status(database: Database) -> StatusDocument:
    """Read the state of every chain, ordered by name, on one snapshot.

    Healthy is: at least one chain, and none with a problem. Raises StoreUnavailable, or SettingsError for refused
    credentials; a database that was never migrated is an answer, with a hint.
    """
    try:
        async with database.transaction(snapshot=True) as connection:
            rows = await connection.fetch(queries()["read_status"])
            coverage = [await read_coverage(connection, row["chain_id"]) for row in rows]
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
        return {"healthy": False, "chains": [], "hint": _NO_SCHEMA}
    if not rows:
        return {"healthy": False, "chains": [], "hint": _NO_CHAINS}
    chains = [_chain_status(row, *both) for row, both in zip(rows, coverage, strict=True)]
    return {"healthy": not any(chain["problems"] for chain in chains), "chains": chains}


def _chain_status(row: asyncpg.Record, required: Required, covered: Covered) -> ChainStatus:
    return {
        "chain_id": row["chain_id"],
        "chain": row["chain"],
        "state": row["state"],
        "problems": _problems(row),
        "head_block": row["head_block"],
        "finalized_block": row["finalized_block"],
        "checkpoint_block": row["checkpoint_block"],
        "checkpoint_hash": row["checkpoint_hash"],
        "checkpoint_time": _time(row["checkpoint_time"]),
        "lag_blocks": row["lag_blocks"],
        "lag_seconds": row["lag_seconds"],
        "gap_blocks": row["gap_blocks"],
        "gaps": [_gap(gap) for gap in gaps(required, covered, "off")[:_SHOWN_GAPS]],
        "proof": row["proof"],
        "proofs": blocks_by_level(required, covered),
        "undecodable_logs": row["undecodable_logs"],
        "reorgs": row["reorgs"],
        "providers": _loaded(row["providers"]) or [],
        "warnings": _loaded(row["warnings"]) or [],
        "publisher": _publisher(row),
        "holder": row["holder"],
        "halt_reason": _without_urls(row["halt_reason"]),
        "updated_at": _time(row["updated_at"]),
    }


def _gap(gap: Gap) -> GapStatus:
    addresses = [f"0x{address.hex()}" for address in gap.addresses]
    return {"from_block": gap.range.from_block, "to_block": gap.range.to_block, "addresses": addresses}


def _problems(row: asyncpg.Record) -> list[Problem]:
    """Name what keeps a chain from being healthy; one that still backfills lags by nature, whatever the clocks say."""
    lag_s, max_lag_s = row["lag_seconds"], row["max_lag_s"] or _DEFAULT_MAX_LAG_S
    judged: dict[Problem, bool] = {
        "halted": row["state"] == "halted",
        "stalled": row["state"] == "stalled",
        "backfilling": row["state"] == "backfilling",
        "lagging": lag_s is not None and lag_s > max_lag_s,
        "gaps": row["gap_blocks"] > 0,
    }
    return [problem for problem, holds in judged.items() if holds]


def _publisher(row: asyncpg.Record) -> dict[str, Any] | None:
    """Return what the publisher left, with the backlog of now: it may have written last when all was well."""
    publisher = _loaded(row["publisher"])
    if publisher is None:
        return None
    return {**publisher, "backlog": max(row["cursor"] - (publisher.get("cursor") or 0), 0)}


def _time(value: datetime | None) -> str | None:
    return value.isoformat() if value is not None else None


def _loaded(value: str | None) -> Any:
    return _without_urls(json.loads(value)) if value is not None else None


def _without_urls(value: Any) -> Any:
    """Hide every URL in a JSON value: addresses of nodes carry keys, and nodes quote them in their errors."""
    match value:
        case str():
            return _URL.sub("***", value)
        case list():
            return [_without_urls(one) for one in value]
        case dict():
            return {key: _without_urls(one) for key, one in value.items()}
        case _:
            return value
