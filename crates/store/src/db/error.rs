//! Why the store could not do what it was asked.
//!
//! Every message names the database and what to do. Messages are strings and not sources, because one failed commit is
//! reported to each of the callers that shared it. A password never gets in: the database is named by
//! [`DatabaseUrl`](super::DatabaseUrl)'s own words.

/// What kind of rule a row broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictKind {
    /// Another row already has this key.
    Unique,
    /// The row that is referred to does not exist, or the row is still referred to.
    ForeignKey,
    /// A `CHECK` says no.
    Check,
    /// A required column has no value.
    NotNull,
}

/// The store's answer when it is not the result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database does not exist, or this program may not use it.
    #[error("database {database} cannot be opened: {reason}")]
    Open {
        /// Which database.
        database: String,
        /// What stands in the way, and what to do.
        reason: String,
    },
    /// Another server process has this `SQLite` file.
    #[error(
        "database {path} is in use by another server{holder}: stop that server, or give this one a database file of its own"
    )]
    Locked {
        /// The database file.
        path: String,
        /// The other process in words, with a leading blank, or empty when it is not known.
        holder: String,
    },
    /// No space: nothing of this request was stored.
    #[error(
        "database {database} has no space left, nothing was stored: free or add space, then ask again ({reason})"
    )]
    Full {
        /// Which database.
        database: String,
        /// The engine's words.
        reason: String,
    },
    /// The stored data is damaged.
    #[error(
        "database {database} is damaged: stop the server and restore the latest backup ({reason})"
    )]
    Corrupt {
        /// Which database.
        database: String,
        /// The engine's words.
        reason: String,
    },
    /// The database cannot be used now; nothing of this request was stored.
    #[error("database {database} is not available, nothing was stored: ask again later ({reason})")]
    Unavailable {
        /// Which database.
        database: String,
        /// The engine's words.
        reason: String,
    },
    /// The connection or the disk failed while the commit was under way.
    #[error(
        "database {database} may or may not have stored this request: ask again with the same idempotency key ({reason})"
    )]
    Unknown {
        /// Which database.
        database: String,
        /// The engine's words.
        reason: String,
    },
    /// A row broke a rule of the schema.
    #[error("{kind} rule broken: {what}", kind = kind_in_words(*.kind))]
    Conflict {
        /// Which kind of rule.
        kind: ConflictKind,
        /// `table.column` (several joined by `, `) for `Unique` and `NotNull`, the constraint's name for `Check`, the
        /// table or nothing for `ForeignKey`. The same on both engines for the first three.
        what: String,
    },
    /// The schema of the database is not the one of this program.
    #[error("database {database} has a schema that this program cannot use: {reason}")]
    Schema {
        /// Which database.
        database: String,
        /// What differs, and what to do.
        reason: String,
    },
    /// A stored value is not what the reader of its column expects.
    #[error("column {column} cannot be read: {reason}")]
    Decode {
        /// The column's name in the result.
        column: String,
        /// What was found, and what was expected.
        reason: String,
    },
    /// A query that must find exactly one row did not.
    #[error("query found {rows} rows where exactly one is stored: {sql}")]
    RowCount {
        /// How many it found.
        rows: usize,
        /// The query.
        sql: &'static str,
    },
    /// The engine refused a statement or a parameter: a bug of this program.
    #[error("database {database} refused a statement, which is a bug: {reason} (in: {sql})")]
    Statement {
        /// Which database.
        database: String,
        /// The engine's words.
        reason: String,
        /// The statement.
        sql: String,
    },
    /// The closure panicked; what it had written is undone.
    #[error("transaction {name} panicked, which is a bug: {message}")]
    Panicked {
        /// The name that the caller gave the closure.
        name: &'static str,
        /// The panic's message.
        message: String,
    },
}

impl StoreError {
    /// Whether the same request can succeed later with nothing changed in it. True for [`StoreError::Unknown`] too:
    /// there the caller must ask with the same idempotency key.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Full { .. } | Self::Unavailable { .. } | Self::Unknown { .. }
        )
    }
}

fn kind_in_words(kind: ConflictKind) -> &'static str {
    match kind {
        ConflictKind::Unique => "uniqueness",
        ConflictKind::ForeignKey => "reference",
        ConflictKind::Check => "check",
        ConflictKind::NotNull => "required value",
    }
}

/// A failed step inside the driver: what the caller will read, and how much of the transaction is lost.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) error: StoreError,
    pub(crate) scope: Scope,
}

/// How far a failure reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Only the closure whose statement failed.
    Closure,
    /// The whole transaction; the same closures can succeed when they are run again.
    Contention,
    /// The whole transaction; running it again would fail again.
    Transaction,
    /// The whole transaction and the connection; again on a new connection.
    Connection,
    /// The commit itself: nobody knows. Never run again.
    Unknown,
}

impl Failure {
    pub(crate) fn new(scope: Scope, error: StoreError) -> Self {
        Self { error, scope }
    }

    /// A statement or parameter that no engine would take.
    pub(crate) fn statement(database: &str, sql: &str, reason: impl Into<String>) -> Self {
        Self::new(
            Scope::Closure,
            StoreError::Statement {
                database: database.to_owned(),
                reason: reason.into(),
                sql: sql.to_owned(),
            },
        )
    }
}
