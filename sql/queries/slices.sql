-- name: read_version
SELECT rewrites, reorgs, proven_final FROM chains WHERE chain_id = $1;

-- name: read_frame
-- As lock_chain, without waiting for any writer.
SELECT checkpoint_block, state, rewrites, reorgs FROM chains WHERE chain_id = $1;

-- name: held_between
SELECT block_number, block_hash, parent_hash FROM blocks WHERE chain_id = $1 AND block_number BETWEEN $2 AND $3;

-- name: slice_logs
-- What the ledger has of these contracts, and whatever stands where a fetched log would come to stand.
SELECT block_number, log_index, tx_index, block_timestamp, agent_uuid, address, block_hash, tx_hash, topics, data, event
FROM logs
WHERE chain_id = $1 AND block_number BETWEEN $2 AND $3
  AND (address = ANY ($4::bytea[]) OR (block_number, log_index) IN (SELECT * FROM unnest($5::bigint[], $6::int[])))
ORDER BY block_number, log_index;

-- name: archive_positions
-- As archive_logs, for single logs: newest first, numbered from $4 + 1.
WITH taken AS (
    DELETE FROM logs
    WHERE chain_id = $1 AND (block_number, log_index) IN (SELECT * FROM unnest($2::bigint[], $3::int[])) RETURNING *
), archived AS (
    INSERT INTO reverted_logs (chain_id, block_number, log_index, tx_index, block_timestamp, agent_uuid, agent_id,
        address, block_hash, tx_hash, topics, data, event, event_version, args, defect, cursor)
    SELECT t.chain_id, t.block_number, t.log_index, t.tx_index, t.block_timestamp, t.agent_uuid, t.agent_id,
           t.address, t.block_hash, t.tx_hash, t.topics, t.data, t.event, t.event_version, t.args, t.defect,
           $4::bigint + row_number() OVER (ORDER BY t.block_number DESC, t.log_index DESC)
    FROM taken t
    RETURNING chain_id, cursor, block_number, block_hash, log_index
)
INSERT INTO changes (chain_id, cursor, kind, from_block, block_number, block_hash, log_index)
SELECT chain_id, cursor, 'revert', block_number, block_number, block_hash, log_index FROM archived;

-- name: announce_positions
-- An `event` for each of these logs, numbered from $5 + 1 in the order given.
INSERT INTO changes (chain_id, cursor, kind, from_block, block_number, block_hash, log_index)
SELECT $1, $5::bigint + n.place, 'event', n.block_number, n.block_number, n.block_hash, n.log_index
FROM unnest($2::bigint[], $3::int[], $4::bytea[]) WITH ORDINALITY AS n (block_number, log_index, block_hash, place);

-- name: agents_above
-- Those of some agents that have a log at block $3 or above.
SELECT a.agent_uuid FROM unnest($2::uuid[]) AS a (agent_uuid)
WHERE EXISTS (
    SELECT FROM logs l WHERE l.chain_id = $1 AND l.agent_uuid = a.agent_uuid AND l.block_number >= $3);

-- name: note_rewrite
-- Not a sign of life: the checkpoint stays where it is.
UPDATE chains SET rewrites = rewrites + 1, cursor = $2 WHERE chain_id = $1;

-- name: drop_transfers
DELETE FROM transfers WHERE chain_id = $1 AND (block_number, log_index) IN (SELECT * FROM unnest($2::bigint[], $3::int[]));

-- name: drop_uris
DELETE FROM uris WHERE chain_id = $1 AND (block_number, log_index) IN (SELECT * FROM unnest($2::bigint[], $3::int[]));

-- name: drop_metadata_writes
DELETE FROM metadata_writes
WHERE chain_id = $1 AND (block_number, log_index) IN (SELECT * FROM unnest($2::bigint[], $3::int[]));

-- name: drop_approvals
DELETE FROM approvals WHERE chain_id = $1 AND (block_number, log_index) IN (SELECT * FROM unnest($2::bigint[], $3::int[]));

-- name: drop_operator_approvals
DELETE FROM operator_approvals
WHERE chain_id = $1 AND (block_number, log_index) IN (SELECT * FROM unnest($2::bigint[], $3::int[]));

-- name: drop_feedback
DELETE FROM feedback WHERE chain_id = $1 AND (block_number, log_index) IN (SELECT * FROM unnest($2::bigint[], $3::int[]));

-- name: drop_revocations
DELETE FROM revocations
WHERE chain_id = $1 AND (block_number, log_index) IN (SELECT * FROM unnest($2::bigint[], $3::int[]));

-- name: drop_feedback_responses
DELETE FROM feedback_responses
WHERE chain_id = $1 AND (block_number, log_index) IN (SELECT * FROM unnest($2::bigint[], $3::int[]));

-- name: drop_validation_requests
DELETE FROM validation_requests
WHERE chain_id = $1 AND (block_number, log_index) IN (SELECT * FROM unnest($2::bigint[], $3::int[]));

-- name: drop_validation_responses
DELETE FROM validation_responses
WHERE chain_id = $1 AND (block_number, log_index) IN (SELECT * FROM unnest($2::bigint[], $3::int[]));

-- name: read_mark
-- Whoever asks again a day later wants to know how things are now.
SELECT from_block, to_block, next_block FROM reindexes
WHERE chain_id = $1 AND updated_at > now() - interval '1 day';

-- name: write_mark
INSERT INTO reindexes (chain_id, from_block, to_block, next_block) VALUES ($1, $2, $3, $4)
ON CONFLICT (chain_id) DO UPDATE SET
    from_block = excluded.from_block, to_block = excluded.to_block, next_block = excluded.next_block, updated_at = now();

-- name: clear_mark
DELETE FROM reindexes WHERE chain_id = $1;
