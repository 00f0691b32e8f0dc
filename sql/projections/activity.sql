-- Any event of an agent is activity; this also makes the row that carries its figures.
INSERT INTO agent_stats AS s (agent_uuid, chain_id, last_activity_at, last_activity_block)
SELECT l.agent_uuid, l.chain_id, max(l.block_timestamp), max(l.block_number)
FROM logs l
WHERE l.chain_id = $1 AND l.block_number BETWEEN $2 AND $3 AND ($4::uuid[] IS NULL OR l.agent_uuid = ANY ($4))
  AND l.agent_uuid IS NOT NULL
GROUP BY l.agent_uuid, l.chain_id
ON CONFLICT (agent_uuid) DO UPDATE SET
    last_activity_at = greatest(s.last_activity_at, excluded.last_activity_at),
    last_activity_block = greatest(s.last_activity_block, excluded.last_activity_block);
