//! A queued closure with its caller, without their types.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use tokio::sync::oneshot;

use super::{error::StoreError, tx::Tx};

/// A closure that waits to be run, possibly several times, and then answered once.
pub(crate) trait Job: Send {
    /// The caller's name for it.
    fn name(&self) -> &'static str;

    /// Runs the closure and keeps its result; answers whether its writes are to be kept.
    fn run(&mut self, tx: &mut Tx<'_>) -> bool;

    /// Tells the caller: the kept result when the transaction was committed, or why it was not. A caller that no
    /// longer listens is no failure.
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct TypedJob<F, T, E> {
    name: &'static str,
    closure: F,
    result: Option<Result<T, E>>,
    panicked: bool,
    caller: oneshot::Sender<Result<T, E>>,
}

/// A job, and where its answer arrives.
pub(crate) fn job<F, T, E>(
    name: &'static str,
    closure: F,
) -> (Box<dyn Job>, oneshot::Receiver<Result<T, E>>)
where
    F: FnMut(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    let (caller, answer) = oneshot::channel();
    (
        Box::new(TypedJob {
            name,
            closure,
            result: None,
            panicked: false,
            caller,
        }),
        answer,
    )
}

impl<F, T, E> Job for TypedJob<F, T, E>
where
    F: FnMut(&mut Tx<'_>) -> Result<T, E> + Send,
    T: Send,
    E: From<StoreError> + Send,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> bool {
        if self.panicked {
            // Its state is not to be trusted any more; the first panic stays the answer.
            return false;
        }
        let closure = &mut self.closure;
        let result = match catch_unwind(AssertUnwindSafe(|| closure(tx))) {
            Ok(result) => match tx.failure() {
                Some(failure) if result.is_ok() => Err(E::from(failure.error.clone())),
                _ => result,
            },
            Err(panic) => {
                self.panicked = true;
                Err(E::from(StoreError::Panicked {
                    name: self.name,
                    message: panic_message(panic.as_ref()),
                }))
            }
        };
        let keep = result.is_ok();
        self.result = Some(result);
        keep
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let answer = match (outcome, self.result) {
            (Ok(()), Some(result)) => result,
            (Err(error), _) => Err(E::from(error)),
            (Ok(()), None) => {
                unreachable!("a transaction is committed only after each of its closures has run")
            }
        };
        let _ = self.caller.send(answer);
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
