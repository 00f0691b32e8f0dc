-- name: acquire_lease
-- Taken when free, expired or our own; the epoch rises each time, so that the holder before can write no more.
INSERT INTO leases AS l (chain_id, holder, epoch, expires_at)
VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT (chain_id) DO UPDATE SET
    holder = excluded.holder, epoch = l.epoch + 1, expires_at = excluded.expires_at
WHERE l.expires_at < clock_timestamp() OR l.holder = excluded.holder
RETURNING epoch;

-- name: renew_lease
UPDATE leases SET expires_at = clock_timestamp() + make_interval(secs => $4)
WHERE chain_id = $1 AND holder = $2 AND epoch = $3 RETURNING epoch;

-- name: release_lease
UPDATE leases SET expires_at = clock_timestamp() - interval '1 second'
WHERE chain_id = $1 AND holder = $2 AND epoch = $3;

-- name: lease_holder
SELECT holder, greatest(extract(epoch FROM expires_at - clock_timestamp()), 0)::double precision AS seconds_left
FROM leases WHERE chain_id = $1;

-- name: end_frozen_writer
-- A holder that was frozen inside its transaction keeps the chain's row locked; its session is ended, and with it the lock.
SELECT count(pg_terminate_backend(pid)) FROM pg_locks
WHERE locktype = 'advisory' AND classid = 8004 AND objsubid = 2 AND granted AND pid <> pg_backend_pid()
  AND objid::bigint = (hashtext($1::bigint::text)::bigint & 4294967295)
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database());

-- name: halt_of
SELECT coalesce(halt_reason, 'halted') FROM chains WHERE chain_id = $1 AND state = 'halted';

-- name: beat_instance
INSERT INTO instances (holder, chain_ids, expires_at)
VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT (holder) DO UPDATE SET chain_ids = excluded.chain_ids, expires_at = excluded.expires_at;

-- name: leave_instances
DELETE FROM instances WHERE holder = $1;

-- name: forget_instances
-- Those that were killed leave their row behind; one that was only frozen tells of itself anew when it wakes up.
DELETE FROM instances WHERE expires_at < clock_timestamp() - interval '1 hour';

-- name: live_instances
SELECT holder, chain_ids FROM instances WHERE expires_at > clock_timestamp();

-- name: live_leases
SELECT chain_id, holder FROM leases WHERE expires_at > clock_timestamp();
