//! Query strings, read by the schema of the operation's query type.
//!
//! Text has no types, so the schema says which parameters exist and which of them are numbers; the rest is the same strict JSON
//! reading as for bodies. Unknown and repeated parameters are refused: a mistyped filter must not silently list everything.

use axum::extract::Query;
use axum::http::Uri;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::json;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Integer,
    Boolean,
    Text,
}

/// The parameters that an operation knows.
#[derive(Debug, Clone)]
pub(crate) struct QueryReader {
    known: Vec<(String, Kind)>,
}

impl QueryReader {
    /// Reads the parameters off the schema of `T`.
    pub(crate) fn of<T: JsonSchema>() -> Self {
        let schema = SchemaGenerator::default().into_root_schema_for::<T>();
        Self {
            known: parameters(&schema),
        }
    }

    /// The query of `uri` as a `T`, or what is wrong with it.
    pub(crate) fn read<T: DeserializeOwned>(&self, uri: &Uri) -> Result<T, String> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| format!("the query string is malformed: {}", error.body_text()))?;
        let mut values = Map::new();
        for (name, text) in pairs {
            let Some((_, kind)) = self.known.iter().find(|(known, _)| *known == name) else {
                return Err(format!(
                    "unknown query parameter `{}`; {}",
                    shortened(&name),
                    self.expectation()
                ));
            };
            let value = value(*kind, &text).map_err(|expected| {
                format!(
                    "query parameter `{name}`: `{}` is not {expected}",
                    shortened(&text)
                )
            })?;
            if values.insert(name.clone(), value).is_some() {
                return Err(format!("query parameter `{name}` is given twice"));
            }
        }
        let text = serde_json::to_vec(&values).expect("a map of plain values serializes");
        json::parse(&text).map_err(|problem| {
            let problem = problem
                .rsplit_once(" at line ")
                .map_or(problem.as_str(), |(front, _)| front)
                .to_owned();
            format!("query parameter {problem}")
        })
    }

    fn expectation(&self) -> String {
        let names: Vec<String> = self
            .known
            .iter()
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        if names.is_empty() {
            "this operation takes none".to_owned()
        } else {
            format!("this operation takes {}", names.join(", "))
        }
    }
}

fn parameters(schema: &Schema) -> Vec<(String, Kind)> {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return Vec::new();
    };
    properties
        .iter()
        .map(|(name, property)| (name.clone(), kind(property)))
        .collect()
}

fn kind(property: &Value) -> Kind {
    let is = |word: &str| match property.get("type") {
        Some(Value::String(one)) => one == word,
        Some(Value::Array(several)) => several.iter().any(|one| one == word),
        _ => false,
    };
    if is("integer") {
        Kind::Integer
    } else if is("boolean") {
        Kind::Boolean
    } else {
        Kind::Text
    }
}

fn value(kind: Kind, text: &str) -> Result<Value, &'static str> {
    match kind {
        Kind::Integer => text
            .parse::<i64>()
            .map(Value::from)
            .or_else(|_| text.parse::<u64>().map(Value::from))
            .map_err(|_| "an integer"),
        Kind::Boolean => text
            .parse::<bool>()
            .map(Value::from)
            .map_err(|_| "`true` or `false`"),
        Kind::Text => Ok(Value::from(text)),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use supernode_api::job::JobLogQuery;
    use supernode_api::{Nothing, Watch};

    fn read<T: JsonSchema + DeserializeOwned>(query: &str) -> Result<T, String> {
        let uri: Uri = format!("/path?{query}").parse().expect("a valid address");
        QueryReader::of::<T>().read(&uri)
    }

    #[test]
    fn values_get_the_type_that_the_schema_says() {
        let query: JobLogQuery =
            read("offset=18446744073709551615&limit=7&attempt=12%2034").expect("all are valid");
        assert_eq!(
            (query.offset, query.limit, query.attempt.as_deref()),
            (Some(u64::MAX), Some(7), Some("12 34"))
        );
    }

    #[test]
    fn what_is_not_in_the_schema_is_refused() {
        let problem = |query: &str| read::<Watch>(query).expect_err("wrong on purpose");
        assert_eq!(
            problem("after=1"),
            "unknown query parameter `after`; this operation takes `after_generation`, `wait_milliseconds`"
        );
        assert_eq!(
            problem("after_generation=soon"),
            "query parameter `after_generation`: `soon` is not an integer"
        );
        assert_eq!(
            problem("after_generation="),
            "query parameter `after_generation`: `` is not an integer"
        );
        assert_eq!(
            problem("after_generation=1&after_generation=2"),
            "query parameter `after_generation` is given twice"
        );
        assert_eq!(
            problem("wait_milliseconds=-1"),
            "query parameter wait_milliseconds: invalid value: integer `-1`, expected u64"
        );
        assert_eq!(
            read::<Nothing>("x=1").expect_err("wrong on purpose"),
            "unknown query parameter `x`; this operation takes none"
        );
    }
}
