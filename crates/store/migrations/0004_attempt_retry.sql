-- What an attempt got from the retry policy of its super node, as JSON. Attempts from before, and those without a policy, have none.
ALTER TABLE attempt ADD COLUMN retry TEXT NOT NULL DEFAULT '';

-- What the log of a rank says of repeated operators, by outcome and link. An agent says it again and again, so a row is the highest count.
CREATE TABLE retry_evidence (
    attempt TEXT NOT NULL REFERENCES attempt (id) ON DELETE CASCADE,
    number BIGINT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('path_failed', 'started', 'lane_switched', 'succeeded', 'refused', 'switched_off')),
    link TEXT NOT NULL,
    sightings BIGINT NOT NULL,
    line TEXT NOT NULL,
    first_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    PRIMARY KEY (attempt, number, outcome, link)
);
