-- name: touched_agents
SELECT array_agg(DISTINCT agent_uuid) FROM logs WHERE chain_id = $1 AND block_number > $2 AND agent_uuid IS NOT NULL;

-- name: archive_logs
-- Newest first, as they are taken back; numbered from $3 + 1. Returns how many, and how many were not decodable.
WITH taken AS (
    DELETE FROM logs WHERE chain_id = $1 AND block_number > $2 RETURNING *
), archived AS (
    INSERT INTO reverted_logs (chain_id, block_number, log_index, tx_index, block_timestamp, agent_uuid, agent_id,
        address, block_hash, tx_hash, topics, data, event, event_version, args, defect, cursor)
    SELECT t.chain_id, t.block_number, t.log_index, t.tx_index, t.block_timestamp, t.agent_uuid, t.agent_id,
           t.address, t.block_hash, t.tx_hash, t.topics, t.data, t.event, t.event_version, t.args, t.defect,
           $3::bigint + row_number() OVER (ORDER BY t.block_number DESC, t.log_index DESC)
    FROM taken t
    RETURNING chain_id, cursor, block_number, block_hash, log_index, event
), added AS (
    INSERT INTO changes (chain_id, cursor, kind, from_block, block_number, block_hash, log_index)
    SELECT chain_id, cursor, 'revert', block_number, block_number, block_hash, log_index FROM archived
)
SELECT count(*) AS logs, count(*) FILTER (WHERE event IS NULL) AS undecodable FROM archived;

-- name: delete_blocks
DELETE FROM blocks WHERE chain_id = $1 AND block_number > $2;

-- name: rewind_checkpoint
-- Who fetched blocks before knows of reorgs by their count, and that they end at what was final: one that went deeper, as
-- the lifting of a halt may, is a rewrite.
UPDATE chains SET
    checkpoint_block = $2, checkpoint_hash = $3, checkpoint_time = $4, cursor = $5, reorgs = reorgs + 1,
    rewrites = rewrites + (proven_final > $2::bigint)::int, updated_at = now()
WHERE chain_id = $1;

-- name: keep_ancestor
-- Headers as old as a halt's ancestor were dropped long ago; the next block must join this one.
INSERT INTO blocks (chain_id, block_number, block_hash, parent_hash, block_timestamp) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (chain_id, block_number) DO NOTHING;

-- name: lift_halt
-- What was final on the branch that was left is so no more. Who was told of rows is told of those that take their place,
-- whoever indexes them: a chain that was live goes on as one.
UPDATE chains SET
    state = CASE WHEN announced_final < 0 THEN 'backfilling' ELSE 'live' END, halt_reason = NULL,
    proven_final = least(proven_final, $2::bigint), announced_final = least(announced_final, $2::bigint), updated_at = now()
WHERE chain_id = $1;

-- name: forget_final
-- The only time that it goes down: else every new block up to the old one would count as final at once.
UPDATE heads SET finalized_block = nullif(least(finalized_block, $2::bigint), -1) WHERE chain_id = $1;

-- name: delete_transfers
DELETE FROM transfers WHERE chain_id = $1 AND block_number > $2;

-- name: delete_uris
DELETE FROM uris WHERE chain_id = $1 AND block_number > $2;

-- name: delete_metadata_writes
DELETE FROM metadata_writes WHERE chain_id = $1 AND block_number > $2;

-- name: delete_approvals
DELETE FROM approvals WHERE chain_id = $1 AND block_number > $2;

-- name: delete_operator_approvals
DELETE FROM operator_approvals WHERE chain_id = $1 AND block_number > $2;

-- name: delete_feedback
DELETE FROM feedback WHERE chain_id = $1 AND block_number > $2;

-- name: delete_revocations
DELETE FROM revocations WHERE chain_id = $1 AND block_number > $2;

-- name: delete_feedback_responses
DELETE FROM feedback_responses WHERE chain_id = $1 AND block_number > $2;

-- name: delete_validation_requests
DELETE FROM validation_requests WHERE chain_id = $1 AND block_number > $2;

-- name: delete_validation_responses
DELETE FROM validation_responses WHERE chain_id = $1 AND block_number > $2;

-- name: clear_agents
DELETE FROM agents WHERE agent_uuid = ANY ($1::uuid[]);

-- name: clear_agent_stats
DELETE FROM agent_stats WHERE agent_uuid = ANY ($1::uuid[]);

-- name: clear_agent_clients
DELETE FROM agent_clients WHERE agent_uuid = ANY ($1::uuid[]);

-- name: clear_agent_values
DELETE FROM agent_values WHERE agent_uuid = ANY ($1::uuid[]);

-- name: clear_agent_metadata
DELETE FROM agent_metadata WHERE agent_uuid = ANY ($1::uuid[]);

-- name: clear_agent_days
DELETE FROM agent_days WHERE agent_uuid = ANY ($1::uuid[]);

-- name: clear_feedback
-- State columns only, and only where they moved.
UPDATE feedback SET
    feedback_index = CASE WHEN has_index THEN feedback_index ELSE 0 END,
    epoch = 0, standing = 0, revoked_at = NULL, response_count = 0
WHERE agent_uuid = ANY ($1::uuid[])
  AND (NOT has_index OR epoch <> 0 OR standing <> 0 OR revoked_at IS NOT NULL OR response_count <> 0);

-- name: clear_validation_requests
UPDATE validation_requests SET
    answer_block = NULL, answer_log = NULL, responded_at = NULL, response = NULL, response_count = 0
WHERE agent_uuid = ANY ($1::uuid[]) AND response_count <> 0;
