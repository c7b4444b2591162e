//! A thread that reads: one closure at a time, each on one consistent snapshot, never in the way of the writer.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::{
    connection::{Access, Connection, Role},
    error::{Failure, Scope, StoreError},
    job::Job,
    metrics::Counters,
    retry::Retry,
    store::Options,
    tx::Tx,
    url::DatabaseUrl,
    writer::connected,
};

/// The queue that the readers share: whoever is free takes the next closure.
pub(crate) type ReadQueue = Arc<Mutex<mpsc::Receiver<Box<dyn Job>>>>;

pub(crate) struct Reader {
    pub(crate) url: DatabaseUrl,
    pub(crate) options: Options,
    pub(crate) counters: Arc<Counters>,
    pub(crate) connection: Option<Connection>,
    pub(crate) queue: ReadQueue,
}

impl Reader {
    /// Works until the last handle of the store is gone and the queue is empty.
    pub(crate) fn run(mut self) {
        while let Some(mut job) = self.next() {
            let outcome = self.read(job.as_mut());
            self.counters.read();
            job.answer(outcome);
        }
    }

    fn next(&self) -> Option<Box<dyn Job>> {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .blocking_recv()
    }

    fn read(&mut self, job: &mut dyn Job) -> Result<(), StoreError> {
        let mut retry = Retry::new(self.options.retry_for);
        loop {
            let outcome = connected(&mut self.connection, &self.url, Role::Reader)
                .and_then(|connection| read_once(connection, job));
            let failure = match outcome {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            match failure.scope {
                Scope::Closure | Scope::Transaction => return Err(failure.error),
                Scope::Connection | Scope::Unknown => self.connection = None,
                Scope::Contention => {}
            }
            tracing::debug!(error = %failure.error, name = job.name(), "read is run again");
            if !retry.pause() {
                return Err(failure.error);
            }
            self.counters.retried();
        }
    }
}

/// Runs the closure in a read-only transaction, which leaves nothing behind.
pub(crate) fn read_once(connection: &mut Connection, job: &mut dyn Job) -> Result<(), Failure> {
    connection.begin(Access::Read)?;
    let mut tx = Tx::new(connection, Access::Read);
    job.run(&mut tx);
    let failure = tx.into_failure();
    connection.abandon();
    match failure {
        Some(failure) if failure.scope != Scope::Closure => Err(failure),
        _ => Ok(()),
    }
}
