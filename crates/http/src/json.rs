//! JSON in, with an error that names the field and what was expected.

use axum::Json;
use serde::de::DeserializeOwned;

/// Parses all of `bytes`. The error names the field: `` `nodes[2].count`: invalid type: string "x", expected u32 ``.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match Json::<T>::from_bytes(bytes) {
        Ok(Json(value)) => Ok(value),
        Err(rejection) => {
            let text = rejection.body_text();
            // The rejection's text is "<what axum did>: <where: what serde says>"; only the second part helps a caller.
            Err(text
                .split_once(": ")
                .map_or(text.as_str(), |(_, problem)| problem)
                .to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[derive(serde::Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only the error is looked at")]
        items: Vec<Inner>,
    }

    #[derive(serde::Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only the error is looked at")]
        count: u32,
    }

    fn error(text: &str) -> String {
        parse::<Outer>(text.as_bytes()).expect_err("the text is wrong on purpose")
    }

    #[test]
    fn errors_name_the_field_and_what_was_expected() {
        assert_eq!(
            error(r#"{"items":[{"count":"x"}]}"#),
            "items[0].count: invalid type: string \"x\", expected u32 at line 1 column 22"
        );
        assert_eq!(
            error(r#"{"items":[],"itmes":1}"#),
            "itmes: unknown field `itmes`, expected `items` at line 1 column 19"
        );
        assert!(
            error("{}").starts_with("missing field `items`"),
            "{}",
            error("{}")
        );
        assert!(
            error("{").starts_with("EOF while parsing"),
            "{}",
            error("{")
        );
        assert!(
            error(r#"{"items":[]} x"#).starts_with("trailing characters"),
            "{}",
            error(r#"{"items":[]} x"#)
        );
    }
}
