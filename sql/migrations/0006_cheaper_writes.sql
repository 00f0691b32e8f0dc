-- What the statements of a backfill's commits showed.

-- Rows that are written again in the batch that made them need their room right then: where their page is full, they go to
-- another one, and every index gets them once more.
ALTER TABLE agent_stats SET (fillfactor = 50);
ALTER TABLE validation_requests SET (fillfactor = 50);

-- Hex is compared byte by byte: by the rules of a language, which most databases have by default, the commits of a backfill
-- take half as long again. The views give their columns the same collation, so that these indexes serve them.
DROP INDEX logs_tx_hash;
CREATE INDEX logs_tx_hash ON logs (('0x' COLLATE "C" || encode(tx_hash, 'hex')));
DROP INDEX transfers_owner;
CREATE INDEX transfers_owner ON transfers (('0x' COLLATE "C" || encode(to_address, 'hex')));
DROP INDEX metadata_writes_wallet;
CREATE INDEX metadata_writes_wallet ON metadata_writes
    ((CASE WHEN octet_length(value) = 20 THEN '0x' COLLATE "C" || encode(value, 'hex') END)) WHERE is_wallet AND applies;
DROP INDEX feedback_client;
CREATE INDEX feedback_client ON feedback (('0x' COLLATE "C" || encode(client, 'hex')), block_timestamp);
DROP INDEX feedback_responses_client;
CREATE INDEX feedback_responses_client ON feedback_responses (('0x' COLLATE "C" || encode(client, 'hex')));
DROP INDEX validation_requests_hash;
CREATE INDEX validation_requests_hash ON validation_requests (('0x' COLLATE "C" || encode(request_hash, 'hex')));
DROP INDEX validation_requests_validator;
CREATE INDEX validation_requests_validator ON validation_requests (('0x' COLLATE "C" || encode(validator, 'hex')));
DROP INDEX validation_responses_hash;
CREATE INDEX validation_responses_hash ON validation_responses (('0x' COLLATE "C" || encode(request_hash, 'hex')));
DROP INDEX validation_responses_validator;
CREATE INDEX validation_responses_validator ON validation_responses (('0x' COLLATE "C" || encode(validator, 'hex')));
DROP INDEX agents_owner;
CREATE INDEX agents_owner ON agents (('0x' COLLATE "C" || encode(owner, 'hex')));
DROP INDEX agents_wallet;
CREATE INDEX agents_wallet ON agents (('0x' COLLATE "C" || encode(wallet, 'hex')));
DROP INDEX agents_registered_tx;
CREATE INDEX agents_registered_tx ON agents (('0x' COLLATE "C" || encode(registered_tx, 'hex')));
DROP INDEX agent_clients_client;
CREATE INDEX agent_clients_client ON agent_clients (('0x' COLLATE "C" || encode(client, 'hex')));
