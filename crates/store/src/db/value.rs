//! What goes into a statement and comes out of a row: four kinds of value, the ones that both engines store alike.
//!
//! No floating-point kind: measured numbers are stored inside JSON, and everything that SQL compares or adds is an integer.

use serde::Serialize;

use super::error::StoreError;

/// A parameter of a statement, or a column of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// No value.
    Null,
    /// An integer; also a flag, as 0 or 1.
    Int(i64),
    /// Text, without NUL characters (`PostgreSQL` has none).
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A number that neither engine can store: binding it is refused. It exists so that `From<u64>` has no panic and
    /// no silent wrap-around.
    TooLarge(u64),
}

impl Value {
    /// `value` as JSON text.
    ///
    /// Fails when `value` cannot be JSON (a map whose keys are not text).
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, StoreError> {
        serde_json::to_string(value)
            .map(Self::Text)
            .map_err(|error| StoreError::Decode {
                column: "(parameter)".to_owned(),
                reason: format!("cannot be written as JSON: {error}"),
            })
    }

    /// The kind, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Int(_) => "an integer",
            Self::Text(_) => "text",
            Self::Bytes(_) => "bytes",
            Self::TooLarge(_) => "an integer above 2^63",
        }
    }

    /// Why neither engine may get this value, if so. Checked here and not by the engines, so that both refuse the same.
    pub(crate) fn refusal(&self) -> Option<String> {
        match self {
            Self::TooLarge(number) => Some(format!(
                "{number} is above 2^63-1, the largest integer that can be stored"
            )),
            Self::Text(text) if text.contains('\0') => {
                Some("text with a NUL character cannot be stored".to_owned())
            }
            _ => None,
        }
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Self::Int(i64::from(value))
    }
}

impl From<u16> for Value {
    fn from(value: u16) -> Self {
        Self::Int(i64::from(value))
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Int(i64::from(value))
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        i64::try_from(value).map_or(Self::TooLarge(value), Self::Int)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Int(i64::from(value))
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<&String> for Value {
    fn from(value: &String) -> Self {
        Self::Text(value.clone())
    }
}

impl From<Vec<u8>> for Value {
    fn from(value: Vec<u8>) -> Self {
        Self::Bytes(value)
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self::Bytes(value.to_vec())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// The parameters of a statement: `params![id, generation, None::<&str>]`. The first is `$1`.
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        (&[$($crate::Value::from($value)),*] as &[$crate::Value])
    };
}
