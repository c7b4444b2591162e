//! NVIDIA: NCCL repeats no operator. What comes nearest is how long its network cards repeat a packet, and, from 2.29.7 on, that another
//! port of the same host takes over.
//!
//! A port is taken over at most once: NCCL's own source warns of corrupt data when the second one fails while it repeats.

use std::collections::BTreeMap;

use supernode_types::retry_policy::{
    RetryEffect, RetryFinding, RetryFindingKind, RetryLevel, RetryLibrary, RetryPolicy,
};

use super::{Question, Rendering, finding, time};

const TIMEOUT: &str = "NCCL_IB_TIMEOUT";
const RETRIES: &str = "NCCL_IB_RETRY_CNT";
const FAILOVER: &str = "NCCL_IB_RESILIENCY_PORT_FAILOVER";
const FAILOVER_ATTEMPTS: &str = "NCCL_IB_RESILIENCY_PORT_FAILOVER_MAX_ATTEMPTS";

/// The most that a card can be told: three bits.
const MOST_RETRIES: u32 = 7;
/// NCCL's own default, and the most that it documents. The time is 4.096 us x 2^this.
const TIMEOUT_EXPONENTS: std::ops::RangeInclusive<u32> = 20..=22;

pub(super) fn render(policy: &RetryPolicy) -> Rendering {
    let mut variables = BTreeMap::new();
    let mut set = |name: &str, value: u32| variables.insert(name.to_owned(), value.to_string());
    let mut times = Vec::new();
    match policy {
        RetryPolicy::Disabled => {
            set(FAILOVER, 0);
        }
        RetryPolicy::Enabled(settings) => {
            let wanted = u64::from(settings.retry_timeout_seconds()) * 1000;
            let exponent = TIMEOUT_EXPONENTS
                .clone()
                .find(|exponent| card_milliseconds(*exponent) >= wanted)
                .unwrap_or(*TIMEOUT_EXPONENTS.end());
            set(TIMEOUT, exponent);
            set(RETRIES, MOST_RETRIES);
            set(FAILOVER, u32::from(settings.covers(RetryLevel::L2)));
            if settings.covers(RetryLevel::L2) {
                set(FAILOVER_ATTEMPTS, 1);
            }
            times.push(time(
                "a network card repeats a packet at least so long before the job ends",
                card_milliseconds(exponent),
            ));
        }
    }
    Rendering {
        library: RetryLibrary::Nccl,
        variables,
        times,
        limits: vec![
            "NCCL repeats no operator: max retries, hold and interval have no counterpart".into(),
            "L1 is how long a card repeats a packet (InfiniBand and RoCE only), L2 is that another port of the same host takes over, once (NCCL 2.29.7 and newer)".into(),
            "the socket transport, a host with one port, and a dead switch are not covered".into(),
        ],
    }
}

/// The first try and all repetitions.
fn card_milliseconds(exponent: u32) -> u64 {
    (4096 << exponent) * u64::from(MOST_RETRIES + 1) / 1_000_000
}

pub(super) fn findings(question: &Question<'_>) -> Vec<RetryFinding> {
    let mut findings = vec![finding(
        RetryFindingKind::NoReExecution,
        RetryEffect::Prevents,
        "NCCL repeats no operator; its network cards were told to repeat packets for as long as they can".into(),
    )];
    if question.settings.covers(RetryLevel::L2) {
        findings.push(finding(
            RetryFindingKind::ToolkitVersion,
            RetryEffect::Unknown,
            "whether the program's NCCL is 2.29.7 or newer, which another port of the host needs, is not known: it comes with the program".into(),
        ));
    }
    if question.settings.covers(RetryLevel::L2)
        && let Some((value, by)) = question.set_by(FAILOVER)
        && value != "1"
    {
        findings.push(finding(
            RetryFindingKind::OverriddenVariable,
            RetryEffect::Limits,
            format!("{FAILOVER} is set to `{value}` by {by}, so no other port takes over"),
        ));
    }
    findings
}
