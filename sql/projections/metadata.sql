-- The current value of each key: the last write that applies.
INSERT INTO agent_metadata AS m
    (agent_uuid, key_hash, chain_id, key, key_raw, value, updated_at, block_number, log_index)
SELECT DISTINCT ON (w.agent_uuid, w.key_hash)
       w.agent_uuid, w.key_hash, w.chain_id, w.key, w.key_raw, w.value, w.block_timestamp, w.block_number, w.log_index
FROM metadata_writes w
WHERE w.chain_id = $1 AND w.block_number BETWEEN $2 AND $3 AND ($4::uuid[] IS NULL OR w.agent_uuid = ANY ($4))
  AND w.applies
ORDER BY w.agent_uuid, w.key_hash, w.block_number DESC, w.log_index DESC
ON CONFLICT (agent_uuid, key_hash) DO UPDATE SET
    value = excluded.value,
    updated_at = excluded.updated_at,
    block_number = excluded.block_number,
    log_index = excluded.log_index;
