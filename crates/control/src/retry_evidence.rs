//! What agents read in the output of ranks about repeated operators becomes evidence, and an event when it becomes more.
//!
//! Counts only grow: an agent that begins anew says less for a while, which changes nothing. An event comes when the sum over the attempt
//! passes 1, 2, 4, 8, …, so a link that flaps all night makes a dozen events and not a thousand.

use supernode_store::attempt::rank_list_of;
use supernode_store::job::job_get;
use supernode_store::retry_evidence::{retry_evidence_list, retry_evidence_put};
use supernode_store::{StoreError, Tx};
use supernode_types::Timestamp;
use supernode_types::agent::ObservedRetries;
use supernode_types::event::{NewEvent, Severity, Subjects};
use supernode_types::job::Rank;
use supernode_types::node::Node;
use supernode_types::retry_policy::{RetryEvidence, RetryOutcome, RetrySighting};

/// The most rows of one rank.
const MAXIMUM_ROWS: usize = 128;
/// The most characters of a line and of a link.
const MAXIMUM_CHARACTERS: usize = 200;
/// No library writes so often: what is larger is not believed.
const MAXIMUM_COUNT: u64 = 1 << 40;

/// Takes in what an agent says of one of its ranks; of ranks on other nodes it is not believed.
pub(crate) fn record(
    tx: &mut Tx<'_>,
    node: &Node,
    observed: &ObservedRetries,
    now: Timestamp,
) -> Result<(), StoreError> {
    let own = rank_list_of(tx, &observed.attempt, &node.id)?;
    let Some(rank) = own.into_iter().find(|rank| rank.rank == observed.rank) else {
        return Ok(());
    };
    let mut known = retry_evidence_list(tx, &observed.attempt)?;
    for sighting in &observed.sightings {
        let sighting = shortened(sighting);
        let rows = known.iter().filter(|one| one.rank == rank.rank).count();
        let same = |one: &&mut RetryEvidence| {
            one.rank == rank.rank
                && one.sighting.outcome == sighting.outcome
                && one.sighting.link == sighting.link
        };
        let sum = |known: &[RetryEvidence]| -> u64 {
            let same = known
                .iter()
                .filter(|one| one.sighting.outcome == sighting.outcome);
            same.map(|one| one.sighting.count).sum()
        };
        let before = sum(&known);
        let newer = match known.iter_mut().find(same) {
            Some(one) if one.sighting.count >= sighting.count => continue,
            Some(one) => {
                one.sighting = sighting.clone();
                one.last_at = now;
                one.clone()
            }
            None if rows >= MAXIMUM_ROWS => continue,
            None => {
                let new = RetryEvidence {
                    rank: rank.rank,
                    sighting: sighting.clone(),
                    first_at: now,
                    last_at: now,
                };
                known.push(new.clone());
                new
            }
        };
        retry_evidence_put(tx, &observed.attempt, &newer)?;
        let after = sum(&known);
        if before.checked_ilog2() != after.checked_ilog2() {
            tell(tx, node, &rank, &sighting, after, now)?;
        }
    }
    Ok(())
}

fn shortened(sighting: &RetrySighting) -> RetrySighting {
    let short = |text: &str| -> String {
        let clean = text.chars().filter(|letter| !letter.is_control());
        clean.take(MAXIMUM_CHARACTERS).collect()
    };
    RetrySighting {
        outcome: sighting.outcome,
        link: short(&sighting.link),
        count: sighting.count.min(MAXIMUM_COUNT),
        line: short(&sighting.line),
    }
}

fn tell(
    tx: &mut Tx<'_>,
    node: &Node,
    rank: &Rank,
    sighting: &RetrySighting,
    total: u64,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some(job) = job_get(tx, &rank.job)? else {
        return Ok(());
    };
    let (kind, severity, what) = match sighting.outcome {
        RetryOutcome::PathFailed => ("job.path_failed", Severity::Warning, "saw a path fail"),
        RetryOutcome::Started => (
            "job.retry_started",
            Severity::Warning,
            "began to repeat an operator",
        ),
        RetryOutcome::LaneSwitched => (
            "job.lane_switched",
            Severity::Warning,
            "goes on over another lane",
        ),
        RetryOutcome::Succeeded => (
            "job.retry_succeeded",
            Severity::Info,
            "repeated an operator and goes on",
        ),
        RetryOutcome::Refused => (
            "job.retry_refused",
            Severity::Error,
            "could not repeat an operator",
        ),
        RetryOutcome::SwitchedOff => (
            "job.retry_switched_off",
            Severity::Warning,
            "runs without re-execution although it was asked for",
        ),
    };
    let link = match sighting.link.as_str() {
        "" => String::new(),
        link => format!(" ({link})"),
    };
    let message = format!(
        "{}: rank {} on {} {what}{link}; {total} time(s) in this attempt",
        job.name, rank.rank, node.name
    );
    let subjects = Subjects {
        node: Some(node.id.clone()),
        job: Some(job.id.clone()),
        super_node: Some(job.super_node.clone()),
        ..Subjects::default()
    };
    let event = NewEvent {
        kind,
        severity,
        message,
        subjects,
    };
    crate::notify::tell(tx, &event, now)
}
