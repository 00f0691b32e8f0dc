-- Requests count at their agent; each answer overwrites the request's last one. 0 is an answer like any other.
WITH asked AS (
    SELECT q.agent_uuid, count(*) AS validations
    FROM validation_requests q
    WHERE q.chain_id = $1 AND q.block_number BETWEEN $2 AND $3 AND ($4::uuid[] IS NULL OR q.agent_uuid = ANY ($4))
    GROUP BY q.agent_uuid
), answers AS (
    SELECT q.chain_id, q.block_number, q.log_index, q.agent_uuid, q.response AS was, q.responded_at AS was_at,
           r.block_number AS answer_block, r.log_index AS answer_log, r.block_timestamp AS answered_at, r.response
    FROM validation_responses r
    JOIN LATERAL (
        SELECT * FROM validation_requests q
        -- By the hash alone, whatever the planner believes of agents with few requests: the other indexes do not serve it.
        WHERE q.request_hash = r.request_hash AND q.registry = r.registry
          AND q.chain_id IS NOT DISTINCT FROM r.chain_id AND q.agent_uuid IS NOT DISTINCT FROM r.agent_uuid
          AND (q.block_number, q.log_index) < (r.block_number, r.log_index)
        ORDER BY q.block_number DESC, q.log_index DESC LIMIT 1
    ) q ON true
    WHERE r.chain_id = $1 AND r.block_number BETWEEN $2 AND $3 AND ($4::uuid[] IS NULL OR r.agent_uuid = ANY ($4))
), latest AS MATERIALIZED (
    SELECT DISTINCT ON (chain_id, block_number, log_index) a.*,
           count(*) OVER (PARTITION BY chain_id, block_number, log_index) AS responses
    FROM answers a
    ORDER BY chain_id, block_number, log_index, answer_block DESC, answer_log DESC
), written AS (
    UPDATE validation_requests q SET
        answer_block = l.answer_block,
        answer_log = l.answer_log,
        responded_at = l.answered_at,
        response = l.response,
        response_count = q.response_count + l.responses
    FROM latest l
    WHERE (q.chain_id, q.block_number, q.log_index) = (l.chain_id, l.block_number, l.log_index)
), answered AS (
    SELECT agent_uuid, count(*) FILTER (WHERE was_at IS NULL) AS answered, sum(response - coalesce(was, 0)) AS response_sum
    FROM latest
    GROUP BY agent_uuid
)
UPDATE agent_stats s SET
    validations = s.validations + coalesce(q.validations, 0),
    answered = s.answered + coalesce(a.answered, 0),
    response_sum = s.response_sum + coalesce(a.response_sum, 0)
FROM asked q FULL JOIN answered a USING (agent_uuid)
WHERE s.agent_uuid = coalesce(q.agent_uuid, a.agent_uuid);
