//! The one thread that writes: it takes what is queued, runs it in one transaction, commits, and only then answers.
//!
//! ```text
//!  Waiting --first closure--> Running --no more, or the bounds--> Committing --done--> Answering --> Waiting
//!                                ^                                    |
//!                                +------ conflict, lost connection ---+   (until the limit, then all get the error)
//! ```

use std::{sync::Arc, time::Instant};

use tokio::sync::mpsc;

use super::{
    batch,
    connection::{Connection, Role},
    error::{Failure, Scope, StoreError},
    job::Job,
    metrics::Counters,
    retry::{Retry, monotonic_now},
    store::Options,
    url::DatabaseUrl,
};

pub(crate) struct Writer {
    pub(crate) url: DatabaseUrl,
    pub(crate) options: Options,
    pub(crate) counters: Arc<Counters>,
    /// `None` after it was lost, until the next batch.
    pub(crate) connection: Option<Connection>,
    pub(crate) queue: mpsc::Receiver<Box<dyn Job>>,
}

impl Writer {
    /// Works until the last handle of the store is gone and the queue is empty.
    pub(crate) fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            let mut batch = vec![first];
            let outcome = self.store(&mut batch);
            if outcome.is_err() {
                self.counters.failed(batch.len());
            }
            for job in batch {
                job.answer(outcome.clone());
            }
        }
    }

    /// Runs and commits the batch, which grows by what is queued meanwhile.
    fn store(&mut self, batch: &mut Vec<Box<dyn Job>>) -> Result<(), StoreError> {
        let mut retry = Retry::new(self.options.retry_for);
        let mut grow = true;
        loop {
            let failure = match self.try_once(batch, grow) {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            grow = false;
            match failure.scope {
                Scope::Closure | Scope::Transaction => return Err(failure.error),
                Scope::Unknown => {
                    self.connection = None;
                    return Err(failure.error);
                }
                Scope::Connection => self.connection = None,
                Scope::Contention => {}
            }
            tracing::debug!(error = %failure.error, first = batch[0].name(), closures = batch.len(), "transaction is run again");
            if !retry.pause() {
                return Err(failure.error);
            }
            self.counters.retried();
        }
    }

    fn try_once(&mut self, batch: &mut Vec<Box<dyn Job>>, grow: bool) -> Result<(), Failure> {
        let Self {
            url,
            options,
            counters,
            connection,
            queue,
        } = self;
        let connection = connected(connection, url, Role::Writer(options.sharing))?;
        let since = monotonic_now();
        let mut next = |count: usize| {
            if !grow
                || count >= options.batch_closures_max
                || since.elapsed() >= options.batch_work_max
            {
                return None;
            }
            queue.try_recv().ok()
        };
        let to_commit = batch::run_closures(connection, batch, &mut next)?;
        let commit_since = monotonic_now();
        if to_commit {
            connection.commit().inspect_err(|_| connection.abandon())?;
        }
        counters.committed(batch.len(), Instant::elapsed(&commit_since));
        Ok(())
    }
}

/// The connection, made anew when it was lost.
pub(crate) fn connected<'a>(
    connection: &'a mut Option<Connection>,
    url: &DatabaseUrl,
    role: Role,
) -> Result<&'a mut Connection, Failure> {
    if let Some(connection) = connection {
        return Ok(connection);
    }
    let opened = Connection::open(url, role).map_err(|error| {
        // Only a server that cannot be reached can be different in a moment.
        let scope = match error {
            StoreError::Unavailable { .. } => Scope::Connection,
            _ => Scope::Transaction,
        };
        Failure::new(scope, error)
    })?;
    Ok(connection.insert(opened))
}
