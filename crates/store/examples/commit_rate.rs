//! How many durable writes per second this host's disk and `PostgreSQL` give: one writer, and many that share commits.
//!
//! `cargo run --release -p supernode-store --example commit_rate -- [DIRECTORY]`: the `SQLite` file is made in
//! DIRECTORY (default: the current one), because a temporary directory may not be on a disk. The private `PostgreSQL`
//! server syncs here, unlike in tests.

use std::{
    env,
    path::Path,
    time::{Duration, Instant},
};

use supernode_store::{
    DatabaseUrl, Migration, Options, Store, StoreError, params, testing::PrivatePostgres,
};

const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    name: "rows",
    sql: "CREATE TABLE entry (id BIGINT PRIMARY KEY, generation BIGINT NOT NULL, document TEXT NOT NULL);",
}];

const MEASURED_FOR: Duration = Duration::from_secs(3);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let directory = tempfile::Builder::new()
        .prefix("commit-rate-")
        .tempdir_in(Path::new(&directory))?;
    println!(
        "{:<10} {:>7} {:>12} {:>12} {:>14} {:>14}",
        "database", "writers", "writes/s", "commits/s", "mean commit", "longest commit"
    );
    measure("memory", &DatabaseUrl::sqlite_memory())?;
    measure(
        "sqlite",
        &DatabaseUrl::sqlite_file(directory.path().join("state.db")),
    )?;
    let server = PrivatePostgres::start_with(&[("fsync", "on")])?;
    measure("postgres", &server.create_database()?)?;
    Ok(())
}

fn measure(name: &str, url: &DatabaseUrl) -> Result<(), StoreError> {
    let store = Store::open_with(url, Options::new(MIGRATIONS))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    for writers in [1, 16, 256, 1024] {
        let before = store.metrics();
        let (since, done) = (now(), runtime.block_on(write_with(&store, writers))?);
        let (seconds, after) = (since.elapsed().as_secs_f64(), store.metrics());
        let commits = after.batches - before.batches;
        let mean = after.commit_time_sum.saturating_sub(before.commit_time_sum)
            / u32::try_from(commits.max(1)).unwrap_or(u32::MAX);
        println!(
            "{name:<10} {writers:>7} {:>12} {:>12} {mean:>14.1?} {:>14.1?}",
            per_second(done, seconds),
            per_second(commits, seconds),
            after.commit_time_max
        );
    }
    Ok(())
}

/// A transaction as the server makes them: read a row, write a row of a few hundred bytes.
async fn write_with(store: &Store, writers: i64) -> Result<u64, StoreError> {
    let until = now() + MEASURED_FOR;
    let mut tasks = tokio::task::JoinSet::new();
    for id in 0..writers {
        let store = store.clone();
        tasks.spawn(async move {
            let mut done = 0;
            while now() < until {
                store.write("measure", move |tx| one_write(tx, id)).await?;
                done += 1;
            }
            Ok(done)
        });
    }
    let mut sum = 0;
    while let Some(done) = tasks.join_next().await {
        let done: Result<u64, StoreError> = done.expect("a writer does not panic");
        sum += done?;
    }
    Ok(sum)
}

fn one_write(tx: &mut supernode_store::Tx<'_>, id: i64) -> Result<u64, StoreError> {
    let found = tx.query_optional("SELECT generation FROM entry WHERE id = $1", params![id])?;
    let generation = found.map_or(Ok(0), |row| row.get::<i64>("generation"))?;
    let document = format!(
        "{{\"generation\": {generation}, \"filler\": \"{}\"}}",
        "x".repeat(300)
    );
    tx.execute(
        "INSERT INTO entry (id, generation, document) VALUES ($1, $2, $3)
         ON CONFLICT (id) DO UPDATE SET generation = excluded.generation, document = excluded.document",
        params![id, generation + 1, document],
    )
}

#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn now() -> Instant {
    Instant::now()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a number to print"
)]
fn per_second(count: u64, seconds: f64) -> u64 {
    (count as f64 / seconds) as u64
}
