//! `SQLite` in WAL mode, where a commit that returned is on disk.
//!
//! The pragmas are the promise: `synchronous=FULL` syncs the write-ahead log in every commit that wrote; a commit that
//! wrote nothing touches no file. Refuses a path that is no database and a journal mode other than WAL.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::backup::Backup;
use rusqlite::config::DbConfig;
use rusqlite::{
    CachedStatement, OpenFlags, ToSql,
    ffi::{self, ErrorCode},
    types::{ToSqlOutput, ValueRef},
};

use super::{
    connection::{Access, Role},
    error::{ConflictKind, Failure, Scope, StoreError},
    lock::FileLock,
    row::Row,
    value::Value,
};

/// How long a statement waits for another program (an administrator's `sqlite3`) that holds the write lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Prepared statements kept; more than the program has, so that none is prepared twice.
const STATEMENTS_MAX: usize = 1024;

pub(crate) struct SqliteConnection {
    connection: rusqlite::Connection,
    database: Arc<str>,
    /// Whether the transaction in progress has run a statement that can write.
    wrote: bool,
    /// Last field: released after the connection is closed.
    _lock: Option<FileLock>,
}

impl SqliteConnection {
    pub(crate) fn open_memory(database: Arc<str>) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = rusqlite::Connection::open_in_memory_with_flags(flags)
            .map_err(|error| failure_of(&database, "(open)", &error).error)?;
        let this = Self {
            connection,
            database,
            wrote: false,
            _lock: None,
        };
        this.configure("PRAGMA foreign_keys=ON;")
            .map_err(|failure| failure.error)?;
        Ok(this)
    }

    /// Makes this database the same as another one.
    pub(crate) fn copy_from(&mut self, other: &Self) -> Result<(), StoreError> {
        const ALL_PAGES: i32 = -1;
        Backup::new(&other.connection, &mut self.connection)
            .and_then(|backup| backup.step(ALL_PAGES))
            .map(drop)
            .map_err(|error| failure_of(&self.database, "(copy)", &error).error)
    }

    pub(crate) fn open_file(
        database: Arc<str>,
        path: &Path,
        role: Role,
    ) -> Result<Self, StoreError> {
        let path = resolved(&database, path)?;
        let (lock, flags) = match role {
            Role::Writer(_) => {
                let lock = FileLock::take(&path)?;
                create_private(&database, &path)?;
                (Some(lock), OpenFlags::SQLITE_OPEN_READ_WRITE)
            }
            Role::Reader => (None, OpenFlags::SQLITE_OPEN_READ_ONLY),
        };
        let connection =
            rusqlite::Connection::open_with_flags(&path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
                .map_err(|error| failure_of(&database, "(open)", &error).error)?;
        let this = Self {
            connection,
            database,
            wrote: false,
            _lock: lock,
        };
        this.configure(match role {
            Role::Writer(_) => {
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;
                 PRAGMA journal_size_limit=67108864; PRAGMA trusted_schema=OFF;"
            }
            Role::Reader => "PRAGMA query_only=ON; PRAGMA trusted_schema=OFF;",
        })
        .map_err(|failure| failure.error)?;
        if matches!(role, Role::Writer(_)) {
            this.require_wal()?;
        }
        Ok(this)
    }

    fn configure(&self, pragmas: &str) -> Result<(), Failure> {
        self.connection
            .set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        self.connection
            .busy_timeout(BUSY_TIMEOUT)
            .and_then(|()| self.connection.execute_batch(pragmas))
            // Plans do not look at bound values. Otherwise each `LIMIT ?` is parsed and planned anew at every execution.
            .and_then(|()| {
                let stable = DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG;
                self.connection.set_db_config(stable, true)
            })
            .map(drop)
            .map_err(|error| failure_of(&self.database, pragmas, &error))
    }

    fn require_wal(&self) -> Result<(), StoreError> {
        let mode: String = self
            .connection
            .query_row("PRAGMA journal_mode", [], |row| row.get(0))
            .map_err(|error| failure_of(&self.database, "PRAGMA journal_mode", &error).error)?;
        if mode == "wal" {
            return Ok(());
        }
        Err(StoreError::Open {
            database: self.database.to_string(),
            reason: format!(
                "its file system has no shared memory for a write-ahead log (journal mode is {mode}): put it on a local disk"
            ),
        })
    }

    pub(crate) fn begin(&mut self, access: Access) -> Result<(), Failure> {
        self.wrote = false;
        self.control(match access {
            Access::Read => "BEGIN DEFERRED",
            Access::Write | Access::Migrate => "BEGIN IMMEDIATE",
        })
    }

    pub(crate) fn commit(&mut self) -> Result<(), Failure> {
        self.control("COMMIT")
            .map_err(|failure| match failure.error {
                // The record may be in the log although writing or syncing it was reported as failed.
                StoreError::Unavailable { database, reason }
                    if failure.scope == Scope::Transaction && self.wrote =>
                {
                    Failure::new(Scope::Unknown, StoreError::Unknown { database, reason })
                }
                error => Failure::new(failure.scope, error),
            })
    }

    pub(crate) fn abandon(&mut self) {
        // Some errors have ended the transaction already.
        if !self.connection.is_autocommit() {
            let _ = self.control("ROLLBACK");
        }
    }

    pub(crate) fn savepoint(&mut self) -> Result<(), Failure> {
        self.control("SAVEPOINT closure")
    }

    pub(crate) fn keep_savepoint(&mut self) -> Result<(), Failure> {
        self.control("RELEASE closure")
    }

    pub(crate) fn undo_to_savepoint(&mut self) -> Result<(), Failure> {
        self.control("ROLLBACK TO closure")?;
        self.control("RELEASE closure")
    }

    pub(crate) fn execute(
        &mut self,
        sql: &'static str,
        params: &[Value],
        access: Access,
    ) -> Result<u64, Failure> {
        let Self {
            connection,
            database,
            wrote,
            ..
        } = self;
        let mut statement = prepared(connection, database, sql, params, access, wrote)?;
        if statement.column_count() > 0 {
            return Err(Failure::statement(
                database,
                sql,
                "it returns rows: use a query function",
            ));
        }
        let outcome = statement.raw_execute();
        drop(statement);
        outcome
            .map(|rows| rows as u64)
            .map_err(|error| failed_inside(connection, database, sql, &error))
    }

    pub(crate) fn query(
        &mut self,
        sql: &'static str,
        params: &[Value],
        access: Access,
    ) -> Result<Vec<Row>, Failure> {
        let Self {
            connection,
            database,
            wrote,
            ..
        } = self;
        let mut statement = prepared(connection, database, sql, params, access, wrote)?;
        let columns: Arc<[String]> = statement
            .column_names()
            .into_iter()
            .map(str::to_owned)
            .collect();
        let mut found = Vec::new();
        let mut rows = statement.raw_query();
        loop {
            match rows.next() {
                Ok(Some(row)) => found.push(
                    decoded(row, &columns).map_err(|error| Failure::new(Scope::Closure, error))?,
                ),
                Ok(None) => return Ok(found),
                Err(error) => {
                    drop(rows);
                    drop(statement);
                    return Err(failed_inside(connection, database, sql, &error));
                }
            }
        }
    }

    pub(crate) fn execute_script(&mut self, sql: &str) -> Result<(), Failure> {
        self.wrote = true;
        self.connection
            .execute_batch(sql)
            .map_err(|error| failed_inside(&self.connection, &self.database, sql, &error))
    }

    fn control(&self, sql: &'static str) -> Result<(), Failure> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.raw_execute())
            .map(|_| ())
            .map_err(|error| failure_of(&self.database, sql, &error))
    }
}

/// The database's path with its directory resolved, so that two spellings of it share one lock.
fn resolved(database: &str, path: &Path) -> Result<PathBuf, StoreError> {
    let unusable = |reason: String| StoreError::Open {
        database: database.to_owned(),
        reason,
    };
    if let Ok(path) = path.canonicalize() {
        return if path.is_dir() {
            Err(unusable("it is a directory: name a file in it".to_owned()))
        } else {
            Ok(path)
        };
    }
    let name = path
        .file_name()
        .ok_or_else(|| unusable("it does not name a file".to_owned()))?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = directory.canonicalize().map_err(|error| {
        unusable(format!(
            "its directory {} cannot be used ({error}): create it first",
            directory.display()
        ))
    })?;
    Ok(directory.join(name))
}

/// Creates the file when it does not exist, readable by its owner only: it holds hashes of tokens.
fn create_private(database: &str, path: &Path) -> Result<(), StoreError> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map(|_| ()).map_err(
        |error| StoreError::Open {
            database: database.to_owned(),
            reason: format!("the file cannot be written ({error}): make it and its directory writable for this user"),
        },
    )
}

/// The statement with its parameters bound: `$3` gets the third value wherever it stands in the text.
fn prepared<'c>(
    connection: &'c rusqlite::Connection,
    database: &str,
    sql: &'static str,
    params: &[Value],
    access: Access,
    wrote: &mut bool,
) -> Result<CachedStatement<'c>, Failure> {
    let wrong = |reason: String| Failure::statement(database, sql, reason);
    let mut statement = connection
        .prepare_cached(sql)
        .map_err(|error| failed_inside(connection, database, sql, &error))?;
    if !statement.readonly() {
        if access == Access::Read {
            return Err(wrong("it writes, in a read transaction".to_owned()));
        }
        *wrote = true;
    }
    let count = statement.parameter_count();
    if count != params.len() {
        return Err(wrong(format!(
            "it has {count} parameters and got {} values",
            params.len()
        )));
    }
    for index in 1..=count {
        let value = statement
            .parameter_name(index)
            .and_then(|name| name.strip_prefix('$')?.parse::<usize>().ok())
            .and_then(|number| params.get(number.checked_sub(1)?))
            .ok_or_else(|| wrong(format!("its parameters are not $1 to ${count}")))?;
        if let Some(refusal) = value.refusal() {
            return Err(wrong(refusal));
        }
        statement
            .raw_bind_parameter(index, value)
            .map_err(|error| failed_inside(connection, database, sql, &error))?;
    }
    Ok(statement)
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Int(number) => ValueRef::Integer(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Bytes(bytes) => ValueRef::Blob(bytes),
            Value::TooLarge(number) => {
                return Err(rusqlite::Error::ToSqlConversionFailure(
                    format!("{number} is too large").into(),
                ));
            }
        }))
    }
}

fn decoded(row: &rusqlite::Row<'_>, columns: &Arc<[String]>) -> Result<Row, StoreError> {
    let value = |(index, column): (usize, &String)| {
        let wrong = |reason: &str| StoreError::Decode {
            column: column.clone(),
            reason: reason.to_owned(),
        };
        match row.get_ref(index) {
            Ok(ValueRef::Null) => Ok(Value::Null),
            Ok(ValueRef::Integer(number)) => Ok(Value::Int(number)),
            Ok(ValueRef::Text(text)) => match std::str::from_utf8(text) {
                Ok(text) => Ok(Value::Text(text.to_owned())),
                Err(_) => Err(wrong("text that is not UTF-8")),
            },
            Ok(ValueRef::Blob(bytes)) => Ok(Value::Bytes(bytes.to_vec())),
            Ok(ValueRef::Real(_)) => {
                Err(wrong("a floating-point number: cast it to BIGINT or TEXT"))
            }
            Err(error) => Err(wrong(&error.to_string())),
        }
    };
    let values = columns
        .iter()
        .enumerate()
        .map(value)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Row::new(Arc::clone(columns), values))
}

/// A failure of a statement inside a transaction. Some errors make `SQLite` roll back everything; then every closure of
/// the transaction is concerned.
fn failed_inside(
    connection: &rusqlite::Connection,
    database: &str,
    sql: &str,
    error: &rusqlite::Error,
) -> Failure {
    let failure = failure_of(database, sql, error);
    match failure.scope {
        Scope::Closure if connection.is_autocommit() => {
            Failure::new(Scope::Transaction, failure.error)
        }
        _ => failure,
    }
}

pub(crate) fn failure_of(database: &str, sql: &str, error: &rusqlite::Error) -> Failure {
    let rusqlite::Error::SqliteFailure(cause, message) = error else {
        return Failure::statement(database, sql, error.to_string());
    };
    let database = database.to_owned();
    let reason = message.clone().unwrap_or_else(|| cause.to_string());
    let whole = |error| Failure::new(Scope::Transaction, error);
    match cause.code {
        ErrorCode::ConstraintViolation => {
            Failure::new(Scope::Closure, conflict_of(cause.extended_code, &reason))
        }
        ErrorCode::DiskFull => whole(StoreError::Full { database, reason }),
        ErrorCode::DatabaseCorrupt => whole(StoreError::Corrupt { database, reason }),
        ErrorCode::NotADatabase => whole(StoreError::Corrupt {
            database,
            reason: "the file is not a SQLite database, or its first page is lost".to_owned(),
        }),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Failure::new(
            Scope::Contention,
            StoreError::Unavailable {
                database,
                reason: format!("another program holds its lock: {reason}"),
            },
        ),
        ErrorCode::CannotOpen
        | ErrorCode::ReadOnly
        | ErrorCode::PermissionDenied
        | ErrorCode::AuthorizationForStatementDenied => whole(StoreError::Open {
            database,
            reason: format!(
                "{reason}: make the file and its directory exist and writable for this user"
            ),
        }),
        ErrorCode::SystemIoFailure => whole(StoreError::Unavailable {
            database,
            reason: format!("{reason}, extended code {}", cause.extended_code),
        }),
        ErrorCode::OutOfMemory
        | ErrorCode::OperationInterrupted
        | ErrorCode::FileLockingProtocolFailed => {
            whole(StoreError::Unavailable { database, reason })
        }
        _ => Failure::statement(&database, sql, reason),
    }
}

/// `SQLite` says `UNIQUE constraint failed: node.name`; the part after the colon is the subject.
fn conflict_of(extended_code: i32, message: &str) -> StoreError {
    let kind = match extended_code {
        ffi::SQLITE_CONSTRAINT_CHECK => ConflictKind::Check,
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => ConflictKind::ForeignKey,
        ffi::SQLITE_CONSTRAINT_NOTNULL => ConflictKind::NotNull,
        _ => ConflictKind::Unique,
    };
    let what = message
        .split_once(": ")
        .map(|(_, what)| what.to_owned())
        .unwrap_or_default();
    StoreError::Conflict { kind, what }
}
