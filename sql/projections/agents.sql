-- Every agent that a log names has a row, `partial` until its registration is seen.
INSERT INTO agents (agent_uuid, chain_id, registry, agent_id)
SELECT DISTINCT ON (l.agent_uuid) l.agent_uuid, l.chain_id, r.identity, l.agent_id
FROM logs l
JOIN registries r ON r.chain_id = l.chain_id AND r.address = l.address
WHERE l.chain_id = $1 AND l.block_number BETWEEN $2 AND $3 AND ($4::uuid[] IS NULL OR l.agent_uuid = ANY ($4))
  AND l.agent_uuid IS NOT NULL
ON CONFLICT (agent_uuid) DO NOTHING;
