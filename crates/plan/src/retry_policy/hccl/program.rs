//! What the variables say that somebody set by hand, and what only the program knows.

use supernode_types::retry_policy::RetryEffect::{Limits, Prevents, Unknown};
use supernode_types::retry_policy::RetryFinding;
use supernode_types::retry_policy::RetryFindingKind as Kind;

use super::super::{Question, finding};
use super::grammar::{enabled_levels, parameters_are_readable};
use super::{
    AI_CPU, CONNECT_SECONDS, CONNECT_TIMEOUT, ENABLE, EXECUTION_TIMEOUT, EXPANSION_MODE, PARAMETERS,
};

const ZERO_COPY: &str = "TORCH_HCCL_ZERO_COPY";
const BASE_PORT: &str = "HCCL_IF_BASE_PORT";
const RESERVED_PORTS: &str = "net.ipv4.ip_local_reserved_ports";
const DEFAULT_BASE_PORT: u16 = 60_000;
/// HCCL listens on so many ports from its base on.
const PORTS: u16 = 16;

pub(super) fn of_variables(question: &Question<'_>) -> Vec<RetryFinding> {
    let mut findings = Vec::new();
    let mut add = |kind, effect, message| findings.push(finding(kind, effect, message));
    if let Some((value, by)) = question.set_by(EXPANSION_MODE)
        && value != AI_CPU
    {
        add(
            Kind::ExpansionMode,
            Prevents,
            format!(
                "{EXPANSION_MODE} is set to `{value}` by {by}; HCCL repeats operators with {AI_CPU} alone"
            ),
        );
    }
    if let Some((value, by)) = question.set_by(ENABLE) {
        match enabled_levels(value) {
            None => add(
                Kind::OverriddenVariable,
                Prevents,
                format!(
                    "{ENABLE} is set to `{value}` by {by}; HCCL ends with EI0001 when it reads that, it wants for example L1:1,L2:0"
                ),
            ),
            Some(on) if on.is_empty() => add(
                Kind::OverriddenVariable,
                Prevents,
                format!("{ENABLE} is set to `{value}` by {by}, which switches re-execution off"),
            ),
            Some(_) => {}
        }
    }
    if let Some((value, by)) = question.set_by(PARAMETERS)
        && !parameters_are_readable(value)
    {
        add(
            Kind::OverriddenVariable,
            Prevents,
            format!(
                "{PARAMETERS} is set to `{value}` by {by}; HCCL wants MaxCnt:1..10,HoldTime:0..60000,IntervalTime:0..60000 in this order"
            ),
        );
    }
    if let Some((value, by)) = question.set_by(CONNECT_TIMEOUT)
        && !value
            .parse()
            .is_ok_and(|seconds| CONNECT_SECONDS.contains(&seconds))
    {
        add(
            Kind::OverriddenVariable,
            Prevents,
            format!(
                "{CONNECT_TIMEOUT} is set to `{value}` by {by}; HCCL wants seconds from 120 to 7200"
            ),
        );
    }
    let timeout = question.settings.retry_timeout_seconds();
    if let Some((value, by)) = question.set_by(EXECUTION_TIMEOUT) {
        match value.parse::<u32>() {
            Err(_) => add(
                Kind::OverriddenVariable,
                Prevents,
                format!(
                    "{EXECUTION_TIMEOUT} is set to `{value}` by {by}; HCCL wants a number of seconds, 0 for no limit"
                ),
            ),
            Ok(seconds) if seconds != 0 && seconds < timeout => add(
                Kind::OverriddenVariable,
                Limits,
                format!(
                    "{EXECUTION_TIMEOUT} is set to {seconds} by {by}, so an operator is given up before the retry timeout of {timeout} s"
                ),
            ),
            Ok(_) => {}
        }
    }
    if let Some((value, by)) = question.set_by(ZERO_COPY)
        && !matches!(value, "" | "0" | "false" | "False")
    {
        add(
            Kind::ZeroCopy,
            Prevents,
            format!(
                "{ZERO_COPY} is set to `{value}` by {by}; all-reduce, reduce and reduce-scatter overwrite their input then and are not repeated"
            ),
        );
    }
    let base = question
        .set_by(BASE_PORT)
        .and_then(|(value, _)| value.parse().ok())
        .unwrap_or(DEFAULT_BASE_PORT);
    let reserved = question.environment.sysctls.get(RESERVED_PORTS);
    let (first, last) = (base, base.saturating_add(PORTS - 1));
    if !reserved.is_some_and(|list| covers(list, first, last)) {
        add(
            Kind::ReservedPorts,
            Limits,
            format!(
                "ports {first}-{last}, on which HCCL negotiates, are not reserved by the environment; another program can take one. Reserve them with `supernode environment set … --sysctl {RESERVED_PORTS}={first}-{last}`"
            ),
        );
    }
    findings
}

/// Whether a list such as `8080,60000-60015` holds all ports from `first` to `last`.
fn covers(reserved: &str, first: u16, last: u16) -> bool {
    let ranges: Vec<(u16, u16)> = reserved
        .split(',')
        .filter_map(|part| {
            let (from, to) = part
                .trim()
                .split_once('-')
                .unwrap_or((part.trim(), part.trim()));
            Some((from.parse().ok()?, to.parse().ok()?))
        })
        .collect();
    (first..=last).all(|port| {
        ranges
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&port))
    })
}

/// What cannot be seen from outside the program.
pub(super) fn unknown() -> Vec<RetryFinding> {
    vec![
        finding(
            Kind::InPlaceOperators,
            Unknown,
            "whether the program calls operators in place, or works on user memory in graph mode, is not known; most of those are not repeated".into(),
        ),
        finding(
            Kind::Communicators,
            Unknown,
            "how many communicators the program makes is not known; the vendor advises at most 5 with re-execution".into(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_list_of_ports_is_read_as_the_kernel_reads_it() {
        assert!(covers("60000-60015", 60_000, 60_015));
        assert!(covers("8080,60000-60007,60008-60020", 60_000, 60_015));
        assert!(!covers("60000-60014", 60_000, 60_015));
        assert!(!covers("60000", 60_000, 60_015));
        assert!(!covers("", 60_000, 60_015));
    }
}
