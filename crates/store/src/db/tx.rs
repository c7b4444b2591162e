//! A transaction in progress, as a closure sees it.

use super::{
    connection::{Access, Connection},
    error::{Failure, StoreError},
    row::Row,
    value::Value,
};

/// A transaction. The closure that got it reads and writes through it; commit and rollback are the store's business:
/// `Ok` keeps the closure's writes, `Err` and a panic undo them.
///
/// A failed statement ends the transaction for this closure: every later statement returns the same error, and its
/// writes are undone even when it returns `Ok` (its caller then gets that error). Write closures can be run more than
/// once, when the database asked for it; so they must not have effects outside the transaction.
pub struct Tx<'a> {
    connection: &'a mut Connection,
    access: Access,
    failure: Option<Failure>,
}

impl<'a> Tx<'a> {
    pub(crate) fn new(connection: &'a mut Connection, access: Access) -> Self {
        Self {
            connection,
            access,
            failure: None,
        }
    }

    /// Runs a statement that returns no rows; answers how many rows it inserted, changed or removed.
    pub fn execute(&mut self, sql: &'static str, params: &[Value]) -> Result<u64, StoreError> {
        self.check()?;
        let outcome = self.connection.execute(sql, params, self.access);
        self.noting_failure(outcome)
    }

    /// All rows of a query, or of a statement with `RETURNING`.
    pub fn query(&mut self, sql: &'static str, params: &[Value]) -> Result<Vec<Row>, StoreError> {
        self.check()?;
        let outcome = self.connection.query(sql, params, self.access);
        self.noting_failure(outcome)
    }

    /// The row of a query that finds one or none.
    ///
    /// Fails with [`StoreError::RowCount`] when it finds several.
    pub fn query_optional(
        &mut self,
        sql: &'static str,
        params: &[Value],
    ) -> Result<Option<Row>, StoreError> {
        let mut rows = self.query(sql, params)?;
        match rows.len() {
            0 | 1 => Ok(rows.pop()),
            rows => Err(StoreError::RowCount { rows, sql }),
        }
    }

    /// The row of a query that always finds one.
    ///
    /// Fails with [`StoreError::RowCount`] when it finds none or several.
    pub fn query_one(&mut self, sql: &'static str, params: &[Value]) -> Result<Row, StoreError> {
        self.query_optional(sql, params)?
            .ok_or(StoreError::RowCount { rows: 0, sql })
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    pub(crate) fn into_failure(self) -> Option<Failure> {
        self.failure
    }

    fn check(&self) -> Result<(), StoreError> {
        self.failure
            .as_ref()
            .map_or(Ok(()), |failure| Err(failure.error.clone()))
    }

    fn noting_failure<T>(&mut self, outcome: Result<T, Failure>) -> Result<T, StoreError> {
        outcome.map_err(|failure| {
            let error = failure.error.clone();
            self.failure = Some(failure);
            error
        })
    }
}
