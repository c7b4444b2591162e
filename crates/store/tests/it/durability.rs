//! Acknowledged means stored, also when the process dies at once.

use std::collections::HashSet;

use supernode_store::{StoreError, params};

use crate::{
    child::OtherProcess,
    fixture::{Database, Engine, on_every_server, options},
};

on_every_server!(what_was_acknowledged_survives_a_kill);

fn what_was_acknowledged_survives_a_kill(engine: Engine) {
    let database = Database::new(engine);
    // Again and again on the same database: recovery after recovery.
    let mut acknowledged = HashSet::new();
    for _ in 0..3 {
        let mut writer = OtherProcess::start("write", &address(&database));
        for _ in 0..400 {
            acknowledged.insert(id(&writer.line("ack").expect("the writer lives")));
        }
        writer.kill();
        while let Some(rest) = writer.line("ack") {
            acknowledged.insert(id(&rest));
        }
        let store = database.open_with(options());
        let stored: HashSet<i64> = store
            .read_inline("stored", |tx| {
                let sql = "SELECT thing.id AS id FROM thing JOIN part ON part.thing = thing.id";
                tx.query(sql, params![])?
                    .iter()
                    .map(|row| row.get("id"))
                    .collect()
            })
            .unwrap_or_else(|error: StoreError| panic!("{error}"));
        let lost: Vec<_> = acknowledged.difference(&stored).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let halves: i64 = store
            .read_inline("halves", |tx| {
                let sql =
                    "SELECT (SELECT COUNT(*) FROM thing) - (SELECT COUNT(*) FROM part) AS halves";
                tx.query_one(sql, params![])?.get("halves")
            })
            .unwrap_or_else(|error: StoreError| panic!("{error}"));
        assert_eq!(halves, 0, "a closure is stored whole or not at all");
    }
    let report = supernode_store::Store::check_with(&database.url, options().migrations)
        .expect("a readable database");
    assert_eq!(report.problems, Vec::<String>::new());
}

fn id(text: &str) -> i64 {
    text.parse().expect("a number")
}

/// The address with which another process opens the same database.
pub(crate) fn address(database: &Database) -> String {
    match database.engine {
        Engine::Postgres => {
            let shown = database.url.to_string();
            let name = shown.rsplit('/').next().expect("a name");
            format!(
                "postgres://postgres@/{name}?host={}",
                crate::fixture::postgres().socket_directory().display()
            )
        }
        Engine::Sqlite | Engine::Memory => format!("sqlite:{}", database.path().display()),
    }
}
