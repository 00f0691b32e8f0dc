-- The ledger, the typed rows, the state and the bookkeeping of the indexer. Consumers read the schema `erc8004` alone.
-- Addresses and hashes are bytea here and hex text in the views; indexes that serve lookups by hex are on that expression.

-- ---------------------------------------------------------------- bookkeeping

CREATE TABLE chains (
    chain_id         bigint PRIMARY KEY,
    name             text NOT NULL,
    start_block      bigint NOT NULL,
    state            text NOT NULL DEFAULT 'backfilling' CHECK (state IN ('backfilling', 'live', 'halted')),
    halt_reason      text,
    -- The last block whose rows are all here; start_block - 1 before the first. Locking this row is how writers take turns.
    checkpoint_block bigint NOT NULL,
    checkpoint_hash  bytea,
    checkpoint_time  timestamptz,
    -- Last number given out in `changes`; taken under this row's lock, so it follows the order of commits.
    cursor           bigint NOT NULL DEFAULT 0,
    -- What was final when the held headers last proved to be on the chain: a change at or below it breaks finality.
    proven_final     bigint NOT NULL DEFAULT -1,
    announced_final  bigint NOT NULL DEFAULT -1,    -- the last block a `finalized` change was written for
    reorgs           bigint NOT NULL DEFAULT 0,
    proof            text NOT NULL DEFAULT 'logs',
    updated_at       timestamptz NOT NULL DEFAULT now()
);

-- Which database this is, so that a copy of its content elsewhere can tell whether it is of this one. A single row.
CREATE TABLE database_identity (id uuid NOT NULL);
INSERT INTO database_identity (id) VALUES (gen_random_uuid());

-- What the nodes say, written at every poll: apart from `chains`, so that a long write does not look like a dead daemon.
CREATE TABLE heads (
    chain_id        bigint PRIMARY KEY REFERENCES chains,
    head_block      bigint,
    head_time       timestamptz,
    finalized_block bigint,
    providers       jsonb NOT NULL DEFAULT '[]',
    warnings        jsonb NOT NULL DEFAULT '[]',
    publisher       jsonb,
    max_lag_s       double precision NOT NULL DEFAULT 60,
    stall_after_s   double precision NOT NULL DEFAULT 90,
    heartbeat_at    timestamptz NOT NULL DEFAULT now()
);

-- Who writes a chain. `epoch` rises at each take-over; a writer proves its epoch in every transaction.
CREATE TABLE leases (
    chain_id   bigint PRIMARY KEY,
    holder     text NOT NULL,
    epoch      bigint NOT NULL,
    expires_at timestamptz NOT NULL
);

-- Configured contracts, one row per role. `active` is false once a contract has left the settings; its rows stay.
CREATE TABLE registries (
    chain_id    bigint NOT NULL,
    address     bytea NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('identity', 'reputation', 'validation')),
    identity    bytea NOT NULL,
    position    integer NOT NULL,
    start_block bigint NOT NULL,
    active      boolean NOT NULL DEFAULT true,
    PRIMARY KEY (chain_id, address, kind)
);

-- Which blocks were fetched for which contract, and how they were proven. Bounds are inclusive.
CREATE TABLE coverage (
    chain_id   bigint NOT NULL,
    address    bytea NOT NULL,
    from_block bigint NOT NULL,
    to_block   bigint NOT NULL CHECK (to_block >= from_block),
    proof      text NOT NULL,
    PRIMARY KEY (chain_id, address, from_block)
);

-- Headers of blocks that may still be reorganised, the newest final one, and nothing older.
CREATE TABLE blocks (
    chain_id        bigint NOT NULL,
    block_number    bigint NOT NULL,
    block_hash      bytea NOT NULL,
    parent_hash     bytea NOT NULL,
    block_timestamp timestamptz NOT NULL,
    PRIMARY KEY (chain_id, block_number)
);

-- ---------------------------------------------------------------- ledger

CREATE TABLE logs (
    chain_id        bigint NOT NULL,
    block_number    bigint NOT NULL,
    log_index       integer NOT NULL,
    tx_index        integer NOT NULL,
    block_timestamp timestamptz NOT NULL,
    agent_uuid      uuid,
    agent_id        numeric,
    address         bytea NOT NULL,
    block_hash      bytea NOT NULL,
    tx_hash         bytea NOT NULL,
    topics          bytea NOT NULL,                 -- 32 bytes each, in order
    data            bytea NOT NULL,
    event           text,                           -- null: not decodable, see defect
    event_version   text,
    args            jsonb,
    defect          text,
    PRIMARY KEY (chain_id, block_number, log_index)
);
CREATE INDEX logs_agent ON logs (agent_uuid, block_number, log_index) WHERE agent_uuid IS NOT NULL;
CREATE INDEX logs_tx_hash ON logs (('0x' || encode(tx_hash, 'hex')));

-- What rollbacks and replaced slices took back, as it stood in the ledger.
CREATE TABLE reverted_logs (LIKE logs, cursor bigint NOT NULL, reverted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chain_id, cursor));
CREATE INDEX reverted_logs_position ON reverted_logs (chain_id, block_number, log_index);

-- The change feed in commit order: `event` and `revert` point at a log; `finalized` at a block; `refresh` is a backfilled
-- range, for the publisher alone.
CREATE TABLE changes (
    chain_id     bigint NOT NULL,
    cursor       bigint NOT NULL,
    kind         text NOT NULL CHECK (kind IN ('event', 'revert', 'finalized', 'refresh')),
    from_block   bigint NOT NULL,
    block_number bigint NOT NULL,
    block_hash   bytea,
    log_index    integer,
    committed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chain_id, cursor)
);
CREATE INDEX changes_committed_at ON changes (committed_at);

-- ---------------------------------------------------------------- typed rows: one per decoded log that changes state

CREATE TABLE transfers (
    chain_id        bigint NOT NULL,
    block_number    bigint NOT NULL,
    log_index       integer NOT NULL,
    block_timestamp timestamptz NOT NULL,
    agent_uuid      uuid NOT NULL,
    from_address    bytea NOT NULL,
    to_address      bytea NOT NULL,
    PRIMARY KEY (chain_id, block_number, log_index)
);
CREATE INDEX transfers_agent ON transfers (agent_uuid, block_number, log_index);
CREATE INDEX transfers_owner ON transfers (('0x' || encode(to_address, 'hex')));

-- Registered and URIUpdated. `applies` is false where a call-back during the mint had set the URI already (section 4).
CREATE TABLE uris (
    chain_id        bigint NOT NULL,
    block_number    bigint NOT NULL,
    log_index       integer NOT NULL,
    block_timestamp timestamptz NOT NULL,
    agent_uuid      uuid NOT NULL,
    is_registration boolean NOT NULL,
    actor           bytea NOT NULL,                 -- Registered.owner or URIUpdated.updatedBy
    token_uri       text NOT NULL,
    token_uri_raw   bytea,
    applies         boolean NOT NULL,
    PRIMARY KEY (chain_id, block_number, log_index)
);
CREATE INDEX uris_agent ON uris (agent_uuid, block_number, log_index);

-- MetadataSet. `applies` is false for the wallet announced after a mint whose call-back changed it (section 4).
CREATE TABLE metadata_writes (
    chain_id        bigint NOT NULL,
    block_number    bigint NOT NULL,
    log_index       integer NOT NULL,
    block_timestamp timestamptz NOT NULL,
    agent_uuid      uuid NOT NULL,
    key_hash        bytea NOT NULL,                 -- sha256 of the key's bytes: a key may be too long for an index
    key             text NOT NULL,
    key_raw         bytea,
    value           bytea NOT NULL,
    is_wallet       boolean NOT NULL,               -- the key is exactly `agentWallet`
    applies         boolean NOT NULL,
    PRIMARY KEY (chain_id, block_number, log_index)
);
CREATE INDEX metadata_writes_agent ON metadata_writes (agent_uuid, block_number, log_index);
CREATE INDEX metadata_writes_wallet_agent ON metadata_writes (agent_uuid, block_number, log_index)
    WHERE is_wallet AND applies;
CREATE INDEX metadata_writes_wallet ON metadata_writes
    ((CASE WHEN octet_length(value) = 20 THEN '0x' || encode(value, 'hex') END)) WHERE is_wallet AND applies;

CREATE TABLE approvals (
    chain_id        bigint NOT NULL,
    block_number    bigint NOT NULL,
    log_index       integer NOT NULL,
    block_timestamp timestamptz NOT NULL,
    agent_uuid      uuid NOT NULL,
    owner           bytea NOT NULL,
    approved        bytea NOT NULL,
    PRIMARY KEY (chain_id, block_number, log_index)
);
CREATE INDEX approvals_agent ON approvals (agent_uuid, block_number, log_index);

CREATE TABLE operator_approvals (
    chain_id        bigint NOT NULL,
    block_number    bigint NOT NULL,
    log_index       integer NOT NULL,
    block_timestamp timestamptz NOT NULL,
    registry        bytea NOT NULL,
    owner           bytea NOT NULL,
    operator        bytea NOT NULL,
    approved        boolean NOT NULL,
    PRIMARY KEY (chain_id, block_number, log_index)
);
CREATE INDEX operator_approvals_owner ON operator_approvals (registry, owner, operator, block_number, log_index);

-- NewFeedback. The columns from `epoch` on are state, moved by revocations, responses and new epochs.
CREATE TABLE feedback (
    chain_id        bigint NOT NULL,
    block_number    bigint NOT NULL,
    log_index       integer NOT NULL,
    block_timestamp timestamptz NOT NULL,
    agent_uuid      uuid NOT NULL,
    registry        bytea NOT NULL,
    client          bytea NOT NULL,
    feedback_index  numeric NOT NULL,               -- counted where the log has none: 0 until then
    has_index       boolean NOT NULL,
    value_raw       numeric NOT NULL,
    value_decimals  smallint NOT NULL,
    value           numeric GENERATED ALWAYS AS ((value_raw::text || 'e-' || value_decimals)::numeric) STORED,
    tag1            text,
    tag1_raw        bytea,
    tag1_hash       bytea,
    tag2            text NOT NULL,
    tag2_raw        bytea,
    endpoint        text,
    endpoint_raw    bytea,
    file_uri        text NOT NULL,
    file_uri_raw    bytea,
    file_hash       bytea NOT NULL,
    epoch           integer NOT NULL DEFAULT 0,
    standing        smallint NOT NULL DEFAULT 0,    -- 0 counts, 1 revoked, 2 of an older epoch
    revoked_at      timestamptz,
    response_count  bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (chain_id, block_number, log_index)
);
CREATE INDEX feedback_pair ON feedback (agent_uuid, client, feedback_index);
-- Newest first of one client, whoever gave tens of thousands too: on the bytes of the pair alone it would be sorted whole.
CREATE INDEX feedback_client ON feedback (('0x' || encode(client, 'hex')), block_timestamp);
CREATE INDEX feedback_counting ON feedback (agent_uuid, block_number, log_index) WHERE standing = 0;

CREATE TABLE revocations (
    chain_id        bigint NOT NULL,
    block_number    bigint NOT NULL,
    log_index       integer NOT NULL,
    block_timestamp timestamptz NOT NULL,
    agent_uuid      uuid NOT NULL,
    registry        bytea NOT NULL,
    client          bytea NOT NULL,
    feedback_index  numeric NOT NULL,
    PRIMARY KEY (chain_id, block_number, log_index)
);
CREATE INDEX revocations_agent ON revocations (agent_uuid);

CREATE TABLE feedback_responses (
    chain_id         bigint NOT NULL,
    block_number     bigint NOT NULL,
    log_index        integer NOT NULL,
    block_timestamp  timestamptz NOT NULL,
    agent_uuid       uuid NOT NULL,
    registry         bytea NOT NULL,
    client           bytea NOT NULL,
    feedback_index   numeric NOT NULL,
    responder        bytea NOT NULL,
    response_uri     text NOT NULL,
    response_uri_raw bytea,
    response_hash    bytea,
    PRIMARY KEY (chain_id, block_number, log_index)
);
CREATE INDEX feedback_responses_agent ON feedback_responses (agent_uuid, client, feedback_index);
CREATE INDEX feedback_responses_client ON feedback_responses (('0x' || encode(client, 'hex')));

-- ValidationRequest. The columns from `answer_block` on are state: where the latest answer stands, and how many came.
CREATE TABLE validation_requests (
    chain_id        bigint NOT NULL,
    block_number    bigint NOT NULL,
    log_index       integer NOT NULL,
    block_timestamp timestamptz NOT NULL,
    agent_uuid      uuid NOT NULL,
    registry        bytea NOT NULL,
    request_hash    bytea NOT NULL,
    validator       bytea NOT NULL,
    request_uri     text NOT NULL,
    request_uri_raw bytea,
    answer_block    bigint,
    answer_log      integer,
    responded_at    timestamptz,
    response        smallint,
    response_count  bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (chain_id, block_number, log_index)
);
CREATE INDEX validation_requests_agent ON validation_requests (agent_uuid);
CREATE INDEX validation_requests_key ON validation_requests (request_hash);
CREATE INDEX validation_requests_hash ON validation_requests (('0x' || encode(request_hash, 'hex')));
CREATE INDEX validation_requests_validator ON validation_requests (('0x' || encode(validator, 'hex')));

CREATE TABLE validation_responses (
    chain_id         bigint NOT NULL,
    block_number     bigint NOT NULL,
    log_index        integer NOT NULL,
    block_timestamp  timestamptz NOT NULL,
    agent_uuid       uuid NOT NULL,
    registry         bytea NOT NULL,
    request_hash     bytea NOT NULL,
    validator        bytea NOT NULL,
    response         smallint NOT NULL,
    response_uri     text NOT NULL,
    response_uri_raw bytea,
    response_hash    bytea,
    tag              text NOT NULL,
    tag_raw          bytea,
    PRIMARY KEY (chain_id, block_number, log_index)
);
CREATE INDEX validation_responses_agent ON validation_responses (agent_uuid);
CREATE INDEX validation_responses_hash ON validation_responses (('0x' || encode(request_hash, 'hex')));
CREATE INDEX validation_responses_validator ON validation_responses (('0x' || encode(validator, 'hex')));

-- ---------------------------------------------------------------- state: a function of the typed rows

CREATE TABLE agents (
    agent_uuid       uuid PRIMARY KEY,
    chain_id         bigint NOT NULL,
    registry         bytea NOT NULL,
    agent_id         numeric NOT NULL,
    owner            bytea,
    owner_block      bigint,
    approved         bytea,
    approved_block   bigint,
    wallet           bytea,
    token_uri        text,
    token_uri_raw    bytea,
    registered_at    timestamptz,                   -- null: known only from later logs
    registered_block bigint,
    registered_tx    bytea,
    updated_at       timestamptz
);
CREATE INDEX agents_id ON agents (chain_id, agent_id);
CREATE INDEX agents_owner ON agents (('0x' || encode(owner, 'hex')));
CREATE INDEX agents_wallet ON agents (('0x' || encode(wallet, 'hex')));
CREATE INDEX agents_registered_tx ON agents (('0x' || encode(registered_tx, 'hex')));
-- Orders of the views, with `NULLS LAST` and without; chain_id lets one chain's agents be picked within the index.
CREATE INDEX agents_registered_at ON agents (registered_at, chain_id);
CREATE INDEX agents_registered_at_nulls_last ON agents (registered_at DESC NULLS LAST, chain_id);

CREATE TABLE agent_stats (
    agent_uuid          uuid PRIMARY KEY,
    chain_id            bigint NOT NULL,
    last_activity_at    timestamptz NOT NULL,
    last_activity_block bigint NOT NULL,
    feedback            bigint NOT NULL DEFAULT 0,  -- neither revoked nor of an older epoch, as all figures but `revoked`
    revoked             bigint NOT NULL DEFAULT 0,
    scored              bigint NOT NULL DEFAULT 0,
    score_sum           numeric NOT NULL DEFAULT 0,
    average_score       numeric GENERATED ALWAYS AS (round(score_sum / nullif(scored, 0), 4)) STORED,
    positive            bigint NOT NULL DEFAULT 0,
    negative            bigint NOT NULL DEFAULT 0,
    clients             bigint NOT NULL DEFAULT 0,
    last_feedback_at    timestamptz,
    responses           bigint NOT NULL DEFAULT 0,
    validations         bigint NOT NULL DEFAULT 0,
    answered            bigint NOT NULL DEFAULT 0,
    response_sum        numeric NOT NULL DEFAULT 0
) WITH (fillfactor = 80);
CREATE INDEX agent_stats_feedback ON agent_stats (feedback, chain_id);
CREATE INDEX agent_stats_feedback_nulls_last ON agent_stats (feedback DESC NULLS LAST, chain_id);
CREATE INDEX agent_stats_score ON agent_stats (average_score, chain_id);
CREATE INDEX agent_stats_score_nulls_last ON agent_stats (average_score DESC NULLS LAST, chain_id);
CREATE INDEX agent_stats_last_activity ON agent_stats (last_activity_at, chain_id);
CREATE INDEX agent_stats_last_activity_nulls_last ON agent_stats (last_activity_at DESC NULLS LAST, chain_id);

-- One row per client of an agent: where its numbering stands, and its part of the figures.
CREATE TABLE agent_clients (
    agent_uuid uuid NOT NULL,
    registry   bytea NOT NULL,
    client     bytea NOT NULL,
    chain_id   bigint NOT NULL,
    epoch      integer NOT NULL DEFAULT 0,
    last_index numeric NOT NULL,
    feedback   bigint NOT NULL DEFAULT 0,
    revoked    bigint NOT NULL DEFAULT 0,
    first_at   timestamptz NOT NULL,
    last_at    timestamptz NOT NULL,
    PRIMARY KEY (agent_uuid, registry, client)
);
CREATE INDEX agent_clients_client ON agent_clients (('0x' || encode(client, 'hex')));

-- Count and sum of an agent's counting feedback by decimals: what getSummary over all clients is made of.
CREATE TABLE agent_values (
    agent_uuid     uuid NOT NULL,
    registry       bytea NOT NULL,
    value_decimals smallint NOT NULL,
    chain_id       bigint NOT NULL,
    feedback       bigint NOT NULL,
    value_sum      numeric NOT NULL,
    PRIMARY KEY (agent_uuid, registry, value_decimals)
);

CREATE TABLE agent_metadata (
    agent_uuid   uuid NOT NULL,
    key_hash     bytea NOT NULL,
    chain_id     bigint NOT NULL,
    key          text NOT NULL,
    key_raw      bytea,
    value        bytea NOT NULL,
    updated_at   timestamptz NOT NULL,
    block_number bigint NOT NULL,
    log_index    integer NOT NULL,
    PRIMARY KEY (agent_uuid, key_hash)
);

CREATE TABLE agent_days (
    agent_uuid    uuid NOT NULL,
    day           date NOT NULL,                    -- UTC
    chain_id      bigint NOT NULL,
    registrations bigint NOT NULL,
    feedback      bigint NOT NULL,
    revoked       bigint NOT NULL,
    responses     bigint NOT NULL,
    validations   bigint NOT NULL,
    PRIMARY KEY (agent_uuid, day)
);
CREATE INDEX agent_days_day ON agent_days (chain_id, day);

CREATE TABLE chain_totals (
    chain_id    bigint PRIMARY KEY,
    agents      bigint NOT NULL DEFAULT 0,
    feedback    bigint NOT NULL DEFAULT 0,
    revoked     bigint NOT NULL DEFAULT 0,
    responses   bigint NOT NULL DEFAULT 0,
    validations bigint NOT NULL DEFAULT 0,
    answered    bigint NOT NULL DEFAULT 0,
    undecodable bigint NOT NULL DEFAULT 0
);
