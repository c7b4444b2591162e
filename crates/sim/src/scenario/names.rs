//! Short names for ids, so that the text of a scenario is the same always.

use std::collections::BTreeMap;

use crate::check::view::View;
use crate::request::Request;

/// Numbers for jobs, operations and attempts, in the order in which they were seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    short: BTreeMap<String, String>,
}

impl Names {
    /// Replaces every id in a line.
    pub(super) fn shorten(&mut self, line: &str, view: &View) -> String {
        let mut out = String::with_capacity(line.len());
        let mut rest = line;
        while !rest.is_empty() {
            let end = rest
                .find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-')
                .unwrap_or(rest.len());
            if end == 0 {
                let length = rest.chars().next().map_or(1, char::len_utf8);
                out.push_str(&rest[..length]);
                rest = &rest[length..];
                continue;
            }
            out.push_str(&self.word(&rest[..end], view));
            rest = &rest[end..];
        }
        out
    }

    fn word(&mut self, word: &str, view: &View) -> String {
        let is_id = word
            .rsplit_once('-')
            .is_some_and(|(_, body)| body.len() == 26);
        if !is_id {
            return word.to_owned();
        }
        if let Ok(id) = word.parse()
            && let Some(node) = view.nodes.get(&id)
        {
            return node.name.to_string();
        }
        if let Ok(id) = word.parse()
            && let Some(super_node) = view.super_nodes.get(&id)
        {
            return super_node.name.to_string();
        }
        if let Some(known) = self.short.get(word) {
            return known.clone();
        }
        let prefix = word.rsplit_once('-').map_or(word, |(prefix, _)| prefix);
        let number = self
            .short
            .values()
            .filter(|known| known.starts_with(&format!("{prefix}-")))
            .count()
            + 1;
        let short = format!("{prefix}-{number}");
        self.short.insert(word.to_owned(), short.clone());
        short
    }

    /// Puts the ids back into a request of a script.
    pub(super) fn resolve(&self, request: Request) -> Request {
        let id = |short: String| {
            self.short
                .iter()
                .find(|(_, known)| **known == short)
                .map_or(short, |(id, _)| id.clone())
        };
        match request {
            Request::CancelJob { job } => Request::CancelJob { job: id(job) },
            Request::CancelOperation { operation } => Request::CancelOperation {
                operation: id(operation),
            },
            other => other,
        }
    }
}
