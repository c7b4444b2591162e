//! One connection to either engine. Everything above this file is the same for both.

use std::sync::Arc;

use super::{
    error::{Failure, StoreError},
    postgres::PostgresConnection,
    row::Row,
    sqlite::SqliteConnection,
    url::{DatabaseUrl, Target},
    value::Value,
};

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// One consistent snapshot; writing is refused.
    Read,
    /// Serializable; on `SQLite` it takes the write lock at once.
    Write,
    /// As `Write`, and one server at a time: on `PostgreSQL` others wait.
    Migrate,
}

/// Who connects, and so what the connection may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Reads and writes; creates the `SQLite` file.
    Writer(Sharing),
    /// Reads; never changes anything, not even by recovery.
    Reader,
}

/// Whether other stores may write to the same database at the same time. `SQLite` is always exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// No: a second store that asks for the same is refused as long as this one is open.
    Exclusive,
    /// Yes: only transactions keep them apart.
    Shared,
}

pub(crate) enum Connection {
    Sqlite(SqliteConnection),
    Postgres(Box<PostgresConnection>),
}

/// Runs one method on whichever engine it is.
macro_rules! on_engine {
    ($connection:expr, $engine:ident => $call:expr) => {
        match $connection {
            Connection::Sqlite($engine) => $call,
            Connection::Postgres($engine) => $call,
        }
    };
}

impl Connection {
    /// Connects. Blocks; must not be called on a thread that runs asynchronous tasks.
    pub(crate) fn open(url: &DatabaseUrl, role: Role) -> Result<Self, StoreError> {
        let database: Arc<str> = url.to_string().into();
        match url.target() {
            Target::SqliteMemory => SqliteConnection::open_memory(database).map(Self::Sqlite),
            Target::SqliteFile(path) => {
                SqliteConnection::open_file(database, path, role).map(Self::Sqlite)
            }
            Target::Postgres(target) => PostgresConnection::open(database, target, role)
                .map(|engine| Self::Postgres(Box::new(engine))),
        }
    }

    /// Makes a database in memory the same as another one.
    pub(crate) fn copy_from(&mut self, other: &Self) -> Result<(), StoreError> {
        match (self, other) {
            (Self::Sqlite(this), Self::Sqlite(other)) => this.copy_from(other),
            _ => unreachable!("only databases in memory are copied"),
        }
    }

    pub(crate) fn begin(&mut self, access: Access) -> Result<(), Failure> {
        on_engine!(self, engine => engine.begin(access))
    }

    pub(crate) fn commit(&mut self) -> Result<(), Failure> {
        on_engine!(self, engine => engine.commit())
    }

    /// Ends the transaction without its writes. Quiet: when it fails the connection is lost, and the next use says so.
    pub(crate) fn abandon(&mut self) {
        on_engine!(self, engine => engine.abandon());
    }

    /// Marks the place to which [`Connection::undo_to_savepoint`] returns; there is only one at a time.
    pub(crate) fn savepoint(&mut self) -> Result<(), Failure> {
        on_engine!(self, engine => engine.savepoint())
    }

    pub(crate) fn keep_savepoint(&mut self) -> Result<(), Failure> {
        on_engine!(self, engine => engine.keep_savepoint())
    }

    pub(crate) fn undo_to_savepoint(&mut self) -> Result<(), Failure> {
        on_engine!(self, engine => engine.undo_to_savepoint())
    }

    pub(crate) fn execute(
        &mut self,
        sql: &'static str,
        params: &[Value],
        access: Access,
    ) -> Result<u64, Failure> {
        on_engine!(self, engine => engine.execute(sql, params, access))
    }

    pub(crate) fn query(
        &mut self,
        sql: &'static str,
        params: &[Value],
        access: Access,
    ) -> Result<Vec<Row>, Failure> {
        on_engine!(self, engine => engine.query(sql, params, access))
    }

    /// Runs a script of several statements without parameters.
    pub(crate) fn execute_script(&mut self, sql: &str) -> Result<(), Failure> {
        on_engine!(self, engine => engine.execute_script(sql))
    }
}
