//! Plain hosts: `supernode-collectives` resumes a broken stream at the right byte, as often as it takes. What it counts are re-executions of
//! operators of which bytes were lost. Of a policy it knows two numbers: how many of those, and how long it goes on trying.

use std::collections::BTreeMap;

use supernode_types::retry_policy::{
    RetryEffect, RetryFinding, RetryFindingKind, RetryLibrary, RetryPolicy, RetrySettings,
};

use super::{Question, Rendering, finding, time};

/// How long a rank from which nothing is heard is waited for.
const RETRY_TIMEOUT: &str = "SUPERNODE_COLLECTIVE_RETRY_TIMEOUT_SECONDS";
/// How often an operator may be executed again.
const MAX_RETRIES: &str = "SUPERNODE_COLLECTIVE_MAX_RETRIES";

pub(super) fn render(policy: &RetryPolicy) -> Rendering {
    let mut rendering = Rendering {
        library: RetryLibrary::Collectives,
        variables: BTreeMap::new(),
        times: Vec::new(),
        limits: Vec::new(),
    };
    let max_retries = policy.settings().map_or(0, RetrySettings::max_retries);
    rendering
        .variables
        .insert(MAX_RETRIES.into(), max_retries.to_string());
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
        "streams are resumed where they broke, as often as it takes; only an operator of which bytes were lost is executed again, at once: hold, interval and levels do not apply".into(),
        "programs that use another library (Gloo, MPI) get nothing from the policy".into(),
    ];
    rendering
}

pub(super) fn findings(question: &Question<'_>) -> Vec<RetryFinding> {
    let numbers = [
        (
            RETRY_TIMEOUT,
            1..=7200,
            "a number of seconds from 1 to 7200",
        ),
        (MAX_RETRIES, 0..=10, "a number from 0 to 10"),
    ];
    let wrong = numbers.into_iter().filter_map(|(name, range, wanted)| {
        let (value, by) = question.set_by(name)?;
        let is_right = value.parse().is_ok_and(|number: u32| range.contains(&number));
        (!is_right).then(|| {
            finding(
                RetryFindingKind::OverriddenVariable,
                RetryEffect::Prevents,
                format!(
                    "{name} is set to `{value}` by {by}; it is {wanted}, and no rank joins with anything else"
                ),
            )
        })
    });
    wrong.collect()
}
