//! Every dependency that is compiled for this platform has a licence that may go into an Apache-2.0 binary. Expressions are SPDX
//! (`A OR B`, `A AND B`, `A WITH exception`, parentheses) and the older `A/B`.

use super::Problem;
use crate::metadata::Metadata;

const ALLOWED: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MPL-2.0",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];
const ALLOWED_EXCEPTIONS: [&str; 1] = ["LLVM-exception"];

pub(super) fn check(metadata: &Metadata) -> Vec<Problem> {
    let mut problems = Vec::new();
    for package in metadata
        .packages
        .iter()
        .filter(|package| package.source.is_some())
    {
        let name = format!("{} {}", package.name, package.version);
        let complaint = match package
            .license
            .as_deref()
            .map(|licence| (licence, is_allowed(licence)))
        {
            None => "names no licence".to_owned(),
            Some((licence, None)) => format!("has the unreadable licence expression `{licence}`"),
            Some((licence, Some(false))) => format!("has the licence `{licence}`"),
            Some((_, Some(true))) => continue,
        };
        problems.push(Problem::in_file(
            "Cargo.lock",
            format!("{name} {complaint}: replace it, or allow it in xtask/src/tidy/licences.rs with a decision"),
        ));
    }
    problems
}

/// Whether the expression can be met with allowed licences; `None` when it is no expression.
fn is_allowed(expression: &str) -> Option<bool> {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words };
    let allowed = parser.alternatives()?;
    parser.words.is_empty().then_some(allowed)
}

struct Parser<'a> {
    words: &'a [&'a str],
}

impl Parser<'_> {
    fn take(&mut self, wanted: &str) -> bool {
        let found = self.words.first() == Some(&wanted);
        if found {
            self.words = &self.words[1..];
        }
        found
    }

    fn alternatives(&mut self) -> Option<bool> {
        let mut allowed = self.conjunction()?;
        while self.take("OR") {
            allowed |= self.conjunction()?;
        }
        Some(allowed)
    }

    fn conjunction(&mut self) -> Option<bool> {
        let mut allowed = self.licence()?;
        while self.take("AND") {
            allowed &= self.licence()?;
        }
        Some(allowed)
    }

    fn licence(&mut self) -> Option<bool> {
        if self.take("(") {
            let allowed = self.alternatives()?;
            return self.take(")").then_some(allowed);
        }
        let (word, rest) = self.words.split_first()?;
        self.words = rest;
        let mut allowed = ALLOWED.contains(word);
        if self.take("WITH") {
            let (exception, rest) = self.words.split_first()?;
            self.words = rest;
            allowed &= ALLOWED_EXCEPTIONS.contains(exception);
        }
        (!["OR", "AND", "WITH", ")"].contains(word)).then_some(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        for (expression, expected) in [
            ("MIT", Some(true)),
            ("GPL-3.0-only", Some(false)),
            ("MIT OR Apache-2.0 OR LGPL-2.1-or-later", Some(true)),
            ("MIT/GPL-2.0", Some(true)),
            ("Apache-2.0 / MIT", Some(true)),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", Some(true)),
            ("(MIT OR Apache-2.0) AND GPL-2.0", Some(false)),
            ("MIT AND (GPL-2.0 OR ISC)", Some(true)),
            ("Apache-2.0 WITH LLVM-exception", Some(true)),
            ("MIT WITH strange-exception", Some(false)),
            ("(MIT", None),
            ("MIT MIT", None),
            ("OR MIT", None),
            ("", None),
        ] {
            assert_eq!(is_allowed(expression), expected, "{expression}");
        }
    }

    #[test]
    fn missing_licence_is_a_problem_only_for_foreign_packages() {
        let text = r#"{"packages":[
            {"name":"ours","version":"0.1.0","license":null,"source":null,"dependencies":[]},
            {"name":"theirs","version":"2.0.0","license":null,"source":"registry","dependencies":[]}]}"#;
        let metadata: Metadata = serde_json::from_str(text).expect("the metadata above is valid");
        let problems = check(&metadata);
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0]
                .message
                .starts_with("theirs 2.0.0 names no licence")
        );
    }
}
