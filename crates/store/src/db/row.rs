//! A row of a result, read by column name.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::{error::StoreError, value::Value};

/// One row. Values are read by the name that the query gives the column.
#[derive(Debug, Clone)]
pub struct Row {
    columns: Arc<[String]>,
    values: Vec<Value>,
}

impl Row {
    pub(crate) fn new(columns: Arc<[String]>, values: Vec<Value>) -> Self {
        Self { columns, values }
    }

    /// The value of `column` as a `T`; `Option<T>` for a column that can be null.
    ///
    /// Fails with [`StoreError::Decode`] when the result has no such column, or the value is not a `T`.
    pub fn get<T: FromValue>(&self, column: &str) -> Result<T, StoreError> {
        T::from_value(self.value(column)?).map_err(|reason| StoreError::Decode {
            column: column.to_owned(),
            reason,
        })
    }

    /// The JSON text in `column` as a `T`. A null column is read as JSON `null`.
    ///
    /// Fails with [`StoreError::Decode`] as [`Row::get`] does, and when the text is not the JSON of a `T`.
    pub fn json<T: DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        let wrong = |reason| StoreError::Decode {
            column: column.to_owned(),
            reason,
        };
        let text = match self.value(column)? {
            Value::Text(text) => text,
            // As text, too: another kind of deserializer would be compiled again for every type.
            Value::Null => "null",
            other => {
                let kind = other.kind();
                return Err(wrong(format!("{kind} where JSON text is expected")));
            }
        };
        serde_json::from_str(text).map_err(|error| wrong(format!("not the expected JSON: {error}")))
    }

    /// The names of the columns, in the order of the query.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    fn value(&self, column: &str) -> Result<&Value, StoreError> {
        let index = self
            .columns
            .iter()
            .position(|name| name == column)
            .ok_or_else(|| StoreError::Decode {
                column: column.to_owned(),
                reason: format!("the result only has {}", self.columns.join(", ")),
            })?;
        Ok(&self.values[index])
    }
}

/// What a column can be read as. The queries of a resource implement it for the resource's own types.
pub trait FromValue: Sized {
    /// The value, or a sentence fragment that says what was found and what was expected.
    fn from_value(value: &Value) -> Result<Self, String>;
}

impl FromValue for i64 {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Int(number) => Ok(*number),
            other => Err(format!("{} where an integer is expected", other.kind())),
        }
    }
}

macro_rules! narrower_integer {
    ($($type:ty),*) => {$(
        impl FromValue for $type {
            fn from_value(value: &Value) -> Result<Self, String> {
                let number = i64::from_value(value)?;
                Self::try_from(number)
                    .map_err(|_| format!("{number} is not between {} and {}", Self::MIN, Self::MAX))
            }
        }
    )*};
}

narrower_integer!(i32, u16, u32, u64);

impl FromValue for bool {
    fn from_value(value: &Value) -> Result<Self, String> {
        match i64::from_value(value)? {
            0 => Ok(false),
            1 => Ok(true),
            number => Err(format!("{number} where a flag (0 or 1) is expected")),
        }
    }
}

impl FromValue for String {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => Ok(text.clone()),
            other => Err(format!("{} where text is expected", other.kind())),
        }
    }
}

impl FromValue for Vec<u8> {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Bytes(bytes) => Ok(bytes.clone()),
            other => Err(format!("{} where bytes are expected", other.kind())),
        }
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(None),
            value => T::from_value(value).map(Some),
        }
    }
}
