-- Where people are told. `target` holds the keys, passwords and tokens and is read only to deliver; lists read `record`.
CREATE TABLE channel (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL,
    target TEXT NOT NULL,
    retry_at BIGINT NOT NULL,
    state TEXT NOT NULL
);

-- What has to be delivered, written in the transaction of what it tells. The event that began it makes it unique in its channel.
CREATE TABLE message (
    channel TEXT NOT NULL REFERENCES channel (id) ON DELETE CASCADE,
    sequence BIGINT NOT NULL,
    topic TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    due_at BIGINT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (channel, sequence)
);
CREATE INDEX message_pending ON message (channel, due_at) WHERE state = 'pending';
CREATE INDEX message_topic ON message (topic) WHERE state = 'pending';
CREATE INDEX message_age ON message (created_at);

-- What a channel was told last of each thing, so that the same is not told again soon, and its end is told to whoever was told of it.
CREATE TABLE told (
    channel TEXT NOT NULL REFERENCES channel (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    kind TEXT NOT NULL,
    node TEXT,
    at BIGINT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (channel, key)
);
CREATE INDEX told_node ON told (node) WHERE node IS NOT NULL;
CREATE INDEX told_age ON told (at);
