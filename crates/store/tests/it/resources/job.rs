//! Queries of `supernode_store::job`.

use supernode_store::ConflictKind;
use supernode_store::job::{
    job_count, job_get, job_insert, job_last_attempt, job_list, job_list_active_of,
    job_list_placed, job_list_queued_of, job_list_queued_orphaned, job_update,
};
use supernode_store::super_node::super_node_delete;
use supernode_types::JobId;
use supernode_types::job::{Job, JobOutcome, JobState};

use super::sample::{NOW, Sample, after, attempt, job};
use crate::fixture::{Engine, on_every_engine};

on_every_engine!(
    a_queue_is_by_priority_age_and_id,
    a_jobs_states_are_found,
    pages_go_on_where_the_last_one_ended,
    the_last_attempt_stays_known,
    a_stale_update_is_a_conflict,
    jobs_of_a_super_node_that_is_gone_are_found,
);

fn ids(jobs: &[Job]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id.clone()).collect()
}

fn ended() -> JobState {
    JobState::Ended {
        outcome: JobOutcome::Succeeded,
        at: NOW,
    }
}

fn a_queue_is_by_priority_age_and_id(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let of = basics.super_node.id;
    sample.run(move |tx| {
        let old = job(&of, 10, after(1));
        let young = job(&of, 11, after(2));
        let mut urgent = job(&of, 12, after(3));
        urgent.spec.priority = 5;
        let mut patient = job(&of, 13, after(0));
        patient.spec.priority = -5;
        for job in [&young, &patient, &urgent, &old] {
            job_insert(tx, job)?;
        }
        let expected = [&urgent, &basics.job, &old, &young, &patient].map(|job| job.id.clone());
        assert_eq!(ids(&job_list_queued_of(tx, &of, 10)?), expected);
        assert_eq!(ids(&job_list_queued_of(tx, &of, 2)?), expected[..2]);
        let mut started = urgent.clone();
        started.state = JobState::Starting {
            attempt: attempt(&urgent.id, 7).id,
            since: NOW,
        };
        job_update(tx, &mut started)?;
        assert_eq!(ids(&job_list_queued_of(tx, &of, 10)?), expected[1..]);
        let other = super::sample::super_node("other", &basics.spec.id, 77).id;
        assert_eq!(job_list_queued_of(tx, &other, 10)?, []);
        Ok(())
    });
}

fn a_jobs_states_are_found(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let of = basics.super_node.id;
    sample.run(move |tx| {
        let mut present = basics.job.clone();
        assert_eq!(job_get(tx, &present.id)?, Some(present.clone()));
        assert_eq!(job_list_placed(tx)?, []);
        assert_eq!(job_count(tx)?, [(of.clone(), "queued".to_owned(), 1)]);
        present.state = JobState::Running {
            attempt: basics.attempt.id.clone(),
            since: NOW,
        };
        job_update(tx, &mut present)?;
        assert_eq!(present.generation, 2);
        assert_eq!(job_list_placed(tx)?, [present.clone()]);
        assert_eq!(job_list_active_of(tx, &of)?, [present.clone()]);
        assert_eq!(
            job_list(tx, Some(&of), Some("running"), None, 10)?,
            [present.clone()]
        );
        assert_eq!(
            job_list(tx, None, Some("active"), None, 10)?,
            [present.clone()]
        );
        assert_eq!(job_list(tx, None, Some("queued"), None, 10)?, []);
        present.state = ended();
        job_update(tx, &mut present)?;
        assert_eq!(job_list_placed(tx)?, []);
        assert_eq!(job_list_active_of(tx, &of)?, []);
        assert_eq!(job_list(tx, None, Some("active"), None, 10)?, []);
        assert_eq!(
            job_list(tx, None, Some("succeeded"), None, 10)?,
            [present.clone()]
        );
        assert_eq!(job_count(tx)?, []);
        Ok(())
    });
}

fn pages_go_on_where_the_last_one_ended(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let of = basics.super_node.id;
    sample.run(move |tx| {
        for number in 1..=9 {
            job_insert(tx, &job(&of, 100, after(number)))?;
        }
        let mut seen = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let page = job_list(tx, Some(&of), None, cursor.as_deref(), 4)?;
            let Some(last) = page.last() else { break };
            cursor = Some(last.id.to_string());
            seen.extend(ids(&page));
        }
        assert_eq!(seen.len(), 10);
        assert!(
            seen.windows(2).all(|pair| pair[0] > pair[1]),
            "newest first, none twice"
        );
        Ok(())
    });
}

fn the_last_attempt_stays_known(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    sample.run(move |tx| {
        let mut present = basics.job.clone();
        assert_eq!(job_last_attempt(tx, &present.id)?, None);
        let first = basics.attempt.id.clone();
        present.state = JobState::Running {
            attempt: first.clone(),
            since: NOW,
        };
        job_update(tx, &mut present)?;
        present.state = JobState::Queued {
            reason: "again".into(),
        };
        job_update(tx, &mut present)?;
        assert_eq!(job_last_attempt(tx, &present.id)?, Some(first));
        let second = attempt(&present.id, 2).id;
        present.state = JobState::Starting {
            attempt: second.clone(),
            since: NOW,
        };
        job_update(tx, &mut present)?;
        present.state = ended();
        job_update(tx, &mut present)?;
        assert_eq!(job_last_attempt(tx, &present.id)?, Some(second));
        Ok(())
    });
}

fn a_stale_update_is_a_conflict(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let mut stale = basics.job.clone();
    let mut fresh = basics.job;
    sample.run(move |tx| job_update(tx, &mut fresh));
    assert_eq!(
        sample.conflict(move |tx| job_update(tx, &mut stale)),
        ConflictKind::Check
    );
}

fn jobs_of_a_super_node_that_is_gone_are_found(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    sample.run(move |tx| {
        assert_eq!(job_list_queued_orphaned(tx, 10)?, []);
        super_node_delete(tx, &basics.super_node.id)?;
        assert_eq!(
            job_list_queued_orphaned(tx, 10)?,
            std::slice::from_ref(&basics.job)
        );
        assert_eq!(job_list_queued_orphaned(tx, 0)?, []);
        Ok(())
    });
}
