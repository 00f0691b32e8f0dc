-- Arguments are written with every log and seldom read: as text they are parsed where a view shows them, not before.
ALTER TABLE logs ALTER COLUMN args TYPE text;
ALTER TABLE reverted_logs ALTER COLUMN args TYPE text;
