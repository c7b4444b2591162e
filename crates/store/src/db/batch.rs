//! Several closures in one transaction, each of which can fail alone.
//!
//! ```text
//!  nothing kept yet --closure Ok--> something kept --closure Ok / Err--> something kept
//!        ^    |                     (a savepoint goes before each further closure)
//!        +----+ closure Err: the whole transaction is rolled back, the next closure opens a new one
//! ```
//! So a closure that is alone costs no savepoint.

use super::{
    connection::{Access, Connection},
    error::{Failure, Scope},
    job::Job,
    tx::Tx,
};

/// Runs `batch`, and then what `next` gives (it is told how many there are so far), each once. Answers whether there
/// is a transaction to commit. After an error nothing is left open, and every closure of `batch` is concerned.
pub(crate) fn run_closures(
    connection: &mut Connection,
    batch: &mut Vec<Box<dyn Job>>,
    next: &mut dyn FnMut(usize) -> Option<Box<dyn Job>>,
) -> Result<bool, Failure> {
    run_closures_or_leave_open(connection, batch, next).inspect_err(|_| connection.abandon())
}

fn run_closures_or_leave_open(
    connection: &mut Connection,
    batch: &mut Vec<Box<dyn Job>>,
    next: &mut dyn FnMut(usize) -> Option<Box<dyn Job>>,
) -> Result<bool, Failure> {
    let mut something_kept = false;
    let mut index = 0;
    loop {
        if index == batch.len() {
            match next(index) {
                Some(job) => batch.push(job),
                None => return Ok(something_kept),
            }
        }
        if something_kept {
            connection.savepoint()?;
        } else {
            connection.begin(Access::Write)?;
        }
        let mut tx = Tx::new(connection, Access::Write);
        let keep = batch[index].run(&mut tx);
        if let Some(failure) = tx.into_failure()
            && failure.scope != Scope::Closure
        {
            return Err(failure);
        }
        match (keep, something_kept) {
            (true, true) => connection.keep_savepoint()?,
            (false, true) => connection.undo_to_savepoint()?,
            (true, false) => something_kept = true,
            (false, false) => connection.abandon(),
        }
        index += 1;
    }
}
