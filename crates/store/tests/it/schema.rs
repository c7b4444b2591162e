//! Numbered steps: applied once, kept apart by version and by text; `check` changes nothing.

use supernode_store::{DatabaseUrl, Migration, Options, Store, StoreError, params};

use crate::fixture::{Database, Engine, MIGRATIONS, insert, names, on_every_server, options};

on_every_server!(
    steps_are_applied_once_and_later_ones_added,
    a_newer_schema_is_refused,
    an_edited_step_is_refused,
    a_failing_step_leaves_nothing,
    check_reports_and_changes_nothing,
    several_programs_migrate_at_once,
);

const FIRST_ONLY: &[Migration] = MIGRATIONS.first_chunk::<1>().expect("there are two steps");

fn open(url: &DatabaseUrl, migrations: &'static [Migration]) -> Result<Store, StoreError> {
    Store::open_with(url, Options::new(migrations))
}

fn steps_are_applied_once_and_later_ones_added(engine: Engine) {
    let database = Database::new(engine);
    let store = open(&database.url, FIRST_ONLY).expect("a fresh database");
    insert(&store, 1, "kept").expect("stored");
    drop(store);
    for _ in 0..2 {
        let store = database.open();
        assert_eq!(names(&store), ["kept"]);
        let counters: i64 = store
            .read_inline("counters", |tx| {
                tx.query_one("SELECT COUNT(*) AS count FROM counter", params![])?
                    .get("count")
            })
            .unwrap_or_else(|error: StoreError| panic!("{error}"));
        assert_eq!(counters, 2, "the second step ran once");
    }
}

fn a_newer_schema_is_refused(engine: Engine) {
    let database = Database::new(engine);
    drop(database.open());
    let error = open(&database.url, FIRST_ONLY).expect_err("an older program");
    assert_eq!(
        error.to_string(),
        format!(
            "database {} has a schema that this program cannot use: it has version 2 (parts) and this program knows up \
             to 1: run the newer program, or restore a backup from before the upgrade",
            database.url
        )
    );
    drop(database.open());
}

fn an_edited_step_is_refused(engine: Engine) {
    const EDITED: &[Migration] = &[Migration {
        number: 1,
        name: "things",
        sql: "CREATE TABLE thing (id BIGINT)",
    }];
    let database = Database::new(engine);
    drop(open(&database.url, FIRST_ONLY).expect("a fresh database"));
    let error = open(&database.url, EDITED).expect_err("another text");
    assert!(
        error
            .to_string()
            .contains("its step 1 (things) is not this program's step 1 (things)"),
        "{error}"
    );
}

fn a_failing_step_leaves_nothing(engine: Engine) {
    const BROKEN: &[Migration] = &[
        FIRST_ONLY[0],
        Migration {
            number: 2,
            name: "broken",
            sql: "CREATE TABLE half (id BIGINT); INSERT INTO nowhere VALUES (1);",
        },
    ];
    let database = Database::new(engine);
    let error = open(&database.url, BROKEN).expect_err("a step that cannot run");
    assert!(
        matches!(&error, StoreError::Schema { reason, .. } if reason.contains("step 2 (broken) failed")),
        "{error}"
    );
    assert_eq!(
        Store::check_with(&database.url, MIGRATIONS)
            .expect("readable")
            .schema_version,
        0
    );
    let store = database.open();
    let half = store.read_inline("half", |tx| tx.query("SELECT id FROM half", params![]));
    assert!(
        matches!(half, Err(StoreError::Statement { .. })),
        "{half:?}"
    );
}

fn check_reports_and_changes_nothing(engine: Engine) {
    let database = Database::new(engine);
    drop(open(&database.url, FIRST_ONLY).expect("a fresh database"));
    let report = Store::check_with(&database.url, MIGRATIONS).expect("readable");
    assert_eq!((report.schema_version, report.program_version), (1, 2));
    assert_eq!(
        report.problems,
        Vec::<String>::new(),
        "an upgrade that is due is no problem"
    );
    assert_eq!(report.database, database.url.to_string());

    let store = database.open();
    store
        .write_inline("by hand", |tx| {
            tx.execute("ALTER TABLE part ADD COLUMN extra TEXT", params![])?;
            tx.execute("DROP TABLE counter", params![])
        })
        .unwrap_or_else(|error: StoreError| panic!("{error}"));
    let beside_a_server = Store::check_with(&database.url, MIGRATIONS).expect("readable");
    drop(store);
    let report = Store::check_with(&database.url, MIGRATIONS).expect("readable");
    assert_eq!(report, beside_a_server);
    assert_eq!(
        report.problems,
        [
            "counter.id is missing",
            "counter.value is missing",
            "part.extra is not of this program"
        ]
    );
    let older = Store::check_with(&database.url, FIRST_ONLY).expect("readable");
    assert_eq!(older.problems.len(), 1);
    assert!(
        older.problems[0].contains("it has version 2 (parts)"),
        "{}",
        older.problems[0]
    );
}

fn several_programs_migrate_at_once(engine: Engine) {
    let database = Database::new(engine);
    let outcomes: Vec<Result<(), StoreError>> = std::thread::scope(|scope| {
        let programs: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| Store::open_with(&database.url, options()).map(drop)))
            .collect();
        programs
            .into_iter()
            .map(|program| program.join().expect("no panic"))
            .collect()
    });
    match engine {
        Engine::Postgres => assert_eq!(outcomes, [Ok(()), Ok(()), Ok(()), Ok(())]),
        Engine::Sqlite | Engine::Memory => {
            assert!(outcomes.contains(&Ok(())), "{outcomes:?}");
            assert!(
                outcomes
                    .iter()
                    .all(|outcome| matches!(outcome, Ok(()) | Err(StoreError::Locked { .. }))),
                "{outcomes:?}"
            );
        }
    }
    assert_eq!(
        Store::check_with(&database.url, MIGRATIONS)
            .expect("readable")
            .schema_version,
        2
    );
}
