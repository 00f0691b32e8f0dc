CREATE VIEW erc8004.erc8004_validations AS
SELECT q.chain_id, c.name AS chain, '0x' || encode(q.registry, 'hex') AS validation_registry,
       '0x' || encode(q.request_hash, 'hex') AS request_hash,
       q.agent_uuid, '0x' || encode(a.registry, 'hex') AS registry_address, a.agent_id,
       '0x' || encode(q.validator, 'hex') AS validator_address,
       q.request_uri, q.request_uri_raw,
       CASE WHEN q.responded_at IS NULL THEN 'pending' ELSE 'completed' END AS status,
       q.response, r.response_uri, r.response_uri_raw,
       '0x' || encode(r.response_hash, 'hex') AS response_hash,
       r.tag, r.tag_raw, q.response_count,
       q.block_timestamp AS requested_at, q.responded_at,
       q.block_number, q.log_index,
       '0x' || encode(l.tx_hash, 'hex') AS tx_hash
FROM validation_requests q
LEFT JOIN validation_responses r
       ON (r.chain_id, r.block_number, r.log_index) = (q.chain_id, q.answer_block, q.answer_log)
LEFT JOIN agents a ON a.agent_uuid = q.agent_uuid AND a.chain_id = q.chain_id
LEFT JOIN logs l ON (l.chain_id, l.block_number, l.log_index) = (q.chain_id, q.block_number, q.log_index)
LEFT JOIN chains c ON c.chain_id = q.chain_id;

CREATE VIEW erc8004.erc8004_validation_responses AS
SELECT r.chain_id, c.name AS chain, '0x' || encode(r.registry, 'hex') AS validation_registry,
       '0x' || encode(r.request_hash, 'hex') AS request_hash,
       r.agent_uuid, '0x' || encode(a.registry, 'hex') AS registry_address, a.agent_id,
       '0x' || encode(r.validator, 'hex') AS validator_address,
       r.response, r.response_uri, r.response_uri_raw,
       '0x' || encode(r.response_hash, 'hex') AS response_hash,
       r.tag, r.tag_raw,
       r.block_number, r.log_index,
       '0x' || encode(l.tx_hash, 'hex') AS tx_hash,
       r.block_timestamp AS created_at
FROM validation_responses r
LEFT JOIN agents a ON a.agent_uuid = r.agent_uuid AND a.chain_id = r.chain_id
LEFT JOIN logs l ON (l.chain_id, l.block_number, l.log_index) = (r.chain_id, r.block_number, r.log_index)
LEFT JOIN chains c ON c.chain_id = r.chain_id;

CREATE VIEW erc8004.v_erc8004_validator_stats AS
SELECT q.chain_id, c.name AS chain, '0x' || encode(q.validator, 'hex') AS validator_address,
       count(*) AS requests, count(q.responded_at) AS answered, round(avg(q.response), 4) AS average_response,
       greatest(max(q.block_timestamp), max(q.responded_at)) AS last_at
FROM validation_requests q
LEFT JOIN chains c ON c.chain_id = q.chain_id
GROUP BY q.chain_id, c.name, q.validator;
