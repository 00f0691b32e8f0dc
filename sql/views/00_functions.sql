-- The text of bytes, or null where PostgreSQL text cannot hold them.
CREATE OR REPLACE FUNCTION erc8004_data.utf8(raw bytea) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN convert_from(raw, 'UTF8');
EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
    RETURN NULL;
END $$;

-- The 20 bytes of an address in hex of any case. Any other text is an error: a slip must not read as "nothing found".
CREATE OR REPLACE FUNCTION erc8004_data.address_of(address text) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    IF address !~ '^0[xX][0-9a-fA-F]{40}$' THEN
        RAISE EXCEPTION 'not an address: %', quote_literal(left(address, 100))
            USING ERRCODE = 'invalid_parameter_value', HINT = 'An address is 0x and 40 hex digits, in any case.';
    END IF;
    RETURN decode(substr(address, 3), 'hex');
END $$;

-- The identity registry behind a configured contract; without one, the chain's first deployment.
CREATE OR REPLACE FUNCTION erc8004_data.identity_of(chain bigint, contract text) RETURNS bytea
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = erc8004_data, pg_temp AS $$
DECLARE
    named bytea := address_of(contract);  -- judged even where no row is there to be compared
BEGIN
    RETURN (
        SELECT r.identity FROM registries r
        WHERE r.chain_id = chain AND (named IS NULL OR r.address = named)
        ORDER BY r.active DESC, r.position, r.kind LIMIT 1);
END $$;

CREATE OR REPLACE FUNCTION erc8004_data.agent_key(chain bigint, identity bytea, agent numeric) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN agent = trunc(agent)
                THEN md5('eip155:' || chain || ':0x' || encode(identity, 'hex') || ':' || trunc(agent))::uuid END
$$;

-- getSummary of the reputation registry (ERC-8004 section on reputation): mean of the values at 18 decimals, truncated
-- toward zero, then cut to the most frequent decimals (ties: the smallest), truncated again, cast to int128 unchecked.
-- Of a deployment whose reputation registry was replaced, the one in use answers, unless the other is named.
CREATE OR REPLACE FUNCTION erc8004.erc8004_summary(
    chain_id bigint, agent_id numeric, clients text[] DEFAULT NULL, tag1 text DEFAULT '', tag2 text DEFAULT '',
    registry text DEFAULT NULL,
    OUT count numeric, OUT summary_value numeric, OUT summary_value_decimals integer)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = erc8004_data, pg_temp AS $$
#variable_conflict use_column
DECLARE
    first_identity bytea := identity_of($1, $6);
    agent uuid := agent_key($1, first_identity, $2);
    wanted1 text := coalesce($4, '');
    wanted2 text := coalesce($5, '');
    listed bytea[] := ARRAY(SELECT address_of(u) FROM unnest($3) u);
    of_all boolean := coalesce(cardinality($3), 0) = 0;
    contract bytea := (
        SELECT r.address FROM registries r
        WHERE r.chain_id = $1 AND r.kind = 'reputation' AND r.identity = first_identity
        ORDER BY r.address = address_of($6) DESC NULLS LAST, r.active DESC, r.position LIMIT 1);
    total numeric;
    shift constant numeric := 170141183460469231731687303715884105728;
BEGIN
    WITH chosen AS (
        SELECT u.client, count(*) AS times FROM unnest(listed) AS u (client) GROUP BY u.client
    ), by_decimals AS (
        -- Over all clients without a tag filter the sums are kept (agent_values); else they are made here.
        SELECT v.value_decimals AS decimals, v.feedback AS n, v.value_sum
        FROM agent_values v
        WHERE v.agent_uuid = agent AND v.registry = contract AND v.feedback > 0
          AND of_all AND wanted1 = '' AND wanted2 = ''
        UNION ALL
        SELECT f.value_decimals, count(*), sum(f.value_raw)
        FROM feedback f
        WHERE f.agent_uuid = agent AND f.registry = contract AND f.standing = 0
          AND of_all AND (wanted1 <> '' OR wanted2 <> '')
          AND (wanted1 = '' OR (f.tag1 = wanted1 AND f.tag1_raw IS NULL))
          AND (wanted2 = '' OR (f.tag2 = wanted2 AND f.tag2_raw IS NULL))
        GROUP BY f.value_decimals
        UNION ALL
        SELECT f.value_decimals, sum(k.times), sum(f.value_raw * k.times)
        FROM chosen k
        JOIN feedback f ON f.agent_uuid = agent AND f.client = k.client
        WHERE f.registry = contract AND f.standing = 0 AND NOT of_all
          AND (wanted1 = '' OR (f.tag1 = wanted1 AND f.tag1_raw IS NULL))
          AND (wanted2 = '' OR (f.tag2 = wanted2 AND f.tag2_raw IS NULL))
        GROUP BY f.value_decimals
    )
    SELECT coalesce(sum(d.n), 0), sum(d.value_sum * ('1e' || 18 - d.decimals)::numeric),
           (array_agg(d.decimals ORDER BY d.n DESC, d.decimals))[1]
    INTO count, total, summary_value_decimals
    FROM by_decimals d;
    IF count = 0 THEN
        summary_value := 0;
        summary_value_decimals := 0;
        RETURN;
    END IF;
    summary_value := div(div(total, count), ('1e' || 18 - summary_value_decimals)::numeric);
    summary_value := mod(mod(summary_value + shift, 2 * shift) + 2 * shift, 2 * shift) - shift;
END $$;

-- getSummary of the validation registry: latest answers only, floor of the mean; a validator listed twice counts once.
-- A deployment answers over all its validation registries, a named one of them for itself.
CREATE OR REPLACE FUNCTION erc8004.erc8004_validation_summary(
    chain_id bigint, agent_id numeric, validators text[] DEFAULT NULL, tag text DEFAULT '', registry text DEFAULT NULL,
    OUT count numeric, OUT average numeric)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = erc8004_data, pg_temp AS $$
#variable_conflict use_column
DECLARE
    agent uuid := agent_key($1, identity_of($1, $5), $2);
    listed bytea[] := ARRAY(SELECT address_of(u) FROM unnest($3) u);
    contract bytea := (
        SELECT g.address FROM registries g
        WHERE g.chain_id = $1 AND g.kind = 'validation' AND g.address = address_of($5));
BEGIN
    SELECT count(*), coalesce(div(sum(q.response)::numeric, nullif(count(*), 0)), 0)
    INTO count, average
    FROM validation_requests q
    JOIN validation_responses r ON (r.chain_id, r.block_number, r.log_index) = (q.chain_id, q.answer_block, q.answer_log)
    WHERE q.agent_uuid = agent
      AND (cardinality(listed) = 0 OR q.validator = ANY (listed))
      AND (coalesce($4, '') = '' OR (r.tag = $4 AND r.tag_raw IS NULL))
      AND (contract IS NULL OR q.registry = contract);
END $$;

-- Owner, wallet and URI of an agent as of the end of a block; nulls where nothing was known by then.
CREATE OR REPLACE FUNCTION erc8004.erc8004_agent_at(
    chain_id bigint, agent_id numeric, block bigint, registry text DEFAULT NULL,
    OUT owner_address text, OUT agent_wallet text, OUT token_uri text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = erc8004_data, pg_temp AS $$
#variable_conflict use_column
DECLARE
    agent uuid := agent_key($1, identity_of($1, $4), $2);
BEGIN
    owner_address := (
        SELECT '0x' || encode(t.to_address, 'hex') FROM transfers t
        WHERE t.agent_uuid = agent AND t.block_number <= $3
        ORDER BY t.block_number DESC, t.log_index DESC LIMIT 1);
    agent_wallet := (
        SELECT CASE WHEN octet_length(m.value) = 20 THEN '0x' || encode(m.value, 'hex') END FROM metadata_writes m
        WHERE m.agent_uuid = agent AND m.is_wallet AND m.applies AND m.block_number <= $3
        ORDER BY m.block_number DESC, m.log_index DESC LIMIT 1);
    token_uri := (
        SELECT u.token_uri FROM uris u
        WHERE u.agent_uuid = agent AND u.applies AND u.block_number <= $3
        ORDER BY u.block_number DESC, u.log_index DESC LIMIT 1);
END $$;
