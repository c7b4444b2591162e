//! The handle: what the rest of the program has of the database.

use std::{
    num::NonZero,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use super::{
    batch,
    check::{self, CheckReport},
    connection::{Connection, Role, Sharing},
    error::StoreError,
    job::{Job, job},
    metrics::{Counters, StoreMetrics},
    migration::{self, Migration},
    reader::{self, Reader},
    tx::Tx,
    url::DatabaseUrl,
    writer::Writer,
};

/// How a store works. [`Options::new`] has what a server needs.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The schema.
    pub migrations: &'static [Migration],
    /// Whether this store wants to be the only one that writes.
    pub sharing: Sharing,
    /// How many write closures may wait; the next caller waits to be let in.
    pub queue_length_max: NonZero<usize>,
    /// How many closures share a transaction at most.
    pub batch_closures_max: usize,
    /// After how much work no further closure joins a transaction.
    pub batch_work_max: Duration,
    /// How long a conflict or a lost connection is worked on before the callers get an error.
    pub retry_for: Duration,
    /// How many reads run at the same time.
    pub readers: NonZero<usize>,
}

impl Options {
    /// The options of a server with this schema.
    pub const fn new(migrations: &'static [Migration]) -> Self {
        Self {
            migrations,
            sharing: Sharing::Exclusive,
            queue_length_max: NonZero::new(4096).expect("not zero"),
            batch_closures_max: 512,
            batch_work_max: Duration::from_millis(5),
            retry_for: Duration::from_secs(10),
            readers: NonZero::new(2).expect("not zero"),
        }
    }
}

/// An open database. Clones share it; when the last one is dropped, what is queued is still stored, and then the
/// database is closed (the drop waits for that).
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    database: String,
    counters: Arc<Counters>,
    engine: Engine,
}

enum Engine {
    /// Closures run on the caller's thread, one after the other.
    Inline(Box<Mutex<Connection>>),
    /// Closures run on the store's own threads.
    Threads(Threads),
}

struct Threads {
    /// `None` only while it is dropped.
    queues: Option<Queues>,
    workers: Vec<JoinHandle<()>>,
}

struct Queues {
    writes: mpsc::Sender<Box<dyn Job>>,
    reads: mpsc::Sender<Box<dyn Job>>,
}

/// An empty database in memory with a schema.
fn in_memory(url: &DatabaseUrl, options: Options) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(url, Role::Writer(options.sharing))?;
    migration::migrate(&mut connection, &url.to_string(), options.migrations)?;
    Ok(connection)
}

impl Store {
    /// Opens the database with the program's schema, creating or upgrading it. An in-memory database is opened as
    /// [`Store::open_inline`] does. Blocks until the database is ready for use.
    ///
    /// Fails when the database cannot be reached or is in use by another server, and when its schema is newer than
    /// this program or not this program's.
    pub fn open(url: &DatabaseUrl) -> Result<Self, StoreError> {
        Self::open_with(url, Options::new(crate::migrations::MIGRATIONS))
    }

    /// An empty database in memory with the program's schema, and no thread: closures run on the caller's thread,
    /// in the order of the calls, and no clock is read. For the deterministic simulation.
    pub fn open_inline() -> Result<Self, StoreError> {
        // A simulation opens thousands: the schema is made once for the process, and copied.
        static EMPTY: Mutex<Option<Connection>> = Mutex::new(None);
        let url = DatabaseUrl::sqlite_memory();
        let options = Options::new(crate::migrations::MIGRATIONS);
        let mut empty = EMPTY.lock().unwrap_or_else(PoisonError::into_inner);
        let empty = match &*empty {
            Some(made) => made,
            None => empty.insert(in_memory(&url, options)?),
        };
        let mut connection = Connection::open(&url, Role::Writer(options.sharing))?;
        connection.copy_from(empty)?;
        Ok(Self::inline(&url, connection))
    }

    fn inline(url: &DatabaseUrl, connection: Connection) -> Self {
        Self {
            inner: Arc::new(Inner {
                database: url.to_string(),
                counters: Arc::default(),
                engine: Engine::Inline(Box::new(Mutex::new(connection))),
            }),
        }
    }

    /// As [`Store::open`], with another schema or other bounds.
    pub fn open_with(url: &DatabaseUrl, options: Options) -> Result<Self, StoreError> {
        if url.is_memory() {
            return Ok(Self::inline(url, in_memory(url, options)?));
        }
        let counters = Arc::new(Counters::default());
        let engine = Engine::Threads(Threads::start(url, options, &counters)?);
        Ok(Self {
            inner: Arc::new(Inner {
                database: url.to_string(),
                counters,
                engine,
            }),
        })
    }

    /// Looks whether the database is sound and has the program's schema. Changes nothing, and works beside a server.
    ///
    /// Fails when the database cannot be read at all; what is wrong inside it stands in the report.
    pub fn check(url: &DatabaseUrl) -> Result<CheckReport, StoreError> {
        Self::check_with(url, crate::migrations::MIGRATIONS)
    }

    /// As [`Store::check`], against another schema.
    pub fn check_with(
        url: &DatabaseUrl,
        migrations: &'static [Migration],
    ) -> Result<CheckReport, StoreError> {
        // The PostgreSQL client must not be used on a thread that runs asynchronous tasks, and this may be one.
        thread::scope(|scope| scope.spawn(|| check::check(url, migrations)).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a closure that reads and writes. Answers when its writes are on disk; on an error of the closure or of the
    /// store they are undone ([`StoreError::Unknown`] excepted, which says so). Transactions are serializable.
    ///
    /// Once the closure is queued it runs and is committed whether or not the caller still waits. It can be run more
    /// than once (see [`Tx`]). `name` stands in logs and messages. Waits while the queue is full.
    pub async fn write<T, E, F>(&self, name: &'static str, closure: F) -> Result<T, E>
    where
        F: FnMut(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (job, answer) = job(name, closure);
        match &self.inner.engine {
            Engine::Inline(connection) => {
                self.write_now(connection, job);
                self.answered(answer)
            }
            Engine::Threads(threads) => {
                self.sent(threads.queues().writes.send(job).await)?;
                answer
                    .await
                    .unwrap_or_else(|_| Err(E::from(self.worker_died())))
            }
        }
    }

    /// Runs a closure that only reads, on one consistent snapshot that has every acknowledged write. The writer is not
    /// held up by it.
    pub async fn read<T, E, F>(&self, name: &'static str, closure: F) -> Result<T, E>
    where
        F: FnMut(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (job, answer) = job(name, closure);
        match &self.inner.engine {
            Engine::Inline(connection) => {
                self.read_now(connection, job);
                self.answered(answer)
            }
            Engine::Threads(threads) => {
                self.sent(threads.queues().reads.send(job).await)?;
                answer
                    .await
                    .unwrap_or_else(|_| Err(E::from(self.worker_died())))
            }
        }
    }

    /// [`Store::write`] without a future. On an in-memory store the closure runs on this thread; on any other this
    /// thread is blocked, and must not be one that runs asynchronous tasks. Not from inside a closure: it would wait
    /// for itself.
    pub fn write_inline<T, E, F>(&self, name: &'static str, closure: F) -> Result<T, E>
    where
        F: FnMut(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (job, answer) = job(name, closure);
        match &self.inner.engine {
            Engine::Inline(connection) => {
                self.write_now(connection, job);
                self.answered(answer)
            }
            Engine::Threads(threads) => {
                self.sent(threads.queues().writes.blocking_send(job))?;
                answer
                    .blocking_recv()
                    .unwrap_or_else(|_| Err(E::from(self.worker_died())))
            }
        }
    }

    /// [`Store::read`] without a future; as [`Store::write_inline`].
    pub fn read_inline<T, E, F>(&self, name: &'static str, closure: F) -> Result<T, E>
    where
        F: FnMut(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (job, answer) = job(name, closure);
        match &self.inner.engine {
            Engine::Inline(connection) => {
                self.read_now(connection, job);
                self.answered(answer)
            }
            Engine::Threads(threads) => {
                self.sent(threads.queues().reads.blocking_send(job))?;
                answer
                    .blocking_recv()
                    .unwrap_or_else(|_| Err(E::from(self.worker_died())))
            }
        }
    }

    /// The counters now.
    pub fn metrics(&self) -> StoreMetrics {
        let queue_length = match &self.inner.engine {
            Engine::Inline(_) => 0,
            Engine::Threads(threads) => {
                let writes = &threads.queues().writes;
                writes.max_capacity() - writes.capacity()
            }
        };
        self.inner.counters.reading(queue_length)
    }

    /// Which database this is, without the password.
    pub fn database(&self) -> &str {
        &self.inner.database
    }

    fn write_now(&self, connection: &Mutex<Connection>, job: Box<dyn Job>) {
        let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = &mut *connection;
        let mut batch = vec![job];
        let outcome =
            batch::run_closures(connection, &mut batch, &mut |_| None).and_then(|to_commit| {
                if to_commit {
                    connection.commit().inspect_err(|_| connection.abandon())
                } else {
                    Ok(())
                }
            });
        match &outcome {
            Ok(()) => self.inner.counters.committed(1, Duration::ZERO),
            Err(_) => self.inner.counters.failed(1),
        }
        for job in batch {
            job.answer(outcome.clone().map_err(|failure| failure.error));
        }
    }

    fn read_now(&self, connection: &Mutex<Connection>, mut job: Box<dyn Job>) {
        let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = reader::read_once(&mut connection, job.as_mut());
        self.inner.counters.read();
        job.answer(outcome.map_err(|failure| failure.error));
    }

    fn answered<T, E: From<StoreError>>(
        &self,
        mut answer: oneshot::Receiver<Result<T, E>>,
    ) -> Result<T, E> {
        answer
            .try_recv()
            .unwrap_or_else(|_| Err(E::from(self.worker_died())))
    }

    fn sent(
        &self,
        sent: Result<(), mpsc::error::SendError<Box<dyn Job>>>,
    ) -> Result<(), StoreError> {
        sent.map_err(|_| StoreError::Unavailable {
            database: self.inner.database.clone(),
            reason: "the store's thread has ended: restart the server".to_owned(),
        })
    }

    fn worker_died(&self) -> StoreError {
        StoreError::Unknown {
            database: self.inner.database.clone(),
            reason: "the store's thread ended while it worked on this: restart the server"
                .to_owned(),
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Store")
            .field("database", &self.inner.database)
            .finish_non_exhaustive()
    }
}

impl Threads {
    fn start(
        url: &DatabaseUrl,
        options: Options,
        counters: &Arc<Counters>,
    ) -> Result<Self, StoreError> {
        let (writes, write_queue) = mpsc::channel(options.queue_length_max.get());
        let (reads, read_queue) = mpsc::channel(options.queue_length_max.get());
        let read_queue = Arc::new(Mutex::new(read_queue));
        // From here on an early return drops this value, which ends the threads that were started.
        let mut threads = Self {
            queues: Some(Queues { writes, reads }),
            workers: Vec::new(),
        };

        let prepare_writer = {
            let (url, counters) = (url.clone(), Arc::clone(counters));
            move || {
                let mut connection = Connection::open(&url, Role::Writer(options.sharing))?;
                migration::migrate(&mut connection, &url.to_string(), options.migrations)?;
                Ok(Writer {
                    url,
                    options,
                    counters,
                    connection: Some(connection),
                    queue: write_queue,
                })
            }
        };
        threads
            .workers
            .push(worker("store-writer", url, prepare_writer, Writer::run)?);
        for _ in 0..options.readers.get() {
            let (url_, counters, queue) =
                (url.clone(), Arc::clone(counters), Arc::clone(&read_queue));
            let prepare_reader = move || {
                let connection = Some(Connection::open(&url_, Role::Reader)?);
                Ok(Reader {
                    url: url_,
                    options,
                    counters,
                    connection,
                    queue,
                })
            };
            threads
                .workers
                .push(worker("store-reader", url, prepare_reader, Reader::run)?);
        }
        Ok(threads)
    }

    fn queues(&self) -> &Queues {
        self.queues
            .as_ref()
            .expect("the queues are only taken by drop")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        drop(self.queues.take());
        // The last handle can be owned by a closure, and then this is one of the threads, which cannot await itself.
        let this_thread = thread::current().id();
        for worker in self.workers.drain(..).rev() {
            if worker.thread().id() != this_thread {
                let _ = worker.join();
            }
        }
    }
}

/// Starts a thread that prepares itself and then runs; answers when it is prepared.
fn worker<W>(
    name: &str,
    url: &DatabaseUrl,
    prepare: impl FnOnce() -> Result<W, StoreError> + Send + 'static,
    run: impl FnOnce(W) + Send + 'static,
) -> Result<JoinHandle<()>, StoreError> {
    let (ready, prepared) = std::sync::mpsc::channel();
    let not_started = |reason: String| StoreError::Unavailable {
        database: url.to_string(),
        reason,
    };
    let thread = thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || match prepare() {
            Ok(worker) => {
                if ready.send(Ok(())).is_ok() {
                    run(worker);
                }
            }
            Err(error) => drop(ready.send(Err(error))),
        })
        .map_err(|error| not_started(format!("a thread cannot be started: {error}")))?;
    match prepared.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => {
            let _ = thread.join();
            Err(error)
        }
        Err(_) => Err(not_started("its thread ended at once".to_owned())),
    }
}
