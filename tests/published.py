"""What Valkey must hold, worked out from the views alone, and what it does hold."""

from __future__ import annotations

import time
from typing import Any

from ledger import CHAIN_ID
from redis.asyncio import Redis
from workload import DEPLOYMENT

from indexer.publisher.keys import layout_of
from indexer.store.database import Database

PREFIX = f"erc8004:{{{CHAIN_ID}}}:"
IDENTITY = f"0x{DEPLOYMENT.identity.hex()}"

AGENTS_SQL = """
SELECT a.agent_id::text AS agent_id, a.registry_address, coalesce(a.owner_address, '') AS owner,
       coalesce(a.agent_wallet, '') AS wallet, coalesce(a.token_uri, '') AS uri, s.total_feedback AS feedback_count,
       r.revoked_feedback AS revoked_count, m.summary_value, m.summary_value_decimals,
       coalesce(s.reputation_score::text, '') AS average_score, s.reputation_sources AS unique_clients,
       s.total_validations AS validation_count, coalesce(s.average_validation::text, '') AS validation_average,
       (SELECT max(e.block_number) FROM erc8004.erc8004_events e
        WHERE e.agent_uuid = a.agent_uuid) AS last_activity_block
FROM erc8004.erc8004_agents a
JOIN erc8004.v_erc8004_agent_stats s USING (agent_uuid)
JOIN erc8004.v_erc8004_agent_reputation r USING (agent_uuid)
CROSS JOIN LATERAL erc8004.erc8004_summary(a.chain_id, a.agent_id, registry => a.registry_address) m
WHERE a.chain_id = $1
"""
STATS_SQL = """
SELECT agents, feedback, revoked, responses, validations FROM erc8004.v_erc8004_chain_stats WHERE chain_id = $1
"""
CHECKPOINT_SQL = """
SELECT checkpoint_block, checkpoint_hash, extract(epoch FROM checkpoint_time)::bigint AS checkpoint_time, head_block,
       finalized_block, lag_blocks, (SELECT cursor FROM chains c WHERE c.chain_id = $1) AS cursor
FROM erc8004.v_erc8004_indexer_status WHERE chain_id = $1
"""


def exact(value: Any, decimals: int) -> str:
    """Return a value of so many decimals, written out."""
    digits = str(abs(int(value))).rjust(decimals + 1, "0")
    text = f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits
    return f"-{text}" if value < 0 else text


def text(value: Any) -> str:
    return "" if value is None else str(value)


async def fetch(database: Database, sql: str) -> list[Any]:
    async with database.transaction() as connection:
        return list(await connection.fetch(sql, CHAIN_ID))


async def expected_keys(database: Database) -> dict[str, Any]:
    """Every key but the stream, as the views have it; `as_of_block` and `updated_at` are not known to SQL."""
    keys: dict[str, Any] = {}
    tops: dict[str, dict[str, float]] = {"feedback_count": {}, "average_score": {}}
    for row in await fetch(database, AGENTS_SQL):
        name = (
            row["agent_id"] if row["registry_address"] == IDENTITY else f"{row['agent_id']}:{row['registry_address']}"
        )
        fields = {
            key: text(value) for key, value in row.items() if not key.startswith(("summary", "agent_id", "regis"))
        }
        fields["average_value"] = exact(row["summary_value"], row["summary_value_decimals"])
        keys[f"{PREFIX}agent:{name}"] = fields
        for figure, members in tops.items():
            if fields[figure]:
                members[name] = float(fields[figure])
    keys |= {f"{PREFIX}top:{figure}": members for figure, members in tops.items() if members}
    [stats] = await fetch(database, STATS_SQL)
    keys[f"{PREFIX}stats"] = {name: str(value) for name, value in stats.items()}
    [row] = await fetch(database, CHECKPOINT_SQL)
    names = ("block_number", "block_hash", "block_timestamp", "head_number", "finalized_number", "lag_blocks", "cursor")
    keys[f"{PREFIX}checkpoint"] = dict(zip(names, map(text, row), strict=True))
    if row["head_block"] is None:
        keys[f"{PREFIX}checkpoint"]["lag_blocks"] = ""
    keys[f"{PREFIX}layout"] = layout_of(IDENTITY)
    return keys


async def actual_keys(valkey: Redis) -> dict[str, Any]:
    """Every key but the stream; takes out what SQL does not know, having looked at it."""
    keys: dict[str, Any] = {}
    async for key in valkey.scan_iter("*"):
        match await valkey.type(key):
            case "hash":
                keys[key] = await valkey.hgetall(key)
            case "zset":
                keys[key] = dict(await valkey.zrange(key, 0, -1, withscores=True))
            case "string":
                keys[key] = await valkey.get(key)
    checkpoint = keys[f"{PREFIX}checkpoint"]
    assert time.time() - 60 < float(checkpoint.pop("updated_at")) <= time.time()
    assert checkpoint.pop("database")
    for key, fields in keys.items():
        if key.startswith(f"{PREFIX}agent:"):
            assert int(fields.pop("as_of_block")) >= int(fields["last_activity_block"])
    return keys


async def assert_equal(database: Database, valkey: Redis) -> None:
    assert await actual_keys(valkey) == await expected_keys(database)


async def is_equal(database: Database, valkey: Redis) -> bool:
    return bool(await valkey.exists(f"{PREFIX}checkpoint")) and (
        await actual_keys(valkey) == await expected_keys(database)
    )
