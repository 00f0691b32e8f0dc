-- What the statements of a backfill's commits showed.

-- Rows that are written again in the batch that made them need their room right then: where their page is full, they go to
-- another one, and every index gets them once more.
ALTER TABLE agent_stats SET (fillfactor = 50);
ALTER TABLE validation_requests SET (fillfactor = 50);
