-- Owner from Transfer alone; URI and wallet from the last write that applies; a transfer ends the single approval silently.
WITH moved AS (
    SELECT DISTINCT ON (t.agent_uuid) t.agent_uuid, t.to_address, t.block_number
    FROM transfers t
    WHERE t.chain_id = $1 AND t.block_number BETWEEN $2 AND $3 AND ($4::uuid[] IS NULL OR t.agent_uuid = ANY ($4))
    ORDER BY t.agent_uuid, t.block_number DESC, t.log_index DESC
), uri AS (
    SELECT DISTINCT ON (u.agent_uuid) u.agent_uuid, u.token_uri, u.token_uri_raw
    FROM uris u
    WHERE u.chain_id = $1 AND u.block_number BETWEEN $2 AND $3 AND ($4::uuid[] IS NULL OR u.agent_uuid = ANY ($4))
      AND u.applies
    ORDER BY u.agent_uuid, u.block_number DESC, u.log_index DESC
), registered AS (
    SELECT DISTINCT ON (u.agent_uuid) u.agent_uuid, u.block_timestamp, u.block_number, l.tx_hash
    FROM uris u
    JOIN logs l USING (chain_id, block_number, log_index)
    WHERE u.chain_id = $1 AND u.block_number BETWEEN $2 AND $3 AND ($4::uuid[] IS NULL OR u.agent_uuid = ANY ($4))
      AND u.is_registration
    ORDER BY u.agent_uuid, u.block_number, u.log_index
), wallet AS (
    SELECT DISTINCT ON (m.agent_uuid) m.agent_uuid, m.value
    FROM metadata_writes m
    WHERE m.chain_id = $1 AND m.block_number BETWEEN $2 AND $3 AND ($4::uuid[] IS NULL OR m.agent_uuid = ANY ($4))
      AND m.is_wallet AND m.applies
    ORDER BY m.agent_uuid, m.block_number DESC, m.log_index DESC
), approval AS (
    SELECT DISTINCT ON (p.agent_uuid) p.agent_uuid, p.approved, p.block_number
    FROM (
        SELECT a.agent_uuid, nullif(a.approved, '\x0000000000000000000000000000000000000000') AS approved,
               a.block_number, a.log_index
        FROM approvals a
        WHERE a.chain_id = $1 AND a.block_number BETWEEN $2 AND $3 AND ($4::uuid[] IS NULL OR a.agent_uuid = ANY ($4))
        UNION ALL
        SELECT t.agent_uuid, NULL, t.block_number, t.log_index
        FROM transfers t
        WHERE t.chain_id = $1 AND t.block_number BETWEEN $2 AND $3 AND ($4::uuid[] IS NULL OR t.agent_uuid = ANY ($4))
    ) p
    ORDER BY p.agent_uuid, p.block_number DESC, p.log_index DESC
), seen AS (
    SELECT l.agent_uuid, max(l.block_timestamp) AS updated_at
    FROM logs l
    WHERE l.chain_id = $1 AND l.block_number BETWEEN $2 AND $3 AND ($4::uuid[] IS NULL OR l.agent_uuid = ANY ($4))
      AND l.agent_uuid IS NOT NULL
      AND EXISTS (SELECT FROM registries r
                  WHERE r.chain_id = l.chain_id AND r.address = l.address AND r.kind = 'identity')
    GROUP BY l.agent_uuid
)
UPDATE agents a SET
    owner            = coalesce(moved.to_address, a.owner),
    owner_block      = coalesce(moved.block_number, a.owner_block),
    token_uri        = CASE WHEN uri.agent_uuid IS NULL THEN a.token_uri ELSE uri.token_uri END,
    token_uri_raw    = CASE WHEN uri.agent_uuid IS NULL THEN a.token_uri_raw ELSE uri.token_uri_raw END,
    wallet           = CASE WHEN wallet.agent_uuid IS NULL THEN a.wallet
                            WHEN octet_length(wallet.value) = 20 THEN wallet.value END,
    approved         = CASE WHEN approval.agent_uuid IS NULL THEN a.approved ELSE approval.approved END,
    approved_block   = CASE WHEN approval.agent_uuid IS NULL THEN a.approved_block
                            WHEN approval.approved IS NOT NULL THEN approval.block_number END,
    registered_at    = coalesce(a.registered_at, registered.block_timestamp),
    registered_block = coalesce(a.registered_block, registered.block_number),
    registered_tx    = coalesce(a.registered_tx, registered.tx_hash),
    updated_at       = greatest(a.updated_at, seen.updated_at)
FROM seen
LEFT JOIN moved USING (agent_uuid)
LEFT JOIN uri USING (agent_uuid)
LEFT JOIN registered USING (agent_uuid)
LEFT JOIN wallet USING (agent_uuid)
LEFT JOIN approval USING (agent_uuid)
WHERE a.agent_uuid = seen.agent_uuid;
