-- Every agent that a log names has its row of figures. Number the scope's feedback and count it: all of it as standing;
-- standing.sql takes back what does not.
-- Without an index in the log it is one above the last of its pair (agent, registry, client). An index that is not above
-- the last opens a new epoch of the pair. Returns how many epochs were opened.
WITH given AS MATERIALIZED (
    -- All windows are over a pair's feedback in order. This is the only one where every log has its index, above the last.
    SELECT f.chain_id, f.block_number, f.log_index, f.block_timestamp, f.agent_uuid, f.registry, f.client,
           f.feedback_index, f.has_index, f.value_raw, f.value_decimals, f.epoch,
           CASE WHEN f.value BETWEEN 0 AND 100 THEN f.value END AS score,
           k.epoch AS known_epoch, k.last_index AS known_index, coalesce(k.feedback, 0) AS known_feedback,
           row_number() OVER pair AS place, lead(f.log_index) OVER pair IS NULL AS is_last,
           min(f.block_timestamp) OVER pair AS first_at, max(f.block_timestamp) OVER pair AS last_at,
           f.has_index AND coalesce(f.feedback_index > coalesce(lag(f.feedback_index) OVER pair, k.last_index), true)
               AS follows
    FROM feedback f LEFT JOIN agent_clients k USING (agent_uuid, registry, client)
    WHERE f.chain_id = $1 AND f.block_number BETWEEN $2 AND $3 AND ($4::uuid[] IS NULL OR f.agent_uuid = ANY ($4))
    WINDOW pair AS (PARTITION BY f.agent_uuid, f.registry, f.client ORDER BY f.block_number, f.log_index)
), numbered AS (
    SELECT o.*, coalesce(o.known_epoch, 0) + count(*) FILTER (WHERE o.opens) OVER pair AS new_epoch
    FROM (
        SELECT n.*, n.position <= coalesce(lag(n.position) OVER pair, n.known_index, n.position - 1) AS opens
        FROM (
            SELECT m.*,
                   CASE WHEN m.has_index THEN m.feedback_index
                        WHEN m.anchor IS NULL THEN coalesce(m.known_index, 0) + m.place
                        ELSE nth_value(m.feedback_index, m.anchor) OVER pair + m.place - m.anchor
                   END AS position
            FROM (
                -- Those without an index follow their anchor, the last with one; without any, what is known already.
                SELECT g.*, (max(g.place) FILTER (WHERE g.has_index) OVER pair)::int AS anchor
                FROM given g
                WHERE EXISTS (SELECT FROM given WHERE NOT follows)
                WINDOW pair AS (PARTITION BY g.agent_uuid, g.registry, g.client ORDER BY g.block_number, g.log_index)
            ) m
            WINDOW pair AS (PARTITION BY m.agent_uuid, m.registry, m.client ORDER BY m.block_number, m.log_index)
        ) n
        WINDOW pair AS (PARTITION BY n.agent_uuid, n.registry, n.client ORDER BY n.block_number, n.log_index)
    ) o
    WINDOW pair AS (PARTITION BY o.agent_uuid, o.registry, o.client ORDER BY o.block_number, o.log_index)
), placed AS MATERIALIZED (
    SELECT g.*, NULL::int AS anchor, g.feedback_index AS position, false AS opens,
           coalesce(g.known_epoch, 0)::bigint AS new_epoch
    FROM given g
    WHERE NOT EXISTS (SELECT FROM given WHERE NOT follows)
    UNION ALL
    SELECT * FROM numbered
), corrected AS (
    UPDATE feedback f SET feedback_index = p.position, epoch = p.new_epoch
    FROM placed p
    WHERE (f.chain_id, f.block_number, f.log_index) = (p.chain_id, p.block_number, p.log_index)
      AND (p.position, p.new_epoch) IS DISTINCT FROM (p.feedback_index, p.epoch)
), known_pairs AS (
    -- The last of a pair knows how many there are.
    UPDATE agent_clients c SET
        epoch = p.new_epoch,
        last_index = p.position,
        feedback = c.feedback + p.place,
        first_at = least(c.first_at, p.first_at),
        last_at = greatest(c.last_at, p.last_at)
    FROM placed p
    WHERE p.is_last AND p.known_epoch IS NOT NULL
      AND (c.agent_uuid, c.registry, c.client) = (p.agent_uuid, p.registry, p.client)
), new_pairs AS (
    -- Nobody else writes the chain, so that none of them can have come meanwhile.
    INSERT INTO agent_clients (agent_uuid, registry, client, chain_id, epoch, last_index, feedback, first_at, last_at)
    SELECT p.agent_uuid, p.registry, p.client, p.chain_id, p.new_epoch, p.position, p.place, p.first_at, p.last_at
    FROM placed p
    WHERE p.is_last AND p.known_epoch IS NULL
), figures AS (
    -- Any event of an agent is activity; this also makes the row that carries its figures.
    SELECT l.agent_uuid, max(l.block_timestamp) AS active_at, max(l.block_number) AS active_block, 0 AS feedback,
           0 AS scored, 0::numeric AS score_sum, 0 AS positive, 0 AS negative, 0 AS clients, NULL::timestamptz AS last_at
    FROM logs l
    WHERE l.chain_id = $1 AND l.block_number BETWEEN $2 AND $3 AND ($4::uuid[] IS NULL OR l.agent_uuid = ANY ($4))
      AND l.agent_uuid IS NOT NULL
    GROUP BY l.agent_uuid
    UNION ALL
    SELECT p.agent_uuid, NULL, NULL, count(*), count(p.score), coalesce(sum(p.score), 0),
           count(*) FILTER (WHERE p.score >= 80), count(*) FILTER (WHERE p.score < 50),
           count(*) FILTER (WHERE p.place = 1 AND p.known_feedback = 0), max(p.block_timestamp)
    FROM placed p
    GROUP BY p.agent_uuid
), counted AS (
    INSERT INTO agent_stats AS s
        (agent_uuid, chain_id, last_activity_at, last_activity_block, feedback, scored, score_sum, positive, negative,
         clients, last_feedback_at)
    SELECT f.agent_uuid, $1, max(f.active_at), max(f.active_block), sum(f.feedback), sum(f.scored), sum(f.score_sum),
           sum(f.positive), sum(f.negative), sum(f.clients), max(f.last_at)
    FROM figures f
    GROUP BY f.agent_uuid
    HAVING max(f.active_at) IS NOT NULL  -- a row without its log is for `verify` to find, not to stumble over
    ON CONFLICT (agent_uuid) DO UPDATE SET
        last_activity_at = greatest(s.last_activity_at, excluded.last_activity_at),
        last_activity_block = greatest(s.last_activity_block, excluded.last_activity_block),
        feedback = s.feedback + excluded.feedback,
        scored = s.scored + excluded.scored,
        score_sum = s.score_sum + excluded.score_sum,
        positive = s.positive + excluded.positive,
        negative = s.negative + excluded.negative,
        clients = s.clients + excluded.clients,
        last_feedback_at = greatest(s.last_feedback_at, excluded.last_feedback_at)
), summed AS (
    INSERT INTO agent_values AS v (agent_uuid, registry, value_decimals, chain_id, feedback, value_sum)
    SELECT p.agent_uuid, p.registry, p.value_decimals, min(p.chain_id), count(*), sum(p.value_raw)
    FROM placed p
    GROUP BY p.agent_uuid, p.registry, p.value_decimals
    ON CONFLICT (agent_uuid, registry, value_decimals) DO UPDATE SET
        feedback = v.feedback + excluded.feedback,
        value_sum = v.value_sum + excluded.value_sum
)
SELECT count(*) FILTER (WHERE p.opens) FROM placed p;
