-- The largest system disk of a node of a spec, in GiB.
ALTER TABLE spec ADD COLUMN maximum_disk_gib BIGINT NOT NULL DEFAULT 1024 CHECK (maximum_disk_gib >= 1);
