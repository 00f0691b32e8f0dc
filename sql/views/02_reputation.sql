CREATE VIEW erc8004.erc8004_reputation AS
SELECT f.agent_uuid, f.chain_id, c.name AS chain, '0x' || encode(a.registry, 'hex') AS registry_address, a.agent_id,
       '0x' || encode(f.registry, 'hex') AS reputation_registry,
       '0x' || encode(f.client, 'hex') AS client_address,
       f.feedback_index, f.epoch, f.value_raw, f.value_decimals, f.value,
       CASE WHEN f.value BETWEEN 0 AND 100 THEN f.value END AS score,
       f.tag1, f.tag1_raw, f.tag2, f.tag2_raw,
       '0x' || encode(f.tag1_hash, 'hex') AS tag1_hash,
       f.endpoint, f.endpoint_raw, f.file_uri, f.file_uri_raw,
       '0x' || encode(f.file_hash, 'hex') AS file_hash,
       f.revoked_at IS NOT NULL AS is_revoked, f.revoked_at, f.response_count,
       f.block_number, f.log_index,
       '0x' || encode(l.tx_hash, 'hex') AS tx_hash,
       f.block_timestamp AS created_at
FROM feedback f
LEFT JOIN agents a ON (a.agent_uuid, a.chain_id) = (f.agent_uuid, f.chain_id)
LEFT JOIN logs l ON (l.chain_id, l.block_number, l.log_index) = (f.chain_id, f.block_number, f.log_index)
LEFT JOIN chains c ON c.chain_id = f.chain_id;

CREATE VIEW erc8004.erc8004_feedback_responses AS
SELECT r.agent_uuid, r.chain_id, c.name AS chain, '0x' || encode(a.registry, 'hex') AS registry_address, a.agent_id,
       '0x' || encode(r.registry, 'hex') AS reputation_registry,
       '0x' || encode(r.client, 'hex') AS client_address,
       r.feedback_index,
       '0x' || encode(r.responder, 'hex') AS responder_address,
       r.response_uri, r.response_uri_raw,
       '0x' || encode(r.response_hash, 'hex') AS response_hash,
       r.block_number, r.log_index,
       '0x' || encode(l.tx_hash, 'hex') AS tx_hash,
       r.block_timestamp AS created_at
FROM feedback_responses r
LEFT JOIN agents a ON (a.agent_uuid, a.chain_id) = (r.agent_uuid, r.chain_id)
LEFT JOIN logs l ON (l.chain_id, l.block_number, l.log_index) = (r.chain_id, r.block_number, r.log_index)
LEFT JOIN chains c ON c.chain_id = r.chain_id;

CREATE VIEW erc8004.v_erc8004_agent_reputation AS
SELECT a.agent_uuid, a.agent_id, a.chain_id, c.name AS chain, '0x' || encode(a.registry, 'hex') AS registry_address,
       '0x' || encode(a.owner, 'hex') AS owner_address,
       s.feedback AS total_feedback, s.average_score, s.positive AS positive_feedback, s.negative AS negative_feedback,
       s.revoked AS revoked_feedback, s.clients AS unique_clients, s.last_feedback_at
FROM agent_stats s
JOIN agents a ON (a.agent_uuid, a.chain_id) = (s.agent_uuid, s.chain_id)
LEFT JOIN chains c ON c.chain_id = a.chain_id;

CREATE VIEW erc8004.v_erc8004_agent_stats AS
SELECT a.agent_uuid, a.agent_id, a.chain_id, c.name AS chain, '0x' || encode(a.registry, 'hex') AS registry_address,
       '0x' || encode(a.owner, 'hex') AS owner_address,
       CASE WHEN a.registered_at IS NULL THEN 'partial' ELSE 'registered' END AS status,
       a.registered_at, s.last_activity_at,
       s.feedback AS total_feedback, s.average_score AS reputation_score,
       s.positive AS positive_feedback, s.negative AS negative_feedback, s.clients AS reputation_sources,
       s.validations AS total_validations, round(s.response_sum / nullif(s.answered, 0), 4) AS average_validation,
       0::bigint AS total_payments, 0::numeric AS total_amount_usdc,
       NULL::numeric AS payment_success_rate, NULL::timestamptz AS last_payment_at,
       CASE WHEN s.average_score IS NULL THEN 'new'
            WHEN s.average_score >= 80 THEN 'excellent'
            WHEN s.average_score >= 70 THEN 'good'
            WHEN s.average_score >= 60 THEN 'fair'
            ELSE 'poor' END AS trust_level
FROM agent_stats s
JOIN agents a ON (a.agent_uuid, a.chain_id) = (s.agent_uuid, s.chain_id)
LEFT JOIN chains c ON c.chain_id = a.chain_id;

-- Grouped agent by agent, so that what is sorted has the tags alone as its key.
CREATE VIEW erc8004.v_erc8004_tag_stats AS
SELECT a.agent_uuid, a.agent_id, a.chain_id, c.name AS chain, '0x' || encode(a.registry, 'hex') AS registry_address,
       t.tag1, t.tag1_raw, t.tag1_hash, t.tag2, t.tag2_raw, t.value_decimals,
       t.count, t.sum, t.mean, t.median, t.min, t.max, t.unique_clients
FROM agents a
CROSS JOIN LATERAL (
    SELECT f.tag1, f.tag1_raw, CASE WHEN f.tag1 IS NULL THEN '0x' || encode(f.tag1_hash, 'hex') END AS tag1_hash,
           f.tag2, f.tag2_raw, f.value_decimals,
           count(*) AS count, sum(f.value) AS sum, avg(f.value) AS mean,
           percentile_disc(0.5) WITHIN GROUP (ORDER BY f.value) AS median,
           min(f.value) AS min, max(f.value) AS max, count(DISTINCT f.client) AS unique_clients
    FROM feedback f
    WHERE f.agent_uuid = a.agent_uuid AND f.standing = 0
    GROUP BY f.tag1, f.tag2, f.value_decimals, f.tag1_raw, f.tag2_raw, 3
) t
LEFT JOIN chains c ON c.chain_id = a.chain_id;

CREATE VIEW erc8004.v_erc8004_client_stats AS
SELECT k.chain_id, c.name AS chain, '0x' || encode(k.client, 'hex') AS client_address,
       sum(k.feedback)::bigint AS feedback, sum(k.revoked)::bigint AS revoked,
       count(DISTINCT k.agent_uuid) FILTER (WHERE k.feedback > 0) AS agents,
       min(k.first_at) AS first_at, max(k.last_at) AS last_at
FROM agent_clients k
LEFT JOIN chains c ON c.chain_id = k.chain_id
GROUP BY k.chain_id, c.name, k.client;
