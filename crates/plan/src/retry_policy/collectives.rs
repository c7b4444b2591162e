//! Plain hosts: `supernode-collectives` resumes a broken stream at the right byte, so there is nothing to repeat and nothing to count.
//! Of a policy it knows one number: how long it goes on trying.

use std::collections::BTreeMap;

use supernode_types::retry_policy::{
    RetryEffect, RetryFinding, RetryFindingKind, RetryLibrary, RetryPolicy,
};

use super::{Question, Rendering, finding, time};

/// How long a rank from which nothing is heard is waited for.
const RETRY_TIMEOUT: &str = "SUPERNODE_COLLECTIVE_RETRY_TIMEOUT_SECONDS";

pub(super) fn render(policy: &RetryPolicy) -> Rendering {
    let mut rendering = Rendering {
        library: RetryLibrary::Collectives,
        variables: BTreeMap::new(),
        times: Vec::new(),
        limits: Vec::new(),
    };
    let Some(settings) = policy.settings() else {
        rendering.limits.push("broken streams are resumed all the same: supernode-collectives cannot do without, and its results do not depend on it".into());
        return rendering;
    };
    let seconds = settings.retry_timeout_seconds();
    rendering
        .variables
        .insert(RETRY_TIMEOUT.into(), seconds.to_string());
    rendering.times.push(time(
        "a rank from which nothing is heard is waited for",
        u64::from(seconds) * 1000,
    ));
    rendering.limits = vec![
        "streams are resumed where they broke, as often as it takes: max retries, hold, interval and levels do not apply".into(),
        "programs that use another library (Gloo, MPI) get nothing from the policy".into(),
    ];
    rendering
}

pub(super) fn findings(question: &Question<'_>) -> Vec<RetryFinding> {
    let Some((value, by)) = question.set_by(RETRY_TIMEOUT) else {
        return Vec::new();
    };
    if value
        .parse()
        .is_ok_and(|seconds: u32| (1..=7200).contains(&seconds))
    {
        return Vec::new();
    }
    vec![finding(
        RetryFindingKind::OverriddenVariable,
        RetryEffect::Prevents,
        format!(
            "{RETRY_TIMEOUT} is set to `{value}` by {by}; it is a number of seconds from 1 to 7200, and no rank joins with anything else"
        ),
    )]
}
