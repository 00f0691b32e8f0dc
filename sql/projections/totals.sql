-- Add ($5 = 1) or take away ($5 = -1) the agents of the scope in their chain's totals; run before and after they change.
WITH touched AS (
    SELECT DISTINCT l.agent_uuid
    FROM logs l
    WHERE l.chain_id = $1 AND l.block_number BETWEEN $2 AND $3 AND $4::uuid[] IS NULL AND l.agent_uuid IS NOT NULL
    UNION
    SELECT unnest($4::uuid[])
), part AS (
    SELECT count(*) AS agents, sum(s.feedback) AS feedback, sum(s.revoked) AS revoked, sum(s.responses) AS responses,
           sum(s.validations) AS validations, sum(s.answered) AS answered
    FROM touched JOIN agent_stats s USING (agent_uuid)
)
INSERT INTO chain_totals AS t (chain_id, agents, feedback, revoked, responses, validations, answered)
SELECT $1, $5::int * agents, $5::int * feedback, $5::int * revoked, $5::int * responses, $5::int * validations,
       $5::int * answered
FROM part WHERE agents > 0
ON CONFLICT (chain_id) DO UPDATE SET
    agents = t.agents + excluded.agents,
    feedback = t.feedback + excluded.feedback,
    revoked = t.revoked + excluded.revoked,
    responses = t.responses + excluded.responses,
    validations = t.validations + excluded.validations,
    answered = t.answered + excluded.answered;
