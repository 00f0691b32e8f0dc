-- name: known_registries
-- All that were ever configured, those in use first.
SELECT address, kind, identity FROM registries WHERE chain_id = $1 ORDER BY active DESC, position, kind, address;

-- name: shadow_addresses
SELECT DISTINCT address FROM pg_temp.registries WHERE chain_id = $1;

-- name: primary_keys
SELECT t.relname AS table_name,
       array_agg(a.attname::text ORDER BY array_position(i.indkey::int2[], a.attnum)) AS columns
FROM pg_class t
JOIN pg_namespace n ON n.oid = t.relnamespace
JOIN pg_index i ON i.indrelid = t.oid AND i.indisprimary
JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = ANY (i.indkey)
WHERE n.nspname = $1 AND t.relname = ANY ($2::text[])
GROUP BY t.relname
ORDER BY min(array_position($2::text[], t.relname::text));

-- name: shadow_settings
-- A long transaction; the estimates of new tables are rough, so that compiling would cost more than it saves.
SET LOCAL idle_in_transaction_session_timeout = 0;
SET LOCAL statement_timeout = 0;
SET LOCAL TimeZone = 'UTC';
SET LOCAL jit = off;
SET LOCAL default_statistics_target = 10;

-- name: shadow_ledger
-- Of the ledger, what the projections read: raw data need not be copied. `differing_logs` takes what decodes otherwise.
CREATE TEMP TABLE registries ON COMMIT DROP AS TABLE erc8004_data.registries;
CREATE TEMP TABLE logs ON COMMIT DROP AS
    SELECT chain_id, block_number, log_index, block_timestamp, agent_uuid, agent_id, address, tx_hash
    FROM erc8004_data.logs WITH NO DATA;
ALTER TABLE pg_temp.logs ADD PRIMARY KEY (chain_id, block_number, log_index);
CREATE TEMP TABLE differing_logs ON COMMIT DROP AS
    SELECT chain_id, block_number, log_index, block_timestamp, agent_uuid, agent_id, event, event_version, args, defect
    FROM erc8004_data.logs WITH NO DATA

-- name: shadow_indexes
-- Beside the primary keys, what the projections look up.
CREATE INDEX ON pg_temp.feedback (agent_uuid, client, feedback_index);
CREATE INDEX ON pg_temp.feedback (agent_uuid, block_number, log_index) WHERE standing = 0;
CREATE INDEX ON pg_temp.validation_requests (request_hash, block_number, log_index)

-- name: ledger_slice_end
-- The last block of at most $3 logs and $4 bytes after block $2, yet one block at least; null where there is none up to $5.
SELECT coalesce(max(s.block_number) FILTER (WHERE s.bytes <= $4), min(s.block_number))
FROM (
    SELECT l.block_number, sum(l.size) OVER (ORDER BY l.block_number, l.log_index) AS bytes
    FROM (
        SELECT block_number, log_index, octet_length(data) AS size FROM erc8004_data.logs
        WHERE chain_id = $1 AND block_number > $2 AND block_number <= $5
        ORDER BY block_number, log_index LIMIT $3
    ) l
) s;

-- name: ledger_slice
-- The part of a COPY, in the order that indexer/store/rereading.py expects.
SELECT chain_id, block_number, log_index, tx_index, block_timestamp, address, block_hash, tx_hash, topics, data,
       agent_uuid, agent_id, event, event_version, args, defect
FROM erc8004_data.logs
WHERE chain_id = $1 AND block_number > $2 AND block_number <= $3
ORDER BY block_number, log_index

-- name: level_totals
-- A chain whose logs were all taken back keeps its row of zeros.
INSERT INTO chain_totals (chain_id) SELECT chain_id FROM erc8004_data.chain_totals WHERE chain_id = $1
ON CONFLICT DO NOTHING;

-- name: verify_chains
SELECT chain_id, name, start_block, checkpoint_block, checkpoint_hash FROM chains
WHERE $1::bigint[] IS NULL OR chain_id = ANY ($1)
ORDER BY name, chain_id;

-- name: verify_frame
-- What the bookkeeping must agree on: the gaps of coverage, the ledger's end, and headers that are still held.
SELECT 'coverage' AS table_name, 'chain_id=' || s.chain_id AS key, 'gap_blocks' AS column_name,
       s.gap_blocks::text AS stored, '0' AS expected
FROM erc8004.v_erc8004_indexer_status s
WHERE s.chain_id = $1 AND s.gap_blocks > 0
UNION ALL
SELECT 'chains', 'chain_id=' || c.chain_id, 'checkpoint_block', c.checkpoint_block::text, max(l.block_number)::text
FROM chains c JOIN logs l USING (chain_id)
WHERE c.chain_id = $1 AND l.block_number > c.checkpoint_block
GROUP BY c.chain_id
UNION ALL
SELECT 'chains', 'chain_id=' || c.chain_id, 'checkpoint_hash',
       '0x' || encode(c.checkpoint_hash, 'hex'), '0x' || encode(b.block_hash, 'hex')
FROM chains c JOIN blocks b ON b.chain_id = c.chain_id AND b.block_number = c.checkpoint_block
WHERE c.chain_id = $1 AND c.checkpoint_hash IS DISTINCT FROM b.block_hash
UNION ALL
(SELECT 'logs', 'block_number=' || l.block_number || ' log_index=' || l.log_index, v.column_name, v.stored, v.expected
FROM blocks b
JOIN logs l USING (chain_id, block_number)
CROSS JOIN LATERAL (VALUES
    ('block_hash', '0x' || encode(l.block_hash, 'hex'), '0x' || encode(b.block_hash, 'hex')),
    ('block_timestamp', l.block_timestamp::text, b.block_timestamp::text)) AS v (column_name, stored, expected)
WHERE b.chain_id = $1 AND v.stored <> v.expected
ORDER BY l.block_number, l.log_index LIMIT $2);

-- name: verify_gap_blocks
SELECT gap_blocks FROM erc8004.v_erc8004_indexer_status WHERE chain_id = $1;

-- name: sample_agents
-- At most $2 agents, the same ones for the same rows: a fifth each of the newest, the busiest and those with odd content
-- or a re-entrant registration; the rest spread evenly, as the keys are hashes.
WITH newest AS (
    SELECT agent_uuid, 1 AS rank FROM agents WHERE chain_id = $1
    ORDER BY registered_block DESC NULLS LAST, agent_id DESC LIMIT ($2::bigint + 4) / 5
), busiest AS (
    SELECT agent_uuid, 2 FROM agent_stats WHERE chain_id = $1
    ORDER BY feedback + revoked + responses + validations DESC, agent_uuid LIMIT ($2::bigint + 4) / 5
), odd AS (
    SELECT o.agent_uuid, 3 FROM (
        SELECT agent_uuid FROM agents WHERE chain_id = $1 AND token_uri_raw IS NOT NULL
        UNION SELECT agent_uuid FROM agent_metadata WHERE chain_id = $1 AND key_raw IS NOT NULL
        UNION SELECT agent_uuid FROM feedback WHERE chain_id = $1 AND (tag1_raw IS NOT NULL OR tag2_raw IS NOT NULL)
        UNION SELECT agent_uuid FROM uris WHERE chain_id = $1 AND NOT applies
        UNION SELECT agent_uuid FROM metadata_writes WHERE chain_id = $1 AND NOT applies
    ) o
    ORDER BY o.agent_uuid LIMIT ($2::bigint + 4) / 5
), spread AS (
    SELECT agent_uuid, 4 FROM agents WHERE chain_id = $1 ORDER BY agent_uuid LIMIT $2::bigint
), chosen AS (
    SELECT c.agent_uuid, min(c.rank) AS rank
    FROM (TABLE newest UNION ALL TABLE busiest UNION ALL TABLE odd UNION ALL TABLE spread) c
    GROUP BY c.agent_uuid
)
SELECT a.agent_uuid, a.registry, a.agent_id, a.owner, a.wallet, a.registered_block IS NOT NULL AS registered,
       coalesce(a.token_uri_raw, convert_to(a.token_uri, 'UTF8')) AS token_uri
FROM chosen c JOIN agents a USING (agent_uuid)
ORDER BY c.rank, a.agent_uuid LIMIT $2::bigint;

-- name: sample_metadata
-- At most $2 keys an agent, the latest written.
SELECT m.agent_uuid, m.key, m.value
FROM (
    SELECT agent_uuid, coalesce(key_raw, convert_to(key, 'UTF8')) AS key, value,
           row_number() OVER (PARTITION BY agent_uuid ORDER BY block_number DESC, log_index DESC) AS place
    FROM agent_metadata WHERE agent_uuid = ANY ($1::uuid[])
) m
WHERE m.place <= $2;

-- name: sample_clients
-- At most $2 clients of an agent at a registry, the latest active. `current`: all of the newest epoch came as today's form
-- ($3); before it, storage was given up once and indexes were not said.
SELECT c.agent_uuid, c.registry, c.client, c.last_index, coalesce(f.current, false) AS current
FROM (
    SELECT agent_uuid, registry, client, epoch, last_index,
           row_number() OVER (PARTITION BY agent_uuid, registry ORDER BY last_at DESC, client) AS place
    FROM agent_clients WHERE agent_uuid = ANY ($1::uuid[])
) c
CROSS JOIN LATERAL (
    SELECT bool_and(l.event_version = $3) AS current
    FROM feedback g JOIN logs l USING (chain_id, block_number, log_index)
    WHERE (g.agent_uuid, g.registry, g.client, g.epoch) = (c.agent_uuid, c.registry, c.client, c.epoch)
) f
WHERE c.place <= $2
ORDER BY c.agent_uuid, c.registry, c.place;

-- name: sample_feedback
-- At most $2 an agent, odd and revoked ones first; none of an older epoch, and of today's form ($3) alone.
SELECT f.agent_uuid, f.registry, f.client, f.feedback_index, f.value_raw, f.value_decimals, f.tag1, f.tag2,
       f.revoked, f.response_count
FROM (
    SELECT g.agent_uuid, g.registry, g.client, g.feedback_index, g.value_raw, g.value_decimals, g.response_count,
           coalesce(g.tag1_raw, convert_to(g.tag1, 'UTF8')) AS tag1, coalesce(g.tag2_raw, convert_to(g.tag2, 'UTF8')) AS tag2,
           g.standing = 1 AS revoked,
           row_number() OVER (PARTITION BY g.agent_uuid ORDER BY
               (g.tag1_raw IS NOT NULL)::int + (g.tag2_raw IS NOT NULL)::int + (g.standing = 1)::int
                   + (g.response_count > 0)::int DESC,
               g.block_number DESC, g.log_index DESC) AS place
    FROM feedback g JOIN logs l USING (chain_id, block_number, log_index)
    WHERE g.agent_uuid = ANY ($1::uuid[]) AND g.standing <> 2 AND l.event_version = $3
) f
WHERE f.place <= $2;

-- name: sample_tags
-- The most frequent pair of plain tags an agent was given at each registry.
SELECT DISTINCT ON (agent_uuid, registry) agent_uuid, registry, tag1, tag2
FROM (
    SELECT agent_uuid, registry, tag1, tag2, count(*) AS n FROM feedback
    WHERE agent_uuid = ANY ($1::uuid[]) AND standing = 0 AND tag1 IS NOT NULL AND tag1_raw IS NULL AND tag2_raw IS NULL
      AND (tag1 <> '' OR tag2 <> '')
    GROUP BY agent_uuid, registry, tag1, tag2
) t
ORDER BY agent_uuid, registry, n DESC, tag1, tag2;

-- name: sample_requests
-- At most $2 requests of an agent, the newest, with their latest answer; `current`: of today's form ($3), if answered.
SELECT q.agent_uuid, q.registry, q.request_hash, q.validator, coalesce(q.response, 0) AS response,
       coalesce(r.response_hash, decode(repeat('00', 32), 'hex')) AS response_hash,
       coalesce(r.tag_raw, convert_to(r.tag, 'UTF8'), '') AS tag,
       q.answer_block IS NULL OR coalesce(l.event_version = $3, false) AS current
FROM (
    SELECT *, row_number() OVER (PARTITION BY agent_uuid ORDER BY block_number DESC, log_index DESC) AS place
    FROM validation_requests WHERE agent_uuid = ANY ($1::uuid[])
) q
LEFT JOIN validation_responses r
       ON (r.chain_id, r.block_number, r.log_index) = (q.chain_id, q.answer_block, q.answer_log)
LEFT JOIN logs l ON (l.chain_id, l.block_number, l.log_index) = (q.chain_id, q.answer_block, q.answer_log)
WHERE q.place <= $2;

-- name: sample_validations
-- Where an agent's validations are, and whether all answers came as today's form ($2).
SELECT q.agent_uuid, q.registry, (array_agg(DISTINCT q.validator))[1:$3::int] AS validators,
       coalesce(bool_and(l.event_version = $2) FILTER (WHERE q.answer_block IS NOT NULL), true) AS current,
       max(r.tag) FILTER (WHERE r.tag_raw IS NULL) AS tag
FROM validation_requests q
LEFT JOIN validation_responses r
       ON (r.chain_id, r.block_number, r.log_index) = (q.chain_id, q.answer_block, q.answer_log)
LEFT JOIN logs l ON (l.chain_id, l.block_number, l.log_index) = (q.chain_id, q.answer_block, q.answer_log)
WHERE q.agent_uuid = ANY ($1::uuid[])
GROUP BY q.agent_uuid, q.registry;

-- name: own_summary
SELECT count, summary_value, summary_value_decimals
FROM erc8004.erc8004_summary($1::bigint, $2::numeric, $3::text[], $4::text, $5::text, $6::text);

-- name: own_validation_summary
SELECT count, average
FROM erc8004.erc8004_validation_summary($1::bigint, $2::numeric, $3::text[], $4::text, $5::text);
