-- Every agent that a log names has a row, `partial` until its registration is seen. Owner from Transfer alone; URI and wallet
-- from the last write that applies; a transfer ends the single approval silently.
-- Each part has one row an agent; they are put together by grouping, as joins of parts whose sizes the planner cannot know
-- become loops over loops.
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
), named AS (
    SELECT s.agent_uuid, max(s.agent_id) AS agent_id, (array_agg(s.address))[1] AS address,
           max(s.spoke_at) FILTER (WHERE s.address = ANY (ARRAY(
               SELECT r.address FROM registries r WHERE r.chain_id = $1 AND r.kind = 'identity'))) AS updated_at
    FROM (
        SELECT l.agent_uuid, l.address, max(l.agent_id) AS agent_id, max(l.block_timestamp) AS spoke_at
        FROM logs l
        WHERE l.chain_id = $1 AND l.block_number BETWEEN $2 AND $3 AND ($4::uuid[] IS NULL OR l.agent_uuid = ANY ($4))
          AND l.agent_uuid IS NOT NULL
        GROUP BY l.agent_uuid, l.address
    ) s
    GROUP BY s.agent_uuid
), parts (part, agent_uuid, address, block_number, happened_at, token_uri, bytes, agent_id) AS (
    SELECT 1, agent_uuid, to_address, block_number, NULL::timestamptz, NULL::text, NULL::bytea, NULL::numeric FROM moved
    UNION ALL SELECT 2, agent_uuid, NULL, NULL, NULL, token_uri, token_uri_raw, NULL FROM uri
    UNION ALL SELECT 3, agent_uuid, NULL, block_number, block_timestamp, NULL, tx_hash, NULL FROM registered
    UNION ALL SELECT 4, agent_uuid, NULL, NULL, NULL, NULL, value, NULL FROM wallet
    UNION ALL SELECT 5, agent_uuid, approved, block_number, NULL, NULL, NULL, NULL FROM approval
    UNION ALL SELECT 6, agent_uuid, address, NULL, updated_at, NULL, NULL, agent_id FROM named
), news AS MATERIALIZED (
    SELECT p.agent_uuid, max(p.agent_id) AS agent_id, (array_agg(p.address) FILTER (WHERE part = 6))[1] AS emitter,
           (array_agg(p.address) FILTER (WHERE part = 1))[1] AS owner,
           max(p.block_number) FILTER (WHERE part = 1) AS owner_block,
           bool_or(part = 2) AS has_uri, max(p.token_uri) FILTER (WHERE part = 2) AS token_uri,
           (array_agg(p.bytes) FILTER (WHERE part = 2))[1] AS token_uri_raw,
           max(p.happened_at) FILTER (WHERE part = 3) AS registered_at,
           max(p.block_number) FILTER (WHERE part = 3) AS registered_block,
           (array_agg(p.bytes) FILTER (WHERE part = 3))[1] AS registered_tx,
           bool_or(part = 4) AS has_wallet, (array_agg(p.bytes) FILTER (WHERE part = 4))[1] AS wallet,
           bool_or(part = 5) AS has_approval, (array_agg(p.address) FILTER (WHERE part = 5))[1] AS approved,
           max(p.block_number) FILTER (WHERE part = 5) AS approved_block,
           max(p.happened_at) FILTER (WHERE part = 6) AS updated_at
    FROM parts p
    GROUP BY p.agent_uuid
), known AS (
    UPDATE agents a SET
        owner            = coalesce(n.owner, a.owner),
        owner_block      = coalesce(n.owner_block, a.owner_block),
        token_uri        = CASE WHEN n.has_uri THEN n.token_uri ELSE a.token_uri END,
        token_uri_raw    = CASE WHEN n.has_uri THEN n.token_uri_raw ELSE a.token_uri_raw END,
        wallet           = CASE WHEN NOT n.has_wallet THEN a.wallet WHEN octet_length(n.wallet) = 20 THEN n.wallet END,
        approved         = CASE WHEN n.has_approval THEN n.approved ELSE a.approved END,
        approved_block   = CASE WHEN NOT n.has_approval THEN a.approved_block
                                WHEN n.approved IS NOT NULL THEN n.approved_block END,
        registered_at    = coalesce(a.registered_at, n.registered_at),
        registered_block = coalesce(a.registered_block, n.registered_block),
        registered_tx    = coalesce(a.registered_tx, n.registered_tx),
        updated_at       = greatest(a.updated_at, n.updated_at)
    FROM news n
    WHERE a.agent_uuid = n.agent_uuid AND n.updated_at IS NOT NULL
)
-- Nobody else writes the chain, so that none of these can have come meanwhile.
INSERT INTO agents (agent_uuid, chain_id, registry, agent_id, owner, owner_block, token_uri, token_uri_raw, wallet,
                    approved, approved_block, registered_at, registered_block, registered_tx, updated_at)
SELECT n.agent_uuid, $1, e.identity, n.agent_id, n.owner, n.owner_block, n.token_uri, n.token_uri_raw,
       CASE WHEN octet_length(n.wallet) = 20 THEN n.wallet END,
       n.approved, CASE WHEN n.approved IS NOT NULL THEN n.approved_block END,
       n.registered_at, n.registered_block, n.registered_tx, n.updated_at
FROM news n
CROSS JOIN LATERAL (SELECT r.identity FROM registries r WHERE r.chain_id = $1 AND r.address = n.emitter LIMIT 1) e
WHERE NOT EXISTS (SELECT FROM agents a WHERE a.agent_uuid = n.agent_uuid);
