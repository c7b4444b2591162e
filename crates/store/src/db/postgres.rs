//! `PostgreSQL`: serializable writes, repeatable reads, and a clear word about a commit that nobody saw end.
//!
//! The client is the synchronous one, which runs a small runtime of its own inside each call: it belongs on a thread of
//! its own and never on a thread that runs asynchronous tasks.

use std::{collections::HashMap, error::Error as _, sync::Arc};

use bytes::BytesMut;
use postgres::{
    Client, NoTls, Statement,
    error::{DbError, Severity, SqlState},
    types::{IsNull, ToSql, Type, to_sql_checked},
};

use super::{
    connection::{Access, Role, Sharing},
    error::{ConflictKind, Failure, Scope, StoreError},
    row::Row,
    tls::{self, Tls},
    url::PostgresTarget,
    value::Value,
};

/// The number that all servers of one database agree on for "the schema is being changed".
const MIGRATION_LOCK: &str = "SELECT pg_advisory_xact_lock(7310017253881)";

/// The number that says "a server works on this database". It is held by a connection, so a dead server gives it back.
const SERVER_LOCK: &str = "SELECT pg_advisory_lock(7310017253882)";

/// A server that died or hangs must not hold its locks for long; a commit that was answered must be on disk.
const SESSION: &str = "SET lock_timeout = '5s'; SET idle_in_transaction_session_timeout = '30s';
     SET standard_conforming_strings = on; SET client_encoding = 'UTF8'";

pub(crate) struct PostgresConnection {
    client: Client,
    database: Arc<str>,
    statements: HashMap<&'static str, Prepared>,
    savepoint: Savepoint,
    /// Whether the transaction in progress has run a statement that can write.
    wrote: bool,
}

struct Prepared {
    statement: Statement,
    columns: Arc<[String]>,
}

/// Where the one savepoint stands. Releasing it is put off until the next one is set: one message instead of two.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Savepoint {
    None,
    /// Set, with writes after it that are kept.
    Kept,
    /// Set, with nothing after it.
    Fresh,
}

impl PostgresConnection {
    pub(crate) fn open(
        database: Arc<str>,
        target: &PostgresTarget,
        role: Role,
    ) -> Result<Self, StoreError> {
        let connected =
            match &target.tls {
                Tls::Off => target.config.connect(NoTls),
                Tls::Verified { root_certificates } => {
                    target
                        .config
                        .connect(tls::connector(root_certificates.as_deref()).map_err(
                            |reason| StoreError::Open {
                                database: database.to_string(),
                                reason,
                            },
                        )?)
                }
            };
        let client = connected.map_err(|error| connect_error(&database, &error))?;
        let mut this = Self {
            client,
            database,
            statements: HashMap::new(),
            savepoint: Savepoint::None,
            wrote: false,
        };
        this.prepare_session().map_err(|failure| failure.error)?;
        if role == Role::Writer(Sharing::Exclusive) {
            this.lock_database()?;
        }
        Ok(this)
    }

    /// Waits as long as `lock_timeout` says: a server that just died may still look alive.
    fn lock_database(&mut self) -> Result<(), StoreError> {
        self.control(SERVER_LOCK)
            .map_err(|failure| match failure.scope {
                Scope::Contention => StoreError::Unavailable {
                    database: self.database.to_string(),
                    reason: "another server works on it: stop that one first".to_owned(),
                },
                _ => failure.error,
            })
    }

    fn prepare_session(&mut self) -> Result<(), Failure> {
        self.control(SESSION)?;
        let row = self
            .client
            .query_one("SHOW synchronous_commit", &[])
            .map_err(|error| failure_of(&self.database, "SHOW synchronous_commit", &error))?;
        // Every other setting waits at least for the local disk, and some sites choose a stricter one.
        if row.get::<_, &str>(0) == "off" {
            self.control("SET synchronous_commit = on")?;
        }
        Ok(())
    }

    pub(crate) fn begin(&mut self, access: Access) -> Result<(), Failure> {
        self.wrote = false;
        self.savepoint = Savepoint::None;
        match access {
            Access::Read => self.control("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
            Access::Write => self.control("BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE"),
            Access::Migrate => {
                // Not a snapshot from before the wait: whoever waited must see what the other server did.
                self.control(
                    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = 0",
                )?;
                self.control(MIGRATION_LOCK)
            }
        }
    }

    pub(crate) fn commit(&mut self) -> Result<(), Failure> {
        self.control("COMMIT")
            .map_err(|failure| match (failure.scope, failure.error) {
                (Scope::Connection, StoreError::Unavailable { database, reason }) if self.wrote => {
                    Failure::new(Scope::Unknown, StoreError::Unknown { database, reason })
                }
                (scope, error) => Failure::new(scope, error),
            })
    }

    pub(crate) fn abandon(&mut self) {
        let _ = self.control("ROLLBACK");
    }

    pub(crate) fn savepoint(&mut self) -> Result<(), Failure> {
        match self.savepoint {
            Savepoint::None => self.control("SAVEPOINT closure")?,
            Savepoint::Kept => self.control("RELEASE closure; SAVEPOINT closure")?,
            Savepoint::Fresh => {}
        }
        self.savepoint = Savepoint::Fresh;
        Ok(())
    }

    #[expect(
        clippy::unnecessary_wraps,
        reason = "the two engines have the same methods"
    )]
    pub(crate) fn keep_savepoint(&mut self) -> Result<(), Failure> {
        self.savepoint = Savepoint::Kept;
        Ok(())
    }

    pub(crate) fn undo_to_savepoint(&mut self) -> Result<(), Failure> {
        self.control("ROLLBACK TO closure")?;
        self.savepoint = Savepoint::Fresh;
        Ok(())
    }

    pub(crate) fn execute(
        &mut self,
        sql: &'static str,
        params: &[Value],
        access: Access,
    ) -> Result<u64, Failure> {
        let (statement, columns) = self.prepared(sql, params, access)?;
        if !columns.is_empty() {
            return Err(Failure::statement(
                &self.database,
                sql,
                "it returns rows: use a query function",
            ));
        }
        self.client
            .execute(&statement, &borrowed(params))
            .map_err(|error| failed_inside(&self.database, sql, access, &error))
    }

    pub(crate) fn query(
        &mut self,
        sql: &'static str,
        params: &[Value],
        access: Access,
    ) -> Result<Vec<Row>, Failure> {
        let (statement, columns) = self.prepared(sql, params, access)?;
        let rows = self
            .client
            .query(&statement, &borrowed(params))
            .map_err(|error| failed_inside(&self.database, sql, access, &error))?;
        rows.iter()
            .map(|row| decoded(row, &columns).map_err(|error| Failure::new(Scope::Closure, error)))
            .collect()
    }

    pub(crate) fn execute_script(&mut self, sql: &str) -> Result<(), Failure> {
        self.wrote = true;
        self.client
            .batch_execute(sql)
            .map_err(|error| failure_of(&self.database, sql, &error))
    }

    fn prepared(
        &mut self,
        sql: &'static str,
        params: &[Value],
        access: Access,
    ) -> Result<(Statement, Arc<[String]>), Failure> {
        if !self.statements.contains_key(sql) {
            let statement = self
                .client
                .prepare(sql)
                .map_err(|error| failed_inside(&self.database, sql, access, &error))?;
            let columns = statement
                .columns()
                .iter()
                .map(|column| column.name().to_owned())
                .collect();
            self.statements.insert(sql, Prepared { statement, columns });
        }
        let Prepared { statement, columns } = &self.statements[sql];
        let count = statement.params().len();
        if count != params.len() {
            let reason = format!("it has {count} parameters and got {} values", params.len());
            return Err(Failure::statement(&self.database, sql, reason));
        }
        if let Some(refusal) = params.iter().find_map(Value::refusal) {
            return Err(Failure::statement(&self.database, sql, refusal));
        }
        self.wrote |= !sql
            .trim_start()
            .get(..6)
            .is_some_and(|word| word.eq_ignore_ascii_case("SELECT"));
        Ok((statement.clone(), Arc::clone(columns)))
    }

    fn control(&mut self, sql: &str) -> Result<(), Failure> {
        self.client
            .batch_execute(sql)
            .map_err(|error| failure_of(&self.database, sql, &error))
    }
}

fn borrowed(params: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    params
        .iter()
        .map(|value| value as &(dyn ToSql + Sync))
        .collect()
}

/// A value that does not fit the type which the statement's text gives its parameter.
#[derive(Debug, thiserror::Error)]
#[error("{kind} is given where the statement has {wanted}: change the value or write a CAST")]
struct MisfitParameter {
    kind: &'static str,
    wanted: String,
}

impl ToSql for Value {
    fn to_sql(
        &self,
        wanted: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        let misfit = || {
            Box::new(MisfitParameter {
                kind: self.kind(),
                wanted: wanted.name().to_owned(),
            })
        };
        match (self, wanted) {
            (Self::Null, _) => Ok(IsNull::Yes),
            (Self::Int(number), &Type::INT8) => number.to_sql(wanted, out),
            (Self::Int(number), &Type::INT4) => i32::try_from(*number)
                .map_err(|_| misfit())?
                .to_sql(wanted, out),
            (Self::Int(number), &Type::INT2) => i16::try_from(*number)
                .map_err(|_| misfit())?
                .to_sql(wanted, out),
            (Self::Int(number @ (0 | 1)), &Type::BOOL) => (*number == 1).to_sql(wanted, out),
            (
                Self::Text(text),
                &Type::TEXT
                | &Type::VARCHAR
                | &Type::BPCHAR
                | &Type::NAME
                | &Type::UNKNOWN
                | &Type::JSON,
            ) => {
                out.extend_from_slice(text.as_bytes());
                Ok(IsNull::No)
            }
            (Self::Bytes(bytes), &Type::BYTEA) => bytes.as_slice().to_sql(wanted, out),
            _ => Err(misfit()),
        }
    }

    fn accepts(_: &Type) -> bool {
        // `to_sql` names the value and the type when they do not fit; this function could only name the type.
        true
    }

    to_sql_checked!();
}

fn decoded(row: &postgres::Row, columns: &Arc<[String]>) -> Result<Row, StoreError> {
    let value = |(index, column): (usize, &postgres::Column)| {
        let value = match *column.type_() {
            Type::BOOL => row.try_get::<_, Option<bool>>(index).map(Value::from),
            Type::INT2 => row
                .try_get::<_, Option<i16>>(index)
                .map(|value| Value::from(value.map(i64::from))),
            Type::INT4 => row.try_get::<_, Option<i32>>(index).map(Value::from),
            Type::INT8 => row.try_get::<_, Option<i64>>(index).map(Value::from),
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN => {
                row.try_get::<_, Option<&str>>(index).map(Value::from)
            }
            Type::BYTEA => row.try_get::<_, Option<&[u8]>>(index).map(Value::from),
            ref other => {
                return Err(StoreError::Decode {
                    column: column.name().to_owned(),
                    reason: format!(
                        "the type {other} has no value here: cast it to BIGINT or TEXT"
                    ),
                });
            }
        };
        value.map_err(|error| StoreError::Decode {
            column: column.name().to_owned(),
            reason: error.to_string(),
        })
    };
    let values = row
        .columns()
        .iter()
        .enumerate()
        .map(value)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Row::new(Arc::clone(columns), values))
}

fn connect_error(database: &str, error: &postgres::Error) -> StoreError {
    let database = database.to_owned();
    let advised = |advice: &str| format!("{}: {advice}", reason_of(error));
    match error.as_db_error().map(DbError::code) {
        Some(&SqlState::INVALID_CATALOG_NAME) => StoreError::Open {
            database,
            reason: advised("create it with createdb, or correct the address"),
        },
        Some(code) if code.code().starts_with("28") => StoreError::Open {
            database,
            reason: advised("correct the user or password, or the server's pg_hba.conf"),
        },
        Some(_) => failure_of(&database, "(connect)", error).error,
        None => StoreError::Unavailable {
            database,
            reason: advised("check that the address is right and that the server runs"),
        },
    }
}

/// A failure of a statement inside a transaction.
fn failed_inside(database: &str, sql: &str, access: Access, error: &postgres::Error) -> Failure {
    let is_read_only = error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION);
    if is_read_only && access == Access::Read {
        return Failure::statement(database, sql, "it writes, in a read transaction");
    }
    failure_of(database, sql, error)
}

fn failure_of(database: &str, sql: &str, error: &postgres::Error) -> Failure {
    let Some(cause) = error.as_db_error() else {
        return match error
            .source()
            .and_then(|source| source.downcast_ref::<MisfitParameter>())
        {
            Some(misfit) => Failure::statement(database, sql, misfit.to_string()),
            // Everything else without a word of the server is the connection: closed, reset, timed out, garbled.
            None => lost(database, reason_of(error)),
        };
    };
    let unavailable = || StoreError::Unavailable {
        database: database.to_owned(),
        reason: reason_of(error),
    };
    let whole = |error| Failure::new(Scope::Transaction, error);
    let code = cause.code();
    match code.code() {
        "40001" | "40P01" | "55P03" => Failure::new(Scope::Contention, unavailable()),
        "40003" | "08007" => Failure::new(
            Scope::Unknown,
            StoreError::Unknown {
                database: database.to_owned(),
                reason: reason_of(error),
            },
        ),
        // Another server changed the schema, or a pooler between us and the server forgot our statements.
        "26000" => lost(database, reason_of(error)),
        "0A000" if cause.message().contains("cached plan") => lost(database, reason_of(error)),
        _ if matches!(
            cause.parsed_severity(),
            Some(Severity::Fatal | Severity::Panic)
        ) =>
        {
            lost(database, reason_of(error))
        }
        code if code.starts_with("08") || code.starts_with("57P") => {
            lost(database, reason_of(error))
        }
        code if code.starts_with("23") => Failure::new(Scope::Closure, conflict_of(cause)),
        "53100" => whole(StoreError::Full {
            database: database.to_owned(),
            reason: reason_of(error),
        }),
        "XX001" | "XX002" | "58P01" => whole(StoreError::Corrupt {
            database: database.to_owned(),
            reason: reason_of(error),
        }),
        code if code.starts_with("53") || code.starts_with("58") || code.starts_with("57") => {
            whole(unavailable())
        }
        "25006" => whole(StoreError::Unavailable {
            database: database.to_owned(),
            reason: format!("{}: is the server a standby?", reason_of(error)),
        }),
        _ => Failure::statement(database, sql, reason_of(error)),
    }
}

fn lost(database: &str, reason: String) -> Failure {
    Failure::new(
        Scope::Connection,
        StoreError::Unavailable {
            database: database.to_owned(),
            reason,
        },
    )
}

/// The server's words with its code, or the transport's. The client's own "db error" says nothing.
fn reason_of(error: &postgres::Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(cause), _) => format!("{}, code {}", cause.message(), cause.code().code()),
        (None, Some(source)) => format!("{error}: {source}")
            .replace(&format!("{source}: {source}"), &source.to_string()),
        (None, None) => error.to_string(),
    }
}

fn conflict_of(cause: &DbError) -> StoreError {
    let table = cause.table().unwrap_or_default();
    let constraint = || cause.constraint().unwrap_or_default().to_owned();
    let (kind, what) = match *cause.code() {
        SqlState::NOT_NULL_VIOLATION => (
            ConflictKind::NotNull,
            format!("{table}.{}", cause.column().unwrap_or_default()),
        ),
        SqlState::FOREIGN_KEY_VIOLATION => (ConflictKind::ForeignKey, table.to_owned()),
        SqlState::CHECK_VIOLATION => (ConflictKind::Check, constraint()),
        _ => (
            ConflictKind::Unique,
            key_columns(table, cause.detail()).unwrap_or_else(constraint),
        ),
    };
    StoreError::Conflict { kind, what }
}

/// From `Key (name, zone)=(a, b) already exists.` (in any language) to `node.name, node.zone`, as `SQLite` says it.
fn key_columns(table: &str, detail: Option<&str>) -> Option<String> {
    let (_, after) = detail?.split_once('(')?;
    let (columns, _) = after.split_once(")=(")?;
    Some(
        columns
            .split(", ")
            .map(|column| format!("{table}.{column}"))
            .collect::<Vec<_>>()
            .join(", "),
    )
}
