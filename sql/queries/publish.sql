-- name: publish_head
-- What PostgreSQL has on this snapshot; `held` counts the changes that follow cursor $2, at most $3 of them.
SELECT c.checkpoint_block, '0x' || encode(c.checkpoint_hash, 'hex') AS checkpoint_hash,
       extract(epoch FROM c.checkpoint_time)::bigint AS checkpoint_time, c.cursor,
       h.head_block, h.finalized_block, c.state = 'backfilling' AS backfilling,
       CASE WHEN h.head_block IS NOT NULL THEN greatest(h.head_block - c.checkpoint_block, 0) END AS lag_blocks,
       -- A restored copy beside the original has another oid, and goes its own way from then on.
       md5(i.id || ':' || d.oid)::uuid::text AS database,
       '0x' || encode(identity_of(c.chain_id, NULL), 'hex') AS first_identity,
       (SELECT count(*) FROM changes x
        WHERE x.chain_id = c.chain_id AND x.cursor > $2::bigint
          AND x.cursor <= least($2::bigint + $3::bigint, c.cursor)) AS held
FROM chains c
LEFT JOIN heads h USING (chain_id)
CROSS JOIN database_identity i
JOIN pg_database d ON d.datname = current_database()
WHERE c.chain_id = $1;

-- name: publish_entries
-- The stream's entries of a stretch of the feed, with their fields in order; `refresh` has none.
SELECT cursor, kind, event, block_number, block_hash, log_index, agent_id::text AS agent_id, registry, args::text AS args
FROM erc8004.erc8004_changes
WHERE chain_id = $1 AND cursor > $2 AND cursor <= $3
ORDER BY cursor;

-- name: publish_touched
-- Every agent that a stretch of the feed is about, once; read page by page. One whose logs are all gone is told by those
-- that were taken back.
DECLARE touched NO SCROLL CURSOR FOR
WITH stretch AS (
    SELECT * FROM changes WHERE chain_id = $1 AND cursor > $2 AND cursor <= $3
), named AS (
    SELECT l.agent_uuid, l.agent_id, l.address
    FROM stretch x JOIN logs l USING (chain_id, block_number, log_index) WHERE x.kind = 'event'
    UNION ALL
    SELECT r.agent_uuid, r.agent_id, r.address
    FROM stretch x JOIN reverted_logs r USING (chain_id, cursor) WHERE x.kind = 'revert'
), refreshed AS (
    SELECT DISTINCT unnest(x.agents) AS agent_uuid FROM stretch x WHERE x.kind = 'refresh'
), touched AS (
    SELECT n.agent_uuid, n.agent_id, r.identity
    FROM named n JOIN registries r ON r.chain_id = $1 AND r.address = n.address
    WHERE n.agent_uuid IS NOT NULL
    UNION ALL
    SELECT a.agent_uuid, a.agent_id, a.registry FROM refreshed JOIN agents a USING (agent_uuid)
    UNION ALL
    SELECT a.agent_uuid, a.agent_id, a.registry
    FROM agents a
    WHERE a.chain_id = $1 AND EXISTS (SELECT FROM stretch x WHERE x.kind = 'refresh' AND x.agents IS NULL)
)
SELECT DISTINCT ON (t.agent_uuid) t.agent_uuid, t.agent_id::text AS agent_id, '0x' || encode(t.identity, 'hex') AS registry
FROM touched t
ORDER BY t.agent_uuid;

-- name: publish_all_agents
DECLARE touched NO SCROLL CURSOR FOR
SELECT agent_uuid, agent_id::text AS agent_id, '0x' || encode(registry, 'hex') AS registry FROM agents WHERE chain_id = $1;

-- name: publish_close
CLOSE touched;

-- name: publish_agents
-- The figures of some agents, each looked up by its key: a page of them must not read the tables of all (hence OFFSET 0).
-- `average_value` is erc8004_summary over all clients (sql/views/00_functions.sql).
WITH wanted AS MATERIALIZED (
    SELECT a.agent_uuid, a.owner, a.wallet, a.token_uri, (
               SELECT r.address FROM registries r
               WHERE r.chain_id = a.chain_id AND r.kind = 'reputation' AND r.identity = a.registry
               ORDER BY r.active DESC, r.position LIMIT 1) AS reputation
    FROM agents a
    WHERE a.agent_uuid = ANY ($1::uuid[])
)
SELECT w.agent_uuid,
       '0x' || encode(w.owner, 'hex') AS owner,
       '0x' || encode(w.wallet, 'hex') AS wallet,
       w.token_uri AS uri,
       coalesce(s.feedback, 0) AS feedback_count,
       coalesce(s.revoked, 0) AS revoked_count,
       coalesce(
           ((mod(mod(c.value + c.shift, 2 * c.shift) + 2 * c.shift, 2 * c.shift) - c.shift) || 'e-' || v.decimals)::numeric,
           0)::text AS average_value,
       s.average_score::text AS average_score,
       coalesce(s.clients, 0) AS unique_clients,
       coalesce(s.validations, 0) AS validation_count,
       round(s.response_sum / nullif(s.answered, 0), 4)::text AS validation_average,
       s.last_activity_block
FROM wanted w
LEFT JOIN LATERAL (SELECT * FROM agent_stats s WHERE s.agent_uuid = w.agent_uuid OFFSET 0) s ON true
LEFT JOIN LATERAL (
    SELECT sum(v.feedback) AS count, sum(v.value_sum * ('1e' || 18 - v.value_decimals)::numeric) AS total,
           (array_agg(v.value_decimals ORDER BY v.feedback DESC, v.value_decimals))[1] AS decimals
    FROM agent_values v
    WHERE v.agent_uuid = w.agent_uuid AND v.registry = w.reputation AND v.feedback > 0
) v ON true
CROSS JOIN LATERAL (
    SELECT div(div(v.total, v.count), ('1e' || 18 - v.decimals)::numeric) AS value,
           170141183460469231731687303715884105728 AS shift
) c;

-- name: publish_stats
SELECT agents, feedback, revoked, responses, validations FROM chain_totals WHERE chain_id = $1;

-- name: publish_known
-- Which of these agents there are.
SELECT agent_id::text AS agent_id, '0x' || encode(registry, 'hex') AS registry
FROM agents WHERE chain_id = $1 AND agent_uuid = ANY ($2::uuid[]);
