-- What the ranks of an attempt share and nobody else knows. Attempts from before have none.
ALTER TABLE attempt ADD COLUMN group_key TEXT NOT NULL DEFAULT '';
