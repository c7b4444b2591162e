-- Stress runs hold leases like jobs do: the same table, the same primary key.
CREATE TABLE lease_of_all (
    node TEXT NOT NULL REFERENCES node (id),
    device BIGINT NOT NULL,
    job TEXT REFERENCES job (id),
    attempt TEXT REFERENCES attempt (id),
    operation TEXT REFERENCES operation (id),
    PRIMARY KEY (node, device),
    CHECK ((job IS NULL) = (attempt IS NULL)),
    CHECK ((job IS NULL) <> (operation IS NULL))
);
INSERT INTO lease_of_all (node, device, job, attempt) SELECT node, device, job, attempt FROM lease;
DROP TABLE lease;
ALTER TABLE lease_of_all RENAME TO lease;
CREATE INDEX lease_attempt ON lease (attempt) WHERE attempt IS NOT NULL;
CREATE INDEX lease_operation ON lease (operation) WHERE operation IS NOT NULL;

-- What a node measured in one round of a run. What is judged is judged from this alone, so it can be judged again.
CREATE TABLE stress_round (
    run TEXT NOT NULL REFERENCES operation (id),
    node TEXT NOT NULL REFERENCES node (id),
    round BIGINT NOT NULL CHECK (round >= 1),
    at BIGINT NOT NULL,
    evidence TEXT NOT NULL,
    PRIMARY KEY (run, node, round)
);
CREATE INDEX stress_round_age ON stress_round (at);

-- What came of testing a node, once for each node of a run.
CREATE TABLE stress_result (
    run TEXT NOT NULL REFERENCES operation (id),
    node TEXT NOT NULL REFERENCES node (id),
    outcome TEXT NOT NULL CHECK (outcome IN ('passed', 'failed', 'suspect', 'undecided', 'incomplete', 'skipped')),
    ended_at BIGINT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (run, node)
);
CREATE INDEX stress_result_node ON stress_result (node, ended_at);

-- When super nodes test themselves. A plan goes with its super node.
CREATE TABLE stress_plan (
    id TEXT PRIMARY KEY,
    super_node TEXT NOT NULL REFERENCES super_node (id) ON DELETE CASCADE,
    generation BIGINT NOT NULL,
    record TEXT NOT NULL
);

-- What the sound runs of one part of a node had in common.
CREATE TABLE stress_baseline (
    node TEXT NOT NULL REFERENCES node (id),
    series TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (node, series)
);
