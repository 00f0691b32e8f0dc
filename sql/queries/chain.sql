-- name: writer_lock
-- Marks this transaction as the chain's writer, so that a take-over can find and end one that was frozen.
SELECT pg_advisory_xact_lock(8004, hashtext($1::bigint::text));

-- name: lock_chain
-- Writers take turns at this row; what it says holds until the transaction ends.
SELECT checkpoint_block, checkpoint_hash, cursor, announced_final, state, rewrites, reorgs FROM chains
WHERE chain_id = $1 FOR UPDATE;

-- name: lease_epoch
-- Read after the lock: a take-over that committed meanwhile is seen.
SELECT holder, epoch FROM leases WHERE chain_id = $1;

-- name: upsert_chain
-- The first block goes down only: a contract that was added may have begun earlier. As long as nothing was stored, the chain
-- begins there; later, what lies below is a gap. The level of proof is the last batch's.
INSERT INTO chains (chain_id, name, start_block, checkpoint_block, proof) VALUES ($1, $2, $3::bigint, $3::bigint - 1, $4)
ON CONFLICT (chain_id) DO UPDATE SET
    name = excluded.name, start_block = least(chains.start_block, excluded.start_block), updated_at = now(),
    checkpoint_block = CASE
        WHEN chains.checkpoint_hash IS NULL AND NOT EXISTS (SELECT FROM coverage v WHERE v.chain_id = excluded.chain_id)
            THEN least(chains.checkpoint_block, excluded.checkpoint_block)
        ELSE chains.checkpoint_block END
WHERE chains.name <> excluded.name OR chains.start_block > excluded.start_block;

-- name: ensure_head
INSERT INTO heads (chain_id, max_lag_s, stall_after_s) VALUES ($1, $2, $3)
ON CONFLICT (chain_id) DO UPDATE SET max_lag_s = excluded.max_lag_s, stall_after_s = excluded.stall_after_s;

-- name: retire_registries
UPDATE registries SET active = false WHERE chain_id = $1;

-- name: upsert_registry
INSERT INTO registries (chain_id, address, kind, identity, position, start_block) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (chain_id, address, kind) DO UPDATE SET
    identity = excluded.identity, position = excluded.position, start_block = excluded.start_block, active = true;

-- name: read_chain
SELECT checkpoint_block, checkpoint_hash, state, halt_reason, start_block, proven_final FROM chains WHERE chain_id = $1;

-- name: read_providers
SELECT providers FROM heads WHERE chain_id = $1;

-- name: held_blocks
-- Oldest first.
SELECT block_number, block_hash, parent_hash, block_timestamp FROM blocks WHERE chain_id = $1 ORDER BY block_number;

-- name: observe_head
-- A finalized block never goes down, whatever a node says. $6: the chain gets on; hearing a node alone is no sign of that.
UPDATE heads SET
    head_block = $2,
    head_time = $3,
    finalized_block = greatest(finalized_block, $4::bigint),
    providers = $5,
    heartbeat_at = CASE WHEN $6 THEN clock_timestamp() ELSE heartbeat_at END
WHERE chain_id = $1
RETURNING finalized_block;

-- name: set_warnings
UPDATE heads SET warnings = $2 WHERE chain_id = $1;

-- name: halt_chain
UPDATE chains SET state = 'halted', halt_reason = $2, updated_at = now() WHERE chain_id = $1;

-- name: set_publisher
UPDATE heads SET publisher = $2 WHERE chain_id = $1;
