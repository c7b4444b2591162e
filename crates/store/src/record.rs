//! Objects that are stored whole, as JSON beside the columns that constraints and indexes need.

use serde::de::DeserializeOwned;

use crate::{Row, StoreError};

/// The `record` column of one row.
pub(crate) fn one<T: DeserializeOwned>(row: &Row) -> Result<T, StoreError> {
    row.json("record")
}

/// The `record` column of an optional row.
#[expect(
    clippy::needless_pass_by_value,
    reason = "every caller passes what a query just answered"
)]
pub(crate) fn optional<T: DeserializeOwned>(row: Option<Row>) -> Result<Option<T>, StoreError> {
    row.as_ref().map(one).transpose()
}

/// The `record` column of every row.
pub(crate) fn all<T: DeserializeOwned>(rows: &[Row]) -> Result<Vec<T>, StoreError> {
    rows.iter().map(one).collect()
}

/// An id or name column, parsed.
pub(crate) fn parsed<T>(row: &Row, column: &str) -> Result<T, StoreError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    row.get::<String>(column)?
        .parse()
        .map_err(|error: T::Err| StoreError::Decode {
            column: column.to_owned(),
            reason: error.to_string(),
        })
}

/// An optional id or name column, parsed.
pub(crate) fn parsed_optional<T>(row: &Row, column: &str) -> Result<Option<T>, StoreError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    match row.get::<Option<String>>(column)? {
        Some(_) => parsed(row, column).map(Some),
        None => Ok(None),
    }
}

/// The answer to a compare-and-set that changed no row although the object was read in the same transaction.
pub(crate) fn changed(rows: u64, what: &str) -> Result<(), StoreError> {
    if rows == 1 {
        Ok(())
    } else {
        Err(StoreError::Conflict {
            kind: crate::ConflictKind::Check,
            what: format!("{what}.generation"),
        })
    }
}
