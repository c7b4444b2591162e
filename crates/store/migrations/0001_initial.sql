-- One text for SQLite and PostgreSQL. `record` holds the whole object as JSON; the columns beside it exist for keys, constraints and
-- indexes and are always written together with it.

CREATE TABLE sequence (
    name TEXT PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO sequence (name, value) VALUES ('event', 0), ('audit', 0), ('environment', 0);

CREATE TABLE spec (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    maximum_nodes BIGINT NOT NULL CHECK (maximum_nodes >= 1),
    generation BIGINT NOT NULL,
    definition TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE super_node (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    spec TEXT NOT NULL REFERENCES spec (id),
    generation BIGINT NOT NULL,
    record TEXT NOT NULL
);

CREATE TABLE environment_revision (
    super_node TEXT NOT NULL REFERENCES super_node (id) ON DELETE CASCADE,
    revision BIGINT NOT NULL CHECK (revision >= 1),
    document TEXT NOT NULL,
    actor TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (super_node, revision)
);

CREATE TABLE node (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    machine_id TEXT NOT NULL,
    join_token TEXT NOT NULL,
    membership TEXT NOT NULL CHECK (membership IN ('spare', 'joining', 'member', 'leaving')),
    super_node TEXT REFERENCES super_node (id),
    policy TEXT NOT NULL CHECK (policy IN ('in_service', 'cordoned', 'draining', 'removed')),
    condition TEXT NOT NULL CHECK (condition IN ('unknown', 'joining', 'ready', 'degraded', 'lost')),
    health TEXT NOT NULL CHECK (health IN ('unproven', 'proven', 'suspect', 'quarantined')),
    desired_generation BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    record TEXT NOT NULL,
    CHECK ((membership = 'spare') = (super_node IS NULL))
);
-- A removed node keeps its row for the history; its name is free again.
CREATE UNIQUE INDEX node_name ON node (name) WHERE policy <> 'removed';
CREATE INDEX node_super_node ON node (super_node) WHERE super_node IS NOT NULL;

CREATE TABLE node_inventory (
    node TEXT PRIMARY KEY REFERENCES node (id) ON DELETE CASCADE,
    inventory TEXT NOT NULL,
    observed_at BIGINT NOT NULL
);

CREATE TABLE certificate (
    serial TEXT PRIMARY KEY,
    node TEXT NOT NULL REFERENCES node (id),
    ends_at BIGINT NOT NULL,
    revoked_at BIGINT
);
CREATE INDEX certificate_node ON certificate (node);

CREATE TABLE job (
    id TEXT PRIMARY KEY,
    super_node TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'starting', 'running', 'stopping', 'succeeded', 'failed', 'cancelled', 'timed_out', 'node_lost')),
    active BOOLEAN NOT NULL,
    priority BIGINT NOT NULL,
    submitted_at BIGINT NOT NULL,
    last_attempt TEXT,
    generation BIGINT NOT NULL,
    record TEXT NOT NULL
);
CREATE INDEX job_queue ON job (super_node, priority DESC, submitted_at, id) WHERE state = 'queued';
CREATE INDEX job_active ON job (id) WHERE active;
CREATE INDEX job_super_node ON job (super_node, id);

CREATE TABLE attempt (
    id TEXT PRIMARY KEY,
    job TEXT NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    number BIGINT NOT NULL,
    master_address TEXT NOT NULL,
    master_port BIGINT NOT NULL,
    nodes BIGINT NOT NULL,
    world_size BIGINT NOT NULL,
    UNIQUE (job, number)
);

CREATE TABLE job_rank (
    attempt TEXT NOT NULL REFERENCES attempt (id) ON DELETE CASCADE,
    number BIGINT NOT NULL,
    job TEXT NOT NULL,
    node TEXT NOT NULL REFERENCES node (id),
    node_rank BIGINT NOT NULL,
    local_rank BIGINT NOT NULL,
    device BIGINT NOT NULL,
    boot_id TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('assigned', 'running', 'ended')),
    detail TEXT,
    PRIMARY KEY (attempt, number)
);
CREATE INDEX job_rank_open ON job_rank (node) WHERE state <> 'ended';

-- The right to use a device. The primary key is what makes two exclusive leases on one device impossible.
CREATE TABLE lease (
    node TEXT NOT NULL REFERENCES node (id),
    device BIGINT NOT NULL,
    job TEXT NOT NULL REFERENCES job (id),
    attempt TEXT NOT NULL REFERENCES attempt (id),
    PRIMARY KEY (node, device)
);
CREATE INDEX lease_attempt ON lease (attempt);

CREATE TABLE operation (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    super_node TEXT,
    super_node_name TEXT,
    state TEXT NOT NULL CHECK (state IN ('running', 'succeeded', 'failed', 'cancelled')),
    generation BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    record TEXT NOT NULL
);
CREATE INDEX operation_running ON operation (id) WHERE state = 'running';
CREATE INDEX operation_super_node ON operation (super_node, id);

CREATE TABLE provision (
    id TEXT PRIMARY KEY,
    operation TEXT NOT NULL REFERENCES operation (id),
    state TEXT NOT NULL CHECK (state IN ('creating', 'created', 'deleting', 'deleted', 'failed')),
    node TEXT,
    record TEXT NOT NULL
);
CREATE INDEX provision_open ON provision (id) WHERE state IN ('creating', 'created', 'deleting');

CREATE TABLE event (
    sequence BIGINT PRIMARY KEY,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    severity TEXT NOT NULL CHECK (severity IN ('info', 'warning', 'error')),
    severity_rank BIGINT NOT NULL,
    message TEXT NOT NULL,
    node TEXT,
    super_node TEXT,
    job TEXT,
    operation TEXT
);

CREATE TABLE audit (
    sequence BIGINT PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    request TEXT NOT NULL,
    request_id TEXT NOT NULL
);

CREATE TABLE idempotency (
    actor TEXT NOT NULL,
    key TEXT NOT NULL,
    digest TEXT NOT NULL,
    response TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (actor, key)
);
CREATE INDEX idempotency_age ON idempotency (created_at);

CREATE TABLE token (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('viewer', 'user', 'operator', 'admin')),
    secret_hash TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT
);

CREATE TABLE join_token (
    id TEXT PRIMARY KEY,
    secret_hash TEXT NOT NULL UNIQUE,
    uses_left BIGINT NOT NULL CHECK (uses_left >= 0),
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT,
    labels TEXT NOT NULL,
    position TEXT NOT NULL,
    provision TEXT REFERENCES provision (id),
    created_at BIGINT NOT NULL
);
CREATE INDEX join_token_provision ON join_token (provision) WHERE provision IS NOT NULL;
