//! The driver: [`Store`] runs closures over a [`Tx`] inside database transactions.
//!
//! ```text
//!  write(name, closure) --> queue --> writer thread: BEGIN, closures (a savepoint each), one COMMIT --> answers
//!  read(name, closure)  --> queue --> reader threads: one read-only snapshot per closure            --> answer
//! ```
//!
//! Why it is this way: an acknowledged write must be on disk, and a disk does a few hundred to a few thousand syncs per
//! second; writes that arrive while one sync is running share the next one. Closures are synchronous, so that a caller
//! that goes away can never leave a transaction half done, and the simulation can run the same code without a thread.
//!
//! Rules for the SQL that goes through here, so that one text serves both engines:
//! - parameters are `$1`…`$n`; every one of them is used, in any order and as often as you like;
//! - an integer is `BIGINT`, a flag is `BOOLEAN` (write `WHERE flag`, not `flag = 1`), bytes are `BYTEA`, JSON is `TEXT`;
//! - `SUM` of a `BIGINT` needs `CAST(SUM(x) AS BIGINT)`, and a parameter that only meets `IS NULL` a `CAST($1 AS TEXT)`;
//! - a failed statement ends the closure: its writes are undone whatever it returns (`PostgreSQL` has no other way).
//!   To try an insert use `ON CONFLICT … DO NOTHING` and look at the number of rows;
//! - constraints are immediate, never `DEFERRABLE`: a deferred one would fail a commit that others share.

mod batch;
mod check;
mod connection;
mod error;
mod job;
mod lock;
mod metrics;
mod migration;
mod postgres;
mod reader;
mod retry;
mod row;
mod sqlite;
mod store;
mod tls;
mod tx;
mod url;
mod value;
mod writer;

pub use check::CheckReport;
pub use connection::Sharing;
pub use error::{ConflictKind, StoreError};
pub use metrics::StoreMetrics;
pub use migration::Migration;
pub use row::{FromValue, Row};
pub use store::{Options, Store};
pub use tx::Tx;
pub use url::{DatabaseUrl, DatabaseUrlError};
pub use value::Value;
