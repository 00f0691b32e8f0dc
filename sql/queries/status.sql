-- name: read_status
-- What is not known yet is null: without a head there is no lag, and without a first block no lag in seconds.
SELECT s.chain_id, s.chain, s.state, s.head_block, s.finalized_block,
       s.checkpoint_block, s.checkpoint_hash, s.checkpoint_time,
       CASE WHEN s.head_block IS NOT NULL THEN s.lag_blocks END AS lag_blocks,
       CASE WHEN h.head_time IS NOT NULL AND s.checkpoint_time IS NOT NULL THEN s.lag_seconds END::double precision
           AS lag_seconds,
       s.gap_blocks, s.proof, s.undecodable_logs, c.reorgs, c.cursor,
       h.providers, h.warnings, h.publisher, h.max_lag_s, l.holder, s.halt_reason, s.updated_at
FROM erc8004.v_erc8004_indexer_status s
JOIN chains c USING (chain_id)
LEFT JOIN heads h USING (chain_id)
LEFT JOIN leases l ON l.chain_id = s.chain_id AND l.expires_at > clock_timestamp()
ORDER BY s.chain, s.chain_id;
