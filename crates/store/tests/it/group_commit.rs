//! Many writers share a commit; a write that changes nothing costs no commit to disk.

use supernode_store::{Store, StoreError, params, testing::PrivatePostgres};

use crate::fixture::{
    Database, Engine, Gate, insert, names, on_every_server, options, patient_batches, wait_until,
};

on_every_server!(
    waiting_closures_share_one_commit,
    a_batch_has_its_bounds,
    nothing_written_is_nothing_synced
);

fn waiting_closures_share_one_commit(engine: Engine) {
    const WRITERS: i64 = 40;
    let database = Database::new(engine);
    let store = database.open_with(patient_batches());
    insert(&store, 1000, "alone").expect("stored");
    let before = store.metrics();
    let gate = Gate::close(&store);
    let writers: Vec<_> = (1..=WRITERS)
        .map(|id| {
            let store = store.clone();
            std::thread::spawn(move || insert(&store, id, &id.to_string()))
        })
        .collect();
    wait_until("all writes are queued", || {
        store.metrics().queue_length == usize::try_from(WRITERS).expect("small")
    });
    gate.open();
    for writer in writers {
        assert_eq!(writer.join().expect("no panic"), Ok(1));
    }
    let after = store.metrics();
    assert_eq!(
        after.batches - before.batches,
        1,
        "one commit for the gate and all writers"
    );
    assert_eq!(
        after.closures - before.closures,
        u64::try_from(WRITERS).expect("small") + 1
    );
    assert_eq!(after.queue_length, 0);
    assert!(after.commit_time_max.as_nanos() > 0 && after.commit_time_sum >= after.commit_time_max);
    assert_eq!(names(&store).len(), 41);
}

fn a_batch_has_its_bounds(engine: Engine) {
    let database = Database::new(engine);
    let store = database.open_with(supernode_store::Options {
        batch_closures_max: 10,
        ..patient_batches()
    });
    let before = store.metrics();
    let gate = Gate::close(&store);
    let writers: Vec<_> = (1..=29_i64)
        .map(|id| {
            let store = store.clone();
            std::thread::spawn(move || insert(&store, id, &id.to_string()))
        })
        .collect();
    wait_until("all writes are queued", || {
        store.metrics().queue_length == 29
    });
    gate.open();
    for writer in writers {
        assert_eq!(writer.join().expect("no panic"), Ok(1));
    }
    assert_eq!(
        store.metrics().batches - before.batches,
        3,
        "30 closures, 10 at a time"
    );
}

fn nothing_written_is_nothing_synced(engine: Engine) {
    // What a commit to disk would change: the write-ahead log's file, or the server's next transaction number (so the
    // server must be one that no other test uses).
    let (server, database) = match engine {
        Engine::Postgres => (
            Some(PrivatePostgres::start().unwrap_or_else(|error| panic!("{error}"))),
            None,
        ),
        Engine::Sqlite | Engine::Memory => (None, Some(Database::new(engine))),
    };
    let store = match (&server, &database) {
        (Some(server), _) => server
            .create_database()
            .map_or_else(
                |error| panic!("{error}"),
                |url| Store::open_with(&url, options()),
            )
            .unwrap_or_else(|error| panic!("{error}")),
        (None, database) => database.as_ref().expect("one of the two").open(),
    };
    insert(&store, 1, "a").expect("stored");
    let log = || -> String {
        match engine {
            Engine::Sqlite | Engine::Memory => {
                let log = std::fs::metadata(
                    database
                        .as_ref()
                        .expect("a file")
                        .path()
                        .with_extension("db-wal"),
                )
                .expect("the write-ahead log");
                format!("{} {:?}", log.len(), log.modified().expect("a time"))
            }
            Engine::Postgres => store
                .read_inline("next transaction", |tx| {
                    tx.query_one(
                        "SELECT CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS next",
                        params![],
                    )?
                    .get("next")
                })
                .unwrap_or_else(|error: StoreError| panic!("{error}")),
        }
    };
    let before = log();
    let batches = store.metrics().batches;
    for _ in 0..20 {
        let changed = store.write_inline("idle", |tx| {
            tx.query("SELECT name FROM thing", params![])?;
            tx.execute("UPDATE thing SET name = 'b' WHERE id = $1", params![2])
        });
        assert_eq!(changed, Ok::<_, StoreError>(0));
    }
    assert_eq!(log(), before);
    assert_eq!(store.metrics().batches - batches, 20);
    insert(&store, 2, "b").expect("stored");
    assert_ne!(log(), before, "a real write is seen by this measure");
}
