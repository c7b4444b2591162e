//! `supernode retry-policy …`: operator-level re-execution for the jobs of a super node.

use std::collections::BTreeSet;
use std::time::Duration;

use supernode_api::Nothing;
use supernode_api::retry_policy::{RetryPolicyDetail, RetryPolicySet, RetryPolicyShow};
use supernode_client::CallOptions;
use supernode_types::retry_policy::{
    AttemptRetry, RetryFinding, RetryLevel, RetryPolicy, RetrySettings, RetryWish,
};

use crate::change::{Precondition, lost_race, whole_seconds_u32};
use crate::failure::Failure;
use crate::output::{Look, Table, add, cell, clean, fields, say, section};
use crate::session::Session;

/// What becomes of a job's collective operators when a link breaks.
#[derive(Debug, clap::Subcommand)]
pub enum RetryPolicyCommand {
    /// Show the policy, the variables that jobs get, and what stands in the way
    Show {
        /// The super node's name or id
        #[arg(long, value_name = "NAME")]
        super_node: String,
    },
    /// Repeat operators, or change how; numbers that are not given stay, or have their defaults
    Set(SetArguments),
    /// Repeat nothing any more in jobs that start from now on
    Disable {
        /// The super node's name or id
        #[arg(long, value_name = "NAME")]
        super_node: String,
        #[command(flatten)]
        precondition: Precondition,
    },
}

/// The numbers of a policy.
#[derive(Debug, clap::Args)]
pub struct SetArguments {
    /// The super node's name or id
    #[arg(long, value_name = "NAME")]
    super_node: String,
    /// Repeat operators; needed unless the policy is enabled already
    #[arg(long)]
    enable: bool,
    /// How often one operator is repeated, 1 to 10 [default: 3]
    #[arg(long, value_name = "N")]
    max_retries: Option<u32>,
    /// Wall time that must cover all waits, up to 2h [default: 300s]
    #[arg(long, value_name = "TIME", value_parser = supernode_types::time::parse_duration)]
    retry_timeout: Option<Duration>,
    /// The wait before the first retry, up to 60s [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = supernode_types::time::parse_duration)]
    hold: Option<Duration>,
    /// The wait before each further one, up to 60s [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = supernode_types::time::parse_duration)]
    interval: Option<Duration>,
    /// Between what: L1 servers, L2 super pods and lanes [default: L1]
    #[arg(long, value_name = "L1,L2", value_delimiter = ',')]
    levels: Option<Vec<RetryLevel>>,
    #[command(flatten)]
    precondition: Precondition,
}

impl SetArguments {
    /// The settings after these changes.
    fn onto(&self, present: Option<&RetryPolicy>) -> Result<RetrySettings, Failure> {
        let before = present.and_then(RetryPolicy::settings);
        if before.is_none() && !self.enable {
            return Err(Failure::Usage(
                "the policy is not enabled; add --enable".into(),
            ));
        }
        let mut wish = match before {
            Some(settings) => RetryWish {
                max_retries: settings.max_retries(),
                hold_milliseconds: settings.hold_milliseconds(),
                interval_milliseconds: settings.interval_milliseconds(),
                retry_timeout_seconds: settings.retry_timeout_seconds(),
                levels: settings.levels().collect(),
            },
            None => RetryWish::default(),
        };
        if let Some(retries) = self.max_retries {
            wish.max_retries = retries;
        }
        if let Some(timeout) = self.retry_timeout {
            wish.retry_timeout_seconds = whole_seconds_u32(timeout);
        }
        if let Some(hold) = self.hold {
            wish.hold_milliseconds = milliseconds(hold);
        }
        if let Some(interval) = self.interval {
            wish.interval_milliseconds = milliseconds(interval);
        }
        if let Some(levels) = &self.levels {
            wish.levels = levels.iter().copied().collect::<BTreeSet<_>>();
        }
        RetrySettings::new(wish).map_err(|error| Failure::Usage(error.to_string()))
    }
}

fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

pub(crate) async fn run(session: &Session<'_>, command: RetryPolicyCommand) -> Result<(), Failure> {
    let client = session.client()?;
    let detail = match command {
        RetryPolicyCommand::Show { super_node } => {
            client
                .get::<RetryPolicyShow>(&[&super_node], &Nothing {})
                .await?
        }
        RetryPolicyCommand::Set(arguments) => set(session, &arguments).await?,
        RetryPolicyCommand::Disable {
            super_node,
            precondition,
        } => {
            client
                .call::<RetryPolicySet>(
                    &[&super_node],
                    &Nothing {},
                    &RetryPolicy::Disabled,
                    &precondition.call(),
                )
                .await?
        }
    };
    session.print(&detail, |look| show(&detail, look))
}

/// Reads the policy, changes it and writes it, unless somebody else changed the super node meanwhile.
async fn set(
    session: &Session<'_>,
    arguments: &SetArguments,
) -> Result<RetryPolicyDetail, Failure> {
    let client = session.client()?;
    let SetArguments {
        super_node,
        precondition,
        ..
    } = arguments;
    let mut tries = 0;
    loop {
        let present = client
            .get::<RetryPolicyShow>(&[super_node], &Nothing {})
            .await?;
        let policy = RetryPolicy::Enabled(arguments.onto(present.policy.as_ref())?);
        let options = CallOptions {
            if_match: Some(precondition.if_generation.unwrap_or(present.generation)),
            ..precondition.call()
        };
        match client
            .call::<RetryPolicySet>(&[super_node], &Nothing {}, &policy, &options)
            .await
        {
            Err(error) if lost_race(&error, precondition, tries) => tries += 1,
            result => return Ok(result?),
        }
    }
}

/// Milliseconds as a person reads them.
fn time(milliseconds: u64) -> String {
    if milliseconds.is_multiple_of(1000) {
        format!("{} s", milliseconds / 1000)
    } else {
        format!("{milliseconds} ms")
    }
}

fn show(detail: &RetryPolicyDetail, look: &Look) -> String {
    let mut rows = vec![("super node", detail.super_node_name.to_string())];
    match &detail.policy {
        None => rows.push((
            "re-execution",
            "not set: jobs get no variables, and each library does what it does by itself".into(),
        )),
        Some(RetryPolicy::Disabled) => rows.push(("re-execution", "disabled".into())),
        Some(RetryPolicy::Enabled(settings)) => {
            let levels: Vec<String> = settings.levels().map(|level| level.to_string()).collect();
            rows.extend([
                ("re-execution", "enabled".into()),
                ("max retries", settings.max_retries().to_string()),
                ("hold", time(settings.hold_milliseconds().into())),
                ("interval", time(settings.interval_milliseconds().into())),
                (
                    "retry timeout",
                    format!("{} s", settings.retry_timeout_seconds()),
                ),
                ("levels", levels.join(", ")),
            ]);
        }
    }
    if let Some(library) = detail.library {
        rows.push(("library", library.to_string()));
    }
    let mut text = fields(&rows);
    let mut variables = String::new();
    for (name, value) in &detail.variables {
        add(
            &mut variables,
            format_args!("{}={}\n", clean(name), clean(value)),
        );
    }
    text += &section("variables of jobs that start now", &variables);
    if !detail.times.is_empty() {
        let mut table = Table::new(&["TIME", "WHAT"]);
        for one in &detail.times {
            table.row([cell(time(one.milliseconds)), cell(&one.what)]);
        }
        text += &section("effective budget", &table.render(look));
    }
    let mut limits = String::new();
    for limit in &detail.limits {
        add(&mut limits, format_args!("{}\n", clean(limit)));
    }
    text += &section("limits of the library", &limits);
    text + &findings(&detail.findings, look)
}

/// What stands in the way, as a section.
pub(crate) fn findings(findings: &[RetryFinding], look: &Look) -> String {
    if findings.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["RE-EXECUTION", "WHY"]);
    for finding in findings {
        table.row([cell(finding.effect), cell(&finding.message)]);
    }
    section("in the way of re-execution", &table.render(look))
}

/// Says on standard error what stands in the way of a job.
pub(crate) fn warn(findings: &[RetryFinding]) {
    for finding in findings {
        say(&format!(
            "warning: re-execution ({}): {}",
            finding.effect,
            clean(&finding.message)
        ));
    }
}

/// What an attempt got from the policy, as a section.
pub(crate) fn attempt(retry: &AttemptRetry) -> String {
    let mut lines = String::new();
    for (name, value) in &retry.variables {
        add(
            &mut lines,
            format_args!("{}={}\n", clean(name), clean(value)),
        );
    }
    for one in &retry.overridden {
        add(
            &mut lines,
            format_args!(
                "{} is set by {}, not by the policy (which says {})\n",
                clean(&one.variable),
                one.by,
                clean(&one.policy_value)
            ),
        );
    }
    let state = match &retry.policy {
        RetryPolicy::Disabled => "disabled",
        RetryPolicy::Enabled(_) => "enabled",
    };
    let head = format!("re-execution {state} ({})", retry.library);
    if lines.is_empty() {
        lines = "no variable is set\n".into();
    }
    section(&head, &lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use supernode_types::Timestamp;

    fn arguments(enable: bool) -> SetArguments {
        SetArguments {
            super_node: "train".into(),
            enable,
            max_retries: Some(5),
            retry_timeout: None,
            hold: Some(Duration::from_millis(1500)),
            interval: None,
            levels: None,
            precondition: Precondition::default(),
        }
    }

    #[test]
    fn numbers_that_are_not_given_stay() {
        let present: RetryPolicy = crate::sample::answer(
            &json!({"mode": "enabled", "retry_timeout_seconds": 60, "levels": ["L1", "L2"]}),
        );
        let settings = arguments(false)
            .onto(Some(&present))
            .expect("it is enabled");
        assert_eq!(
            serde_json::to_value(&settings).expect("plain data"),
            json!({"max_retries": 5, "hold_milliseconds": 1500, "interval_milliseconds": 1000, "retry_timeout_seconds": 60, "levels": ["L1", "L2"]})
        );
        for present in [None, Some(&RetryPolicy::Disabled)] {
            let settings = arguments(true).onto(present).expect("asked for");
            assert_eq!(settings.retry_timeout_seconds(), 300);
            let refusal = arguments(false).onto(present).expect_err("not asked for");
            assert!(matches!(refusal, Failure::Usage(why) if why.contains("--enable")));
        }
    }

    #[test]
    fn the_detail_shows_budget_and_findings() {
        let detail: RetryPolicyDetail = crate::sample::answer(&json!({
            "super_node_name": "train", "generation": 4, "policy": {"mode": "enabled"}, "library": "hccl",
            "variables": {"HCCL_OP_RETRY_ENABLE": "L1:1,L2:0"},
            "times": [{"what": "waiting", "milliseconds": 7000}, {"what": "a step", "milliseconds": 1500}],
            "limits": ["only so"],
            "findings": [{"kind": "product", "effect": "prevents", "message": "no A3"}]
        }));
        let look = Look {
            now: Timestamp(0),
            color: false,
        };
        assert_eq!(
            show(&detail, &look),
            "super node:     train\nre-execution:   enabled\nmax retries:    3\nhold:           5 s\ninterval:       1 s\n\
             retry timeout:  300 s\nlevels:         L1\nlibrary:        HCCL\n\
             \nvariables of jobs that start now\nHCCL_OP_RETRY_ENABLE=L1:1,L2:0\n\
             \neffective budget\nTIME     WHAT\n7 s      waiting\n1500 ms  a step\n\
             \nlimits of the library\nonly so\n\
             \nin the way of re-execution\nRE-EXECUTION  WHY\nprevents      no A3\n"
        );
    }

    #[test]
    fn a_job_shows_what_it_got_and_what_it_set_itself() {
        let retry: AttemptRetry = crate::sample::answer(&json!({
            "policy": {"mode": "disabled"}, "library": "nccl", "variables": {"A": "1"},
            "overridden": [{"variable": "B", "policy_value": "2", "by": "job"}, {"variable": "C", "policy_value": "3", "by": "environment"}]
        }));
        assert_eq!(
            attempt(&retry),
            "\nre-execution disabled (NCCL)\nA=1\nB is set by the job, not by the policy (which says 2)\n\
             C is set by the super node's environment, not by the policy (which says 3)\n"
        );
    }
}
