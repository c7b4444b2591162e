//! What a retry policy means for the library of a gang: its variables, the times that follow, and what stands in its way.
//!
//! Three libraries, one file each: [`hccl`] repeats operators, [`nccl`] does not and gets its nearest settings, [`collectives`] resumes
//! streams instead. What a policy says is rendered in full, never left to a default: defaults differ between versions, and a value that
//! differs between two nodes is worse than none.
//!
//! Pure: facts of the nodes in, values out. What is not known is said to be unknown; nothing is guessed.

mod collectives;
mod hccl;
mod nccl;
mod version;

use std::collections::BTreeMap;

use supernode_types::environment::EnvironmentDocument;
use supernode_types::inventory::{AcceleratorVendor, Inventory};
use supernode_types::retry_policy::{
    AttemptRetry, OverriddenBy, RetryEffect, RetryFinding, RetryFindingKind, RetryLibrary,
    RetryOverride, RetryPolicy, RetrySettings, RetryTime,
};

/// How many nodes a sentence names.
const NAMED: usize = 8;

/// A node that takes part, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// The address that the others reach it at.
    pub address: &'a str,
    /// What was discovered on it.
    pub inventory: Option<&'a Inventory>,
}

/// What a policy is for one library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendering {
    /// The library.
    pub library: RetryLibrary,
    /// The variables that every rank gets.
    pub variables: BTreeMap<String, String>,
    /// The times that follow from them.
    pub times: Vec<RetryTime>,
    /// What the library cannot do, in sentences.
    pub limits: Vec<String>,
}

/// What is asked of the checks.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// What is wanted.
    pub settings: &'a RetrySettings,
    /// The nodes that take part, or may.
    pub members: &'a [Member<'a>],
    /// How many of them will.
    pub nodes: u32,
    /// The super node's environment.
    pub environment: &'a EnvironmentDocument,
    /// The job's own variables.
    pub job: &'a BTreeMap<String, String>,
    /// Super nodes of the same spec whose policy has other levels.
    pub differing: &'a [String],
}

/// The library of the nodes; nothing while no node is known.
pub fn library(members: &[Member<'_>]) -> Option<RetryLibrary> {
    let known = members.iter().find_map(|member| member.inventory)?;
    Some(match known.accelerators.first().map(|first| first.vendor) {
        Some(AcceleratorVendor::Ascend) => RetryLibrary::Hccl,
        Some(AcceleratorVendor::Nvidia) => RetryLibrary::Nccl,
        None => RetryLibrary::Collectives,
    })
}

/// What the policy is for the library of these nodes; nothing while no node is known.
///
/// The policy is a parameter, not a property of the nodes: a run that must not have its links healed passes
/// [`RetryPolicy::Disabled`].
pub fn render(policy: &RetryPolicy, members: &[Member<'_>]) -> Option<Rendering> {
    let library = library(members)?;
    Some(match library {
        RetryLibrary::Hccl => hccl::render(policy, members),
        RetryLibrary::Nccl => nccl::render(policy),
        RetryLibrary::Collectives => collectives::render(policy),
    })
}

/// Everything that stands in the way, or may.
pub fn findings(question: &Question<'_>) -> Vec<RetryFinding> {
    match library(question.members) {
        Some(RetryLibrary::Hccl) => hccl::findings(question),
        Some(RetryLibrary::Nccl) => nccl::findings(question),
        Some(RetryLibrary::Collectives) => collectives::findings(question),
        None => vec![finding(
            RetryFindingKind::Product,
            RetryEffect::Unknown,
            "no node of the super node is known yet, so nothing can be said of its library".into(),
        )],
    }
}

/// What an attempt gets: the rendered variables but for those that the job or the super node's environment sets.
pub fn inject(
    policy: &RetryPolicy,
    rendering: Rendering,
    environment: &BTreeMap<String, String>,
    job: &BTreeMap<String, String>,
) -> AttemptRetry {
    let mut overridden = Vec::new();
    let mut variables = BTreeMap::new();
    for (variable, policy_value) in rendering.variables {
        match set_by(&variable, environment, job) {
            Some((_, by)) => overridden.push(RetryOverride {
                variable,
                policy_value,
                by,
            }),
            None => {
                variables.insert(variable, policy_value);
            }
        }
    }
    AttemptRetry {
        policy: policy.clone(),
        library: rendering.library,
        variables,
        overridden,
    }
}

/// A value that was set by hand, and by whom; the job wins.
fn set_by<'a>(
    variable: &str,
    environment: &'a BTreeMap<String, String>,
    job: &'a BTreeMap<String, String>,
) -> Option<(&'a str, OverriddenBy)> {
    let of = |variables: &'a BTreeMap<String, String>, by| {
        variables.get(variable).map(|value| (value.as_str(), by))
    };
    of(job, OverriddenBy::Job).or_else(|| of(environment, OverriddenBy::Environment))
}

impl<'a> Question<'a> {
    /// [`set_by`] for this question.
    fn set_by(&self, variable: &str) -> Option<(&'a str, OverriddenBy)> {
        set_by(variable, &self.environment.variables, self.job)
    }
}

fn finding(kind: RetryFindingKind, effect: RetryEffect, message: String) -> RetryFinding {
    RetryFinding {
        kind,
        effect,
        message,
    }
}

fn time(what: &str, milliseconds: u64) -> RetryTime {
    RetryTime {
        what: what.to_owned(),
        milliseconds,
    }
}

/// Some names, and how many more.
fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let all: Vec<&str> = names.collect();
    let text = all[..all.len().min(NAMED)].join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}
