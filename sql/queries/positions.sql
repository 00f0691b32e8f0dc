-- name: stored_below
-- The newest block up to $2 whose hash is known, from its header or from a log.
SELECT block_number, block_hash FROM (
    (SELECT block_number, block_hash FROM blocks
     WHERE chain_id = $1 AND block_number <= $2 ORDER BY block_number DESC LIMIT 1)
    UNION ALL
    (SELECT block_number, block_hash FROM logs
     WHERE chain_id = $1 AND block_number <= $2 ORDER BY block_number DESC LIMIT 1)
) stored
ORDER BY block_number DESC LIMIT 1;

-- name: covered_blocks
-- The intervals of these contracts at level $2, as far as they reach up to block $3.
SELECT DISTINCT from_block, least(to_block, $3::bigint) AS to_block FROM coverage
WHERE chain_id = $1 AND proof = $2 AND from_block <= $3 AND address = ANY ($4::bytea[]);

-- name: next_with_logs
SELECT block_number FROM logs WHERE chain_id = $1 AND block_number BETWEEN $2 AND $3
ORDER BY block_number, log_index LIMIT 1;
