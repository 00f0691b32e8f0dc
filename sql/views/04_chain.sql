-- Final is what the nodes call final and proved to be on our chain when it was last written.
CREATE VIEW erc8004.erc8004_events AS
SELECT l.chain_id, c.name AS chain, l.block_number, l.log_index,
       '0x' || encode(l.block_hash, 'hex') AS block_hash,
       '0x' || encode(l.tx_hash, 'hex') AS tx_hash,
       l.block_timestamp,
       '0x' || encode(l.address, 'hex') AS address,
       l.event, l.event_version,
       l.agent_uuid, '0x' || encode(a.registry, 'hex') AS registry_address, a.agent_id,
       l.args::jsonb AS args,
       ARRAY(SELECT '0x' || encode(substr(l.topics, 32 * n + 1, 32), 'hex')
             FROM generate_series(0, octet_length(l.topics) / 32 - 1) n ORDER BY n) AS topics,
       l.data, l.defect,
       coalesce(l.block_number <= least(h.finalized_block, c.proven_final), false) AS finalized
FROM logs l
LEFT JOIN agents a ON a.agent_uuid = l.agent_uuid AND a.chain_id = l.chain_id
LEFT JOIN chains c ON c.chain_id = l.chain_id
LEFT JOIN heads h ON h.chain_id = l.chain_id;

CREATE VIEW erc8004.v_erc8004_chain_stats AS
SELECT c.chain_id, c.name AS chain, coalesce(t.agents, 0) AS agents,
       (SELECT count(o.owner) FROM (SELECT DISTINCT a.owner FROM agents a WHERE a.chain_id = c.chain_id) o) AS owners,
       coalesce(t.feedback, 0) AS feedback, coalesce(t.revoked, 0) AS revoked, coalesce(t.responses, 0) AS responses,
       (SELECT count(*) FROM (
            SELECT DISTINCT k.client FROM agent_clients k WHERE k.chain_id = c.chain_id AND k.feedback > 0) k) AS clients,
       coalesce(t.validations, 0) AS validations, coalesce(t.answered, 0) AS answered
FROM chains c
LEFT JOIN chain_totals t USING (chain_id);

CREATE VIEW erc8004.v_erc8004_daily_stats AS
SELECT d.chain_id, c.name AS chain, d.day, sum(d.registrations)::bigint AS registrations,
       sum(d.feedback)::bigint AS feedback, sum(d.revoked)::bigint AS revoked, sum(d.responses)::bigint AS responses,
       sum(d.validations)::bigint AS validations
FROM agent_days d
LEFT JOIN chains c ON c.chain_id = d.chain_id
GROUP BY d.chain_id, c.name, d.day;

-- Blocks between a contract's first and the checkpoint that were not fetched for it; the worst contract speaks for the chain.
CREATE VIEW erc8004.v_erc8004_indexer_status AS
SELECT c.chain_id, c.name AS chain,
       CASE WHEN c.state = 'halted' THEN 'halted'
            WHEN greatest(c.updated_at, h.heartbeat_at) < clock_timestamp() - make_interval(secs => h.stall_after_s)
                THEN 'stalled'
            ELSE c.state END AS state,
       h.head_block, h.finalized_block, c.checkpoint_block,
       '0x' || encode(c.checkpoint_hash, 'hex') AS checkpoint_hash, c.checkpoint_time,
       CASE WHEN h.head_block IS NOT NULL THEN greatest(h.head_block - c.checkpoint_block, 0) END AS lag_blocks,
       CASE WHEN h.head_time IS NOT NULL AND c.checkpoint_time IS NOT NULL
            THEN greatest(extract(epoch FROM h.head_time - c.checkpoint_time), 0) END AS lag_seconds,
       coalesce((SELECT max(greatest(c.checkpoint_block - r.start_block + 1 - r.covered, 0)) FROM (
            SELECT g.start_block,
                   (SELECT coalesce(sum(least(v.to_block, c.checkpoint_block) - greatest(v.from_block, g.start_block) + 1), 0)
                    FROM coverage v
                    WHERE v.chain_id = g.chain_id AND v.address = g.address
                      AND v.to_block >= g.start_block AND v.from_block <= c.checkpoint_block) AS covered
            FROM registries g
            WHERE g.chain_id = c.chain_id AND g.active) r), 0)::bigint AS gap_blocks,
       c.proof,
       coalesce(t.undecodable, 0) AS undecodable_logs,
       greatest(c.updated_at, h.heartbeat_at) AS updated_at,
       c.halt_reason
FROM chains c
LEFT JOIN heads h USING (chain_id)
LEFT JOIN chain_totals t USING (chain_id);

CREATE VIEW erc8004.erc8004_changes AS
SELECT x.chain_id, c.name AS chain, x.cursor, x.kind, coalesce(l.event, v.event) AS event,
       x.block_number, '0x' || encode(x.block_hash, 'hex') AS block_hash, x.log_index,
       coalesce(l.agent_id, v.agent_id) AS agent_id,
       '0x' || encode(coalesce(l.address, v.address), 'hex') AS registry,
       coalesce(l.args, v.args)::jsonb AS args,
       coalesce(l.agent_uuid, v.agent_uuid) AS agent_uuid,
       -- By the contract, as an agent whose logs were all taken back has no row any more.
       (SELECT '0x' || encode(g.identity, 'hex') FROM registries g
        WHERE g.chain_id = x.chain_id AND g.address = coalesce(l.address, v.address)
          AND coalesce(l.agent_uuid, v.agent_uuid) IS NOT NULL
        ORDER BY g.active DESC, g.position LIMIT 1) AS registry_address,
       x.committed_at
FROM changes x
LEFT JOIN logs l ON (l.chain_id, l.block_number, l.log_index) = (x.chain_id, x.block_number, x.log_index)
                AND l.block_hash = x.block_hash AND x.kind <> 'revert'
-- What a `revert` took back may have been corrected at the same place; an `event` that is gone was taken back last.
LEFT JOIN LATERAL (
    SELECT * FROM reverted_logs r
    WHERE (r.chain_id, r.block_number, r.log_index) = (x.chain_id, x.block_number, x.log_index)
      AND r.block_hash = x.block_hash AND l.chain_id IS NULL
    ORDER BY r.cursor = x.cursor DESC, r.cursor DESC LIMIT 1) v ON true
LEFT JOIN chains c ON c.chain_id = x.chain_id
WHERE x.kind <> 'refresh';
