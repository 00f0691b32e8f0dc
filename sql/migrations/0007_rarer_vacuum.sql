-- What the vacuums of a backfill of ten million logs showed.

-- Of rows that are never written again, as all or most of these are, vacuum only notes that everybody sees them, and writes
-- each page once more for it: that has time until a table is ten times as large as at the last. Dead rows are counted apart,
-- and looked after as ever.
ALTER TABLE logs SET (autovacuum_vacuum_insert_scale_factor = 0.9);
ALTER TABLE transfers SET (autovacuum_vacuum_insert_scale_factor = 0.9);
ALTER TABLE uris SET (autovacuum_vacuum_insert_scale_factor = 0.9);
ALTER TABLE metadata_writes SET (autovacuum_vacuum_insert_scale_factor = 0.9);
ALTER TABLE feedback SET (autovacuum_vacuum_insert_scale_factor = 0.9);
ALTER TABLE agent_clients SET (autovacuum_vacuum_insert_scale_factor = 0.9);
