-- Corrections of what is stored, and instances that share the chains among themselves.

-- Rises with every rollback, swapped slice and merge: who read the chain's rows before that must read them again.
ALTER TABLE chains ADD COLUMN rewrites bigint NOT NULL DEFAULT 0;

-- The daemons that live by the database's clock, and the chains that each is configured for.
CREATE TABLE instances (
    holder     text PRIMARY KEY,
    chain_ids  bigint[] NOT NULL,
    expires_at timestamptz NOT NULL
);

-- A ranged reindex that has not come to its end; the same command goes on at `next_block`. `to_block` null: the checkpoint.
CREATE TABLE reindexes (
    chain_id   bigint PRIMARY KEY REFERENCES chains,
    from_block bigint NOT NULL,
    to_block   bigint,
    next_block bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
