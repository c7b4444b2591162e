-- The network test of a run: which nodes, where they sit, and what came of it.
CREATE TABLE stress_network (
    run TEXT PRIMARY KEY REFERENCES operation (id),
    state TEXT NOT NULL CHECK (state IN ('testing', 'judged')),
    record TEXT NOT NULL
);

-- Two nodes that measure the network between them. `secret` is what both are given while they do; lists read `record`.
CREATE TABLE stress_pair (
    run TEXT NOT NULL REFERENCES operation (id),
    number BIGINT NOT NULL CHECK (number >= 1),
    round BIGINT NOT NULL CHECK (round >= 1),
    asker TEXT NOT NULL REFERENCES node (id),
    listener TEXT NOT NULL REFERENCES node (id),
    state TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'ended')),
    record TEXT NOT NULL,
    secret TEXT,
    PRIMARY KEY (run, number),
    CHECK (asker <> listener),
    CHECK ((secret IS NULL) = (state <> 'running'))
);
CREATE INDEX stress_pair_open ON stress_pair (run, number) WHERE state <> 'ended';
