//! Submitting and cancelling jobs.

use std::collections::BTreeMap;

use supernode_store::Tx;
use supernode_store::job::{job_get, job_insert, job_update};
use supernode_store::spec::spec_find;
use supernode_types::JobId;
use supernode_types::environment::is_variable_name;
use supernode_types::event::{NewEvent, Severity, Subjects};
use supernode_types::job::{Job, JobOutcome, JobSpec, JobState};
use supernode_types::super_node::SuperNode;

use crate::super_node::find as find_super_node;
use crate::{Intent, Refusal, retry_policy};

/// The grace time when a request does not say, in seconds.
pub const DEFAULT_GRACE_SECONDS: u32 = 10;
/// The most bytes that arguments and environment of a job have together.
const MAXIMUM_COMMAND_BYTES: usize = 128 * 1024;
/// Variables that the agent sets for each rank.
const RESERVED: [&str; 12] = [
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "RANK_TABLE_FILE",
    "SUPERNODE_COLLECTIVE_ROOT",
    "SUPERNODE_COLLECTIVE_KEY",
    "SUPERNODE_COLLECTIVE_GROUP",
    "SUPERNODE_COLLECTIVE_EPOCH",
];

/// What becomes of a job whose operators would not be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// It runs, with warnings.
    Warn,
    /// It is refused when it is submitted.
    Insist,
}

/// The job with this id.
pub fn find(tx: &mut Tx<'_>, id: &str) -> Result<Job, Refusal> {
    let missing = || Refusal::not_found("job", "job", id);
    let id: JobId = id.parse().map_err(|_| missing())?;
    job_get(tx, &id)?.ok_or_else(missing)
}

/// Submits a job: it is queued when this returns, and never forgotten.
pub fn submit(
    tx: &mut Tx<'_>,
    intent: &Intent,
    super_node: &str,
    name: Option<&str>,
    spec: &JobSpec,
    strictness: Strictness,
) -> Result<(Job, SuperNode), Refusal> {
    check_spec(intent, spec)?;
    let super_node = find_super_node(tx, super_node)?;
    if let Some(operation) = &super_node.deleting {
        return Err(Refusal::Conflict(format!(
            "super node {} is being deleted by {operation}",
            super_node.name
        )));
    }
    check_size(tx, &super_node, spec)?;
    let strict = strictness == Strictness::Insist;
    let retry_findings =
        retry_policy::check_submit(tx, &super_node, spec.nodes, &spec.environment, strict)?;
    let program = spec.arguments.first().map_or("", String::as_str);
    let name = match name {
        Some(name) if name.is_empty() || name.len() > 128 || name.contains(char::is_control) => {
            return Err(Refusal::Invalid(
                "a job's name has 1 to 128 printable characters".into(),
            ));
        }
        Some(name) => name.to_owned(),
        None => program
            .rsplit('/')
            .next()
            .unwrap_or(program)
            .chars()
            .take(128)
            .collect(),
    };
    let job = Job {
        id: JobId::new(intent.now, &*intent.entropy),
        name,
        owner: intent.actor.clone(),
        super_node: super_node.id.clone(),
        spec: spec.clone(),
        state: JobState::Queued {
            reason: "submitted just now".into(),
        },
        attempts: 0,
        requeues: 0,
        cancel_requested_by: None,
        retry_findings,
        generation: 1,
        submitted_at: intent.now,
        started_at: None,
    };
    job_insert(tx, &job)?;
    Ok((job, super_node))
}

fn check_spec(intent: &Intent, spec: &JobSpec) -> Result<(), Refusal> {
    let invalid = |message: String| Err(Refusal::Invalid(message));
    if spec.nodes == 0 {
        return invalid("nodes is 0; a job needs at least one node".into());
    }
    if spec.devices == Some(0) {
        return invalid("devices is 0; leave it out to use all devices of each node".into());
    }
    if spec.arguments.first().is_none_or(String::is_empty) {
        return invalid("arguments are empty; give the program to run after `--`".into());
    }
    let bytes: usize = spec.arguments.iter().map(String::len).sum::<usize>()
        + spec
            .environment
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum::<usize>();
    if bytes > MAXIMUM_COMMAND_BYTES {
        return invalid(format!(
            "arguments and environment have {bytes} bytes; {MAXIMUM_COMMAND_BYTES} is the most"
        ));
    }
    if spec
        .arguments
        .iter()
        .any(|argument| argument.contains('\0'))
    {
        return invalid("an argument contains a zero byte, which no program can receive".into());
    }
    check_variables(&spec.environment)?;
    if let Some(workdir) = &spec.workdir
        && (!workdir.starts_with('/') || workdir.contains('\0') || workdir.len() > 4096)
    {
        return invalid(format!(
            "workdir `{}` is not an absolute path",
            workdir.chars().take(100).collect::<String>()
        ));
    }
    if spec.time_limit_seconds == Some(0) {
        return invalid("time_limit_seconds is 0; leave it out for no limit".into());
    }
    if spec
        .time_limit_seconds
        .is_some_and(|limit| limit > 366 * 24 * 3600)
    {
        return invalid("time_limit_seconds is more than a year; leave it out for no limit".into());
    }
    if spec.grace_seconds > 24 * 3600
        || spec.requeue_limit > 1000
        || spec.priority.unsigned_abs() > 1_000_000
    {
        return invalid("grace_seconds is at most 86400, requeue_limit at most 1000, priority between -1000000 and 1000000".into());
    }
    if spec.run_as_root && !intent.admin {
        return Err(Refusal::Forbidden(
            "only an admin may submit a job that runs as root".into(),
        ));
    }
    Ok(())
}

fn check_variables(environment: &BTreeMap<String, String>) -> Result<(), Refusal> {
    for (name, value) in environment {
        if !is_variable_name(name) || value.contains('\0') {
            return Err(Refusal::Invalid(format!(
                "environment variable `{}`: a name has letters, digits and `_`; a value has no zero byte",
                name.chars().take(100).collect::<String>()
            )));
        }
        if RESERVED.contains(&name.as_str()) {
            return Err(Refusal::Invalid(format!(
                "environment variable {name} is set for each rank by supernode and cannot be overridden"
            )));
        }
    }
    Ok(())
}

/// Refuses what could never run, whatever nodes come.
fn check_size(tx: &mut Tx<'_>, super_node: &SuperNode, spec: &JobSpec) -> Result<(), Refusal> {
    let Some(hardware) = spec_find(tx, super_node.spec.as_str())? else {
        return Ok(());
    };
    if spec.nodes > hardware.maximum_nodes {
        return Err(Refusal::OverMaximum(format!(
            "{} nodes are more than the {} that spec {} allows in one super node",
            spec.nodes, hardware.maximum_nodes, hardware.name
        )));
    }
    if let (Some(devices), Some(count)) = (spec.devices, hardware.definition.accelerator.count)
        && devices > count.max(1)
    {
        return Err(Refusal::Invalid(format!(
            "{devices} devices per node are more than the {} that spec {} has",
            count.max(1),
            hardware.name
        )));
    }
    Ok(())
}

/// Asks to cancel a job; a queued one ends at once. Asking again changes nothing.
pub fn cancel(tx: &mut Tx<'_>, intent: &Intent, id: &str) -> Result<Job, Refusal> {
    let mut job = find(tx, id)?;
    if !intent.operator && job.owner != intent.actor {
        return Err(Refusal::Forbidden(format!(
            "job {id} belongs to {}; only its owner or an operator may cancel it",
            job.owner
        )));
    }
    match &job.state {
        JobState::Ended { .. } => {
            return Err(Refusal::Conflict(format!(
                "job {id} has ended already ({})",
                job.state.word()
            )));
        }
        JobState::Queued { .. } => {
            job.cancel_requested_by = Some(intent.actor.clone());
            job.state = JobState::Ended {
                outcome: JobOutcome::Cancelled {
                    by: intent.actor.clone(),
                },
                at: intent.now,
            };
            job_update(tx, &mut job)?;
            let subjects = Subjects {
                job: Some(job.id.clone()),
                super_node: Some(job.super_node.clone()),
                ..Subjects::default()
            };
            let message = format!(
                "{} was cancelled by {} before it ran",
                job.name, intent.actor
            );
            let event = NewEvent {
                kind: "job.cancelled",
                severity: Severity::Info,
                message,
                subjects,
            };
            crate::notify::tell(tx, &event, intent.now)?;
        }
        JobState::Starting { .. } | JobState::Running { .. } | JobState::Stopping { .. } => {
            if job.cancel_requested_by.is_none() {
                job.cancel_requested_by = Some(intent.actor.clone());
                job_update(tx, &mut job)?;
            }
        }
    }
    Ok(job)
}
