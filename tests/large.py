"""A chain as big as the real ones, and a small one beside it, made by SQL in a migrated, empty database."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from indexer.core.types import ChainId
from indexer.store.database import Connection, Database

CHAIN_ID: Final = ChainId(8453)
SMALL_CHAIN_ID: Final = ChainId(1)
AGENTS: Final = 100_000
FEEDBACK: Final = 1_000_000
BUSY_AGENT: Final = 7  # one client gave it BUSY_FEEDBACK, as on Base
BUSY_FEEDBACK: Final = 41_331
KNOWN_AGENT: Final = 8  # has KNOWN_CLIENTS clients, as the best known agent of Base
KNOWN_CLIENTS: Final = 8_926
PEOPLE: Final = 12_569
_OTHER_FEEDBACK: Final = FEEDBACK - BUSY_FEEDBACK - KNOWN_CLIENTS

# Who is meant by a number; person 0 is the busy client, contract 0 of a chain its identity registry.
_HELPERS: Final = """
CREATE FUNCTION pg_temp.person(n bigint) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    substr(sha256(int8send(n)), 1, 20);
CREATE FUNCTION pg_temp.contract(chain bigint, n bigint) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    substr(sha256(int8send(-1 - n - 10 * chain)), 1, 20);
CREATE FUNCTION pg_temp.block_time(block bigint) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE RETURN
    '2026-01-29T00:00:00Z'::timestamptz + make_interval(secs => 2.0 * block);
"""
# Loading is quicker without the log of writes, and without the indexes that are no keys; these come back as they were.
_PREPARE: Final = """
ALTER TABLE logs SET UNLOGGED;
ALTER TABLE feedback SET UNLOGGED;
CREATE TEMP TABLE dropped AS
SELECT i.indexrelid::regclass::text AS name, pg_get_indexdef(i.indexrelid) AS definition
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relnamespace = 'erc8004_data'::regnamespace AND NOT i.indisprimary;
DO $$ DECLARE item record; BEGIN
    FOR item IN SELECT name FROM dropped LOOP EXECUTE 'DROP INDEX ' || item.name; END LOOP;
END $$
"""
_FINISH: Final = """
DO $$ DECLARE item record; BEGIN
    FOR item IN SELECT definition FROM dropped LOOP EXECUTE item.definition; END LOOP;
END $$;
DROP TABLE dropped
"""
_FILL: Final = """
INSERT INTO chains (chain_id, name, start_block, checkpoint_block, checkpoint_hash, checkpoint_time, cursor, state)
VALUES ({chain}, '{name}', 0, 1000000, sha256('checkpoint'), pg_temp.block_time(1000000), 30000, 'live');
INSERT INTO heads (chain_id, head_block, head_time, finalized_block)
VALUES ({chain}, 1000001, pg_temp.block_time(1000001), 999900);
INSERT INTO registries (chain_id, address, kind, identity, position, start_block)
SELECT {chain}, pg_temp.contract({chain}, place - 1), kind, pg_temp.contract({chain}, 0), place - 1, 0
FROM unnest(ARRAY['identity', 'reputation', 'validation', 'validation']) WITH ORDINALITY k (kind, place);
INSERT INTO coverage (chain_id, address, from_block, to_block, proof)
SELECT chain_id, address, 0, 1000000, 'logs' FROM registries WHERE chain_id = {chain};

CREATE TEMP TABLE ids AS
SELECT n::bigint AS agent, erc8004_data.agent_key({chain}, pg_temp.contract({chain}, 0), n) AS agent_uuid
FROM generate_series(0, {agents} - 1) n;
-- What is emitted, in the order of `place`: 0 mint, 1 Registered, 2 agentWallet, 3 transfer, 4 feedback, 5 request,
-- 6 answer, 7 approval, 8 operator, 9 revocation, 10 response.
CREATE TEMP TABLE plan (kind integer, agent bigint, who bigint, other bigint, place float8);
INSERT INTO plan
SELECT k, a, a * 7 % {people}, NULL, 4.0 * a FROM generate_series(0, {agents} - 1) a, generate_series(0, 2) k;
INSERT INTO plan
SELECT 3, a * 10, a * 3 % {people}, NULL, 4.0 * {agents} + a FROM generate_series(0, {agents} / 10 - 1) a;
INSERT INTO plan
SELECT 4, {busy_agent}, 0, NULL, 5.0 * {agents} + 20.0 * f FROM generate_series(1, {busy_feedback}) f;
INSERT INTO plan
SELECT 4, {known_agent}, c, NULL, 5.0 * {agents} + 90.0 * c FROM generate_series(1, {known_clients}) c;
-- A few agents have most of it, two in five have none; an agent has some twenty clients.
INSERT INTO plan
SELECT 4, u.agent, 1 + (u.agent * 13 + (hashint8(-u.f) & 15)) % ({people} - 1), NULL, 5.0 * {agents} + u.f
FROM (SELECT f, floor(0.6 * {agents} * power((hashint8(f) & 1048575) / 1048576.0::float8, 3))::bigint AS agent
      FROM generate_series(1, {other_feedback}) f) u;
INSERT INTO plan
SELECT 5, a, a % {people}, a, 15.0 * {agents} + a FROM generate_series(0, {agents} / 5 - 1) a;
INSERT INTO plan
SELECT 6, a, a % {people}, a, 15.0 * {agents} + a + 0.5 FROM generate_series(0, {agents} / 5 - 1, 2) a;
INSERT INTO plan
SELECT 7, a, a * 7 % {people}, a, 16.0 * {agents} + a FROM generate_series(0, {agents} / 20 - 1) a;
INSERT INTO plan
SELECT 8, NULL, o, o + 1, 16.0 * {agents} + o FROM generate_series(0, {people} - 1) o;

CREATE TEMP TABLE emitted AS
SELECT p.kind, p.agent, i.agent_uuid, pg_temp.person(p.who) AS who, p.other, p.n, p.n / 4 AS block_number,
       (p.n % 4)::integer AS log_index, pg_temp.block_time(p.n / 4) AS block_timestamp,
       CASE WHEN p.kind = 4 THEN row_number() OVER (PARTITION BY p.kind, p.agent,
       p.who ORDER BY p.n) END AS feedback_index,
       CASE WHEN p.kind = 4 THEN p.n * 7919 % 10000 END AS value_raw,
       CASE WHEN p.kind = 4 THEN p.n % 3 / 2 * 2 END::smallint AS value_decimals,
       CASE WHEN p.kind = 4 AND p.n % 2000 = 0 THEN 1 ELSE 0 END::smallint AS standing
FROM (SELECT kind, agent, who, other, row_number() OVER (ORDER BY place, kind, agent) AS n FROM plan) p
LEFT JOIN ids i USING (agent);
-- Every fiftieth feedback is answered, some are revoked, long after.
INSERT INTO emitted
SELECT CASE WHEN standing = 1 THEN 9 ELSE 10 END, agent, agent_uuid, who, n, 4 * (900000 + n / 50), 900000 + n / 50, 0,
       pg_temp.block_time(900000 + n / 50), feedback_index
FROM emitted WHERE kind = 4 AND n % 50 = 0;

INSERT INTO logs (chain_id, block_number, log_index, tx_index, block_timestamp, agent_uuid, agent_id, address,
    block_hash,
    tx_hash, topics, data, event, event_version, args)
SELECT {chain}, e.block_number, e.log_index, e.log_index, e.block_timestamp, e.agent_uuid, e.agent, k.address,
       sha256(int8send(e.block_number)), sha256(int8send({chain} * 10000000::bigint + e.n / 2)),
       sha256(k.event::bytea) || sha256(int8send(coalesce(e.agent, 0))), e.who, k.event, '2.0.0', '{{"agentId": "0"}}'
FROM emitted e
JOIN (SELECT place - 1 AS kind, pg_temp.contract({chain}, n) AS address, event
      FROM unnest(ARRAY[0, 0, 0, 0, 1, 2, 2, 0, 0, 1, 1], ARRAY['Transfer', 'Registered', 'MetadataSet', 'Transfer',
           'NewFeedback', 'ValidationRequest', 'ValidationResponse', 'Approval', 'ApprovalForAll', 'FeedbackRevoked',
           'ResponseAppended']) WITH ORDINALITY u (n, event, place)) k USING (kind);
INSERT INTO transfers (chain_id, block_number, log_index, block_timestamp, agent_uuid, from_address, to_address)
SELECT {chain}, block_number, log_index, block_timestamp, agent_uuid, decode(repeat('00', 20), 'hex'), who
FROM emitted WHERE kind IN (0, 3);
INSERT INTO uris (chain_id, block_number, log_index, block_timestamp, agent_uuid, is_registration, actor, token_uri,
    applies)
SELECT {chain}, block_number, log_index, block_timestamp, agent_uuid, true, who, 'https://agents.test/' || agent, true
FROM emitted WHERE kind = 1;
INSERT INTO metadata_writes (chain_id, block_number, log_index, block_timestamp, agent_uuid, key_hash, key, value,
    is_wallet, applies)
SELECT {chain}, block_number, log_index, block_timestamp, agent_uuid, sha256('agentWallet'), 'agentWallet', who,
       true, true
FROM emitted WHERE kind = 2;
INSERT INTO feedback (chain_id, block_number, log_index, block_timestamp, agent_uuid, registry, client, feedback_index,
    has_index, value_raw, value_decimals, tag1, tag2, file_uri, file_hash, standing, revoked_at, response_count)
SELECT {chain}, block_number, log_index, block_timestamp, agent_uuid, contract, who, feedback_index, true, value_raw,
       value_decimals, 'tag' || n % 20, CASE WHEN n % 2 = 0 THEN '' ELSE 'day' END, '', no_hash, standing,
       CASE WHEN standing = 1 THEN pg_temp.block_time(900000 + n / 50) END,
       CASE WHEN standing = 0 AND n % 50 = 0 THEN 1 ELSE 0 END
FROM emitted, (SELECT pg_temp.contract({chain}, 1) AS contract, decode(repeat('00', 32), 'hex') AS no_hash) k
WHERE kind = 4;
INSERT INTO validation_requests (chain_id, block_number, log_index, block_timestamp, agent_uuid, registry, request_hash,
    validator, request_uri, answer_block, answer_log, responded_at, response, response_count)
SELECT {chain}, q.block_number, q.log_index, q.block_timestamp, q.agent_uuid, pg_temp.contract({chain},
       2 + q.other % 2),
       sha256(int8send(q.other)), q.who, 'ipfs://request', r.block_number, r.log_index, r.block_timestamp,
       CASE WHEN r.kind = 6 THEN q.other % 101 END, CASE WHEN r.kind = 6 THEN 1 ELSE 0 END
FROM emitted q LEFT JOIN emitted r ON r.kind = 6 AND r.other = q.other
WHERE q.kind = 5;
INSERT INTO validation_responses (chain_id, block_number, log_index, block_timestamp, agent_uuid, registry,
    request_hash,
    validator, response, response_uri, response_hash, tag)
SELECT {chain}, block_number, log_index, block_timestamp, agent_uuid, pg_temp.contract({chain}, 2 + other % 2),
       sha256(int8send(other)), who, other % 101, '', sha256('answer'), 'tag'
FROM emitted WHERE kind = 6;
INSERT INTO approvals (chain_id, block_number, log_index, block_timestamp, agent_uuid, owner, approved)
SELECT {chain}, block_number, log_index, block_timestamp, agent_uuid, who,
       pg_temp.person(other) FROM emitted WHERE kind = 7;
INSERT INTO operator_approvals (chain_id, block_number, log_index, block_timestamp, registry, owner, operator, approved)
SELECT {chain}, block_number, log_index, block_timestamp, pg_temp.contract({chain}, 0), who, pg_temp.person(other),
       n % 5 > 0
FROM emitted WHERE kind = 8;
INSERT INTO revocations (chain_id, block_number, log_index, block_timestamp, agent_uuid, registry, client,
    feedback_index)
SELECT {chain}, block_number, log_index, block_timestamp, agent_uuid, pg_temp.contract({chain}, 1), who, feedback_index
FROM emitted WHERE kind = 9;
INSERT INTO feedback_responses (chain_id, block_number, log_index, block_timestamp, agent_uuid, registry, client,
    feedback_index, responder, response_uri, response_hash)
SELECT {chain}, block_number, log_index, block_timestamp, agent_uuid, pg_temp.contract({chain}, 1), who, feedback_index,
       pg_temp.person(other), 'https://answer.test', sha256('answer')
FROM emitted WHERE kind = 10;
INSERT INTO changes (chain_id, cursor, kind, from_block, block_number, block_hash, log_index)
SELECT {chain}, n - 100000, 'event', block_number, block_number, sha256(int8send(block_number)), log_index
FROM emitted WHERE n BETWEEN 100001 AND 130000;

INSERT INTO agents (agent_uuid, chain_id, registry, agent_id, owner, owner_block, approved, approved_block, wallet,
    token_uri, registered_at, registered_block, registered_tx, updated_at)
SELECT i.agent_uuid, {chain}, pg_temp.contract({chain}, 0), i.agent, coalesce(t.who, m.who),
       coalesce(t.block_number, m.block_number), pg_temp.person(p.other), p.block_number, m.who,
       'https://agents.test/' || i.agent, m.block_timestamp, m.block_number,
       sha256(int8send({chain} * 10000000::bigint + (m.n + 1) / 2)), m.block_timestamp
FROM ids i
JOIN emitted m ON m.kind = 0 AND m.agent = i.agent
LEFT JOIN emitted t ON t.kind = 3 AND t.agent = i.agent
LEFT JOIN emitted p ON p.kind = 7 AND p.agent = i.agent;
INSERT INTO agent_metadata (agent_uuid, key_hash, chain_id, key, value, updated_at, block_number, log_index)
SELECT agent_uuid, key_hash, {chain}, key, value, block_timestamp, block_number, log_index
FROM metadata_writes WHERE chain_id = {chain};
INSERT INTO agent_clients (agent_uuid, registry, client, chain_id, last_index, feedback, revoked, first_at, last_at)
SELECT agent_uuid, pg_temp.contract({chain}, 1), who, {chain}, max(feedback_index),
       count(*) FILTER (WHERE standing = 0),
       count(*) FILTER (WHERE standing = 1), min(block_timestamp), max(block_timestamp)
FROM emitted WHERE kind = 4 GROUP BY agent_uuid, who ORDER BY agent_uuid;
INSERT INTO agent_values (agent_uuid, registry, value_decimals, chain_id, feedback, value_sum)
SELECT agent_uuid, pg_temp.contract({chain}, 1), value_decimals, {chain}, count(*) FILTER (WHERE standing = 0),
       coalesce(sum(value_raw) FILTER (WHERE standing = 0), 0)
FROM emitted WHERE kind = 4 GROUP BY agent_uuid, value_decimals;
INSERT INTO agent_stats (agent_uuid, chain_id, last_activity_at, last_activity_block, feedback, revoked, scored,
    score_sum,
    positive, negative, clients, last_feedback_at, responses, validations, answered, response_sum)
SELECT e.agent_uuid, {chain}, max(e.block_timestamp), max(e.block_number),
       count(e.value_raw) FILTER (WHERE e.standing = 0),
       count(*) FILTER (WHERE e.standing = 1), count(s.score), coalesce(sum(s.score), 0),
       count(*) FILTER (WHERE s.score >= 80), count(*) FILTER (WHERE s.score < 50),
       (SELECT count(*) FROM agent_clients c WHERE c.agent_uuid = e.agent_uuid AND c.feedback > 0),
       max(e.block_timestamp) FILTER (WHERE e.kind = 4 AND e.standing = 0), count(*) FILTER (WHERE e.kind = 10),
       count(*) FILTER (WHERE e.kind = 5), count(*) FILTER (WHERE e.kind = 6),
       coalesce(sum(e.other % 101) FILTER (WHERE e.kind = 6), 0)
FROM emitted e
CROSS JOIN LATERAL (SELECT CASE WHEN e.standing = 0 AND e.value_raw <= 100 * 10 ^ e.value_decimals
    THEN e.value_raw / (10 ^ e.value_decimals)::numeric END AS score) s
WHERE e.agent_uuid IS NOT NULL GROUP BY e.agent_uuid;
INSERT INTO agent_days (agent_uuid, day, chain_id, registrations, feedback, revoked, responses, validations)
SELECT agent_uuid, (block_timestamp AT TIME ZONE 'UTC')::date, {chain}, count(*) FILTER (WHERE kind = 1),
       count(*) FILTER (WHERE kind = 4), count(*) FILTER (WHERE kind = 9), count(*) FILTER (WHERE kind = 10),
       count(*) FILTER (WHERE kind = 5)
FROM emitted WHERE kind IN (1, 4, 5, 9, 10) GROUP BY 1, 2;
INSERT INTO chain_totals (chain_id, agents, feedback, revoked, responses, validations, answered)
SELECT {chain}, count(*), sum(feedback), sum(revoked), sum(responses), sum(validations), sum(answered)
FROM agent_stats WHERE chain_id = {chain};
DROP TABLE ids, plan, emitted;
"""


def person(number: int) -> str:
    """Return the address of a person, as the views show it."""
    return "0x" + sha256(number.to_bytes(8, "big")).digest()[:20].hex()


def contract(chain_id: int, number: int) -> str:
    """Return the address of a chain's contract: 0 identity, 1 reputation, 2 and 3 validation."""
    return "0x" + sha256((-1 - number - 10 * chain_id).to_bytes(8, "big", signed=True)).digest()[:20].hex()


async def build(database: Database) -> None:
    """Fill both chains: the state is what the projections would make of the rows."""
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL work_mem = '128MB'; SET LOCAL maintenance_work_mem = '128MB'")
        await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        await connection.execute(_HELPERS)
        await connection.execute(_PREPARE)
        await _fill(connection, CHAIN_ID, "base", AGENTS, _OTHER_FEEDBACK, BUSY_FEEDBACK, KNOWN_CLIENTS)
        await _fill(connection, SMALL_CHAIN_ID, "ethereum", 2_000, 5_000, 10, 10)
        await connection.execute(_FINISH)
    async with database.transaction() as connection:
        await connection.execute("ANALYZE")


async def _fill(
    connection: Connection, chain_id: int, name: str, agents: int, other: int, busy: int, clients: int
) -> None:
    numbers = {
        "chain": chain_id, "name": name, "agents": agents, "people": PEOPLE, "other_feedback": other,
        "busy_agent": BUSY_AGENT, "busy_feedback": busy, "known_agent": KNOWN_AGENT, "known_clients": clients,
    }  # fmt: skip
    for statement in _FILL.format(**numbers).split(";\n"):
        if statement.strip():
            await connection.execute(statement)
