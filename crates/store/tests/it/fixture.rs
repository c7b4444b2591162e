//! Databases for tests: fresh ones with a schema of our own, on either engine.

use std::{
    num::NonZero,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use supernode_store::{
    DatabaseUrl, Migration, Options, Sharing, Store, StoreError, params, testing::PrivatePostgres,
};
use tempfile::TempDir;

/// The schema of these tests; no table of the product.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 1,
        name: "things",
        sql: "CREATE TABLE thing (id BIGINT PRIMARY KEY, name TEXT NOT NULL, zone TEXT, flag BOOLEAN, data BYTEA,
                CONSTRAINT thing_id_positive CHECK (id > 0), UNIQUE (name, zone));
              CREATE INDEX thing_zone ON thing (zone);",
    },
    Migration {
        number: 2,
        name: "parts",
        sql: "CREATE TABLE part (id BIGINT PRIMARY KEY, thing BIGINT NOT NULL REFERENCES thing (id));
              CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL);
              INSERT INTO counter (id, value) VALUES (1, 0), (2, 0);",
    },
];

/// How long a test waits for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

static POSTGRES: LazyLock<PrivatePostgres> =
    LazyLock::new(|| PrivatePostgres::start().unwrap_or_else(|error| panic!("{error}")));

/// The server that these tests share; its failure to start (no package) fails every test that needs it.
pub(crate) fn postgres() -> &'static PrivatePostgres {
    &POSTGRES
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Memory,
    Sqlite,
    Postgres,
}

/// A fresh database that goes with this value.
pub(crate) struct Database {
    pub(crate) url: DatabaseUrl,
    pub(crate) engine: Engine,
    directory: Option<TempDir>,
}

impl Database {
    pub(crate) fn new(engine: Engine) -> Self {
        let (url, directory) = match engine {
            Engine::Memory => (DatabaseUrl::sqlite_memory(), None),
            Engine::Sqlite => {
                let directory = tempfile::tempdir().expect("a temporary directory");
                (
                    DatabaseUrl::sqlite_file(directory.path().join("state.db")),
                    Some(directory),
                )
            }
            Engine::Postgres => (
                postgres()
                    .create_database()
                    .unwrap_or_else(|error| panic!("{error}")),
                None,
            ),
        };
        Self {
            url,
            engine,
            directory,
        }
    }

    pub(crate) fn open(&self) -> Store {
        self.open_with(options())
    }

    pub(crate) fn open_with(&self, options: Options) -> Store {
        Store::open_with(&self.url, options).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The file of a `SQLite` database.
    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.directory
            .as_ref()
            .expect("a database in a file")
            .path()
            .join("state.db")
    }
}

/// Shared, so that a test can be two servers; the product opens its database exclusively.
pub(crate) fn options() -> Options {
    Options {
        sharing: Sharing::Shared,
        ..Options::new(MIGRATIONS)
    }
}

/// Options under which everything that waits is taken in one batch, however slow this machine is.
pub(crate) fn patient_batches() -> Options {
    Options {
        batch_work_max: PATIENCE,
        batch_closures_max: 10_000,
        ..options()
    }
}

pub(crate) fn small_queue(length: usize) -> Options {
    Options {
        queue_length_max: NonZero::new(length).expect("not zero"),
        ..patient_batches()
    }
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// Waits until `condition` holds.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "the deadline of a test")]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < PATIENCE, "waited in vain for: {what}");
        std::thread::yield_now();
    }
}

pub(crate) fn insert(store: &Store, id: i64, name: &str) -> Result<u64, StoreError> {
    let name = name.to_owned();
    store.write_inline("insert", move |tx| {
        tx.execute(
            "INSERT INTO thing (id, name) VALUES ($1, $2)",
            params![id, &name],
        )
    })
}

pub(crate) fn names(store: &Store) -> Vec<String> {
    store
        .read_inline("names", |tx| {
            tx.query("SELECT name FROM thing ORDER BY id", params![])?
                .iter()
                .map(|row| row.get("name"))
                .collect()
        })
        .unwrap_or_else(|error: StoreError| panic!("{error}"))
}

/// A closure in the queue that holds the writer until it is released, so that others queue up behind it.
pub(crate) struct Gate {
    release: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<Result<(), StoreError>>,
}

impl Gate {
    pub(crate) fn close(store: &Store) -> Self {
        let (release, released) = std::sync::mpsc::channel();
        let (entered, inside) = std::sync::mpsc::channel();
        let released = std::sync::Mutex::new(released);
        let store = store.clone();
        let thread = std::thread::spawn(move || {
            store.write_inline("gate", move |_| {
                let _ = entered.send(());
                let _ = released
                    .lock()
                    .expect("not poisoned")
                    .recv_timeout(PATIENCE);
                Ok(())
            })
        });
        inside.recv_timeout(PATIENCE).expect("the gate is reached");
        Self { release, thread }
    }

    pub(crate) fn open(self) {
        self.release.send(()).expect("the gate waits");
        self.thread
            .join()
            .expect("no panic")
            .expect("the gate is a good closure");
    }
}

/// A value that closures share with the test.
pub(crate) fn shared<T>(value: T) -> Arc<std::sync::Mutex<T>> {
    Arc::new(std::sync::Mutex::new(value))
}

/// One test per case and engine, from one list of cases.
macro_rules! on_every_engine {
    ($($case:ident),* $(,)?) => {
        mod on_memory { $( #[test] fn $case() { super::$case($crate::fixture::Engine::Memory); } )* }
        mod on_sqlite { $( #[test] fn $case() { super::$case($crate::fixture::Engine::Sqlite); } )* }
        mod on_postgres { $( #[test] fn $case() { super::$case($crate::fixture::Engine::Postgres); } )* }
    };
}

/// As `on_every_engine`, for cases about the writer thread, which a database in memory has not.
macro_rules! on_every_server {
    ($($case:ident),* $(,)?) => {
        mod on_sqlite { $( #[test] fn $case() { super::$case($crate::fixture::Engine::Sqlite); } )* }
        mod on_postgres { $( #[test] fn $case() { super::$case($crate::fixture::Engine::Postgres); } )* }
    };
}

pub(crate) use {on_every_engine, on_every_server};
