//! `check`: is the database sound, and does it have this program's schema? Reads only.

use super::{
    connection::{Access, Connection, Role},
    error::StoreError,
    migration::{self, Migration},
    tx::Tx,
    url::DatabaseUrl,
};
use crate::params;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// Which database, without the password.
    pub database: String,
    /// The last schema step that the database has; 0 when it has none yet.
    pub schema_version: i64,
    /// The last schema step that this program has. When it is greater, the next start of the server upgrades.
    pub program_version: i64,
    /// What is wrong, one sentence fragment each; empty when all is well.
    pub problems: Vec<String>,
}

pub(crate) fn check(
    url: &DatabaseUrl,
    migrations: &'static [Migration],
) -> Result<CheckReport, StoreError> {
    let mut connection = Connection::open(url, Role::Reader)?;
    connection
        .begin(Access::Read)
        .map_err(|failure| failure.error)?;
    let mut problems = Vec::new();
    if matches!(connection, Connection::Sqlite(_)) {
        problems.extend(sqlite_damage(&mut connection)?);
    }
    let applied = migration::applied(&mut connection, Access::Read)?.unwrap_or_default();
    match migration::mismatch(&applied, migrations) {
        Some(reason) => problems.push(reason),
        None => problems.extend(schema_differences(
            &mut connection,
            &migrations[..applied.len()],
        )?),
    }
    connection.abandon();
    Ok(CheckReport {
        database: url.to_string(),
        schema_version: applied.last().map_or(0, |step| step.version),
        program_version: migrations.last().map_or(0, |step| step.number),
        problems,
    })
}

fn sqlite_damage(connection: &mut Connection) -> Result<Vec<String>, StoreError> {
    let mut tx = Tx::new(connection, Access::Read);
    let mut found = Vec::new();
    for row in tx.query(
        "SELECT quick_check AS line FROM pragma_quick_check",
        params![],
    )? {
        let line: String = row.get("line")?;
        if line != "ok" {
            found.push(format!("damage: {line}"));
        }
    }
    let orphans =
        "SELECT \"table\" AS child, parent, COUNT(*) AS count FROM pragma_foreign_key_check
         GROUP BY \"table\", parent";
    for row in tx.query(orphans, params![])? {
        let (child, parent, count): (String, String, i64) =
            (row.get("child")?, row.get("parent")?, row.get("count")?);
        found.push(format!(
            "{count} rows of {child} refer to rows of {parent} that do not exist"
        ));
    }
    Ok(found)
}

/// Compares tables and columns with those of a fresh database.
fn schema_differences(
    connection: &mut Connection,
    applied: &[Migration],
) -> Result<Vec<String>, StoreError> {
    if applied.is_empty() {
        return Ok(Vec::new());
    }
    let expected = migration::expected_tables_and_columns(applied)?;
    let found = migration::tables_and_columns(connection, Access::Read)?;
    let missing = expected
        .iter()
        .filter(|line| !found.contains(line))
        .map(|line| format!("{line} is missing"));
    let unknown = found
        .iter()
        .filter(|line| !expected.contains(line))
        .map(|line| format!("{line} is not of this program"));
    Ok(missing.chain(unknown).collect())
}
