-- Take back what does not count: revoked feedback, and all of a pair's epochs but the newest. A revocation means the
-- newest epoch of its pair at that moment, and feedback given before it. Figures move by each row's change alone.
WITH replaced AS (
    SELECT f.chain_id, f.block_number, f.log_index, NULL::timestamptz AS revoked_at, 2 AS becomes
    FROM agent_clients c
    JOIN feedback f ON (f.agent_uuid, f.registry, f.client) = (c.agent_uuid, c.registry, c.client)
    WHERE c.epoch > 0 AND f.epoch < c.epoch AND f.standing <> 2
      AND (c.agent_uuid, c.registry, c.client) IN (
          SELECT s.agent_uuid, s.registry, s.client FROM feedback s
          WHERE s.chain_id = $1 AND s.block_number BETWEEN $2 AND $3 AND s.epoch > 0
            AND ($4::uuid[] IS NULL OR s.agent_uuid = ANY ($4)))
), revoked AS (
    SELECT f.chain_id, f.block_number, f.log_index, min(r.block_timestamp) AS revoked_at, 1 AS becomes
    FROM revocations r
    JOIN feedback f ON (f.agent_uuid, f.client, f.feedback_index) = (r.agent_uuid, r.client, r.feedback_index)
                   AND f.registry = r.registry
                   AND (f.block_number, f.log_index) < (r.block_number, r.log_index)
    WHERE r.chain_id = $1 AND r.block_number BETWEEN $2 AND $3 AND ($4::uuid[] IS NULL OR r.agent_uuid = ANY ($4))
      AND f.revoked_at IS NULL
      AND NOT EXISTS (
          SELECT FROM agent_clients c
          JOIN feedback g ON (g.agent_uuid, g.registry, g.client) = (c.agent_uuid, c.registry, c.client)
          WHERE (c.agent_uuid, c.registry, c.client) = (f.agent_uuid, f.registry, f.client) AND c.epoch > f.epoch
            AND g.epoch > f.epoch AND (g.block_number, g.log_index) < (r.block_number, r.log_index))
    GROUP BY f.chain_id, f.block_number, f.log_index
), changed AS MATERIALIZED (
    SELECT f.chain_id, f.block_number, f.log_index, f.agent_uuid, f.registry, f.client, f.value_raw, f.value_decimals,
           CASE WHEN f.value BETWEEN 0 AND 100 THEN f.value END AS score, f.standing AS was, x.becomes, x.revoked_at
    FROM (SELECT chain_id, block_number, log_index, max(becomes) AS becomes, max(revoked_at) AS revoked_at
          FROM (SELECT * FROM replaced UNION ALL SELECT * FROM revoked) u
          GROUP BY chain_id, block_number, log_index) x
    JOIN feedback f USING (chain_id, block_number, log_index)
), marked AS (
    UPDATE feedback f SET standing = c.becomes, revoked_at = coalesce(f.revoked_at, c.revoked_at)
    FROM changed c
    WHERE (f.chain_id, f.block_number, f.log_index) = (c.chain_id, c.block_number, c.log_index)
), pair_parts AS MATERIALIZED (
    SELECT c.agent_uuid, c.registry, c.client, count(*) FILTER (WHERE c.was = 0) AS gone,
           count(*) FILTER (WHERE c.becomes = 1) - count(*) FILTER (WHERE c.was = 1) AS revoked
    FROM changed c
    GROUP BY c.agent_uuid, c.registry, c.client
), left_behind AS (
    SELECT p.agent_uuid, count(*) AS clients
    FROM pair_parts p JOIN agent_clients k USING (agent_uuid, registry, client)
    WHERE k.feedback > 0 AND k.feedback = p.gone
    GROUP BY p.agent_uuid
), pairs AS (
    UPDATE agent_clients k SET feedback = k.feedback - p.gone, revoked = k.revoked + p.revoked
    FROM pair_parts p
    WHERE (k.agent_uuid, k.registry, k.client) = (p.agent_uuid, p.registry, p.client)
), summed AS (
    UPDATE agent_values v SET feedback = v.feedback - c.feedback, value_sum = v.value_sum - c.value_sum
    FROM (SELECT agent_uuid, registry, value_decimals, count(*) AS feedback, sum(value_raw) AS value_sum
          FROM changed WHERE was = 0 GROUP BY agent_uuid, registry, value_decimals) c
    WHERE (v.agent_uuid, v.registry, v.value_decimals) = (c.agent_uuid, c.registry, c.value_decimals)
), figures AS (
    SELECT c.agent_uuid, count(*) FILTER (WHERE c.was = 0) AS gone,
           count(*) FILTER (WHERE c.becomes = 1) - count(*) FILTER (WHERE c.was = 1) AS revoked,
           count(c.score) FILTER (WHERE c.was = 0) AS scored,
           coalesce(sum(c.score) FILTER (WHERE c.was = 0), 0) AS score_sum,
           count(*) FILTER (WHERE c.was = 0 AND c.score >= 80) AS positive,
           count(*) FILTER (WHERE c.was = 0 AND c.score < 50) AS negative
    FROM changed c
    GROUP BY c.agent_uuid
)
UPDATE agent_stats s SET
    feedback = s.feedback - f.gone,
    revoked = s.revoked + f.revoked,
    scored = s.scored - f.scored,
    score_sum = s.score_sum - f.score_sum,
    positive = s.positive - f.positive,
    negative = s.negative - f.negative,
    clients = s.clients - coalesce(b.clients, 0)
FROM figures f LEFT JOIN left_behind b USING (agent_uuid)
WHERE s.agent_uuid = f.agent_uuid;
