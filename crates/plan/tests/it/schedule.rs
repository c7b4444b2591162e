//! Who starts now, where, and what the others wait for.

use std::time::Duration;

use supernode_types::job::JobSpec;
use supernode_types::node::{Cordon, NodeHealth, NodePolicy};
use supernode_types::{JobId, NodeId};

use crate::build::{exited, job_spec, limits};
use crate::model::Model;

fn cordon(model: &mut Model, node: &NodeId) {
    model.node(node).policy = NodePolicy::Cordoned(Cordon {
        by: "ada".into(),
        reason: "fan".into(),
    });
}

fn with_limit(nodes: u32, seconds: u64) -> JobSpec {
    JobSpec {
        time_limit_seconds: Some(seconds),
        grace_seconds: 0,
        ..job_spec(nodes)
    }
}

fn finish(model: &mut Model, job: &JobId) {
    model.set_ranks(job, &exited(0));
    model.reconcile();
}

fn started(model: &Model, job: &JobId) -> bool {
    model
        .snapshot
        .jobs
        .get(job)
        .is_none_or(|job| job.state.word() != "queued")
}

#[test]
fn priority_then_age() {
    let mut model = Model::new(limits());
    let (super_node, _) = model.train(1, 1);
    let first = model.running(&super_node, job_spec(1));
    let old = model.submit(&super_node, job_spec(1));
    let young = model.submit(&super_node, job_spec(1));
    let urgent = model.submit(
        &super_node,
        JobSpec {
            priority: 5,
            ..job_spec(1)
        },
    );
    model.reconcile();
    assert_eq!(
        model.reason(&urgent),
        format!("waits for 1 node: 1 busy ({first})")
    );
    assert_eq!(model.reason(&old), format!("in line behind {urgent}"));
    assert_eq!(model.reason(&young), format!("in line behind {old}"));
    for job in [&first, &urgent, &old, &young] {
        assert!(started(&model, job));
        finish(&mut model, job);
    }
    let order: Vec<&JobId> = model.starts.iter().map(|(_, job)| job).collect();
    assert_eq!(order, [&first, &urgent, &old, &young]);
}

#[test]
fn the_whole_gang_or_nothing_with_every_cause_named() {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(5, 1);
    let busy = model.running(&super_node, job_spec(1));
    cordon(&mut model, &nodes[1]);
    model.silent(&nodes[2], Duration::from_mins(1));
    model.node(&nodes[3]).health = NodeHealth::Quarantined {
        finding: "ECC".into(),
    };
    let job = model.submit(&super_node, job_spec(4));
    model.reconcile();
    let expected = format!(
        "waits for 3 of 4 nodes: 1 busy ({busy}), 1 cordoned (n2 by ada: fan), 1 lost (n3), 1 quarantined (n4: ECC)"
    );
    assert_eq!(model.reason(&job), expected);
    assert_eq!(model.snapshot.leases.len(), 1);
}

#[test]
fn a_job_that_can_never_run_says_so_and_holds_nobody_up() {
    let mut model = Model::new(limits());
    let (super_node, _) = model.train(2, 4);
    let wide = model.submit(
        &super_node,
        JobSpec {
            priority: 9,
            ..job_spec(3)
        },
    );
    let deep = model.submit(
        &super_node,
        JobSpec {
            priority: 9,
            devices: Some(5),
            ..job_spec(1)
        },
    );
    let good = model.submit(&super_node, job_spec(2));
    model.reconcile();
    assert_eq!(
        model.reason(&wide),
        "cannot run: it asks for 3 nodes and train has 2 nodes; scale train up, or submit a smaller job"
    );
    assert_eq!(
        model.reason(&deep),
        "cannot run: it asks for 5 devices per node and nodes of train have 4"
    );
    assert!(started(&model, &good));
}

#[test]
fn impossible_jobs_do_not_use_up_the_depth() {
    let mut model = Model::new(supernode_plan::Limits {
        queue_depth: 1,
        ..limits()
    });
    let (super_node, _) = model.train(1, 1);
    for _ in 0..3 {
        model.submit(
            &super_node,
            JobSpec {
                priority: 9,
                ..job_spec(2)
            },
        );
    }
    let good = model.submit(&super_node, job_spec(1));
    model.reconcile();
    assert!(started(&model, &good));
}

#[test]
fn small_jobs_share_a_node_and_leave_whole_nodes_free() {
    let mut model = Model::new(limits());
    let (super_node, _) = model.train(2, 4);
    let part = |devices| JobSpec {
        devices: Some(devices),
        ..job_spec(1)
    };
    let jobs: Vec<JobId> = [1, 2, 1]
        .into_iter()
        .map(|devices| model.submit(&super_node, part(devices)))
        .collect();
    model.reconcile();
    for job in &jobs {
        assert_eq!(model.placed(job), ["n1"]);
    }
    let whole = model.submit(&super_node, job_spec(1));
    model.reconcile();
    assert_eq!(model.placed(&whole), ["n2"]);
}

#[test]
fn gangs_stay_together_and_take_the_smallest_place_that_fits() {
    let mut model = Model::new(limits());
    let places = [
        ("a1", "r1", "l1"),
        ("a2", "r1", "l1"),
        ("a3", "r1", "l2"),
        ("b1", "r2", "l3"),
        ("b2", "r2", "l3"),
        ("c1", "r3", "l4"),
    ];
    let nodes: Vec<NodeId> = places
        .iter()
        .map(|(name, rack, leaf)| model.spare_at(name, rack, leaf))
        .collect();
    let super_node = model.super_node("train", &nodes);
    let mut names_for = |nodes: u32| {
        let job = model.submit(&super_node, job_spec(nodes));
        model.reconcile();
        let names = model.placed(&job);
        finish(&mut model, &job);
        names
    };
    assert_eq!(names_for(1), ["c1"]);
    assert_eq!(names_for(2), ["b1", "b2"]);
    assert_eq!(names_for(3), ["a1", "a2", "a3"]);
    assert_eq!(names_for(4), ["a1", "a2", "a3", "c1"]);
    assert_eq!(names_for(5), ["a1", "a2", "a3", "b1", "b2"]);
    assert_eq!(names_for(6), ["a1", "a2", "a3", "b1", "b2", "c1"]);
}

#[test]
fn healthier_nodes_go_first() {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(3, 1);
    model.node(&nodes[0]).health = NodeHealth::Suspect {
        finding: "slow link".into(),
    };
    model.node(&nodes[2]).health = NodeHealth::Proven {
        run: "burn-in".into(),
    };
    let job = model.submit(&super_node, job_spec(1));
    model.reconcile();
    assert_eq!(model.placed(&job), ["n3"]);
}

#[test]
fn a_short_job_fills_the_gap_and_a_long_one_waits() {
    let mut model = Model::new(limits());
    let (super_node, _) = model.train(3, 1);
    model.running(&super_node, with_limit(2, 600));
    let head = model.submit(&super_node, with_limit(3, 600));
    let long = model.submit(&super_node, with_limit(1, 600));
    let endless = model.submit(&super_node, job_spec(1));
    // 30 s for its start are part of the bill.
    let short = model.submit(&super_node, with_limit(1, 569));
    model.reconcile();
    assert!(started(&model, &short));
    assert_eq!(model.reason(&long), format!("in line behind {head}"));
    assert_eq!(model.reason(&endless), format!("in line behind {long}"));
}

#[test]
fn nodes_beyond_the_reservation_are_free_for_all() {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(4, 2);
    model.running(&super_node, with_limit(2, 600));
    model.running(
        &super_node,
        JobSpec {
            devices: Some(1),
            ..with_limit(1, 900)
        },
    );
    cordon(&mut model, &nodes[3]);
    // n1 and n2 are reserved for it; n3 comes later and has a device left.
    let head = model.submit(&super_node, job_spec(2));
    let endless = model.submit(
        &super_node,
        JobSpec {
            devices: Some(1),
            ..job_spec(1)
        },
    );
    model.reconcile();
    assert!(!started(&model, &head));
    assert_eq!(model.placed(&endless), ["n3"]);
}

#[test]
fn without_time_limits_nobody_passes_the_first_in_line() {
    let mut model = Model::new(limits());
    let (super_node, _) = model.train(2, 1);
    model.running(&super_node, job_spec(1));
    model.submit(&super_node, job_spec(2));
    let short = model.submit(&super_node, with_limit(1, 1));
    model.reconcile();
    assert!(!started(&model, &short));
}

#[test]
fn ports_differ_on_one_address_and_run_out_in_words() {
    let mut model = Model::new(supernode_plan::Limits {
        master_ports: (29_500, 29_501),
        ..limits()
    });
    let (super_node, nodes) = model.train(4, 1);
    model.node(&nodes[3]).address = "10.0.0.4".into();
    let jobs: Vec<JobId> = (0..3)
        .map(|_| model.submit(&super_node, job_spec(1)))
        .collect();
    model.reconcile();
    assert_eq!(model.snapshot.master_ports.len(), 2);
    assert_eq!(
        model.reason(&jobs[2]),
        "waits for a free port for rank 0: 29500 to 29501 on 127.0.0.1 are all in use"
    );
    finish(&mut model, &jobs[0]);
    assert!(started(&model, &jobs[2]));
}

#[test]
fn a_node_that_drains_takes_no_job_in_the_same_moment() {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(2, 1);
    let job = model.submit(&super_node, job_spec(2));
    model.scale_down(
        &super_node,
        &nodes[..1],
        supernode_types::super_node::DrainMode::Refuse,
    );
    model.reconcile();
    assert!(model.snapshot.leases.is_empty());
    assert_eq!(
        model.reason(&job),
        "cannot run: it asks for 2 nodes and train has 1 node; scale train up, or submit a smaller job"
    );
}
