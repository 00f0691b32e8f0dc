-- name: read_coverage
SELECT address, from_block, to_block, proof FROM coverage WHERE chain_id = $1 ORDER BY address, from_block;

-- name: required_coverage
-- What each configured contract must have been fetched for; those that begin above the checkpoint need nothing yet.
SELECT g.address, min(g.start_block) AS from_block, min(least(c.checkpoint_block, $2::bigint)) AS to_block
FROM registries g JOIN chains c USING (chain_id)
WHERE g.chain_id = $1 AND g.active
GROUP BY g.address
HAVING min(g.start_block) <= min(least(c.checkpoint_block, $2::bigint))
ORDER BY min(g.position), g.address;

-- name: touching_coverage
-- Intervals that share a block with a range; one that only touches it too where the bounds given are a block wider.
SELECT address, from_block, to_block, proof FROM coverage
WHERE chain_id = $1 AND address = ANY ($2::bytea[]) AND to_block >= $3 AND from_block <= $4
ORDER BY address, from_block;

-- name: drop_coverage
DELETE FROM coverage
WHERE chain_id = $1 AND (address, from_block) IN (SELECT * FROM unnest($2::bytea[], $3::bigint[]));

-- name: put_coverage
INSERT INTO coverage (chain_id, address, from_block, to_block, proof)
SELECT $1, * FROM unnest($2::bytea[], $3::bigint[], $4::bigint[], $5::text[]);
