//! Links between files of the repository resolve. Addresses on the web are not fetched: a check must not depend on the network.

use super::Problem;
use crate::workspace::Source;

/// `exists` is asked with paths relative to the repository root.
pub(super) fn check(sources: &[Source], exists: impl Fn(&str) -> bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    for source in sources.iter().filter(|source| source.has_extension("md")) {
        for (index, target) in targets(&source.text) {
            let path = target.split(['#', '?']).next().unwrap_or_default();
            if path.is_empty() || has_scheme(&target) {
                continue;
            }
            let message = match resolve(&source.path, path) {
                None => format!("link `{target}` leaves the repository"),
                Some(resolved) if !exists(&resolved) => {
                    format!("link `{target}` leads to {resolved}, which does not exist")
                }
                Some(_) => continue,
            };
            problems.push(Problem::in_line(&source.path, index, message));
        }
    }
    problems
}

/// Inline `](target)` and reference `[name]: target` links outside code, with their line indices.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code_block = false;
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("```") || trimmed.starts_with("~~~") {
            in_code_block = !in_code_block;
            continue;
        }
        if in_code_block {
            continue;
        }
        let line = without_code_spans(line);
        for (start, _) in line.match_indices("](") {
            if let Some(target) = line[start + 2..].split([')', ' ']).next() {
                found.push((index, target.trim_matches(['<', '>']).to_owned()));
            }
        }
        let definition = line.trim_start();
        if definition.starts_with('[')
            && let Some((_, target)) = definition.split_once("]: ")
            && let Some(target) = target.split_whitespace().next()
            && !definition.contains("](")
        {
            found.push((index, target.to_owned()));
        }
    }
    found
}

fn without_code_spans(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("")
}

fn has_scheme(target: &str) -> bool {
    target.split_once(':').is_some_and(|(scheme, _)| {
        !scheme.is_empty()
            && scheme
                .chars()
                .all(|character| character.is_ascii_alphanumeric())
    })
}

/// The target as a path from the repository root; `None` when it lies outside.
fn resolve(from: &str, target: &str) -> Option<String> {
    if target.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(if parts.is_empty() {
        ".".to_owned()
    } else {
        parts.join("/")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<String> {
        let sources = [Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }];
        check(&sources, |path| {
            ["README.md", "docs/guide", "docs/a.md"].contains(&path)
        })
        .into_iter()
        .map(|problem| problem.message)
        .collect()
    }

    #[test]
    fn existing_files_anchors_and_web_addresses_pass() {
        let text = "[a](a.md) [b](../README.md#top) [c](#here) [d](https://example.org/x) [e](guide/)\n[f]: a.md\n";
        assert_eq!(messages("docs/index.md", text), Vec::<String>::new());
    }

    #[test]
    fn missing_file_and_way_out_are_found() {
        assert_eq!(
            messages(
                "docs/index.md",
                "[a](b.md)\n[c]: d.md\n[e](../../x.md) [f](/etc/passwd)"
            ),
            [
                "link `b.md` leads to docs/b.md, which does not exist",
                "link `d.md` leads to docs/d.md, which does not exist",
                "link `../../x.md` leaves the repository",
                "link `/etc/passwd` leaves the repository",
            ]
        );
    }

    #[test]
    fn code_is_no_link() {
        assert_eq!(
            messages("docs/index.md", "`[a](b.md)`\n```\n[a](b.md)\n```\n"),
            Vec::<String>::new()
        );
    }
}
