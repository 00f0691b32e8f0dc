-- What a backfill of ten million logs showed.

-- Whom a `refresh` is about: the publisher need not read the ledger again to find out. Null: any agent of the chain.
ALTER TABLE changes ADD COLUMN agents uuid[];
ALTER TABLE changes ALTER COLUMN agents SET STORAGE EXTERNAL;  -- keys do not compress

-- Room on each page for rows that are written again without a change of what their indexes hold.
ALTER TABLE feedback SET (fillfactor = 90);
ALTER TABLE validation_requests SET (fillfactor = 85);
ALTER TABLE agent_clients SET (fillfactor = 95);
ALTER TABLE agent_values SET (fillfactor = 90);
ALTER TABLE agent_days SET (fillfactor = 90);

-- Most rows are never written again: by default a growing table is read by vacuum each time that it grew by a fifth.
ALTER TABLE logs SET (autovacuum_vacuum_insert_scale_factor = 0.5);
ALTER TABLE transfers SET (autovacuum_vacuum_insert_scale_factor = 0.5);
ALTER TABLE uris SET (autovacuum_vacuum_insert_scale_factor = 0.5);
ALTER TABLE metadata_writes SET (autovacuum_vacuum_insert_scale_factor = 0.5);
ALTER TABLE feedback SET (autovacuum_vacuum_insert_scale_factor = 0.5);
ALTER TABLE agent_clients SET (autovacuum_vacuum_insert_scale_factor = 0.5);
