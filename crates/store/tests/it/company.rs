//! What a closure may rely on beside others: their failures, callers that leave, a full queue, a store that closes.

use std::{
    future::Future,
    pin::pin,
    sync::mpsc,
    task::{Context, Poll, Waker},
};

use supernode_store::{ConflictKind, Store, StoreError, params};

use crate::{
    fixture::{
        Database, Engine, Gate, PATIENCE, block_on, insert, names, on_every_server,
        patient_batches, small_queue, wait_until,
    },
    transactions::Refusal,
};

on_every_server!(
    a_failing_closure_leaves_the_others_alone,
    a_dropped_caller_cancels_nothing,
    a_full_queue_makes_callers_wait,
    a_read_has_one_snapshot,
    dropping_the_store_keeps_what_is_queued,
);

fn a_failing_closure_leaves_the_others_alone(engine: Engine) {
    let database = Database::new(engine);
    let store = database.open_with(patient_batches());
    let batches_before = store.metrics().batches;
    let gate = Gate::close(&store);
    let callers: Vec<_> = (1..=12_i64)
        .map(|id| {
            let caller = store.clone();
            let caller = std::thread::spawn(move || {
                caller.write_inline("mixed", move |tx| {
                    tx.execute(
                        "INSERT INTO thing (id, name) VALUES ($1, $2)",
                        params![id, id.to_string()],
                    )?;
                    match id % 4 {
                        1 => Err(Refusal::Domain("refused")),
                        2 => Ok(tx.execute(
                            "INSERT INTO thing (id, name) VALUES ($1, $2)",
                            params![-id, "bad"],
                        )?),
                        3 if id == 7 => panic!("a bug"),
                        _ => Ok(1),
                    }
                })
            });
            wait_until("the closure is queued", || {
                store.metrics().queue_length >= usize::try_from(id).expect("small")
            });
            caller
        })
        .collect();
    gate.open();
    for (id, caller) in (1..=12_i64).zip(callers) {
        let outcome = caller.join().expect("the panic stays inside the store");
        match id {
            1 | 5 | 9 => assert_eq!(outcome, Err(Refusal::Domain("refused"))),
            2 | 6 | 10 => assert!(
                matches!(
                    &outcome,
                    Err(Refusal::Store(StoreError::Conflict {
                        kind: ConflictKind::Check,
                        ..
                    }))
                ),
                "{outcome:?}"
            ),
            7 => assert!(matches!(
                outcome,
                Err(Refusal::Store(StoreError::Panicked { .. }))
            )),
            _ => assert_eq!(outcome, Ok(1)),
        }
    }
    assert_eq!(
        store.metrics().batches - batches_before,
        1,
        "they shared one transaction"
    );
    assert_eq!(names(&store), ["3", "4", "8", "11", "12"]);
}

/// Lets `future` go as far as it can without waiting.
fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn a_dropped_caller_cancels_nothing(engine: Engine) {
    let database = Database::new(engine);
    let store = database.open();
    let gate = Gate::close(&store);
    {
        let mut write = pin!(store.write("orphan", |tx| {
            tx.execute(
                "INSERT INTO thing (id, name) VALUES ($1, $2)",
                params![1, "a"],
            )?;
            tx.execute(
                "INSERT INTO thing (id, name) VALUES ($1, $2)",
                params![2, "b"],
            )
        }));
        let waiting: Poll<Result<u64, StoreError>> = poll_once(write.as_mut());
        assert!(waiting.is_pending());
    }
    gate.open();
    insert(&store, 3, "c").expect("stored after the orphan");
    assert_eq!(names(&store), ["a", "b", "c"]);
}

fn a_full_queue_makes_callers_wait(engine: Engine) {
    let database = Database::new(engine);
    let store = database.open_with(small_queue(3));
    let gate = Gate::close(&store);
    let write = |id: i64| {
        store.write("insert", move |tx| {
            tx.execute(
                "INSERT INTO thing (id, name) VALUES ($1, $2)",
                params![id, id.to_string()],
            )
        })
    };
    block_on(async {
        let mut first = Box::pin(futures_of(1..=3, &write));
        let mut fourth = Box::pin(write(4));
        assert!(poll_once(first.as_mut()).is_pending());
        assert_eq!(store.metrics().queue_length, 3);
        let waiting: Poll<Result<u64, StoreError>> = poll_once(fourth.as_mut());
        assert!(waiting.is_pending());
        assert_eq!(store.metrics().queue_length, 3, "the fourth waits outside");
        gate.open();
        first.await;
        assert_eq!(fourth.await, Ok(1));
    });
    assert_eq!(names(&store), ["1", "2", "3", "4"]);
}

/// All of them together, each expected to succeed.
async fn futures_of<F>(ids: std::ops::RangeInclusive<i64>, write: impl Fn(i64) -> F)
where
    F: Future<Output = Result<u64, StoreError>>,
{
    let mut writes: Vec<_> = ids.map(|id| Some(Box::pin(write(id)))).collect();
    std::future::poll_fn(move |context| {
        for slot in &mut writes {
            if let Some(write) = slot
                && let Poll::Ready(outcome) = write.as_mut().poll(context)
            {
                assert_eq!(outcome, Ok(1));
                *slot = None;
            }
        }
        if writes.iter().all(Option::is_none) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

fn a_read_has_one_snapshot(engine: Engine) {
    let database = Database::new(engine);
    let store = database.open();
    let (counted, once) = mpsc::channel();
    let (written, go_on) = mpsc::channel();
    let go_on = std::sync::Mutex::new(go_on);
    let reader = store.clone();
    let reader = std::thread::spawn(move || {
        reader.read_inline("twice", move |tx| {
            let count = "SELECT COUNT(*) AS count FROM thing";
            let before: i64 = tx.query_one(count, params![])?.get("count")?;
            counted.send(()).expect("the test waits");
            go_on
                .lock()
                .expect("not poisoned")
                .recv_timeout(PATIENCE)
                .expect("the write is done");
            let after: i64 = tx.query_one(count, params![])?.get("count")?;
            Ok::<_, StoreError>((before, after))
        })
    });
    once.recv_timeout(PATIENCE)
        .expect("the first count is made");
    insert(&store, 1, "a").expect("a reader does not hold the writer up");
    written.send(()).expect("the reader waits");
    assert_eq!(reader.join().expect("no panic"), Ok((0, 0)));
    assert_eq!(names(&store), ["a"]);
}

fn dropping_the_store_keeps_what_is_queued(engine: Engine) {
    let database = Database::new(engine);
    let store: Store = database.open();
    let gate = Gate::close(&store);
    {
        let mut write = pin!(store.write("last", |tx| {
            tx.execute(
                "INSERT INTO thing (id, name) VALUES ($1, $2)",
                params![1, "a"],
            )
        }));
        let waiting: Poll<Result<u64, StoreError>> = poll_once(write.as_mut());
        assert!(waiting.is_pending());
    }
    gate.open();
    drop(store);
    assert_eq!(names(&database.open()), ["a"]);
}
