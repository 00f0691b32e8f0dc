"""What each view says of small histories made by hand, and its figures on random ones."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from statistics import median_low
from typing import Any

import asyncpg
import pytest
from eth_hash.auto import keccak
from figures import WIDE, Figures, Given, mean
from ledger import CHAIN_ID, Ledger
from simulator.chain import START_TIME, SimChain
from simulator.logs import SimLog, form_log
from workload import DEPLOYMENT, IDENTITY, REPUTATION, VALIDATIONS, ZERO, Workload

from indexer.core.rows import agent_uuid
from indexer.store.database import Database

ALICE, BOB, CAROL, DAVE = (bytes([n]) * 20 for n in (0xA1, 0xB2, 0xC3, 0xD4))
HASH, OTHER_HASH = b"\x11" * 32, b"\x22" * 32
FIRST, SECOND = VALIDATIONS
CONTRACT_COLUMNS = {
    "erc8004_agents": "agent_uuid uuid, chain_id bigint, chain text, registry_address text, agent_id numeric,"
    " owner_address text, agent_wallet text, token_uri text, token_uri_raw bytea, registration_file jsonb, status text,"
    " name text, description text, image text, active boolean, x402_support boolean, feedback_count bigint,"
    " created_at timestamptz, created_block bigint, created_tx_hash text, updated_at timestamptz,"
    " last_activity_at timestamptz",
    "erc8004_agent_metadata": "agent_uuid uuid, chain_id bigint, chain text, registry_address text, agent_id numeric,"
    " key text, key_raw bytea, value bytea, value_text text, updated_at timestamptz, block_number bigint,"
    " log_index integer",
    "erc8004_reputation": "agent_uuid uuid, chain_id bigint, chain text, registry_address text, agent_id numeric,"
    " reputation_registry text, client_address text, feedback_index numeric, epoch integer, value_raw numeric,"
    " value_decimals smallint, value numeric, score numeric, tag1 text, tag1_raw bytea, tag2 text, tag2_raw bytea,"
    " tag1_hash text, endpoint text, endpoint_raw bytea, file_uri text, file_uri_raw bytea, file_hash text,"
    " is_revoked boolean, revoked_at timestamptz, response_count bigint, block_number bigint, log_index integer,"
    " tx_hash text, created_at timestamptz",
    "erc8004_feedback_responses": "agent_uuid uuid, chain_id bigint, chain text, registry_address text,"
    " agent_id numeric, reputation_registry text, client_address text, feedback_index numeric, responder_address text,"
    " response_uri text, response_uri_raw bytea, response_hash text, block_number bigint, log_index integer,"
    " tx_hash text, created_at timestamptz",
    "erc8004_validations": "chain_id bigint, chain text, validation_registry text, request_hash text, agent_uuid uuid,"
    " registry_address text, agent_id numeric, validator_address text, request_uri text, request_uri_raw bytea,"
    " status text, response smallint, response_uri text, response_uri_raw bytea, response_hash text, tag text,"
    " tag_raw bytea, response_count bigint, requested_at timestamptz, responded_at timestamptz, block_number bigint,"
    " log_index integer, tx_hash text",
    "erc8004_validation_responses": "chain_id bigint, chain text, validation_registry text, request_hash text,"
    " agent_uuid uuid, registry_address text, agent_id numeric, validator_address text, response smallint,"
    " response_uri text, response_uri_raw bytea, response_hash text, tag text, tag_raw bytea, block_number bigint,"
    " log_index integer, tx_hash text, created_at timestamptz",
    "erc8004_agent_owners": "agent_uuid uuid, chain_id bigint, chain text, registry_address text, agent_id numeric,"
    " owner_address text, from_block bigint, log_index integer, to_block bigint, changed_at timestamptz, tx_hash text",
    "erc8004_agent_uris": "agent_uuid uuid, chain_id bigint, chain text, registry_address text, agent_id numeric,"
    " token_uri text, token_uri_raw bytea, from_block bigint, log_index integer, to_block bigint,"
    " changed_at timestamptz, tx_hash text",
    "erc8004_agent_wallets": "agent_uuid uuid, chain_id bigint, chain text, registry_address text, agent_id numeric,"
    " agent_wallet text, from_block bigint, log_index integer, to_block bigint, changed_at timestamptz, tx_hash text",
    "erc8004_agent_operators": "agent_uuid uuid, chain_id bigint, chain text, registry_address text, agent_id numeric,"
    " operator_address text, kind text, since_block bigint",
    "erc8004_events": "chain_id bigint, chain text, block_number bigint, log_index integer, block_hash text,"
    " tx_hash text, block_timestamp timestamptz, address text, event text, event_version text, agent_uuid uuid,"
    " registry_address text, agent_id numeric, args jsonb, topics text[], data bytea, defect text, finalized boolean",
    "v_erc8004_agent_reputation": "agent_uuid uuid, agent_id numeric, chain_id bigint, chain text,"
    " registry_address text, owner_address text, total_feedback bigint, average_score numeric,"
    " positive_feedback bigint, negative_feedback bigint, revoked_feedback bigint, unique_clients bigint,"
    " last_feedback_at timestamptz",
    "v_erc8004_agent_stats": "agent_uuid uuid, agent_id numeric, chain_id bigint, chain text, registry_address text,"
    " owner_address text, status text, registered_at timestamptz, last_activity_at timestamptz, total_feedback bigint,"
    " reputation_score numeric, positive_feedback bigint, negative_feedback bigint, reputation_sources bigint,"
    " total_validations bigint, average_validation numeric, total_payments bigint, total_amount_usdc numeric,"
    " payment_success_rate numeric, last_payment_at timestamptz, trust_level text",
    "v_erc8004_tag_stats": "agent_uuid uuid, agent_id numeric, chain_id bigint, chain text, registry_address text,"
    " tag1 text, tag1_raw bytea, tag1_hash text, tag2 text, tag2_raw bytea, value_decimals smallint, count bigint,"
    " sum numeric, mean numeric, median numeric, min numeric, max numeric, unique_clients bigint",
    "v_erc8004_client_stats": "chain_id bigint, chain text, client_address text, feedback bigint, revoked bigint,"
    " agents bigint, first_at timestamptz, last_at timestamptz",
    "v_erc8004_validator_stats": "chain_id bigint, chain text, validator_address text, requests bigint,"
    " answered bigint, average_response numeric, last_at timestamptz",
    "v_erc8004_chain_stats": "chain_id bigint, chain text, agents bigint, owners bigint, feedback bigint,"
    " revoked bigint, responses bigint, clients bigint, validations bigint, answered bigint",
    "v_erc8004_daily_stats": "chain_id bigint, chain text, day date, registrations bigint, feedback bigint,"
    " revoked bigint, responses bigint, validations bigint",
    "v_erc8004_indexer_status": "chain_id bigint, chain text, state text, head_block bigint, finalized_block bigint,"
    " checkpoint_block bigint, checkpoint_hash text, checkpoint_time timestamptz, lag_blocks bigint,"
    " lag_seconds numeric, gap_blocks bigint, proof text, undecodable_logs bigint, updated_at timestamptz,"
    " halt_reason text",
    "erc8004_changes": "chain_id bigint, chain text, cursor bigint, kind text, event text, block_number bigint,"
    " block_hash text, log_index integer, agent_id numeric, registry text, args jsonb, agent_uuid uuid,"
    " registry_address text, committed_at timestamptz",
}


class Readers:
    """Indexes logs and reads the views as the role of readers does."""

    def __init__(self, database: Database, connection: asyncpg.Connection) -> None:
        self.database = database
        self.connection = connection
        self.chain = SimChain()
        self.ledger: Ledger | None = None

    async def index(self, *blocks: Sequence[SimLog], announce: bool = False) -> None:
        """Mine the blocks, the first of them number 1, and commit each as a batch of its own."""
        for logs in blocks:
            self.chain.mine(logs)
        if self.ledger is None:
            self.ledger = await Ledger.open(self.database)
        await self.ledger.index(self.chain, (1,), announce=announce)

    async def rows(self, view: str, columns: str = "*", where: str = "true") -> list[dict[str, Any]]:
        query = f"SELECT {columns} FROM erc8004.{view} WHERE {where}"
        return [dict(row) for row in await self.connection.fetch(query)]

    async def tuples(self, view: str, columns: str, where: str = "true", order: str = "1, 2") -> list[tuple[Any, ...]]:
        query = f"SELECT {columns} FROM erc8004.{view} WHERE {where} ORDER BY {order}"
        return [tuple(row) for row in await self.connection.fetch(query)]

    async def one(self, view: str, columns: str = "*", where: str = "true") -> dict[str, Any]:
        (row,) = await self.rows(view, columns, where)
        return row


@pytest.fixture
async def readers(database_url: str) -> AsyncIterator[Readers]:
    database = await Database.open(database_url, size=2)
    connection = await asyncpg.connect(database_url)
    await connection.execute("SET ROLE erc8004_reader; SET TIME ZONE 'America/New_York'")
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
    yield Readers(database, connection)
    await connection.close()
    await database.close()


def hex_of(value: bytes) -> str:
    return "0x" + value.hex()


def time_of(block: int) -> datetime:
    return datetime.fromtimestamp(START_TIME + 12 * block, UTC)


def mint(agent: int, owner: bytes) -> SimLog:
    return form_log(IDENTITY, "identity/transfer", ZERO, owner, agent)


def transfer(agent: int, source: bytes, target: bytes) -> SimLog:
    return form_log(IDENTITY, "identity/transfer", source, target, agent)


def wallet(agent: int, value: bytes) -> SimLog:
    return metadata(agent, "agentWallet", value)


def metadata(agent: int, key: str | bytes, value: bytes) -> SimLog:
    return form_log(IDENTITY, "identity/metadata_set", agent, key, key, value)


def uri(agent: int, value: str | bytes) -> SimLog:
    return form_log(IDENTITY, "identity/uri_updated", agent, value, ALICE)


def registered(agent: int, value: str | bytes, owner: bytes) -> SimLog:
    return form_log(IDENTITY, "identity/registered", agent, value, owner)


def registration(agent: int, owner: bytes, value: str = "") -> list[SimLog]:
    """Emit what the contract does, in its order and in one transaction."""
    update = [form_log(IDENTITY, "identity/metadata_update", agent)] if value else []
    logs = [mint(agent, owner), *update, registered(agent, value, owner), wallet(agent, owner)]
    return together(logs)


def together(logs: Sequence[SimLog]) -> list[SimLog]:
    tx_hash = keccak(repr(logs).encode())
    return [replace(log, tx_hash=tx_hash) for log in logs]


def rated(
    agent: int, client: bytes, index: int, value: int, decimals: int = 0, tag1: str | bytes = "", tag2: str | bytes = ""
) -> SimLog:
    texts = (tag1, tag1, tag2, "https://a.test", "ipfs://f")
    return form_log(REPUTATION, "reputation/new_feedback", agent, client, index, value, decimals, *texts, HASH)


def revoked(agent: int, client: bytes, index: int) -> SimLog:
    return form_log(REPUTATION, "reputation/feedback_revoked", agent, client, index)


def answered(agent: int, client: bytes, index: int, responder: bytes = DAVE) -> SimLog:
    return form_log(REPUTATION, "reputation/response_appended", agent, client, index, responder, "ipfs://r", OTHER_HASH)


def request(agent: int, validator: bytes, request_hash: bytes, registry: bytes = FIRST) -> SimLog:
    return form_log(registry, "validation/validation_request", validator, agent, "ipfs://q", request_hash)


def verdict(
    agent: int, validator: bytes, request_hash: bytes, response: int, tag: str | bytes = "", registry: bytes = FIRST
) -> SimLog:
    end = (response, "ipfs://v", OTHER_HASH, tag)
    return form_log(registry, "validation/validation_response", validator, agent, request_hash, *end)


# ---------------------------------------------------------------- columns


async def test_every_view_has_the_columns_of_the_contract(readers: Readers) -> None:
    columns = await readers.connection.fetch("""
        SELECT c.relname, string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace = 'erc8004'::regnamespace GROUP BY 1""")  # fmt: skip

    found = {name: listed.replace("timestamp with time zone", "timestamptz") for name, listed in columns}
    assert found == CONTRACT_COLUMNS


# ---------------------------------------------------------------- agents


async def test_an_agent_is_told_in_full_be_its_number_0(readers: Readers) -> None:
    await readers.index(registration(0, ALICE, "ipfs://agent"), [rated(0, BOB, 1, 80)])

    agent = await readers.one("erc8004_agents")
    logs = readers.chain.logs()
    assert agent == {
        "agent_uuid": agent_uuid(CHAIN_ID, IDENTITY, 0),
        "chain_id": CHAIN_ID,
        "chain": "local",
        "registry_address": hex_of(IDENTITY),
        "agent_id": 0,
        "owner_address": hex_of(ALICE),
        "agent_wallet": hex_of(ALICE),
        "token_uri": "ipfs://agent",
        "token_uri_raw": None,
        "registration_file": None,
        "status": "registered",
        "name": None,
        "description": None,
        "image": None,
        "active": None,
        "x402_support": None,
        "feedback_count": 1,
        "created_at": time_of(1),
        "created_block": 1,
        "created_tx_hash": hex_of(logs[0].tx_hash),
        "updated_at": time_of(1),
        "last_activity_at": time_of(2),
    }


async def test_ids_beyond_bigint_are_agents_like_any_other(readers: Readers) -> None:
    biggest = 2**256 - 1
    await readers.index(registration(biggest, ALICE))

    agent = await readers.one("erc8004_agents", where=f"chain_id = {CHAIN_ID} AND agent_id = {biggest}")
    assert agent["agent_uuid"] == agent_uuid(CHAIN_ID, IDENTITY, biggest)


async def test_the_owner_follows_transfers_alone(readers: Readers) -> None:
    await readers.index(
        [mint(1, ALICE), registered(1, "", BOB)],
        [transfer(1, CAROL, DAVE)],
        [uri(1, "u"), registered(1, "", BOB)],
    )

    assert (await readers.one("erc8004_agents"))["owner_address"] == hex_of(DAVE)
    assert (await readers.one("v_erc8004_agent_stats"))["owner_address"] == hex_of(DAVE)


async def test_an_agent_known_from_later_logs_is_partial(readers: Readers) -> None:
    await readers.index([rated(5, ALICE, 1, 80)], [request(6, BOB, HASH)], [metadata(7, "key", b"v")])

    agents = await readers.tuples(
        "erc8004_agents", "agent_id, status, owner_address, token_uri, created_at, updated_at"
    )
    assert agents == [
        (5, "partial", None, None, None, None),
        (6, "partial", None, None, None, None),
        (7, "partial", None, None, None, time_of(3)),
    ]
    assert await readers.tuples("v_erc8004_agent_stats", "agent_id, status") == [(n, "partial") for n in (5, 6, 7)]

    await readers.index(registration(5, BOB))

    five = await readers.one("erc8004_agents", where="agent_id = 5")
    assert (five["status"], five["owner_address"], five["token_uri"]) == ("registered", hex_of(BOB), "")
    assert five["created_at"] == time_of(4)


async def test_an_empty_uri_is_not_an_unknown_one(readers: Readers) -> None:
    await readers.index(registration(0, ALICE), registration(1, ALICE, "x"), [uri(1, "")], [rated(2, ALICE, 1, 1)])

    assert await readers.tuples("erc8004_agents", "agent_id, token_uri") == [(0, ""), (1, ""), (2, None)]


async def test_text_that_postgresql_cannot_hold_is_whole_beside(readers: Readers) -> None:
    odd = b"a\0b\xff"
    await readers.index(
        [uri(0, odd), metadata(0, odd, odd), rated(0, ALICE, 1, 1, 0, odd, odd), uri(1, "fine")],
        [metadata(0, "a\ufffdb\ufffd", b"another key")],
    )

    shown = "a\ufffdb\ufffd"
    assert await readers.tuples("erc8004_agents", "agent_id, token_uri, token_uri_raw") == [
        (0, shown, odd),
        (1, "fine", None),
    ]
    assert await readers.tuples("erc8004_agent_metadata", "block_number, key, key_raw, value, value_text") == [
        (1, shown, odd, odd, None),
        (2, shown, None, b"another key", "another key"),
    ]
    feedback = await readers.one("erc8004_reputation")
    assert (feedback["tag1"], feedback["tag1_raw"], feedback["tag2"], feedback["tag2_raw"]) == (shown, odd, shown, odd)
    assert (await readers.one("erc8004_agent_uris", where="agent_id = 0"))["token_uri_raw"] == odd


# Section 4 of the protocol's notes: what a call-back of the receiver may do between the mint and Registered.
REENTRY = {
    "moved away in the call-back": (
        [mint(0, ALICE), wallet(0, b""), transfer(0, ALICE, BOB), registered(0, "u", ALICE), wallet(0, ALICE)],
        (BOB, None, "u"),
    ),
    "moved away by a registry that does not tell of the wallet": (
        [mint(0, ALICE), transfer(0, ALICE, BOB), registered(0, "u", ALICE), wallet(0, ALICE)],
        (BOB, None, "u"),
    ),
    "wallet set in the call-back": (
        [mint(0, ALICE), wallet(0, CAROL), registered(0, "u", ALICE), wallet(0, ALICE)],
        (ALICE, CAROL, "u"),
    ),
    "uri set in the call-back": (
        [mint(0, ALICE), uri(0, "x"), registered(0, "", ALICE), wallet(0, ALICE)],
        (ALICE, ALICE, "x"),
    ),
    "uri set in the call-back, another registered": (
        [mint(0, ALICE), uri(0, "x"), registered(0, "y", ALICE), wallet(0, ALICE)],
        (ALICE, ALICE, "y"),
    ),
    "another agent registered inside": (
        [mint(0, ALICE), mint(1, ALICE), wallet(1, BOB), registered(1, "one", ALICE), wallet(1, ALICE),
         registered(0, "zero", ALICE), wallet(0, ALICE)],
        (ALICE, ALICE, "zero"),
    ),
    "wallet unset later": (
        [mint(0, ALICE), registered(0, "", ALICE), wallet(0, ALICE), wallet(0, b"")],
        (ALICE, None, ""),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("logs", "expected"), REENTRY.values(), ids=REENTRY)
async def test_what_a_callback_did_during_the_mint_stands(
    readers: Readers, logs: list[SimLog], expected: tuple[bytes, bytes | None, str]
) -> None:
    await readers.index(together(logs))

    owner, set_wallet, token_uri = expected
    agent = await readers.one("erc8004_agents", where="agent_id = 0")
    assert agent["owner_address"] == hex_of(owner)
    assert agent["agent_wallet"] == (hex_of(set_wallet) if set_wallet else None)
    assert agent["token_uri"] == token_uri
    current = "agent_id = 0 AND to_block IS NULL"
    assert all(
        row["agent_wallet"] == agent["agent_wallet"]
        for row in await readers.rows("erc8004_agent_wallets", where=current)
    )
    assert (await readers.one("erc8004_agent_uris", where=current))["token_uri"] == token_uri
    at = await readers.connection.fetchrow("SELECT * FROM erc8004.erc8004_agent_at($1, 0, 1)", CHAIN_ID)
    assert tuple(at) == (agent["owner_address"], agent["agent_wallet"], token_uri)


async def test_the_inner_agent_of_a_nested_mint_keeps_what_was_set(readers: Readers) -> None:
    await readers.index(together(REENTRY["another agent registered inside"][0]))

    inner = await readers.one("erc8004_agents", where="agent_id = 1")
    assert (inner["agent_wallet"], inner["token_uri"]) == (hex_of(BOB), "one")


# ---------------------------------------------------------------- who may act


def approve(agent: int, owner: bytes, approved: bytes) -> SimLog:
    return form_log(IDENTITY, "identity/approval", owner, approved, agent)


def approve_all(owner: bytes, operator: bytes, approved: bool) -> SimLog:
    return form_log(IDENTITY, "identity/approval_for_all", owner, operator, approved)


async def operators(readers: Readers) -> list[tuple[Any, ...]]:
    return await readers.tuples("erc8004_agent_operators", "agent_id, operator_address, kind, since_block")


async def test_an_approval_ends_with_the_next_transfer_in_silence(readers: Readers) -> None:
    await readers.index([mint(0, ALICE)], [approve(0, ALICE, BOB)])
    assert await operators(readers) == [(0, hex_of(BOB), "approved", 2)]

    await readers.index([transfer(0, ALICE, ALICE)])
    assert await operators(readers) == []

    await readers.index([approve(0, ALICE, CAROL)], [approve(0, ALICE, ZERO)])
    assert await operators(readers) == []

    await readers.index([approve(0, ALICE, CAROL), transfer(0, ALICE, BOB)])
    assert await operators(readers) == []

    await readers.index([transfer(0, BOB, ALICE), approve(0, ALICE, CAROL)])
    assert await operators(readers) == [(0, hex_of(CAROL), "approved", 7)]


async def test_operators_act_for_all_that_their_owner_has(readers: Readers) -> None:
    await readers.index(
        [mint(0, ALICE), mint(1, ALICE), mint(2, BOB)],
        [approve_all(ALICE, CAROL, True), approve_all(ALICE, DAVE, True), approve_all(BOB, DAVE, True)],
        [approve_all(ALICE, DAVE, False)],
        [transfer(2, BOB, ALICE)],
    )
    assert await operators(readers) == [
        (0, hex_of(CAROL), "operator", 2),
        (1, hex_of(CAROL), "operator", 2),
        (2, hex_of(CAROL), "operator", 4),
    ]

    await readers.index([transfer(0, ALICE, BOB)])
    assert (0, hex_of(DAVE), "operator", 5) in await operators(readers)


# ---------------------------------------------------------------- metadata and histories


async def test_metadata_keeps_the_last_value_of_each_key_as_it_is_spelled(readers: Readers) -> None:
    await readers.index(
        [
            metadata(0, "name", b"first"),
            metadata(0, "name", b"second"),
            metadata(0, "gone", b"x"),
            metadata(0, "AgentWallet", b"like"),
            metadata(0, b"agentWallet\0", b"alike"),
            metadata(0, "", b"no key"),
            wallet(0, ALICE),
        ],
        [metadata(0, "gone", b"")],
    )

    rows = await readers.tuples("erc8004_agent_metadata", "key, value, key_raw, block_number, log_index", order="4, 5")
    assert rows == [
        ("name", b"second", None, 1, 1),
        ("AgentWallet", b"like", None, 1, 3),
        ("agentWallet\ufffd", b"alike", b"agentWallet\0", 1, 4),
        ("", b"no key", None, 1, 5),
        ("agentWallet", ALICE, None, 1, 6),
        ("gone", b"", None, 2, 0),
    ]
    assert (await readers.one("erc8004_agents"))["agent_wallet"] == hex_of(ALICE)
    assert await readers.tuples("erc8004_agent_wallets", "agent_wallet, from_block") == [(hex_of(ALICE), 1)]


async def test_histories_tell_from_when_to_when(readers: Readers) -> None:
    await readers.index(
        registration(0, ALICE),
        [uri(0, "one"), uri(0, "two")],
        [wallet(0, b""), transfer(0, ALICE, BOB)],
        [uri(0, ""), wallet(0, CAROL)],
    )

    order, bounds = "from_block, log_index", "from_block, log_index, to_block, changed_at"
    assert await readers.tuples("erc8004_agent_owners", f"owner_address, {bounds}", order=order) == [
        (hex_of(ALICE), 1, 0, 3, time_of(1)),
        (hex_of(BOB), 3, 1, None, time_of(3)),
    ]
    assert await readers.tuples("erc8004_agent_uris", f"token_uri, {bounds}", order=order) == [
        ("", 1, 1, 2, time_of(1)),
        ("one", 2, 0, 2, time_of(2)),
        ("two", 2, 1, 4, time_of(2)),
        ("", 4, 0, None, time_of(4)),
    ]
    assert await readers.tuples("erc8004_agent_wallets", f"agent_wallet, {bounds}", order=order) == [
        (hex_of(ALICE), 1, 2, 3, time_of(1)),
        (None, 3, 0, 4, time_of(3)),
        (hex_of(CAROL), 4, 1, None, time_of(4)),
    ]
    by_position = {(log.block_number, log.log_index): hex_of(log.tx_hash) for log in readers.chain.logs()}
    for view in ("erc8004_agent_owners", "erc8004_agent_uris", "erc8004_agent_wallets"):
        for block, index, tx_hash in await readers.tuples(view, "from_block, log_index, tx_hash"):
            assert tx_hash == by_position[block, index]


# ---------------------------------------------------------------- reputation


async def test_a_feedback_is_told_in_full(readers: Readers) -> None:
    await readers.index([mint(3, BOB)], [rated(3, ALICE, 1, -9550, 2, "speed", "day")], [answered(3, ALICE, 1)] * 2)

    (log,) = readers.chain.block(2).logs  # type: ignore[union-attr]  # it was mined
    assert await readers.one("erc8004_reputation") == {
        "agent_uuid": agent_uuid(CHAIN_ID, IDENTITY, 3),
        "chain_id": CHAIN_ID,
        "chain": "local",
        "registry_address": hex_of(IDENTITY),
        "agent_id": 3,
        "reputation_registry": hex_of(REPUTATION),
        "client_address": hex_of(ALICE),
        "feedback_index": 1,
        "epoch": 0,
        "value_raw": -9550,
        "value_decimals": 2,
        "value": Decimal("-95.50"),
        "score": None,
        "tag1": "speed",
        "tag1_raw": None,
        "tag2": "day",
        "tag2_raw": None,
        "tag1_hash": hex_of(keccak(b"speed")),
        "endpoint": "https://a.test",
        "endpoint_raw": None,
        "file_uri": "ipfs://f",
        "file_uri_raw": None,
        "file_hash": hex_of(HASH),
        "is_revoked": False,
        "revoked_at": None,
        "response_count": 2,
        "block_number": 2,
        "log_index": 0,
        "tx_hash": hex_of(log.tx_hash),
        "created_at": time_of(2),
    }


VALUES = [
    (10**38, 18, Decimal(100000000000000000000), None),
    (1, 18, Decimal("0.000000000000000001"), Decimal("0.000000000000000001")),
    (100, 0, Decimal(100), Decimal(100)),
    (1000001, 4, Decimal("100.0001"), None),
    (0, 0, Decimal(0), Decimal(0)),
    (-1, 18, Decimal("-0.000000000000000001"), None),
    (-(10**38), 0, Decimal(-(10**38)), None),
]


async def test_a_value_is_exact_and_a_score_within_its_bounds(readers: Readers) -> None:
    await readers.index([rated(0, ALICE, n, raw, decimals) for n, (raw, decimals, _, _) in enumerate(VALUES, 1)])

    assert (
        await readers.tuples("erc8004_reputation", "value_raw, value_decimals, value, score", order="feedback_index")
        == VALUES
    )


async def test_an_index_that_does_not_rise_opens_an_epoch(readers: Readers) -> None:
    await readers.index(
        [rated(0, ALICE, 1, 10), rated(0, ALICE, 2, 20), rated(0, BOB, 1, 30)],
        [revoked(0, ALICE, 1), answered(0, ALICE, 2)],
        [rated(0, ALICE, 1, 90)],
        [revoked(0, ALICE, 2), answered(0, ALICE, 1)],
    )

    columns = "client_address, epoch, feedback_index, value, is_revoked, response_count"
    assert await readers.tuples("erc8004_reputation", columns, order="1, 2, 3") == [
        (hex_of(ALICE), 0, 1, 10, True, 0),
        (hex_of(ALICE), 0, 2, 20, False, 1),
        (hex_of(ALICE), 1, 1, 90, False, 1),
        (hex_of(BOB), 0, 1, 30, False, 0),
    ]
    figures = await readers.one("v_erc8004_agent_reputation")
    assert (figures["total_feedback"], figures["average_score"], figures["unique_clients"]) == (2, 60, 2)
    assert figures["revoked_feedback"] == 0
    tags = await readers.one("v_erc8004_tag_stats", "count, sum, median")
    assert tags == {"count": 2, "sum": 120, "median": 30}


async def test_forms_without_an_index_are_counted(readers: Readers) -> None:
    old = form_log(REPUTATION, "reputation/new_feedback_1_1_0", 0, ALICE, 50, "speed", "", "ipfs://f", HASH)
    oldest = form_log(
        REPUTATION, "reputation/new_feedback_1_0_0", 0, ALICE, 60, b"tag".ljust(32, b"\0"), b"\xff" * 32, "f", HASH
    )
    no_tag = form_log(REPUTATION, "reputation/new_feedback_1_1_0", 0, BOB, 70, "", "x", "", HASH)
    await readers.index([oldest], [old, no_tag], [rated(0, ALICE, 3, 80)], [old], [revoked(0, ALICE, 2)])

    columns = (
        "client_address, feedback_index, value, tag1, tag1_raw, tag1_hash, tag2, tag2_raw, endpoint, is_revoked, epoch"
    )
    rows = await readers.tuples("erc8004_reputation", columns)
    speed, empty = hex_of(keccak(b"speed")), hex_of(keccak(b""))
    assert rows == [
        (hex_of(ALICE), 1, 60, "tag", None, None, "\ufffd" * 32, b"\xff" * 32, None, False, 0),
        (hex_of(ALICE), 2, 50, None, None, speed, "", None, None, True, 0),
        (hex_of(ALICE), 3, 80, "", None, empty, "", None, "https://a.test", False, 0),
        (hex_of(ALICE), 4, 50, None, None, speed, "", None, None, False, 0),
        (hex_of(BOB), 1, 70, "", None, empty, "x", None, None, False, 0),
    ]


async def test_revoked_feedback_counts_in_no_figure_but_its_own(readers: Readers) -> None:
    await readers.index(
        [mint(0, DAVE), rated(0, ALICE, 1, 90, 0, "t"), rated(0, ALICE, 2, 10, 0, "t"), rated(0, BOB, 1, 49, 0, "t")],
        [rated(0, CAROL, 1, 100), rated(0, CAROL, 2, 101), rated(0, CAROL, 3, 80)],
        [revoked(0, BOB, 1), revoked(0, CAROL, 1), revoked(0, CAROL, 9), revoked(0, ALICE, 2)],
        [revoked(0, BOB, 1), answered(0, BOB, 1)],
    )

    figures = await readers.one("v_erc8004_agent_reputation")
    assert figures == {
        "agent_uuid": agent_uuid(CHAIN_ID, IDENTITY, 0), "agent_id": 0, "chain_id": CHAIN_ID, "chain": "local",
        "registry_address": hex_of(IDENTITY), "owner_address": hex_of(DAVE), "total_feedback": 3,
        "average_score": Decimal(85), "positive_feedback": 2, "negative_feedback": 0, "revoked_feedback": 3,
        "unique_clients": 2, "last_feedback_at": time_of(2),
    }  # fmt: skip
    bob = await readers.one("erc8004_reputation", where=f"client_address = '{hex_of(BOB)}'")
    assert (bob["is_revoked"], bob["revoked_at"], bob["response_count"]) == (True, time_of(3), 1)
    assert (await readers.one("erc8004_agents"))["feedback_count"] == 3
    tags = await readers.tuples("v_erc8004_tag_stats", "tag1, count, sum, mean, median, min, max, unique_clients")
    assert tags == [("", 2, 181, Decimal("90.5"), 80, 80, 101, 1), ("t", 1, 90, 90, 90, 90, 90, 1)]
    clients = "client_address, feedback, revoked, agents, first_at, last_at"
    assert await readers.tuples("v_erc8004_client_stats", clients) == [
        (hex_of(ALICE), 1, 1, 1, time_of(1), time_of(1)),
        (hex_of(BOB), 0, 1, 0, time_of(1), time_of(1)),
        (hex_of(CAROL), 2, 1, 1, time_of(2), time_of(2)),
    ]
    chain = await readers.one("v_erc8004_chain_stats", "feedback, revoked, responses, clients")
    assert chain == {"feedback": 3, "revoked": 3, "responses": 1, "clients": 2}


async def test_an_agent_without_feedback_has_figures_of_nothing(readers: Readers) -> None:
    await readers.index([mint(0, ALICE)])

    columns = "total_feedback, average_score, revoked_feedback, unique_clients, last_feedback_at"
    assert await readers.tuples("v_erc8004_agent_reputation", columns) == [(0, None, 0, 0, None)]
    stats = await readers.one("v_erc8004_agent_stats")
    assert (stats["trust_level"], stats["reputation_score"], stats["average_validation"]) == ("new", None, None)
    assert (stats["total_payments"], stats["total_amount_usdc"], stats["payment_success_rate"]) == (0, 0, None)


async def test_trust_rests_on_the_score_until_there_are_payments(readers: Readers) -> None:
    levels = [(100, "excellent"), (80, "excellent"), (79, "good"), (70, "good"), (69, "fair"), (60, "fair"),
              (59, "poor"), (0, "poor"), (101, "new")]  # fmt: skip
    await readers.index([rated(agent, ALICE, 1, score) for agent, (score, _) in enumerate(levels)])

    told = await readers.tuples("v_erc8004_agent_stats", "agent_id, trust_level")
    assert told == [(agent, level) for agent, (_, level) in enumerate(levels)]


async def test_averages_have_four_decimals(readers: Readers) -> None:
    await readers.index([rated(0, ALICE, n, value) for n, value in enumerate((1, 1, 0), 1)])

    assert (await readers.one("v_erc8004_agent_reputation"))["average_score"] == Decimal("0.6667")


async def test_anyone_may_answer_any_feedback(readers: Readers) -> None:
    await readers.index(
        [rated(0, ALICE, 1, 1)],
        [answered(0, ALICE, 1, BOB), answered(0, ALICE, 7, CAROL)],
        [form_log(REPUTATION, "reputation/response_appended_2025_10_08", 0, ALICE, 1, DAVE, "old")],
    )

    columns = "block_number, log_index, responder_address, feedback_index, response_uri, response_hash, client_address"
    assert await readers.tuples("erc8004_feedback_responses", columns) == [
        (2, 0, hex_of(BOB), 1, "ipfs://r", hex_of(OTHER_HASH), hex_of(ALICE)),
        (2, 1, hex_of(CAROL), 7, "ipfs://r", hex_of(OTHER_HASH), hex_of(ALICE)),
        (3, 0, hex_of(DAVE), 1, "old", None, hex_of(ALICE)),
    ]
    assert (await readers.one("erc8004_reputation"))["response_count"] == 2


# ---------------------------------------------------------------- validations


async def test_a_request_shows_its_latest_answer_and_all_are_kept(readers: Readers) -> None:
    await readers.index(
        [mint(0, ALICE), request(0, BOB, HASH), request(0, CAROL, OTHER_HASH), request(0, BOB, HASH, SECOND)],
        [verdict(0, BOB, HASH, 100, "soft"), verdict(0, BOB, HASH, 0, b"\xffhard")],
        [verdict(0, BOB, HASH, 50, registry=SECOND)],
        [verdict(0, BOB, b"\x33" * 32, 9)],
    )

    columns = (
        "validation_registry, request_hash, validator_address, status, response, tag, tag_raw, response_count,"
        " requested_at, responded_at, response_hash, request_uri, response_uri, block_number, log_index"
    )
    answer = (hex_of(OTHER_HASH), "ipfs://q", "ipfs://v")
    assert await readers.tuples("erc8004_validations", columns) == [
        (hex_of(FIRST), hex_of(HASH), hex_of(BOB), "completed", 0, "\ufffdhard", b"\xffhard", 2, time_of(1), time_of(2),
         *answer, 1, 1),
        (hex_of(FIRST), hex_of(OTHER_HASH), hex_of(CAROL), "pending", None, None, None, 0, time_of(1), None,
         None, "ipfs://q", None, 1, 2),
        (hex_of(SECOND), hex_of(HASH), hex_of(BOB), "completed", 50, "", None, 1, time_of(1), time_of(3),
         *answer, 1, 3),
    ]  # fmt: skip
    kept = await readers.tuples("erc8004_validation_responses", "block_number, log_index, response, created_at")
    assert kept == [(2, 0, 100, time_of(2)), (2, 1, 0, time_of(2)), (3, 0, 50, time_of(3)), (4, 0, 9, time_of(4))]
    stats = await readers.one("v_erc8004_agent_stats", "total_validations, average_validation")
    assert stats == {"total_validations": 3, "average_validation": 25}
    validators = "validator_address, requests, answered, average_response, last_at"
    assert await readers.tuples("v_erc8004_validator_stats", validators) == [
        (hex_of(BOB), 2, 2, 25, time_of(3)),
        (hex_of(CAROL), 1, 0, None, time_of(1)),
    ]


async def test_tags_of_32_bytes_are_text_where_they_can_be(readers: Readers) -> None:
    def old(request_hash: bytes, tag: bytes) -> SimLog:
        values = (BOB, 0, request_hash, 7, "u", HASH, tag.ljust(32, b"\0"))
        return form_log(FIRST, "validation/validation_response_1_0_0", *values)

    await readers.index(
        [request(0, BOB, HASH), request(0, BOB, OTHER_HASH)],
        [old(HASH, b"tag"), old(OTHER_HASH, b"\xff\x01")],
    )

    raw = b"\xff\x01".ljust(32, b"\0")
    rows = await readers.tuples("erc8004_validations", "request_hash, tag, tag_raw")
    assert rows == [(hex_of(HASH), "tag", None), (hex_of(OTHER_HASH), "\ufffd\x01", raw)]


# ---------------------------------------------------------------- the chain as a whole


async def test_days_are_days_of_utc(readers: Readers) -> None:
    readers.chain = SimChain(block_time_s=12 * 3600)
    await readers.index(
        registration(0, ALICE),
        [rated(0, ALICE, 1, 5), rated(0, BOB, 1, 5)],
        [revoked(0, ALICE, 1), request(0, BOB, HASH)],
        [answered(0, BOB, 1)],
    )

    days = await readers.tuples(
        "v_erc8004_daily_stats", "day::text, registrations, feedback, revoked, responses, validations"
    )
    assert days == [("2023-11-15", 1, 2, 0, 0, 0), ("2023-11-16", 0, 0, 1, 1, 1)]


async def test_an_event_is_told_in_full(readers: Readers) -> None:
    await readers.index([rated(2**64, ALICE, 2**64 - 1, -1, 18, b"t\0", "ä")])

    (log,) = readers.chain.logs()
    assert await readers.one("erc8004_events") == {
        "chain_id": CHAIN_ID, "chain": "local", "block_number": 1, "log_index": 0,
        "block_hash": hex_of(log.block_hash), "tx_hash": hex_of(log.tx_hash), "block_timestamp": time_of(1),
        "address": hex_of(REPUTATION), "event": "NewFeedback", "event_version": "2.0.0",
        "agent_uuid": agent_uuid(CHAIN_ID, IDENTITY, 2**64), "registry_address": hex_of(IDENTITY), "agent_id": 2**64,
        "args": {
            "agentId": "18446744073709551616", "clientAddress": hex_of(ALICE), "feedbackIndex": "18446744073709551615",
            "value": "-1", "valueDecimals": "18", "indexedTag1": hex_of(keccak(b"t\0")), "tag1": "t\ufffd",
            "tag1_raw": "0x7400", "tag2": "ä", "endpoint": "https://a.test", "feedbackURI": "ipfs://f",
            "feedbackHash": hex_of(HASH),
        },
        "topics": [hex_of(topic) for topic in log.topics], "data": log.data, "defect": "nul", "finalized": False,
    }  # fmt: skip


async def test_what_cannot_be_decoded_is_told_with_its_defect(readers: Readers) -> None:
    good = rated(0, ALICE, 1, 1)
    await readers.index(
        [
            SimLog(IDENTITY, (HASH,), b"data"),
            SimLog(IDENTITY, (), b""),
            SimLog(REPUTATION, good.topics[:2], good.data),
            SimLog(REPUTATION, good.topics, good.data[:100]),
            form_log(IDENTITY, "identity/approval_for_all", ALICE, BOB, True),
        ]
    )

    rows = await readers.tuples("erc8004_events", "log_index, event, defect, agent_id, args IS NULL, topics, data")
    assert rows[0] == (0, None, "unknown_event", None, True, [hex_of(HASH)], b"data")
    assert rows[1] == (1, None, "no_topics", None, True, [], b"")
    assert [row[2] for row in rows[2:4]] == ["topic_count", "data_short"]
    assert rows[4][:5] == (4, "ApprovalForAll", None, None, False)
    assert (await readers.one("v_erc8004_indexer_status"))["undecodable_logs"] == 4


async def test_final_is_what_lies_at_or_below_the_finalized_block(readers: Readers) -> None:
    await readers.index([mint(0, ALICE)], [mint(1, ALICE)], [mint(2, ALICE)])
    async with readers.database.transaction() as connection:
        await connection.execute("UPDATE heads SET finalized_block = 3")
        await connection.execute("UPDATE chains SET proven_final = 2")

    assert await readers.tuples("erc8004_events", "block_number, finalized") == [(1, True), (2, True), (3, False)]


async def test_the_feed_tells_what_came_and_what_was_taken_back(readers: Readers) -> None:
    await readers.index([mint(0, ALICE)])
    await readers.index([mint(1, ALICE), rated(0, BOB, 1, 5)], announce=True)
    lost = readers.chain.head
    ancestor = readers.chain.reorg(1, [])
    assert readers.ledger is not None
    await readers.ledger.rollback(ancestor)
    await readers.index([form_log(REPUTATION, "proxy/initialized", 2)], announce=True)
    async with readers.database.transaction() as connection:
        await connection.execute(
            "INSERT INTO changes (chain_id, cursor, kind, from_block, block_number) VALUES ($1, 7, 'finalized', 1, 1)",
            CHAIN_ID,
        )

    columns = "cursor, kind, event, block_number, block_hash, log_index, agent_id, registry, registry_address"
    new = readers.chain.head
    identity, reputation = hex_of(IDENTITY), hex_of(REPUTATION)
    assert await readers.tuples("erc8004_changes", columns) == [
        (2, "event", "Transfer", 2, hex_of(lost.hash), 0, 1, identity, identity),
        (3, "event", "NewFeedback", 2, hex_of(lost.hash), 1, 0, reputation, identity),
        (4, "revert", "NewFeedback", 2, hex_of(lost.hash), 1, 0, reputation, identity),
        (5, "revert", "Transfer", 2, hex_of(lost.hash), 0, 1, identity, identity),
        (6, "event", "Initialized", 2, hex_of(new.hash), 0, None, reputation, None),
        (7, "finalized", None, 1, None, None, None, None, None),
    ]
    reverted = await readers.one("erc8004_changes", where="cursor = 5")
    assert reverted["args"] == {"from": hex_of(ZERO), "to": hex_of(ALICE), "tokenId": "1"}
    assert reverted["agent_uuid"] == agent_uuid(CHAIN_ID, IDENTITY, 1)
    assert await readers.tuples("erc8004_agents", "agent_id, owner_address") == [(0, hex_of(ALICE))]


STATES = {
    "backfilling": ("state = 'backfilling'", "heartbeat_at = now()", "backfilling"),
    "live": ("state = 'live'", "heartbeat_at = now()", "live"),
    "no heartbeat": ("updated_at = now() - interval '1 hour'", "heartbeat_at = now() - interval '91 s'", "stalled"),
    "quiet, not yet long": ("updated_at = now() - interval '1 hour'", "heartbeat_at = now() - interval '60 s'", "live"),
    "commits are signs of life": ("updated_at = now()", "heartbeat_at = now() - interval '1 hour'", "live"),
    "halted": ("state = 'halted', halt_reason = 'why'", "heartbeat_at = now() - interval '1 day'", "halted"),
}


async def test_the_state_is_judged_when_it_is_read(readers: Readers) -> None:
    await readers.index([mint(0, ALICE)])

    for case, (chain, head, expected) in STATES.items():
        async with readers.database.transaction() as connection:
            await connection.execute(f"UPDATE chains SET {chain}; UPDATE heads SET {head}")
        status = await readers.one("v_erc8004_indexer_status")
        assert status["state"] == expected, case
        assert status["halt_reason"] == ("why" if expected == "halted" else None)


async def test_the_status_tells_where_the_chain_stands(readers: Readers) -> None:
    await readers.index([mint(0, ALICE)], [])
    status = await readers.one("v_erc8004_indexer_status")
    assert (status["head_block"], status["lag_blocks"], status["lag_seconds"]) == (None, None, None)

    async with readers.database.transaction() as connection:
        await connection.execute("UPDATE heads SET head_block = 12, head_time = $1, finalized_block = 1", time_of(12))
        await connection.execute("DELETE FROM coverage WHERE from_block = 0 AND address = $1", FIRST)
        await connection.execute(
            "INSERT INTO coverage (chain_id, address, from_block, to_block, proof) VALUES ($1, $2, 2, 2, 'logs')",
            CHAIN_ID,
            FIRST,
        )

    status = await readers.one("v_erc8004_indexer_status")
    assert {key: value for key, value in status.items() if key != "updated_at"} == {
        "chain_id": CHAIN_ID, "chain": "local", "state": "live", "head_block": 12, "finalized_block": 1,
        "checkpoint_block": 2, "checkpoint_hash": hex_of(readers.chain.head.hash), "checkpoint_time": time_of(2),
        "lag_blocks": 10, "lag_seconds": 120, "gap_blocks": 2, "proof": "logs", "undecodable_logs": 0,
        "halt_reason": None,
    }  # fmt: skip


# ---------------------------------------------------------------- figures on random histories


@pytest.mark.parametrize("seed", range(5))
async def test_figures_equal_those_of_plain_python(readers: Readers, seed: int) -> None:
    workload = Workload(100 + seed)
    readers.chain = SimChain(seed=seed, block_time_s=20_000)
    await readers.index(*(workload.block() for _ in range(60)))

    figures = Figures(DEPLOYMENT).read(readers.chain.logs())
    assert figures.given
    assert await readers.rows("v_erc8004_agent_reputation", "agent_id, total_feedback, average_score,"
        " positive_feedback, negative_feedback, revoked_feedback, unique_clients, last_feedback_at",
        "true ORDER BY agent_id",
    ) == [agent_figures(figures, agent) for agent in sorted(figures.agents)]  # fmt: skip
    assert await client_figures(readers) == expected_clients(figures)
    assert await tag_figures(readers) == expected_tags(figures)
    assert await readers.tuples(
        "v_erc8004_daily_stats", "day, registrations, feedback, revoked, responses, validations"
    ) == [
        (day, *(counts[name] for name in ("registrations", "feedback", "revoked", "responses", "validations")))
        for day, counts in sorted(figures.days.items())
        if any(counts.values())
    ]
    assert await readers.one("v_erc8004_chain_stats") == expected_chain(figures)
    assert await readers.tuples(
        "v_erc8004_validator_stats", "validator_address, requests, answered, average_response, last_at"
    ) == expected_validators(figures)
    assert await readers.tuples("v_erc8004_agent_stats", "agent_id, total_validations, average_validation,"
        " last_activity_at") == [agent_validations(figures, agent) for agent in sorted(figures.agents)]  # fmt: skip
    assert sorted(await readers.tuples("erc8004_reputation", "agent_id, client_address, epoch, feedback_index,"
        " value_raw, is_revoked, response_count")) == sorted(
        (one.agent, hex_of(one.client), one.epoch, one.index, one.value_raw, one.revoked, one.responses)
        for one in figures.given
    )  # fmt: skip


def when(seconds: Sequence[int]) -> datetime | None:
    return datetime.fromtimestamp(max(seconds), UTC) if seconds else None


def agent_figures(figures: Figures, agent: int) -> dict[str, Any]:
    counting = [one for one in figures.counting() if one.agent == agent]
    scores = [one.score for one in counting if one.score is not None]
    return {
        "agent_id": agent,
        "total_feedback": len(counting),
        "average_score": mean(scores),
        "positive_feedback": sum(score >= 80 for score in scores),
        "negative_feedback": sum(score < 50 for score in scores),
        "revoked_feedback": sum(one.revoked for one in figures.current() if one.agent == agent),
        "unique_clients": len({one.client for one in counting}),
        "last_feedback_at": when([one.time for one in counting]),
    }


async def client_figures(readers: Readers) -> list[tuple[Any, ...]]:
    return await readers.tuples(
        "v_erc8004_client_stats", "client_address, feedback, revoked, agents, first_at, last_at"
    )


def expected_clients(figures: Figures) -> list[tuple[Any, ...]]:
    expected = []
    for client in sorted({one.client for one in figures.given}):
        counting = [one for one in figures.counting() if one.client == client]
        times = [one.time for one in figures.given if one.client == client]
        took_back = sum(one.revoked for one in figures.current() if one.client == client)
        agents = {one.agent for one in counting}
        expected.append((hex_of(client), len(counting), took_back, len(agents), when([min(times)]), when(times)))
    return expected


async def tag_figures(readers: Readers) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    found = {}
    for row in await readers.rows("v_erc8004_tag_stats"):
        tag1 = row["tag1_raw"] if row["tag1_raw"] is not None else row["tag1"] and row["tag1"].encode()
        if row["tag1"] == "":
            tag1 = b""
        elif row["tag1"] is None:
            tag1 = ("hash", bytes.fromhex(row["tag1_hash"][2:]))
        tag2 = row["tag2_raw"] if row["tag2_raw"] is not None else row["tag2"].encode()
        key = (row["agent_id"], tag1, tag2, row["value_decimals"])
        assert key not in found
        # The mean has as many digits as PostgreSQL gives it: 16 are always right.
        mean_of = row["mean"]
        found[key] = (row["count"], row["sum"], row["median"], row["min"], row["max"], row["unique_clients"])
        assert abs(mean_of - row["sum"] / row["count"]) <= max(abs(mean_of), 1) / 10**15
    return found


def expected_tags(figures: Figures) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    groups: dict[tuple[Any, ...], list[Given]] = defaultdict(list)
    for one in figures.counting():
        groups[one.agent, one.tag1, one.tag2, one.decimals].append(one)
    expected = {}
    for key, group in groups.items():
        raw = [one.value_raw for one in group]
        scaled = [Decimal(number).scaleb(-key[3], WIDE) for number in (sum(raw), median_low(raw), min(raw), max(raw))]
        expected[key] = (len(group), *scaled, len({one.client for one in group}))
    return expected


def expected_chain(figures: Figures) -> dict[str, Any]:
    counting = figures.counting()
    return {
        "chain_id": CHAIN_ID,
        "chain": "local",
        "agents": len(figures.agents),
        "owners": len(set(figures.owners.values())),
        "feedback": len(counting),
        "revoked": sum(one.revoked for one in figures.current()),
        "responses": figures.responses,
        "clients": len({one.client for one in counting}),
        "validations": len(figures.requests),
        "answered": sum(bool(one.answers) for one in figures.requests),
    }


def expected_validators(figures: Figures) -> list[tuple[Any, ...]]:
    expected = []
    for validator in sorted({one.validator for one in figures.requests}):
        own = [one for one in figures.requests if one.validator == validator]
        latest = [one.answers[-1] for one in own if one.answers]
        times = [one.time for one in own] + [time for _, time in latest]
        average = mean([response for response, _ in latest])
        expected.append((hex_of(validator), len(own), len(latest), average, when(times)))
    return expected


def agent_validations(figures: Figures, agent: int) -> tuple[Any, ...]:
    own = [one for one in figures.requests if one.agent == agent]
    latest = [one.answers[-1][0] for one in own if one.answers]
    return (agent, len(own), mean(latest), when([figures.agents[agent]]))
