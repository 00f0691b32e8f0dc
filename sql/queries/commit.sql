-- name: insert_blocks
INSERT INTO blocks (chain_id, block_number, block_hash, parent_hash, block_timestamp)
SELECT $1, * FROM unnest($2::bigint[], $3::bytea[], $4::bytea[], $5::timestamptz[])
ON CONFLICT (chain_id, block_number) DO UPDATE SET
    block_hash = excluded.block_hash, parent_hash = excluded.parent_hash, block_timestamp = excluded.block_timestamp;

-- name: prune_blocks
-- The newest block that is final stays: by its hash a node proves that it is on our chain.
DELETE FROM blocks WHERE chain_id = $1 AND block_number < (
    SELECT max(block_number) FROM blocks WHERE chain_id = $1 AND block_number <= $2);

-- name: extend_coverage
-- Lengthen each contract's interval that ends just before; contracts without one get theirs by add_coverage.
UPDATE coverage SET to_block = $3
WHERE chain_id = $1 AND to_block = $2::bigint - 1 AND address = ANY ($4::bytea[]) AND proof = $5
RETURNING address;

-- name: add_coverage
INSERT INTO coverage (chain_id, address, from_block, to_block, proof)
SELECT $1, address, $2, $3, $5 FROM unnest($4::bytea[]) AS address;

-- name: cut_coverage
-- Whole intervals above the ancestor are gone; the one that crosses it is shortened by trim_coverage.
DELETE FROM coverage WHERE chain_id = $1 AND from_block > $2;

-- name: trim_coverage
UPDATE coverage SET to_block = $2 WHERE chain_id = $1 AND to_block > $2;

-- name: advance_checkpoint
UPDATE chains SET
    checkpoint_block = $2, checkpoint_hash = $3, checkpoint_time = $4, state = $5, cursor = $6,
    announced_final = $7, proven_final = greatest(proven_final, $8::bigint), proof = $9, updated_at = now()
WHERE chain_id = $1;

-- name: count_undecodable
INSERT INTO chain_totals AS t (chain_id, undecodable) VALUES ($1, $2)
ON CONFLICT (chain_id) DO UPDATE SET undecodable = t.undecodable + excluded.undecodable;

-- name: announce_logs
-- One change a log, in chain order, numbered from $4 + 1. Returns how many.
WITH added AS (
    INSERT INTO changes (chain_id, cursor, kind, from_block, block_number, block_hash, log_index)
    SELECT l.chain_id, $4::bigint + row_number() OVER (ORDER BY l.block_number, l.log_index), 'event', l.block_number,
           l.block_number, l.block_hash, l.log_index
    FROM logs l
    WHERE l.chain_id = $1 AND l.block_number BETWEEN $2 AND $3
    RETURNING cursor
)
SELECT count(*) FROM added;

-- name: announce
-- A single change: `refresh` of the agents of a backfilled range, or `finalized`.
INSERT INTO changes (chain_id, cursor, kind, from_block, block_number, block_hash, agents)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: notify
SELECT pg_notify('erc8004_changes', $1::text);

-- name: prune_changes
DELETE FROM changes WHERE committed_at < now() - make_interval(secs => $1);
