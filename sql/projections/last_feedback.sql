-- After standing.sql: the newest feedback that still counts, one index probe an agent.
UPDATE agent_stats s SET last_feedback_at = (
    SELECT f.block_timestamp FROM feedback f
    WHERE f.agent_uuid = s.agent_uuid AND f.standing = 0
    ORDER BY f.block_number DESC, f.log_index DESC LIMIT 1)
WHERE s.agent_uuid IN (
    SELECT r.agent_uuid FROM revocations r
    WHERE r.chain_id = $1 AND r.block_number BETWEEN $2 AND $3 AND ($4::uuid[] IS NULL OR r.agent_uuid = ANY ($4))
    UNION
    SELECT f.agent_uuid FROM feedback f
    WHERE f.chain_id = $1 AND f.block_number BETWEEN $2 AND $3 AND ($4::uuid[] IS NULL OR f.agent_uuid = ANY ($4)));
