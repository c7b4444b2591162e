//! Required versions against what the inventory found.
//!
//! A requirement is a list of conditions separated by commas, all of which must hold: `>=25.0, <26`, `12.4`, `!=8.3`. Versions are
//! compared number by number; words between the numbers (`8.3.RC1`) come before numbers and are compared as text.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use supernode_types::environment::{ItemCondition, ItemState};
use supernode_types::inventory::Inventory;

/// Adds the state of every required version.
pub(super) fn check(
    required: &BTreeMap<String, String>,
    inventory: &Inventory,
    states: &mut Vec<ItemState>,
) {
    for (component, requirement) in required {
        let state = match inventory.version(component) {
            None => ItemCondition::Failed {
                why: format!(
                    "the inventory of this node knows no version of {component}; required is {requirement}"
                ),
            },
            Some(found) => match satisfies(found, requirement) {
                Ok(true) => ItemCondition::Applied,
                Ok(false) => ItemCondition::Failed {
                    why: format!("{component} is {found}, required is {requirement}"),
                },
                Err(why) => ItemCondition::Failed { why },
            },
        };
        states.push(ItemState {
            item: format!("version {component}"),
            state,
        });
    }
}

/// Whether a version meets a requirement; the error says what is wrong with the requirement.
pub fn satisfies(version: &str, requirement: &str) -> Result<bool, String> {
    let mut met = true;
    for condition in requirement.split(',').map(str::trim) {
        let operator_length = condition
            .bytes()
            .take_while(|byte| b"<>=!".contains(byte))
            .count();
        let (operator, wanted) = condition.split_at(operator_length);
        let wanted = wanted.trim();
        if wanted.is_empty() {
            return Err(format!(
                "requirement `{requirement}` has an empty condition; write for example >=25.0, <26"
            ));
        }
        let order = compare(version, wanted);
        met &= match operator {
            "" | "=" | "==" => order == Ordering::Equal,
            "!=" => order != Ordering::Equal,
            ">=" => order != Ordering::Less,
            "<=" => order != Ordering::Greater,
            ">" => order == Ordering::Greater,
            "<" => order == Ordering::Less,
            _ => {
                return Err(format!(
                    "requirement `{requirement}`: `{operator}` is no comparison; use =, !=, <, <=, > or >="
                ));
            }
        };
    }
    Ok(met)
}

/// Compares two versions part by part; a missing part counts as 0.
pub fn compare(left: &str, right: &str) -> Ordering {
    let (left, right) = (parts(left), parts(right));
    for index in 0..left.len().max(right.len()) {
        let zero = Part::Number(0);
        let order = left
            .get(index)
            .unwrap_or(&zero)
            .cmp(right.get(index).unwrap_or(&zero));
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Word(String),
    Number(u64),
}

fn parts(version: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    for run in version
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|run| !run.is_empty())
    {
        let mut rest = run;
        while let Some(first) = rest.chars().next() {
            let digits = first.is_ascii_digit();
            let length = rest
                .bytes()
                .take_while(|byte| byte.is_ascii_digit() == digits)
                .count();
            let (part, after) = rest.split_at(length);
            parts.push(match part.parse() {
                Ok(number) if digits => Part::Number(number),
                _ => Part::Word(part.to_ascii_lowercase()),
            });
            rest = after;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_number_by_number() {
        for (left, right, order) in [
            ("1.10", "1.9", Ordering::Greater),
            ("1.0", "1", Ordering::Equal),
            ("8.3.RC1", "8.3", Ordering::Less),
            ("8.3.RC2", "8.3.rc1", Ordering::Greater),
            (
                "5.10.0-60.18.0.50.oe2203.aarch64",
                "5.10.0-60",
                Ordering::Greater,
            ),
            ("570.86.15", "570.124.06", Ordering::Less),
        ] {
            assert_eq!(compare(left, right), order, "{left} and {right}");
        }
        assert_eq!(satisfies("25.2.1", ">=25.0, <26"), Ok(true));
        assert_eq!(satisfies("26.0", ">=25.0, <26"), Ok(false));
        assert_eq!(satisfies("12.4", "12.4"), Ok(true));
        assert_eq!(satisfies("12.4", "!=12.4"), Ok(false));
        assert!(
            satisfies("1", "").is_err()
                && satisfies("1", "=>1").is_err()
                && satisfies("1", ">=1,").is_err()
        );
    }
}
