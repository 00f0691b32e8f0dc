-- After standing.sql: the newest feedback that still counts, one index probe an agent. Revocations alone can take it
-- away: what opens an epoch is newer than all that it replaces.
UPDATE agent_stats s SET last_feedback_at = n.last_feedback_at
FROM (
    SELECT a.agent_uuid, (
        SELECT f.block_timestamp FROM feedback f
        WHERE f.agent_uuid = a.agent_uuid AND f.standing = 0
        ORDER BY f.block_number DESC, f.log_index DESC LIMIT 1) AS last_feedback_at
    FROM (SELECT DISTINCT r.agent_uuid FROM revocations r
          WHERE r.chain_id = $1 AND r.block_number BETWEEN $2 AND $3
            AND ($4::uuid[] IS NULL OR r.agent_uuid = ANY ($4))) a
) n
WHERE s.agent_uuid = n.agent_uuid AND s.last_feedback_at IS DISTINCT FROM n.last_feedback_at;
