"""Choose agents, and turn what the tables say of them into questions to their contracts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from indexer.store.database import Connection
from indexer.store.difference import shortened
from indexer.store.queries import queries
from indexer.verify.views import (
    AGENT_WALLET,
    FEEDBACK,
    LAST_INDEX,
    METADATA,
    OWNER_OF,
    RESPONSE_COUNT,
    SUMMARY,
    TOKEN_URI,
    VALIDATION_STATUS,
    VALIDATION_SUMMARY,
    Question,
)

PARTIAL: Final = "registered before the first indexed block"
OLD_FORM: Final = "events of an older form"

# The forms whose content the contracts of today still hold (`version` in abi/): storage began anew with them.
_CURRENT: Final = "2.0.0"
# Bounds for an agent; clients: `getSummary` costs gas for each, and a node gives a call 25 to 50 million.
_MAX_KEYS: Final = 100
_MAX_CLIENTS: Final = 50
_MAX_FEEDBACK: Final = 5
_MAX_REQUESTS: Final = 10


@dataclass(frozen=True, slots=True)
class _Agents:
    """The sampled agents of a chain."""

    connection: Connection
    chain_id: int
    rows: dict[UUID, asyncpg.Record]

    async def fetch(self, name: str, *bounds: object) -> list[asyncpg.Record]:
        """Run one of the statements that take the agents' keys first."""
        return await self.connection.fetch(queries()[name], list(self.rows), *bounds)

    def id_of(self, row: asyncpg.Record) -> int:
        return int(self.rows[row["agent_uuid"]]["agent_id"])

    def key_of(self, row: asyncpg.Record, *more: str) -> str:
        return " ".join((f"agent_uuid={row['agent_uuid']}", f"agent_id={self.id_of(row)}", *more))


async def questions_of(connection: Connection, chain_id: int, sample: int) -> list[Question]:
    """Return the questions that at most `sample` agents give rise to; the same ones for the same tables."""
    chosen = await connection.fetch(queries()["sample_agents"], chain_id, sample)
    partial = _Agents(connection, chain_id, {row["agent_uuid"]: row for row in chosen if not row["registered"]})
    agents = _Agents(connection, chain_id, {row["agent_uuid"]: row for row in chosen if row["registered"]})
    return [
        *(_owner(partial, row, PARTIAL) for row in partial.rows.values()),
        *_identity(agents),
        *_metadata(agents, await agents.fetch("sample_metadata", _MAX_KEYS)),
        *await _reputation(agents),
        *await _validation(agents),
    ]


def _owner(agents: _Agents, row: asyncpg.Record, doubt: str | None = None) -> Question:
    stored = {"owner": row["owner"]}
    return Question(OWNER_OF, row["registry"], (agents.id_of(row),), "agents", agents.key_of(row), stored, doubt)


def _identity(agents: _Agents) -> Iterator[Question]:
    for row in agents.rows.values():
        agent, to, key = (agents.id_of(row),), row["registry"], agents.key_of(row)
        yield _owner(agents, row)
        yield Question(TOKEN_URI, to, agent, "agents", key, {"token_uri": row["token_uri"]})
        yield Question(AGENT_WALLET, to, agent, "agents", key, {"wallet": row["wallet"] or bytes(20)})


def _metadata(agents: _Agents, rows: Iterable[asyncpg.Record]) -> Iterator[Question]:
    for row in rows:
        arguments = (agents.id_of(row), row["key"])
        key = agents.key_of(row, shortened(f"key={row['key']!r}"))
        to = agents.rows[row["agent_uuid"]]["registry"]
        yield Question(METADATA, to, arguments, "agent_metadata", key, {"value": row["value"]})


async def _reputation(agents: _Agents) -> list[Question]:
    clients = await agents.fetch("sample_clients", _MAX_CLIENTS, _CURRENT)
    feedback = await agents.fetch("sample_feedback", _MAX_FEEDBACK, _CURRENT)
    return [
        *(_last_index(agents, row) for row in clients),
        *(question for row in feedback for question in _feedback(agents, row)),
        *await _summaries(agents, clients),
    ]


def _last_index(agents: _Agents, row: asyncpg.Record) -> Question:
    arguments, key = (agents.id_of(row), row["client"]), agents.key_of(row, f"client=0x{row['client'].hex()}")
    doubt = None if row["current"] else OLD_FORM
    stored = {"last_index": row["last_index"]}
    return Question(LAST_INDEX, row["registry"], arguments, "agent_clients", key, stored, doubt)


def _feedback(agents: _Agents, row: asyncpg.Record) -> Iterator[Question]:
    which = (agents.id_of(row), row["client"], int(row["feedback_index"]))
    key = agents.key_of(row, f"client=0x{row['client'].hex()}", f"feedback_index={which[2]}")
    stored = {column: row[column] for column in ("value_raw", "value_decimals", "tag1", "tag2", "revoked")}
    yield Question(FEEDBACK, row["registry"], which, "feedback", key, stored)
    count = {"response_count": row["response_count"]}
    yield Question(RESPONSE_COUNT, row["registry"], (*which, []), "feedback", key, count)


async def _summaries(agents: _Agents, clients: Sequence[asyncpg.Record]) -> list[Question]:
    """Ask for each agent's summary over its clients: as a whole, and by its most frequent tags."""
    tags = {(row["agent_uuid"], row["registry"]): row for row in await agents.fetch("sample_tags")}
    listed: dict[tuple[UUID, bytes], list[asyncpg.Record]] = {}
    for row in clients:
        if row["current"]:
            listed.setdefault((row["agent_uuid"], row["registry"]), []).append(row)
    questions = []
    for place, rows in listed.items():
        tag = tags.get(place)
        filters = [("", "")] if tag is None else [("", ""), (tag["tag1"], ""), ("", tag["tag2"])]
        for tag1, tag2 in dict.fromkeys(filters):
            questions.append(await _summary(agents, rows, tag1, tag2))
    return questions


async def _summary(agents: _Agents, rows: Sequence[asyncpg.Record], tag1: str, tag2: str) -> Question:
    agent, registry = agents.id_of(rows[0]), rows[0]["registry"]
    clients = [row["client"] for row in rows]
    stored = await _own(agents, "own_summary", agent, [_hex(client) for client in clients], tag1, tag2, _hex(registry))
    key = agents.key_of(rows[0], f"clients={len(clients)}", f"tag1={tag1!r}", f"tag2={tag2!r}")
    arguments = (agent, clients, tag1.encode(), tag2.encode())
    return Question(SUMMARY, registry, arguments, "erc8004_summary", key, stored)


async def _validation(agents: _Agents) -> list[Question]:
    questions = [_status(agents, row) for row in await agents.fetch("sample_requests", _MAX_REQUESTS, _CURRENT)]
    for row in await agents.fetch("sample_validations", _CURRENT, _MAX_CLIENTS):
        questions.append(await _validation_summary(agents, row, [], ""))
        questions.append(await _validation_summary(agents, row, row["validators"], row["tag"] or ""))
    return questions


def _status(agents: _Agents, row: asyncpg.Record) -> Question:
    stored = {
        "validator": row["validator"],
        "agent_id": agents.id_of(row),
        **{column: row[column] for column in ("response", "response_hash", "tag")},
    }
    key = agents.key_of(row, f"request_hash=0x{row['request_hash'].hex()}")
    doubt = None if row["current"] else OLD_FORM
    arguments = (row["request_hash"],)
    return Question(VALIDATION_STATUS, row["registry"], arguments, "validation_requests", key, stored, doubt)


async def _validation_summary(agents: _Agents, row: asyncpg.Record, validators: list[bytes], tag: str) -> Question:
    agent, registry = agents.id_of(row), row["registry"]
    listed = [_hex(validator) for validator in validators]
    stored = await _own(agents, "own_validation_summary", agent, listed, tag, _hex(registry))
    key = agents.key_of(row, f"validators={len(validators)}", f"tag={tag!r}")
    doubt = None if row["current"] else OLD_FORM
    arguments = (agent, validators, tag.encode())
    return Question(VALIDATION_SUMMARY, registry, arguments, "erc8004_validation_summary", key, stored, doubt)


async def _own(agents: _Agents, name: str, *arguments: object) -> dict[str, Any]:
    """Compute a summary with our own function; columns and values."""
    row = await agents.connection.fetchrow(queries()[name], agents.chain_id, *arguments)
    assert row is not None
    return dict(row)


def _hex(value: bytes) -> str:
    return f"0x{value.hex()}"
