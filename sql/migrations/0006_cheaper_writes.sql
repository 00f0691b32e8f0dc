-- What the statements of a backfill's commits showed.

-- Rows that are written again in the batch that made them need their room right then: where their page is full, they go
-- to another one, and every index gets them once more.
ALTER TABLE agent_stats SET (fillfactor = 50);
ALTER TABLE validation_requests SET (fillfactor = 50);

-- Hex is compared byte by byte: by the rules of a language, the usual default of a database, the commits of a backfill take
-- half as long again. Equality, which is all that these indexes are asked for, is the same either way.
DROP INDEX logs_tx_hash;
CREATE INDEX logs_tx_hash ON logs (('0x' || encode(tx_hash, 'hex')) text_pattern_ops);
DROP INDEX transfers_owner;
CREATE INDEX transfers_owner ON transfers (('0x' || encode(to_address, 'hex')) text_pattern_ops);
DROP INDEX metadata_writes_wallet;
CREATE INDEX metadata_writes_wallet ON metadata_writes
    ((CASE WHEN octet_length(value) = 20 THEN '0x' || encode(value, 'hex') END) text_pattern_ops)
    WHERE is_wallet AND applies;
DROP INDEX feedback_client;
CREATE INDEX feedback_client ON feedback (('0x' || encode(client, 'hex')) text_pattern_ops, block_timestamp);
DROP INDEX feedback_responses_client;
CREATE INDEX feedback_responses_client ON feedback_responses (('0x' || encode(client, 'hex')) text_pattern_ops);
DROP INDEX validation_requests_hash;
CREATE INDEX validation_requests_hash ON validation_requests (('0x' || encode(request_hash, 'hex')) text_pattern_ops);
DROP INDEX validation_requests_validator;
CREATE INDEX validation_requests_validator ON validation_requests (('0x' || encode(validator, 'hex')) text_pattern_ops);
DROP INDEX validation_responses_hash;
CREATE INDEX validation_responses_hash ON validation_responses (('0x' || encode(request_hash, 'hex')) text_pattern_ops);
DROP INDEX validation_responses_validator;
CREATE INDEX validation_responses_validator ON validation_responses (('0x' || encode(validator, 'hex')) text_pattern_ops);
DROP INDEX agents_owner;
CREATE INDEX agents_owner ON agents (('0x' || encode(owner, 'hex')) text_pattern_ops);
DROP INDEX agents_wallet;
CREATE INDEX agents_wallet ON agents (('0x' || encode(wallet, 'hex')) text_pattern_ops);
DROP INDEX agents_registered_tx;
CREATE INDEX agents_registered_tx ON agents (('0x' || encode(registered_tx, 'hex')) text_pattern_ops);
DROP INDEX agent_clients_client;
CREATE INDEX agent_clients_client ON agent_clients (('0x' || encode(client, 'hex')) text_pattern_ops);

-- What was known of their keys went with the old ones. Tables without a row stay as they are: the planner takes one that
-- nobody has looked at yet for larger than one that was found empty.
DO $$
DECLARE
    grown text;
BEGIN
    FOREACH grown IN ARRAY '{logs, transfers, metadata_writes, feedback, feedback_responses, validation_requests,
                             validation_responses, agents, agent_clients}'::text[] LOOP
        IF pg_relation_size(grown::regclass) > 0 THEN
            EXECUTE format('ANALYZE %I', grown);
        END IF;
    END LOOP;
END $$;
