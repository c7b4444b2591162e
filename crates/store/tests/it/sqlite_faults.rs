//! What can be wrong with a file: another server, another program, no space, damage, no permission.

use std::{fs, io::Write, os::unix::fs::PermissionsExt, time::Duration};

use supernode_store::{DatabaseUrl, Options, Store, StoreError, params};

use crate::{
    child::OtherProcess,
    durability::address,
    fixture::{Database, Engine, MIGRATIONS, insert, names, options},
};

fn refused(url: &DatabaseUrl) -> StoreError {
    Store::open_with(url, options()).expect_err("this database cannot be opened")
}

#[test]
fn commits_are_synced_to_disk() {
    let database = Database::new(Engine::Sqlite);
    let store = database.open();
    let pragmas = store
        .write_inline("pragmas", |tx| {
            Ok::<_, StoreError>((
                tx.query_one("PRAGMA journal_mode", params![])?
                    .get::<String>("journal_mode")?,
                tx.query_one("PRAGMA synchronous", params![])?
                    .get::<i64>("synchronous")?,
                tx.query_one("PRAGMA foreign_keys", params![])?
                    .get::<bool>("foreign_keys")?,
            ))
        })
        .expect("pragmas can be read");
    assert_eq!(pragmas, ("wal".to_owned(), 2, true), "2 is FULL");
    assert_eq!(
        fs::metadata(database.path())
            .expect("a file")
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
}

#[test]
fn a_second_server_is_told_which_file() {
    let database = Database::new(Engine::Sqlite);
    let mut other = OtherProcess::start("hold", &address(&database));
    let process = other
        .line("open")
        .expect("the other process opens the database");
    let error = refused(&database.url);
    let path = database.path().canonicalize().expect("a file");
    assert_eq!(
        error,
        StoreError::Locked {
            path: path.display().to_string(),
            holder: format!(" (process {process})")
        }
    );
    assert!(error.to_string().contains("stop that server"), "{error}");
    // Another spelling of the same file.
    let detour = database
        .path()
        .parent()
        .expect("a directory")
        .join("..")
        .join(
            database
                .path()
                .parent()
                .and_then(|parent| parent.file_name())
                .expect("a named directory"),
        );
    assert!(matches!(
        refused(&DatabaseUrl::sqlite_file(detour.join("state.db"))),
        StoreError::Locked { .. }
    ));
    other.kill();
    insert(&database.open(), 1, "a").expect("a killed server holds nothing");
}

#[test]
fn a_full_database_refuses_and_recovers() {
    let database = Database::new(Engine::Sqlite);
    let store = database.open();
    let pages = |count: &'static str| {
        store
            .write_inline("limit", move |tx| tx.query(count, params![]).map(drop))
            .unwrap_or_else(|error: StoreError| panic!("{error}"));
    };
    pages("PRAGMA max_page_count = 60");
    let filler = "x".repeat(3000);
    let mut stored = 0;
    let error = loop {
        match insert(&store, stored + 1, &format!("{stored} {filler}")) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(stored > 10, "some fitted");
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(error.to_string().contains("nothing was stored"), "{error}");
    assert!(error.is_retryable());
    assert_eq!(
        names(&store).len(),
        usize::try_from(stored).expect("small"),
        "reading goes on"
    );
    pages("PRAGMA max_page_count = 100000");
    insert(&store, stored + 1, "space again").expect("the same connection goes on");
    assert_eq!(
        Store::check_with(&database.url, MIGRATIONS)
            .expect("readable")
            .problems,
        Vec::<String>::new()
    );
}

#[test]
fn a_disk_error_in_the_commit_loses_no_acknowledged_write() {
    let database = Database::new(Engine::Sqlite);
    drop(database.open());
    let mut writer = OtherProcess::start("write-limited", &address(&database));
    let mut acknowledged = Vec::new();
    while let Some(id) = writer.line("ack") {
        acknowledged.push(id);
        assert!(acknowledged.len() < 5000, "the limit was never reached");
    }
    assert!(
        acknowledged.len() > 20,
        "some fitted: {}",
        acknowledged.len()
    );
    let stored = names(&database.open());
    for id in &acknowledged {
        assert!(
            stored.iter().any(|name| name.split(' ').next() == Some(id)),
            "{id} was acknowledged and is lost"
        );
    }
}

#[test]
fn the_callers_of_a_failed_commit_know_that_it_failed() {
    let database = Database::new(Engine::Sqlite);
    let mut writer = OtherProcess::start("write-limited", &address(&database));
    let message = writer.line("error").expect("the limit is reached");
    assert!(
        message.contains("may or may not have stored this request"),
        "{message}"
    );
    assert!(message.contains("idempotency key"), "{message}");
    assert_eq!(
        writer.line("done").as_deref(),
        Some("1"),
        "the process goes on after it"
    );
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let database = Database::new(Engine::Sqlite);
    fs::write(
        database.path(),
        "these are the notes of the administrator\n".repeat(200),
    )
    .expect("a writable directory");
    let error = refused(&database.url);
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("state.db is damaged"), "{error}");
    assert!(matches!(
        Store::check_with(&database.url, MIGRATIONS),
        Err(StoreError::Corrupt { .. })
    ));
}

#[test]
fn damage_inside_is_found() {
    let database = Database::new(Engine::Sqlite);
    let store = database.open();
    for id in 1..=300 {
        insert(&store, id, &format!("{id} {}", "x".repeat(200))).expect("stored");
    }
    drop(store);
    let mut bytes = fs::read(database.path()).expect("a file");
    let pages = bytes.len() / 4096;
    for page in 4..pages {
        bytes[page * 4096..page * 4096 + 16].fill(0xEE);
    }
    fs::File::create(database.path())
        .and_then(|mut file| file.write_all(&bytes))
        .expect("a writable file");
    match Store::check_with(&database.url, MIGRATIONS) {
        Ok(report) => assert!(
            report
                .problems
                .iter()
                .any(|problem| problem.starts_with("damage: ")),
            "{report:?}"
        ),
        Err(error) => assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}"),
    }
    let read = Store::open_with(&database.url, options()).and_then(|store| {
        store.read_inline("all", |tx| {
            tx.query("SELECT id, name FROM thing", params![])
        })
    });
    assert!(matches!(read, Err(StoreError::Corrupt { .. })), "{read:?}");
}

#[test]
fn a_path_that_cannot_be_says_why() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let error = refused(&DatabaseUrl::sqlite_file(
        directory.path().join("none/state.db"),
    ));
    assert!(
        matches!(&error, StoreError::Open { reason, .. } if reason.contains("create it first")),
        "{error}"
    );
    let error = refused(&DatabaseUrl::sqlite_file(directory.path()));
    assert!(
        matches!(&error, StoreError::Open { reason, .. } if reason.contains("is a directory")),
        "{error}"
    );
    let missing = Store::check_with(
        &DatabaseUrl::sqlite_file(directory.path().join("state.db")),
        MIGRATIONS,
    );
    assert!(
        matches!(missing, Err(StoreError::Open { .. })),
        "{missing:?}"
    );
    assert_eq!(
        fs::read_dir(directory.path()).expect("readable").count(),
        0,
        "a check creates nothing"
    );
}

#[test]
fn another_program_with_the_lock_is_waited_for() {
    let database = Database::new(Engine::Sqlite);
    let store = database.open_with(Options {
        retry_for: Duration::from_mins(1),
        ..options()
    });
    let shell =
        rusqlite::Connection::open(database.path()).expect("a program such as the sqlite3 shell");
    shell
        .execute_batch("BEGIN IMMEDIATE; INSERT INTO thing (id, name) VALUES (1, 'by hand')")
        .expect("it has the lock");
    let writer = store.clone();
    let writer = std::thread::spawn(move || insert(&writer, 2, "by the server"));
    // Longer than one statement waits: the store itself tries again.
    crate::fixture::wait_until("the store tries again", || store.metrics().retries > 0);
    shell
        .execute_batch("COMMIT")
        .expect("it gives the lock back");
    assert_eq!(writer.join().expect("no panic"), Ok(1));
    assert_eq!(names(&store), ["by hand", "by the server"]);
}

#[test]
fn another_program_that_keeps_the_lock_is_named_in_the_error() {
    let database = Database::new(Engine::Sqlite);
    let store = database.open_with(Options {
        retry_for: Duration::from_millis(1),
        ..options()
    });
    let shell =
        rusqlite::Connection::open(database.path()).expect("a program such as the sqlite3 shell");
    shell
        .execute_batch("BEGIN IMMEDIATE")
        .expect("it has the lock");
    let error = insert(&store, 1, "a").expect_err("the lock is held");
    assert!(
        error.to_string().contains("another program holds its lock"),
        "{error}"
    );
    assert!(matches!(error, StoreError::Unavailable { .. }) && error.is_retryable());
    drop(shell);
    insert(&store, 1, "a").expect("the lock is free");
}
