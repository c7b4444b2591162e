//! Ascend: HCCL repeats a whole operator, coordinated over the host network.
//!
//! It does so on Atlas A3 only, between servers only, with the AI CPU expansion only, and says nothing when one of that is not so. So the
//! variables are all set, every value is the same on every rank, and each documented condition is checked beforehand.

mod conditions;
mod grammar;
mod program;

use std::collections::{BTreeMap, BTreeSet};

use supernode_types::inventory::Inventory;
use supernode_types::retry_policy::{
    RetryFinding, RetryLevel, RetryLibrary, RetryPolicy, RetrySettings, RetryTime,
};

use super::version::Cann;
use super::{Member, Question, Rendering, time};

pub(super) const ENABLE: &str = "HCCL_OP_RETRY_ENABLE";
pub(super) const PARAMETERS: &str = "HCCL_OP_RETRY_PARAMS";
pub(super) const EXPANSION_MODE: &str = "HCCL_OP_EXPANSION_MODE";
pub(super) const CONNECT_TIMEOUT: &str = "HCCL_CONNECT_TIMEOUT";
pub(super) const EXECUTION_TIMEOUT: &str = "HCCL_EXEC_TIMEOUT";

/// The only expansion that can repeat.
const AI_CPU: &str = "AI_CPU";
/// What HCCL accepts as connect timeout, in seconds.
const CONNECT_SECONDS: std::ops::RangeInclusive<u32> = 120..=7200;
/// Each step of the negotiation waits at least so long, and ten seconds more than the connect timeout.
const SHORTEST_STEP_SECONDS: u32 = 200;
const STEP_MARGIN_SECONDS: u32 = 10;
/// HCCL's own time for an operator; retries come on top.
const OPERATOR_SECONDS: u32 = 1836;

/// What an Ascend processor is to HCCL.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Product {
    /// Atlas A3: the only one that repeats.
    A3,
    /// Another one, by its name.
    Other(String),
    /// Its driver does not say which it is.
    Unknown,
}

fn product(inventory: &Inventory) -> Product {
    let model = inventory
        .accelerators
        .first()
        .map_or("", |first| first.model.as_str());
    match model {
        // Without the second half of its name a 910 can be of any generation.
        "" | "Ascend910" => Product::Unknown,
        model if model.starts_with("Ascend910_93") => Product::A3,
        other => Product::Other(other.to_owned()),
    }
}

/// Whether the variables do any good: every node is known to be an A3, and none has a toolkit that is too old.
fn can_repeat(members: &[Member<'_>]) -> bool {
    members.iter().all(|member| {
        member.inventory.is_some_and(|inventory| {
            product(inventory) == Product::A3
                && toolkit(inventory).is_none_or(|version| version >= Cann::FIRST)
        })
    })
}

fn toolkit(inventory: &Inventory) -> Option<Cann> {
    Cann::parse(inventory.version("cann")?)
}

pub(super) fn render(policy: &RetryPolicy, members: &[Member<'_>]) -> Rendering {
    let mut rendering = Rendering {
        library: RetryLibrary::Hccl,
        variables: BTreeMap::new(),
        times: Vec::new(),
        limits: vec![
            "HCCL repeats an operator only if every rank stopped inside the same one; a rank that is one operator ahead ends the job".into(),
            "operators inside one server are never repeated".into(),
        ],
    };
    if !can_repeat(members) {
        return rendering;
    }
    let versions = members
        .iter()
        .filter_map(|member| toolkit(member.inventory?));
    let l0 = versions.into_iter().any(Cann::has_l0);
    let levels = |on: &dyn Fn(RetryLevel) -> bool| {
        let first = if l0 { "L0:0," } else { "" };
        let [l1, l2] = [RetryLevel::L1, RetryLevel::L2].map(|level| u32::from(on(level)));
        format!("{first}L1:{l1},L2:{l2}")
    };
    let mut set = |name: &str, value: String| rendering.variables.insert(name.to_owned(), value);
    match policy {
        RetryPolicy::Disabled => {
            set(ENABLE, levels(&|_| false));
        }
        RetryPolicy::Enabled(settings) => {
            let connect = connect_seconds(settings);
            let operator = OPERATOR_SECONDS + settings.retry_timeout_seconds();
            set(EXPANSION_MODE, AI_CPU.into());
            set(ENABLE, levels(&|level| settings.covers(level)));
            set(
                PARAMETERS,
                format!(
                    "MaxCnt:{},HoldTime:{},IntervalTime:{}",
                    settings.max_retries(),
                    settings.hold_milliseconds(),
                    settings.interval_milliseconds()
                ),
            );
            set(CONNECT_TIMEOUT, connect.to_string());
            set(EXECUTION_TIMEOUT, operator.to_string());
            rendering.times = times(settings, connect, operator);
        }
    }
    rendering
}

fn connect_seconds(settings: &RetrySettings) -> u32 {
    settings
        .retry_timeout_seconds()
        .clamp(*CONNECT_SECONDS.start(), *CONNECT_SECONDS.end())
}

fn times(settings: &RetrySettings, connect: u32, operator: u32) -> Vec<RetryTime> {
    let waits = settings.hold_milliseconds()
        + (settings.max_retries() - 1) * settings.interval_milliseconds();
    let step = connect.max(SHORTEST_STEP_SECONDS) + STEP_MARGIN_SECONDS;
    vec![
        time(
            "waiting before retries, all of them together",
            u64::from(waits),
        ),
        time(
            "each step of a retry is given up after",
            u64::from(step) * 1000,
        ),
        time(
            "an operator is given up after, retries included",
            u64::from(operator) * 1000,
        ),
    ]
}

pub(super) fn findings(question: &Question<'_>) -> Vec<RetryFinding> {
    let mut findings = conditions::of_nodes(question);
    findings.extend(conditions::of_place(question));
    findings.extend(program::of_variables(question));
    findings.extend(program::unknown());
    findings
}

/// The super pods of the nodes; nothing if one of them does not say.
fn super_pods<'a>(members: &[Member<'a>]) -> Option<BTreeSet<&'a str>> {
    members
        .iter()
        .map(|member| {
            let first = member.inventory?.accelerators.first()?;
            first.super_pod_id.as_deref()
        })
        .collect()
}
