-- What happened to each agent on each day, UTC.
INSERT INTO agent_days AS d (agent_uuid, day, chain_id, registrations, feedback, revoked, responses, validations)
SELECT e.agent_uuid, (e.block_timestamp AT TIME ZONE 'UTC')::date, $1,
       count(*) FILTER (WHERE e.kind = 1), count(*) FILTER (WHERE e.kind = 2), count(*) FILTER (WHERE e.kind = 3),
       count(*) FILTER (WHERE e.kind = 4), count(*) FILTER (WHERE e.kind = 5)
FROM (
    SELECT 1 AS kind, chain_id, block_number, agent_uuid, block_timestamp FROM uris WHERE is_registration
    UNION ALL SELECT 2, chain_id, block_number, agent_uuid, block_timestamp FROM feedback
    UNION ALL SELECT 3, chain_id, block_number, agent_uuid, block_timestamp FROM revocations
    UNION ALL SELECT 4, chain_id, block_number, agent_uuid, block_timestamp FROM feedback_responses
    UNION ALL SELECT 5, chain_id, block_number, agent_uuid, block_timestamp FROM validation_requests
) e
WHERE e.chain_id = $1 AND e.block_number BETWEEN $2 AND $3 AND ($4::uuid[] IS NULL OR e.agent_uuid = ANY ($4))
GROUP BY e.agent_uuid, 2
ON CONFLICT (agent_uuid, day) DO UPDATE SET
    registrations = d.registrations + excluded.registrations,
    feedback = d.feedback + excluded.feedback,
    revoked = d.revoked + excluded.revoked,
    responses = d.responses + excluded.responses,
    validations = d.validations + excluded.validations;
