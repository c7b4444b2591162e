//! The schema, as a list of numbered steps that is only ever appended to.
//!
//! One text for both engines (`BIGINT`, `TEXT`, `BYTEA`, named `CHECK`s). A step that was released is never edited:
//! its checksum stands in every database that it made, and the store refuses to open one that differs.

use crate::db::Migration;

/// Every step, oldest first, numbered 1, 2, 3, ….
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 1,
        name: "initial",
        sql: include_str!("../migrations/0001_initial.sql"),
    },
    Migration {
        number: 2,
        name: "group_key",
        sql: include_str!("../migrations/0002_group_key.sql"),
    },
    Migration {
        number: 3,
        name: "spec_maximum_disk",
        sql: include_str!("../migrations/0003_spec_maximum_disk.sql"),
    },
    Migration {
        number: 4,
        name: "attempt_retry",
        sql: include_str!("../migrations/0004_attempt_retry.sql"),
    },
    Migration {
        number: 5,
        name: "stress",
        sql: include_str!("../migrations/0005_stress.sql"),
    },
    Migration {
        number: 6,
        name: "channel",
        sql: include_str!("../migrations/0006_channel.sql"),
    },
    Migration {
        number: 7,
        name: "stress_network",
        sql: include_str!("../migrations/0007_stress_network.sql"),
    },
];
