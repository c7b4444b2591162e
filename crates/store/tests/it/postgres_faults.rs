//! What can happen to a server: its connections are cut, a commit's answer is lost, another server writes the same rows.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use supernode_store::{DatabaseUrl, Options, Store, StoreError, params, testing::PrivatePostgres};

use crate::fixture::{
    Database, Engine, MIGRATIONS, PATIENCE, insert, names, options, postgres, shared,
};

/// Ends every connection to the database but this one.
fn cut_connections(database: &Database) {
    let name = database.url.to_string();
    let name = name.rsplit('/').next().expect("a name");
    postgres()
        .administer(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
        ))
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_cut_connection_is_made_again() {
    let database = Database::new(Engine::Postgres);
    let store = database.open();
    for id in 1..=5 {
        cut_connections(&database);
        insert(&store, id, &id.to_string()).expect("written on a new connection");
        cut_connections(&database);
        assert_eq!(
            names(&store).len(),
            usize::try_from(id).expect("small"),
            "read on a new connection"
        );
    }
    assert!(store.metrics().retries > 0);
}

#[test]
fn a_connection_cut_inside_a_closure_loses_and_doubles_nothing() {
    let database = Arc::new(Database::new(Engine::Postgres));
    let store = database.open();
    let tries = shared(0);
    let (closure_tries, closure_database) = (Arc::clone(&tries), Arc::clone(&database));
    let outcome = store.write_inline("cut", move |tx| {
        let mut tries = closure_tries.lock().expect("not poisoned");
        *tries += 1;
        tx.execute(
            "UPDATE counter SET value = value + 1 WHERE id = 1",
            params![],
        )?;
        if *tries == 1 {
            cut_connections(&closure_database);
        }
        tx.execute(
            "UPDATE counter SET value = value + 1 WHERE id = 2",
            params![],
        )
    });
    assert_eq!(outcome, Ok::<_, StoreError>(1));
    assert_eq!(*tries.lock().expect("not poisoned"), 2);
    assert_eq!(counters(&store), [1, 1]);

    let read_tries = shared(0);
    let (closure_tries, closure_database) = (Arc::clone(&read_tries), Arc::clone(&database));
    let read = store.read_inline("cut read", move |tx| {
        let mut tries = closure_tries.lock().expect("not poisoned");
        *tries += 1;
        if *tries == 1 {
            cut_connections(&closure_database);
        }
        tx.query("SELECT id FROM counter", params![])
            .map(|rows| rows.len())
    });
    assert_eq!(read, Ok::<_, StoreError>(2));
    assert_eq!(*read_tries.lock().expect("not poisoned"), 2);
}

fn counters(store: &Store) -> Vec<i64> {
    store
        .read_inline("counters", |tx| {
            tx.query("SELECT value FROM counter ORDER BY id", params![])?
                .iter()
                .map(|row| row.get("value"))
                .collect()
        })
        .unwrap_or_else(|error: StoreError| panic!("{error}"))
}

#[test]
fn a_second_server_is_refused_until_the_first_is_gone() {
    let database = Database::new(Engine::Postgres);
    let exclusive = Options::new(MIGRATIONS);
    let first = database.open_with(exclusive);
    let error = Store::open_with(&database.url, exclusive).expect_err("there is a first one");
    assert!(
        error.to_string().contains("another server works on it"),
        "{error}"
    );
    // A cut connection gives the lock back, and the next one takes it again.
    cut_connections(&database);
    insert(&first, 1, "first").expect("written on a new connection");
    Store::open_with(&database.url, exclusive).expect_err("the first is still there");
    drop(first);
    database.open_with(exclusive);
}

/// Two servers on one database change the same row, the second in the middle of the first's transaction.
#[test]
fn a_conflict_with_another_server_is_run_again() {
    let database = Database::new(Engine::Postgres);
    let (first, second) = (database.open(), database.open());
    let tries = shared(0);
    let (closure_tries, closure_second) = (Arc::clone(&tries), second.clone());
    let seen = first.write_inline("add", move |tx| {
        let mut tries = closure_tries.lock().expect("not poisoned");
        *tries += 1;
        let value: i64 = tx
            .query_one("SELECT value FROM counter WHERE id = 1", params![])?
            .get("value")?;
        if *tries == 1 {
            let other = closure_second.clone();
            let added: Result<u64, StoreError> = other.write_inline("add too", |tx| {
                tx.execute(
                    "UPDATE counter SET value = value + 10 WHERE id = 1",
                    params![],
                )
            });
            assert_eq!(added, Ok(1));
        }
        tx.execute(
            "UPDATE counter SET value = $1 WHERE id = 1",
            params![value + 1],
        )?;
        Ok::<_, StoreError>(value)
    });
    assert_eq!(seen, Ok(10), "the answer is of the try that was stored");
    assert_eq!(*tries.lock().expect("not poisoned"), 2);
    assert_eq!(counters(&first), [11, 0]);
    assert_eq!((first.metrics().retries, second.metrics().retries), (1, 0));
}

/// Neither changes what the other changes, but each reads it: only serializable transactions notice.
#[test]
fn write_skew_between_servers_is_prevented() {
    let database = Database::new(Engine::Postgres);
    let (first, second) = (database.open(), database.open());
    let claim = |store: &Store, own: i64, meanwhile: Option<Store>| {
        let mut meanwhile = meanwhile;
        store.write_inline("claim", move |tx| {
            let taken: i64 = tx
                .query_one(
                    "SELECT CAST(SUM(value) AS BIGINT) AS taken FROM counter",
                    params![],
                )?
                .get("taken")?;
            if let Some(other) = meanwhile.take() {
                let claimed: Result<u64, StoreError> = other.write_inline("claim", |tx| {
                    tx.query(
                        "SELECT CAST(SUM(value) AS BIGINT) AS taken FROM counter",
                        params![],
                    )?;
                    tx.execute("UPDATE counter SET value = 1 WHERE id = 2", params![])
                });
                assert_eq!(claimed, Ok(1));
            }
            if taken > 0 {
                return Ok(0);
            }
            tx.execute("UPDATE counter SET value = 1 WHERE id = $1", params![own])
        })
    };
    let outcome: Result<u64, StoreError> = claim(&first, 1, Some(second));
    assert_eq!(outcome, Ok(0), "the second try sees the other's claim");
    assert_eq!(counters(&first), [0, 1]);
}

/// Forwards a socket to the server until it is told to swallow the answer to the next COMMIT.
struct Relay {
    directory: tempfile::TempDir,
    swallow: Arc<AtomicBool>,
}

impl Relay {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let listener =
            UnixListener::bind(directory.path().join(".s.PGSQL.5432")).expect("a socket");
        let server = postgres().socket_directory().join(".s.PGSQL.5432");
        let swallow = Arc::new(AtomicBool::new(false));
        let relay_swallow = Arc::clone(&swallow);
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let server = UnixStream::connect(&server).expect("the server runs");
                forward(client, server, Arc::clone(&relay_swallow));
            }
        });
        Self { directory, swallow }
    }

    fn url(&self, database: &Database) -> DatabaseUrl {
        let name = database.url.to_string();
        let name = name.rsplit('/').next().expect("a name");
        format!(
            "postgres://postgres@/{name}?host={}",
            self.directory.path().display()
        )
        .parse()
        .expect("a good address")
    }
}

fn forward(client: UnixStream, server: UnixStream, swallow: Arc<AtomicBool>) {
    let (mut from_client, mut to_client) = (client.try_clone().expect("a socket"), client);
    let (mut from_server, mut to_server) = (server.try_clone().expect("a socket"), server);
    let cut = Arc::new(AtomicBool::new(false));
    let client_cut = Arc::clone(&cut);
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(length @ 1..) = from_client.read(&mut buffer) {
            let commit = buffer[..length].windows(6).any(|word| word == b"COMMIT");
            if commit && swallow.swap(false, Ordering::SeqCst) {
                client_cut.store(true, Ordering::SeqCst);
            }
            if to_server.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(length @ 1..) = from_server.read(&mut buffer) {
            if cut.load(Ordering::SeqCst) {
                let _ = to_client.shutdown(std::net::Shutdown::Both);
                return;
            }
            if to_client.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    });
}

#[test]
fn a_commit_without_an_answer_is_unknown_and_not_run_again() {
    let database = Database::new(Engine::Postgres);
    let relay = Relay::start();
    let store = Store::open_with(&relay.url(&database), options())
        .unwrap_or_else(|error| panic!("{error}"));
    insert(&store, 1, "a").expect("the relay forwards");
    relay.swallow.store(true, Ordering::SeqCst);
    let error = insert(&store, 2, "b").expect_err("the answer is swallowed");
    assert!(matches!(error, StoreError::Unknown { .. }), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("ask again with the same idempotency key"),
        "{error}"
    );
    assert!(error.is_retryable());
    insert(&store, 3, "c").expect("on a new connection");
    assert_eq!(
        names(&store),
        ["a", "b", "c"],
        "this one was stored, which nobody could know"
    );

    // A transaction that wrote nothing is simply run again.
    relay.swallow.store(true, Ordering::SeqCst);
    let count = store.write_inline("count", |tx| {
        tx.query_one("SELECT COUNT(*) AS count FROM thing", params![])?
            .get::<i64>("count")
    });
    assert_eq!(count, Ok::<_, StoreError>(3));
}

#[test]
fn a_stopped_server_is_unavailable_until_it_is_back() {
    let server = PrivatePostgres::start().unwrap_or_else(|error| panic!("{error}"));
    let url = server
        .create_database()
        .unwrap_or_else(|error| panic!("{error}"));
    let options = Options {
        retry_for: Duration::from_millis(200),
        ..options()
    };
    let store = Store::open_with(&url, options).unwrap_or_else(|error| panic!("{error}"));
    insert(&store, 1, "a").expect("stored");
    drop(server);
    let error = insert(&store, 2, "b").expect_err("the server is gone");
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("nothing was stored: ask again later"),
        "{error}"
    );
    let error = store
        .read_inline("names", |tx| tx.query("SELECT name FROM thing", params![]))
        .expect_err("the server is gone");
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    let error = Store::open_with(&url, options).expect_err("the server is gone");
    assert!(
        error
            .to_string()
            .contains("check that the address is right and that the server runs"),
        "{error}"
    );
}

#[test]
fn a_missing_database_says_how_to_make_it() {
    let error = Store::open_with(&postgres().url("nowhere"), options())
        .expect_err("there is no such database");
    assert!(
        matches!(&error, StoreError::Open { reason, .. } if reason.contains("createdb")),
        "{error}"
    );
}

#[test]
fn a_site_that_turned_off_durable_commits_is_overruled() {
    let database = Database::new(Engine::Postgres);
    let name = database.url.to_string();
    let name = name.rsplit('/').next().expect("a name");
    postgres()
        .administer(&format!(
            "ALTER DATABASE {name} SET synchronous_commit = off"
        ))
        .unwrap_or_else(|error| panic!("{error}"));
    let store = database.open();
    let setting = store.write_inline("setting", |tx| {
        tx.query_one(
            "SELECT current_setting('synchronous_commit') AS setting",
            params![],
        )?
        .get::<String>("setting")
    });
    assert_eq!(setting.as_deref(), Ok::<_, &StoreError>("on"));
}

/// A closure of one store may use another store, from the writer's thread; and a store can be opened and used where
/// asynchronous tasks run.
#[test]
fn a_store_works_inside_a_runtime() {
    let database = Database::new(Engine::Postgres);
    let (done, finished) = mpsc::channel();
    crate::fixture::block_on(async {
        let store = database.open();
        let report = Store::check_with(&database.url, options().migrations).expect("readable");
        assert_eq!(report.problems, Vec::<String>::new());
        store
            .write("insert", |tx| {
                tx.execute(
                    "INSERT INTO thing (id, name) VALUES ($1, $2)",
                    params![1, "a"],
                )
            })
            .await
            .unwrap_or_else(|error: StoreError| panic!("{error}"));
        drop(store);
        done.send(()).expect("the test waits");
    });
    finished
        .recv_timeout(PATIENCE)
        .expect("the store closes inside a runtime");
}
