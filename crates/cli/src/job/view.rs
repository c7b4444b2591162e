//! How jobs look.

use supernode_api::job::{JobDetail, JobView};
use supernode_types::job::{JobOutcome, JobState, RankState, StopReason};
use supernode_types::retry_policy::RetryEvidence;

use crate::output::{
    Look, Table, add, cell, clean, fields, or_dash, pairs, seconds, section, state,
};
use crate::retry_policy;

/// How a job ended, with the lines that a person wants to see first.
pub(crate) fn ending(outcome: &JobOutcome) -> String {
    match outcome {
        JobOutcome::Succeeded => "succeeded".to_owned(),
        JobOutcome::Failed(failure) => {
            let mut text = format!(
                "failed: rank {} on node {} {}",
                failure.rank,
                clean(&failure.node),
                clean(&failure.end.to_string())
            );
            if !failure.last_lines.is_empty() {
                text.push_str("\n  its last lines:");
                for line in &failure.last_lines {
                    add(&mut text, format_args!("\n  | {}", clean(line)));
                }
            }
            text
        }
        JobOutcome::Cancelled { by } => format!("was cancelled by {}", clean(by)),
        JobOutcome::TimedOut => "was stopped at its time limit".to_owned(),
        JobOutcome::NodeLost { node, detail } => {
            format!(
                "lost node {} and had no requeue left: {}; see --requeue",
                clean(node),
                clean(detail)
            )
        }
    }
}

/// What a person should know of a job's state beyond its word, in one line.
pub(crate) fn detail_of(job_state: &JobState) -> String {
    match job_state {
        JobState::Queued { reason } => clean(reason),
        JobState::Starting { .. }
        | JobState::Running { .. }
        | JobState::Ended {
            outcome: JobOutcome::Succeeded,
            ..
        } => String::new(),
        JobState::Stopping { reason, .. } => stopping(reason),
        JobState::Ended { outcome, .. } => ending(outcome)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned(),
    }
}

fn stopping(reason: &StopReason) -> String {
    clean(&match reason {
        StopReason::RankFailed(failure) => format!(
            "rank {} on node {} {}",
            failure.rank, failure.node, failure.end
        ),
        StopReason::Cancelled { by } => format!("cancelled by {by}"),
        StopReason::TimeLimit => "time limit".to_owned(),
        StopReason::NodeLost { node, detail } => format!("node {node}: {detail}"),
        StopReason::Evicted { operation } => format!("evicted by {operation}"),
    })
}

/// Jobs as a table.
pub(crate) fn list(items: &[JobView], look: &Look) -> String {
    let mut table = Table::new(&[
        "ID",
        "NAME",
        "SUPER NODE",
        "STATE",
        "NODES",
        "PRIORITY",
        "OWNER",
        "AGE",
        "DETAIL",
    ]);
    for view in items {
        let job = &view.job;
        table.row([
            cell(&job.id),
            cell(&job.name),
            cell(&view.super_node_name),
            state(job.state.word()),
            cell(job.spec.nodes),
            cell(job.spec.priority),
            cell(&job.owner),
            cell(look.age(job.submitted_at)),
            cell(detail_of(&job.state)),
        ]);
    }
    table.render(look)
}

pub(crate) fn show(detail: &JobDetail, look: &Look) -> String {
    let job = &detail.view.job;
    let spec = &job.spec;
    let ended = match &job.state {
        JobState::Ended { at, .. } => Some(look.moment(*at)),
        _ => None,
    };
    let mut text = fields(&[
        ("id", job.id.to_string()),
        ("name", job.name.clone()),
        ("super node", detail.view.super_node_name.to_string()),
        ("state", job.state.word().to_owned()),
        ("detail", detail_of(&job.state)),
        ("owner", job.owner.clone()),
        ("nodes", spec.nodes.to_string()),
        (
            "devices per node",
            spec.devices
                .map_or("all".to_owned(), |devices| devices.to_string()),
        ),
        (
            "program",
            spec.arguments
                .iter()
                .map(|argument| quoted(argument))
                .collect::<Vec<_>>()
                .join(" "),
        ),
        ("working directory", or_dash(spec.workdir.as_ref())),
        ("environment", pairs(&spec.environment)),
        ("priority", spec.priority.to_string()),
        ("time limit", or_dash(spec.time_limit_seconds.map(seconds))),
        ("grace", seconds(u64::from(spec.grace_seconds))),
        (
            "requeues",
            format!("{} of {}", job.requeues, spec.requeue_limit),
        ),
        ("attempts", job.attempts.to_string()),
        ("cancel asked by", or_dash(job.cancel_requested_by.as_ref())),
        ("submitted", look.moment(job.submitted_at)),
        (
            "started",
            or_dash(job.started_at.map(|moment| look.moment(moment))),
        ),
        ("ended", or_dash(ended)),
    ]);
    if !detail.ranks.is_empty() {
        let mut table = Table::new(&["RANK", "NODE", "DEVICE", "STATE", "DETAIL"]);
        for view in &detail.ranks {
            let how = match &view.rank.state {
                RankState::Ended { end, .. } => end.to_string(),
                RankState::Assigned | RankState::Running => String::new(),
            };
            table.row([
                cell(view.rank.rank),
                cell(&view.node_name),
                cell(view.rank.device),
                state(view.rank.state.word()),
                cell(how),
            ]);
        }
        text += &section("ranks", &table.render(look));
    }
    if let Some(retry) = &detail.retry {
        text += &retry_policy::attempt(retry);
    }
    text += &retry_policy::findings(&job.retry_findings, look);
    text + &retries(&detail.retry_evidence, look)
}

/// What the ranks wrote of repeated operators.
fn retries(evidence: &[RetryEvidence], look: &Look) -> String {
    if evidence.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["RANK", "OUTCOME", "TIMES", "LAST", "LINK", "LINE"]);
    for one in evidence {
        table.row([
            cell(one.rank),
            cell(one.sighting.outcome),
            cell(one.sighting.count),
            cell(look.moment(one.last_at)),
            cell(&one.sighting.link),
            cell(&one.sighting.line),
        ]);
    }
    section("seen in the output of ranks", &table.render(look))
}

/// An argument as one would type it; only for reading.
fn quoted(argument: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./=:,@%+".contains(letter);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use supernode_types::Timestamp;

    const LOOK: Look = Look {
        now: Timestamp(1_763_900_000_000_000),
        color: false,
    };

    fn sample(job_state: &Value) -> JobDetail {
        crate::sample::answer(&json!({
            "id": "job-01kb000000000000000000000a", "name": "ring", "owner": "ada", "super_node": "sn-01kb000000000000000000000a",
            "super_node_name": "train", "spec": {"nodes": 2, "devices": null, "arguments": ["python3", "a b.py"], "workdir": "/x", "priority": 5,
            "time_limit_seconds": 90, "requeue_limit": 1, "grace_seconds": 10, "run_as_root": false},
            "state": job_state, "attempts": 1, "requeues": 0, "cancel_requested_by": null, "generation": 3,
            "submitted_at": "2025-11-23T12:13:10Z", "started_at": null,
            "ranks": [{"attempt": "try-01kb000000000000000000000a", "job": "job-01kb000000000000000000000a", "rank": 0, "node_rank": 0,
                "local_rank": 0, "node": "node-01kb000000000000000000000a", "node_name": "n1", "device": 0, "boot_id": "b",
                "state": {"state": "ended", "end": {"how": "exited", "code": 3}, "last_lines": []}}]
        }))
    }

    fn failed(code: i32) -> Value {
        let failure = json!({"outcome": "failed", "rank": 1, "node": "n2", "end": {"how": "exited", "code": code}, "last_lines": ["Traceback", "boom\u{1b}[31m"]});
        json!({"state": "ended", "outcome": failure, "at": "2025-11-23T12:13:20Z"})
    }

    #[test]
    fn the_list_says_what_a_queued_job_waits_for() {
        let detail = sample(&json!({"state": "queued", "reason": "needs 2 nodes, 1 is free"}));
        assert_eq!(
            list(&[detail.view], &LOOK),
            "ID                              NAME  SUPER NODE  STATE   NODES  PRIORITY  OWNER  AGE  DETAIL\n\
             job-01kb000000000000000000000a  ring  train       queued  2      5         ada    10s  needs 2 nodes, 1 is free\n"
        );
    }

    #[test]
    fn a_failure_names_rank_node_code_and_last_lines() {
        let detail = sample(&failed(3));
        let JobState::Ended { outcome, .. } = &detail.view.job.state else {
            panic!("it has ended")
        };
        assert_eq!(
            ending(outcome),
            "failed: rank 1 on node n2 exited with code 3\n  its last lines:\n  | Traceback\n  | boom [31m"
        );
        let text = show(&detail, &LOOK);
        assert!(
            text.contains("program:            python3 'a b.py'\n"),
            "{text}"
        );
        assert!(text.ends_with("ranks\nRANK  NODE  DEVICE  STATE  DETAIL\n0     n1    0       ended  exited with code 3\n"), "{text}");
    }
}
