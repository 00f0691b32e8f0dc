-- What a backfill of millions of logs showed.

-- The request that an answer means is the newest before it: read off the index, however many requests there are.
DROP INDEX validation_requests_key;
CREATE INDEX validation_requests_key ON validation_requests (request_hash, block_number, log_index);
