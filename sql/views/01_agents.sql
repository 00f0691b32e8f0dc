CREATE VIEW erc8004.erc8004_agents AS
SELECT a.agent_uuid, a.chain_id, c.name AS chain, '0x' || encode(a.registry, 'hex') AS registry_address, a.agent_id,
       '0x' || encode(a.owner, 'hex') AS owner_address,
       '0x' || encode(a.wallet, 'hex') AS agent_wallet,
       a.token_uri, a.token_uri_raw,
       NULL::jsonb AS registration_file,
       CASE WHEN a.registered_at IS NULL THEN 'partial' ELSE 'registered' END AS status,
       NULL::text AS name, NULL::text AS description, NULL::text AS image, NULL::boolean AS active,
       NULL::boolean AS x402_support,
       s.feedback AS feedback_count,
       a.registered_at AS created_at, a.registered_block AS created_block,
       '0x' || encode(a.registered_tx, 'hex') AS created_tx_hash,
       a.updated_at, s.last_activity_at
FROM agents a
-- Both conditions, so that an order by any figure within a chain has an index.
JOIN agent_stats s ON (s.agent_uuid, s.chain_id) = (a.agent_uuid, a.chain_id)
LEFT JOIN chains c ON c.chain_id = a.chain_id;

CREATE VIEW erc8004.erc8004_agent_metadata AS
SELECT m.agent_uuid, m.chain_id, c.name AS chain, '0x' || encode(a.registry, 'hex') AS registry_address, a.agent_id,
       m.key, m.key_raw, m.value,
       erc8004_data.utf8(m.value) AS value_text,
       m.updated_at, m.block_number, m.log_index
FROM agent_metadata m
LEFT JOIN agents a ON (a.agent_uuid, a.chain_id) = (m.agent_uuid, m.chain_id)
LEFT JOIN chains c ON c.chain_id = m.chain_id;

CREATE VIEW erc8004.erc8004_agent_owners AS
SELECT t.agent_uuid, t.chain_id, c.name AS chain, '0x' || encode(a.registry, 'hex') AS registry_address, a.agent_id,
       '0x' || encode(t.to_address, 'hex') AS owner_address,
       t.block_number AS from_block, t.log_index,
       (SELECT n.block_number FROM transfers n
        WHERE n.agent_uuid = t.agent_uuid AND (n.block_number, n.log_index) > (t.block_number, t.log_index)
        ORDER BY n.block_number, n.log_index LIMIT 1) AS to_block,
       t.block_timestamp AS changed_at,
       '0x' || encode(l.tx_hash, 'hex') AS tx_hash
FROM transfers t
LEFT JOIN logs l ON (l.chain_id, l.block_number, l.log_index) = (t.chain_id, t.block_number, t.log_index)
LEFT JOIN agents a ON (a.agent_uuid, a.chain_id) = (t.agent_uuid, t.chain_id)
LEFT JOIN chains c ON c.chain_id = t.chain_id;

CREATE VIEW erc8004.erc8004_agent_uris AS
SELECT u.agent_uuid, u.chain_id, c.name AS chain, '0x' || encode(a.registry, 'hex') AS registry_address, a.agent_id,
       u.token_uri, u.token_uri_raw,
       u.block_number AS from_block, u.log_index,
       (SELECT n.block_number FROM uris n
        WHERE n.agent_uuid = u.agent_uuid AND n.applies
          AND (n.block_number, n.log_index) > (u.block_number, u.log_index)
        ORDER BY n.block_number, n.log_index LIMIT 1) AS to_block,
       u.block_timestamp AS changed_at,
       '0x' || encode(l.tx_hash, 'hex') AS tx_hash
FROM uris u
LEFT JOIN logs l ON (l.chain_id, l.block_number, l.log_index) = (u.chain_id, u.block_number, u.log_index)
LEFT JOIN agents a ON (a.agent_uuid, a.chain_id) = (u.agent_uuid, u.chain_id)
LEFT JOIN chains c ON c.chain_id = u.chain_id
WHERE u.applies;

CREATE VIEW erc8004.erc8004_agent_wallets AS
SELECT m.agent_uuid, m.chain_id, c.name AS chain, '0x' || encode(a.registry, 'hex') AS registry_address, a.agent_id,
       CASE WHEN octet_length(m.value) = 20 THEN '0x' || encode(m.value, 'hex') END AS agent_wallet,
       m.block_number AS from_block, m.log_index,
       (SELECT n.block_number FROM metadata_writes n
        WHERE n.agent_uuid = m.agent_uuid AND n.is_wallet AND n.applies
          AND (n.block_number, n.log_index) > (m.block_number, m.log_index)
        ORDER BY n.block_number, n.log_index LIMIT 1) AS to_block,
       m.block_timestamp AS changed_at,
       '0x' || encode(l.tx_hash, 'hex') AS tx_hash
FROM metadata_writes m
LEFT JOIN logs l ON (l.chain_id, l.block_number, l.log_index) = (m.chain_id, m.block_number, m.log_index)
LEFT JOIN agents a ON (a.agent_uuid, a.chain_id) = (m.agent_uuid, m.chain_id)
LEFT JOIN chains c ON c.chain_id = m.chain_id
WHERE m.is_wallet AND m.applies;

-- Operators act by their owner's word (ApprovalForAll, current where no later one of the same pair exists), the approved
-- address by the token's; since_block is when both the word and the ownership stood.
CREATE VIEW erc8004.erc8004_agent_operators AS
SELECT a.agent_uuid, a.chain_id, c.name AS chain, '0x' || encode(a.registry, 'hex') AS registry_address, a.agent_id,
       '0x' || encode(o.operator, 'hex') AS operator_address, 'operator' AS kind,
       greatest(o.block_number, a.owner_block) AS since_block
FROM agents a
JOIN operator_approvals o ON o.registry = a.registry AND o.owner = a.owner AND o.chain_id = a.chain_id AND o.approved
LEFT JOIN chains c ON c.chain_id = a.chain_id
WHERE NOT EXISTS (
    SELECT FROM operator_approvals n
    WHERE (n.registry, n.owner, n.operator) = (o.registry, o.owner, o.operator) AND n.chain_id = o.chain_id
      AND (n.block_number, n.log_index) > (o.block_number, o.log_index))
UNION ALL
SELECT a.agent_uuid, a.chain_id, c.name, '0x' || encode(a.registry, 'hex'), a.agent_id,
       '0x' || encode(a.approved, 'hex'), 'approved', a.approved_block
FROM agents a
LEFT JOIN chains c ON c.chain_id = a.chain_id
WHERE a.approved IS NOT NULL;
