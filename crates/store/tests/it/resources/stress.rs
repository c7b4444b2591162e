//! Queries of `supernode_store::stress`, and leases of stress runs.

use std::collections::BTreeMap;

use supernode_store::attempt::{lease_insert, lease_list_on, lease_release, lease_release_run};
use supernode_store::stress::{
    stress_baseline_delete, stress_baseline_list, stress_baseline_put, stress_result_insert,
    stress_result_list, stress_result_list_of, stress_round_insert, stress_round_list,
    stress_round_list_peers, stress_round_prune,
};
use supernode_types::job::{Lease, LeaseHolder};
use supernode_types::stress::{Item, StepEvidence, StressOutcome, StressResult, Tier, Validity};
use supernode_types::{NodeId, OperationId};

use super::sample::{NOW, Sample, after, lease};
use crate::fixture::{Engine, on_every_engine};

on_every_engine!(
    a_job_and_a_test_never_hold_one_device,
    evidence_is_kept_as_it_came_first_until_it_is_old,
    what_came_of_a_node_is_said_once,
    baselines_are_replaced_and_forgotten,
);

fn step(seconds: f64) -> StepEvidence {
    StepEvidence {
        item: Item::Memory,
        step: "STREAM triad".into(),
        settings: "8 s".into(),
        fingerprint: "1".into(),
        seconds,
        validity: Validity::Valid,
        failures: vec!["a \u{2028} line".into()],
        measurements: Vec::new(),
        remarks: Vec::new(),
    }
}

fn a_job_and_a_test_never_hold_one_device(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    sample.run(move |tx| {
        let of_job = lease(&basics.attempt, &basics.nodes[0].id, 0);
        let of_test = |device| Lease {
            node: basics.nodes[0].id.clone(),
            device,
            holder: LeaseHolder::Stress {
                operation: basics.operation.id.clone(),
            },
        };
        assert!(lease_insert(tx, &of_job)?);
        assert!(!lease_insert(tx, &of_test(0))?);
        assert!(lease_insert(tx, &of_test(1))?);
        let all = [of_job.clone(), of_test(1)];
        assert_eq!(lease_list_on(tx, &basics.nodes[0].id)?, all);
        lease_release(tx, &basics.attempt.id)?;
        assert_eq!(lease_list_on(tx, &basics.nodes[0].id)?, [of_test(1)]);
        assert!(lease_insert(tx, &of_job)?);
        lease_release_run(tx, &basics.operation.id, &basics.nodes[0].id)?;
        assert_eq!(lease_list_on(tx, &basics.nodes[0].id)?, [of_job]);
        Ok(())
    });
}

fn evidence_is_kept_as_it_came_first_until_it_is_old(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    sample.run(move |tx| {
        let (run, node) = (&basics.operation.id, &basics.nodes[0].id);
        stress_round_insert(tx, run, node, 1, &[step(1.0)], NOW)?;
        stress_round_insert(tx, run, node, 2, &[step(2.0)], after(5))?;
        stress_round_insert(tx, run, node, 1, &[step(3.0)], after(9))?;
        assert_eq!(
            stress_round_list(tx, run, node)?,
            [vec![step(1.0)], vec![step(2.0)]]
        );
        assert_eq!(stress_round_list_peers(tx, run, node, 9)?, []);
        let other: NodeId = "node-00000000000000000000000000".parse().expect("an id");
        let peers = stress_round_list_peers(tx, run, &other, 9)?;
        assert_eq!(peers, [(node.clone(), vec![step(1.0)])]);
        stress_round_prune(tx, after(5))?;
        assert_eq!(stress_round_list(tx, run, node)?, [vec![step(2.0)]]);
        Ok(())
    });
}

fn what_came_of_a_node_is_said_once(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    sample.run(move |tx| {
        let result = |run: &OperationId, outcome| StressResult {
            run: run.clone(),
            node: basics.nodes[0].id.clone(),
            tier: Tier::Quick,
            outcome,
            findings: Vec::new(),
            undecided: vec!["disk: no space".into()],
            rounds: 1,
            began_at: Some(NOW),
            ended_at: after(3),
        };
        let run = &basics.operation.id;
        let passed = result(run, StressOutcome::Passed);
        assert!(stress_result_insert(tx, &passed)?);
        let why = "lost".into();
        let later = result(run, StressOutcome::Incomplete { why });
        assert!(!stress_result_insert(tx, &later)?);
        assert_eq!(stress_result_list(tx, run)?, std::slice::from_ref(&passed));
        assert_eq!(stress_result_list_of(tx, &basics.nodes[0].id, 5)?, [passed]);
        Ok(())
    });
}

fn baselines_are_replaced_and_forgotten(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    sample.run(move |tx| {
        let node = &basics.nodes[0].id;
        stress_baseline_put(tx, node, "b", &1)?;
        stress_baseline_put(tx, node, "a", &2)?;
        stress_baseline_put(tx, node, "b", &3)?;
        let all: BTreeMap<String, i32> = stress_baseline_list(tx, node)?;
        assert_eq!(all, [("a".to_owned(), 2), ("b".to_owned(), 3)].into());
        stress_baseline_delete(tx, node)?;
        let left: BTreeMap<String, i32> = stress_baseline_list(tx, node)?;
        assert!(left.is_empty());
        Ok(())
    });
}
