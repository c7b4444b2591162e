//! Numbered schema steps, each applied once, all pending ones in one transaction.
//!
//! Table `schema_migration` has a row for each applied step with a checksum of its text. Refuses a database that a newer
//! program has upgraded, and one whose steps were other texts: this program's queries would not fit either.

use super::{
    connection::{Access, Connection, Role, Sharing},
    error::{Failure, StoreError},
    tx::Tx,
    url::DatabaseUrl,
};
use crate::params;

/// One step of the schema. Its text is SQL that both engines understand; released steps are never edited.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// 1 for the first step, and so on without gaps.
    pub number: i64,
    /// A few words, for messages.
    pub name: &'static str,
    /// The statements.
    pub sql: &'static str,
}

impl Migration {
    /// 64-bit FNV-1a in hexadecimal: enough to notice an edit, which is a mistake and not an attack.
    fn checksum(&self) -> String {
        let hash = self
            .sql
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        format!("{hash:016x}")
    }
}

const CREATE_TABLE: &str = "CREATE TABLE schema_migration (version BIGINT PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL)";

/// Brings the schema up to the last of `migrations`.
pub(crate) fn migrate(
    connection: &mut Connection,
    database: &str,
    migrations: &[Migration],
) -> Result<(), StoreError> {
    connection
        .begin(Access::Migrate)
        .map_err(|failure| failure.error)?;
    match migrate_in_transaction(connection, database, migrations) {
        Ok(()) => connection.commit().map_err(|failure| {
            connection.abandon();
            failure.error
        }),
        Err(error) => {
            connection.abandon();
            Err(error)
        }
    }
}

fn migrate_in_transaction(
    connection: &mut Connection,
    database: &str,
    migrations: &[Migration],
) -> Result<(), StoreError> {
    let applied = if let Some(applied) = applied(connection, Access::Migrate)? {
        applied
    } else {
        connection
            .execute_script(CREATE_TABLE)
            .map_err(|failure| failure.error)?;
        Vec::new()
    };
    if let Some(reason) = mismatch(&applied, migrations) {
        return Err(StoreError::Schema {
            database: database.to_owned(),
            reason,
        });
    }
    for migration in &migrations[applied.len()..] {
        apply(connection, migration).map_err(|failure| match failure.error {
            StoreError::Statement {
                database, reason, ..
            } => StoreError::Schema {
                database,
                reason: format!(
                    "step {} ({}) failed: {reason}",
                    migration.number, migration.name
                ),
            },
            error => error,
        })?;
        tracing::info!(
            database,
            version = migration.number,
            name = migration.name,
            "schema step applied"
        );
    }
    Ok(())
}

fn apply(connection: &mut Connection, migration: &Migration) -> Result<(), Failure> {
    connection.execute_script(migration.sql)?;
    connection
        .execute(
            "INSERT INTO schema_migration (version, name, checksum) VALUES ($1, $2, $3)",
            params![migration.number, migration.name, migration.checksum()],
            Access::Migrate,
        )
        .map(|_| ())
}

/// A step that the database has.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) version: i64,
    name: String,
    checksum: String,
}

/// The applied steps in order; `None` when the database has no schema yet.
pub(crate) fn applied(
    connection: &mut Connection,
    access: Access,
) -> Result<Option<Vec<Applied>>, StoreError> {
    let exists = match connection {
        Connection::Sqlite(_) => {
            "SELECT 1 AS one FROM sqlite_master WHERE type = 'table' AND name = 'schema_migration'"
        }
        Connection::Postgres(_) => {
            "SELECT 1 AS one WHERE to_regclass('schema_migration') IS NOT NULL"
        }
    };
    let mut tx = Tx::new(connection, access);
    if tx.query_optional(exists, params![])?.is_none() {
        return Ok(None);
    }
    tx.query(
        "SELECT version, name, checksum FROM schema_migration ORDER BY version",
        params![],
    )?
    .iter()
    .map(|row| {
        Ok(Applied {
            version: row.get("version")?,
            name: row.get("name")?,
            checksum: row.get("checksum")?,
        })
    })
    .collect::<Result<Vec<_>, StoreError>>()
    .map(Some)
}

/// Why a database with these steps is not one that `migrations` can go on from.
pub(crate) fn mismatch(applied: &[Applied], migrations: &[Migration]) -> Option<String> {
    let newest = migrations.last().map_or(0, |migration| migration.number);
    if let Some(last) = applied.last()
        && last.version > newest
    {
        return Some(format!(
            "it has version {} ({}) and this program knows up to {newest}: run the newer program, or restore a backup \
             from before the upgrade",
            last.version, last.name
        ));
    }
    applied.iter().zip(migrations).find_map(|(applied, migration)| {
        (applied.version != migration.number || applied.checksum != migration.checksum()).then(|| {
            format!(
                "its step {} ({}) is not this program's step {} ({}): run the program that made the database",
                applied.version, applied.name, migration.number, migration.name
            )
        })
    })
}

/// Every table with its columns, as lines of text: what both engines can be compared by.
pub(crate) fn tables_and_columns(
    connection: &mut Connection,
    access: Access,
) -> Result<Vec<String>, StoreError> {
    let sql = match connection {
        Connection::Sqlite(_) => {
            "SELECT m.name || '.' || c.name AS line FROM sqlite_master m, pragma_table_info(m.name) c
             WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite~_%' ESCAPE '~'"
        }
        Connection::Postgres(_) => {
            "SELECT CAST(table_name || '.' || column_name AS TEXT) AS line FROM information_schema.columns
             WHERE table_schema = current_schema()"
        }
    };
    let mut lines = Tx::new(connection, access)
        .query(sql, params![])?
        .iter()
        .map(|row| row.get("line"))
        .collect::<Result<Vec<String>, StoreError>>()?;
    lines.sort();
    Ok(lines)
}

/// What [`tables_and_columns`] says about a fresh database with these steps.
pub(crate) fn expected_tables_and_columns(
    migrations: &[Migration],
) -> Result<Vec<String>, StoreError> {
    let url = DatabaseUrl::sqlite_memory();
    let mut reference = Connection::open(&url, Role::Writer(Sharing::Shared))?;
    migrate(&mut reference, "(reference)", migrations)?;
    tables_and_columns(&mut reference, Access::Read)
}
