-- Count responses at the feedback they mean (newest epoch at that moment, given before) and at the agent.
WITH scope AS MATERIALIZED (
    SELECT r.* FROM feedback_responses r
    WHERE r.chain_id = $1 AND r.block_number BETWEEN $2 AND $3 AND ($4::uuid[] IS NULL OR r.agent_uuid = ANY ($4))
), matched AS (
    SELECT f.chain_id, f.block_number, f.log_index, count(*) AS responses
    FROM scope r
    JOIN feedback f ON (f.agent_uuid, f.client, f.feedback_index) = (r.agent_uuid, r.client, r.feedback_index)
                   AND f.registry = r.registry
                   AND (f.block_number, f.log_index) < (r.block_number, r.log_index)
    WHERE NOT EXISTS (
        SELECT FROM agent_clients c
        JOIN feedback g ON (g.agent_uuid, g.registry, g.client) = (c.agent_uuid, c.registry, c.client)
        WHERE (c.agent_uuid, c.registry, c.client) = (f.agent_uuid, f.registry, f.client) AND c.epoch > f.epoch
          AND g.epoch > f.epoch AND (g.block_number, g.log_index) < (r.block_number, r.log_index))
    GROUP BY f.chain_id, f.block_number, f.log_index
), counted AS (
    UPDATE feedback f SET response_count = f.response_count + m.responses
    FROM matched m
    WHERE (f.chain_id, f.block_number, f.log_index) = (m.chain_id, m.block_number, m.log_index)
)
UPDATE agent_stats s SET responses = s.responses + r.responses
FROM (SELECT agent_uuid, count(*) AS responses FROM scope GROUP BY agent_uuid) r
WHERE s.agent_uuid = r.agent_uuid;
