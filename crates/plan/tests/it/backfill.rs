//! Backfill never delays the first in line: while jobs keep exactly to their time limits, the first in line starts no later than it
//! does when nobody may pass it.

use std::time::Duration;

use proptest::prelude::*;
use supernode_plan::Limits;
use supernode_types::job::{JobSpec, JobState, RankState};
use supernode_types::{JobId, Timestamp};

use crate::build::{exited, job_spec, limits};
use crate::model::Model;

/// Nodes, devices and minutes of a job.
type Shape = (u32, u32, u64);

fn cluster(queue_depth: usize, nodes: usize, jobs: &[Shape]) -> (Model, Vec<JobId>) {
    let mut model = Model::new(Limits {
        queue_depth,
        start_timeout: Duration::from_secs(30),
        master_ports: (20_000, 30_000),
        ..limits()
    });
    let (super_node, _) = model.train(nodes, 2);
    let spec = |&(nodes, devices, minutes): &Shape| JobSpec {
        devices: Some(devices),
        time_limit_seconds: Some(minutes * 60),
        grace_seconds: 0,
        ..job_spec(nodes)
    };
    let jobs = jobs
        .iter()
        .map(|shape| model.submit(&super_node, spec(shape)))
        .collect();
    run(&mut model);
    (model, jobs)
}

/// What was started runs at once.
fn run(model: &mut Model) {
    model.reconcile();
    let starting = |model: &Model| {
        let mut jobs = model.snapshot.jobs.values();
        jobs.find(|job| matches!(job.state, JobState::Starting { .. }))
            .map(|job| job.id.clone())
    };
    while let Some(job) = starting(model) {
        model.set_ranks(&job, &RankState::Running);
        model.reconcile();
    }
}

/// When `job` starts if every job runs exactly for its limit.
fn start_of(model: &mut Model, job: &JobId) -> Timestamp {
    loop {
        if let Some((at, _)) = model.starts.iter().find(|(_, started)| started == job) {
            return *at;
        }
        let end = |job: &supernode_types::job::Job| match job.state {
            JobState::Running { since, .. } => Some((
                since.plus(Duration::from_secs(job.spec.time_limit_seconds?)),
                job.id.clone(),
            )),
            _ => None,
        };
        let ends: Vec<(Timestamp, JobId)> = model.snapshot.jobs.values().filter_map(end).collect();
        let at = ends
            .iter()
            .map(|(at, _)| *at)
            .min()
            .expect("somebody runs while the first in line waits");
        model.snapshot.now = at;
        for (_, job) in ends.iter().filter(|(end, _)| *end == at) {
            model.set_ranks(job, &exited(0));
        }
        run(model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::property::cases()))]

    #[test]
    fn the_first_in_line_is_never_delayed(
        nodes in 1_usize..6,
        shapes in prop::collection::vec((1_u32..6, 1_u32..3, 1_u64..20), 1..14),
    ) {
        let shapes: Vec<Shape> = shapes.into_iter().map(|(wanted, devices, minutes)| (wanted.min(u32::try_from(nodes).expect("few")), devices, minutes)).collect();
        let (mut free, jobs) = cluster(usize::MAX, nodes, &shapes);
        let (mut strict, same_jobs) = cluster(1, nodes, &shapes);
        prop_assert_eq!(&jobs, &same_jobs);
        let first = jobs.iter().find(|job| strict.starts.iter().all(|(_, started)| started != *job));
        if let Some(first) = first {
            prop_assert!(start_of(&mut free, first) <= start_of(&mut strict, first));
        }
    }
}

#[test]
fn backfill_is_worth_having() {
    let shapes = [(1, 2, 10), (2, 2, 10), (1, 2, 5)];
    let (free, jobs) = cluster(usize::MAX, 2, &shapes);
    let (strict, _) = cluster(1, 2, &shapes);
    let started = |model: &Model| model.starts.iter().any(|(_, job)| *job == jobs[2]);
    assert_eq!((started(&free), started(&strict)), (true, false));
}
