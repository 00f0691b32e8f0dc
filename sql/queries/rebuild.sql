-- name: rebuild_chain
-- What is settled can be read at leisure; above it a reorg may take back what was read. Where finality is not known, all.
SELECT start_block, checkpoint_block, checkpoint_hash, cursor, rewrites, reorgs,
       CASE WHEN proven_final < 0 THEN checkpoint_block ELSE least(proven_final, checkpoint_block) END AS settled_block
FROM chains WHERE chain_id = $1;

-- name: rebuild_lock
-- Writers wait from here on.
SELECT chain_id FROM chains WHERE chain_id = $1 FOR UPDATE;

-- name: rebuild_patience
-- Who waits for us is not kept waiting by a process that froze.
SET LOCAL idle_in_transaction_session_timeout = '30s';

-- name: taken_back
-- Whether logs up to block $3 were taken back, or replaced, after cursor $2.
SELECT EXISTS (SELECT FROM reverted_logs WHERE chain_id = $1 AND cursor > $2 AND block_number <= $3);

-- name: contracts_changed
-- Whether the shadow was made for other contracts than there are now.
SELECT EXISTS (
    SELECT address, kind, identity FROM erc8004_data.registries WHERE chain_id = $1
    EXCEPT SELECT address, kind, identity FROM pg_temp.registries WHERE chain_id = $1
) OR EXISTS (
    SELECT address, kind, identity FROM pg_temp.registries WHERE chain_id = $1
    EXCEPT SELECT address, kind, identity FROM erc8004_data.registries WHERE chain_id = $1
);

-- name: table_columns
-- Those that can be written, for each of the tables $2.
SELECT c.relname AS table_name, array_agg(a.attname::text ORDER BY a.attnum) AS columns
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
WHERE n.nspname = $1 AND c.relname = ANY ($2::text[])
GROUP BY c.relname;

-- name: merge_logs
-- What is decoded of a log; its raw data stays.
UPDATE erc8004_data.logs l SET
    block_timestamp = d.block_timestamp, agent_uuid = d.agent_uuid, agent_id = d.agent_id, event = d.event,
    event_version = d.event_version, args = d.args, defect = d.defect
FROM pg_temp.differing_logs d
WHERE (l.chain_id, l.block_number, l.log_index) = (d.chain_id, d.block_number, d.log_index);

-- name: mark_rewritten
UPDATE chains SET cursor = $2, rewrites = rewrites + 1 WHERE chain_id = $1;
