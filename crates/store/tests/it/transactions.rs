//! What a closure may rely on: all of its writes or none, and an answer that is true.

use supernode_store::{ConflictKind, StoreError, params};

use crate::fixture::{Database, Engine, block_on, insert, names, on_every_engine};

on_every_engine!(
    a_closure_error_undoes_its_writes,
    a_failed_statement_ends_the_closure,
    a_panic_is_an_error_of_its_caller,
    writes_are_seen_by_the_next_read,
);

#[derive(Debug, PartialEq)]
pub(crate) enum Refusal {
    Domain(&'static str),
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn a_closure_error_undoes_its_writes(engine: Engine) {
    let database = Database::new(engine);
    let store = database.open();
    let refused: Result<(), Refusal> = store.write_inline("refuse", |tx| {
        tx.execute(
            "INSERT INTO thing (id, name) VALUES ($1, $2)",
            params![1, "a"],
        )?;
        Err(Refusal::Domain("no"))
    });
    assert_eq!(refused, Err(Refusal::Domain("no")));
    assert_eq!(names(&store), Vec::<String>::new());
    insert(&store, 2, "b").expect("the store goes on");
    assert_eq!(names(&store), ["b"]);
}

fn a_failed_statement_ends_the_closure(engine: Engine) {
    let database = Database::new(engine);
    let store = database.open();
    insert(&store, 1, "a").expect("stored");
    let swallowed: Result<(), StoreError> = store.write_inline("swallow", |tx| {
        tx.execute(
            "INSERT INTO thing (id, name) VALUES ($1, $2)",
            params![2, "b"],
        )?;
        let first = tx.execute(
            "INSERT INTO thing (id, name) VALUES ($1, $2)",
            params![1, "again"],
        );
        let later = tx.execute(
            "INSERT INTO thing (id, name) VALUES ($1, $2)",
            params![3, "c"],
        );
        assert_eq!(
            first, later,
            "the transaction is over after the first failure"
        );
        Ok(())
    });
    assert_eq!(
        swallowed,
        Err(StoreError::Conflict {
            kind: ConflictKind::Unique,
            what: "thing.id".to_owned()
        }),
        "an ignored failure is not a success"
    );
    assert_eq!(names(&store), ["a"]);
}

fn a_panic_is_an_error_of_its_caller(engine: Engine) {
    let database = Database::new(engine);
    let store = database.open();
    let panicked: Result<(), StoreError> = store.write_inline("bad", |tx| {
        tx.execute(
            "INSERT INTO thing (id, name) VALUES ($1, $2)",
            params![1, "a"],
        )?;
        panic!("a bug of {}", "this closure")
    });
    assert_eq!(
        panicked,
        Err(StoreError::Panicked {
            name: "bad",
            message: "a bug of this closure".to_owned()
        })
    );
    let panicked: Result<(), StoreError> = store.read_inline("bad read", |_| panic!("another"));
    assert!(matches!(
        panicked,
        Err(StoreError::Panicked {
            name: "bad read",
            ..
        })
    ));
    assert_eq!(names(&store), Vec::<String>::new());
    insert(&store, 2, "b").expect("the store goes on");
}

fn writes_are_seen_by_the_next_read(engine: Engine) {
    let database = Database::new(engine);
    let store = database.open();
    block_on(async {
        for id in 1..=50_i64 {
            store
                .write("insert", move |tx| {
                    tx.execute(
                        "INSERT INTO thing (id, name) VALUES ($1, $2)",
                        params![id, id.to_string()],
                    )
                })
                .await
                .unwrap_or_else(|error: StoreError| panic!("{error}"));
            let seen: i64 = store
                .read("count", |tx| {
                    tx.query_one("SELECT COUNT(*) AS count FROM thing", params![])?
                        .get("count")
                })
                .await
                .unwrap_or_else(|error: StoreError| panic!("{error}"));
            assert_eq!(seen, id);
        }
    });
}
