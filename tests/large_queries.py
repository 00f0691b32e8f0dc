"""Queries on the large database: those that the README promises an index, and what a busy client is asked."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from large import BUSY_AGENT, CHAIN_ID, KNOWN_AGENT, SMALL_CHAIN_ID, contract, person

from indexer.core.rows import agent_uuid

AGENT = 20  # transferred once, with wallet, approval, feedback, validation
IDENTITY = bytes.fromhex(contract(CHAIN_ID, 0)[2:])
UUID = f"'{agent_uuid(CHAIN_ID, IDENTITY, AGENT)}'"
BUSY_UUID = f"'{agent_uuid(CHAIN_ID, IDENTITY, BUSY_AGENT)}'"
KNOWN_UUID = f"'{agent_uuid(CHAIN_ID, IDENTITY, KNOWN_AGENT)}'"
OWNER = f"'{person(AGENT // 10 * 3)}'"
WALLET = f"'{person(AGENT * 7)}'"
CLIENT = f"'{person(1 + AGENT * 13)}'"
BUSY_CLIENT = f"'{person(0)}'"
VALIDATOR = f"'{person(AGENT)}'"
REQUEST = "'0x" + sha256(AGENT.to_bytes(8, "big")).hexdigest() + "'"
TX = "'0x" + sha256((CHAIN_ID * 10_000_000 + 300_000).to_bytes(8, "big")).hexdigest() + "'"
ID = f"chain_id = {CHAIN_ID} AND agent_id = {AGENT}"

BY_AGENT = (
    "erc8004_agents", "erc8004_agent_metadata", "erc8004_reputation", "erc8004_feedback_responses",
    "erc8004_validations", "erc8004_validation_responses", "erc8004_agent_owners", "erc8004_agent_uris",
    "erc8004_agent_wallets", "erc8004_agent_operators", "erc8004_events", "v_erc8004_agent_reputation",
    "v_erc8004_agent_stats", "v_erc8004_tag_stats",
)  # fmt: skip
BY_COLUMN: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "owner_address": (
        OWNER,
        ("erc8004_agents", "erc8004_agent_owners", "v_erc8004_agent_reputation", "v_erc8004_agent_stats"),
    ),
    "agent_wallet": (WALLET, ("erc8004_agents", "erc8004_agent_wallets")),
    "client_address": (
        CLIENT,
        ("erc8004_reputation", "erc8004_feedback_responses", "v_erc8004_client_stats"),
    ),
    "validator_address": (
        VALIDATOR,
        ("erc8004_validations", "erc8004_validation_responses", "v_erc8004_validator_stats"),
    ),
    "tx_hash": (
        TX,
        (
            "erc8004_reputation", "erc8004_feedback_responses", "erc8004_validations", "erc8004_validation_responses",
            "erc8004_agent_owners", "erc8004_agent_uris", "erc8004_agent_wallets", "erc8004_events",
        ),
    ),
    "created_tx_hash": (TX, ("erc8004_agents",)),
    "request_hash": (REQUEST, ("erc8004_validations", "erc8004_validation_responses")),
}  # fmt: skip
LOOKUPS = {
    **{f"{view} by agent_uuid": (view, f"agent_uuid = {UUID}") for view in BY_AGENT},
    **{f"{view} by agent_id": (view, ID) for view in BY_AGENT},
    **{
        f"{view} by {column}": (view, f"{column} = {value}")
        for column, (value, views) in BY_COLUMN.items()
        for view in views
    },
    **{
        f"{view} by chain and {column}": (view, f"chain_id = {CHAIN_ID} AND {column} = {value}")
        for column, (value, views) in BY_COLUMN.items()
        for view in views
    },
    "v_erc8004_indexer_status by chain": ("v_erc8004_indexer_status", f"chain_id = {CHAIN_ID}"),
    "v_erc8004_daily_stats by day": ("v_erc8004_daily_stats", f"chain_id = {CHAIN_ID} AND day = '2026-02-06'"),
}
PAGES = {
    f"{view} by {column} {order}{' of ' + chain if chain else ''}": (
        f"SELECT * FROM erc8004.{view} {f'WHERE chain_id = {number}' if number else ''} "
        f"ORDER BY {column} {order} LIMIT 50"
    )
    for view, columns in {
        "v_erc8004_agent_stats": ("total_feedback", "reputation_score", "registered_at", "last_activity_at"),
        "v_erc8004_agent_reputation": ("total_feedback", "average_score"),
        "erc8004_agents": ("feedback_count", "created_at", "last_activity_at"),
    }.items()
    for column in columns
    for order in ("ASC", "DESC", "ASC NULLS FIRST", "DESC NULLS LAST")
    for chain, number in {"": 0, "the big chain": CHAIN_ID, "the small chain": SMALL_CHAIN_ID}.items()
}
BUSY = f"agent_uuid = {BUSY_UUID}"
BUSY_FEEDBACK = f"FROM erc8004.erc8004_reputation WHERE client_address = {BUSY_CLIENT}"
# A query on what one client gave one agent 41,331 times, and the most pages of 8 kB that it may touch.
BUSY_QUERIES = {
    "page by time": (f"SELECT * {BUSY_FEEDBACK} ORDER BY created_at DESC LIMIT 50", 1_000),
    "page by position": (f"SELECT * {BUSY_FEEDBACK} ORDER BY block_number DESC, log_index DESC LIMIT 50", 5_000),
    "page by index": (f"SELECT * {BUSY_FEEDBACK} AND {BUSY} ORDER BY feedback_index DESC LIMIT 50", 5_000),
    "one feedback": (f"SELECT * {BUSY_FEEDBACK} AND {BUSY} AND feedback_index = 40000", 1_000),
    "count": (f"SELECT count(*) {BUSY_FEEDBACK}", 5_000),
    "median": (f"SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY value) {BUSY_FEEDBACK}", 5_000),
    "medians of tags": (f"SELECT * FROM erc8004.v_erc8004_tag_stats WHERE {BUSY}", 5_000),
    "median of a tag": (f"SELECT median FROM erc8004.v_erc8004_tag_stats WHERE {BUSY} AND tag1 = 'tag3'", 5_000),
    "client": (f"SELECT * FROM erc8004.v_erc8004_client_stats WHERE client_address = {BUSY_CLIENT}", 100),
    "page of events": (f"SELECT * FROM erc8004.erc8004_events WHERE {BUSY} ORDER BY block_number DESC LIMIT 50", 1_000),
}
# What a function touches is not in the plan of its caller, but in its buffers.
SUMMARIES = {
    "of the client": (f"{CHAIN_ID}, {BUSY_AGENT}, ARRAY[{BUSY_CLIENT}]", 5_000),
    "of a tag": (f"{CHAIN_ID}, {BUSY_AGENT}, NULL, 'tag3'", 5_000),
    "over all": (f"{CHAIN_ID}, {BUSY_AGENT}", 100),
    "over all of the known agent": (f"{CHAIN_ID}, {KNOWN_AGENT}", 100),
    "of one of many clients": (f"{CHAIN_ID}, {KNOWN_AGENT}, ARRAY[{CLIENT}]", 200),
}
POLL = f"FROM erc8004.erc8004_changes WHERE chain_id = {CHAIN_ID} AND cursor > 15000 ORDER BY cursor LIMIT 100"
