//! Names of rank directories: the only part of a path that comes from a request.

use std::fmt;

/// The most bytes of an id: leaves room for what is put before and behind it in a file name.
const LONGEST: usize = 120;

/// The id of one rank of one attempt on this node, and the name of its directory.
///
/// Letters, digits, `-`, `_` and `.`, beginning with a letter or a digit: so it is never a path, hidden, or an option.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RankId(String);

/// The text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a rank id; it has 1 to {LONGEST} letters, digits, `-`, `_` and `.` and begins with a letter or digit"
)]
pub struct InvalidRankId {
    /// The text.
    pub text: String,
}

impl RankId {
    /// The id of rank `rank` of attempt `attempt`.
    pub fn new(attempt: &str, rank: u32) -> Result<Self, InvalidRankId> {
        Self::parse(&format!("{attempt}.{rank}"))
    }

    /// Checks a text that should be an id.
    pub fn parse(text: &str) -> Result<Self, InvalidRankId> {
        if is_plain_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidRankId {
                text: text.to_owned(),
            })
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RankId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Whether the text can be the name of a directory of ours.
pub(crate) fn is_plain_name(text: &str) -> bool {
    text.len() <= LONGEST
        && text
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_never_a_path() {
        assert_eq!(
            RankId::new("attempt-7f3a", 12)
                .expect("it is plain")
                .as_str(),
            "attempt-7f3a.12"
        );
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "/a",
            "../a",
            ".hidden",
            "-option",
            "a\0",
            "a b",
            "ä",
            &"x".repeat(121),
        ] {
            assert!(RankId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
