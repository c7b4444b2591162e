//! Stress runs: what is refused, what agents report and what comes of it, restarts, quarantine and the way back.

use std::time::Duration;

use supernode_control::scale_up::Selection;
use supernode_control::stress_run::{Wish, evidence, explain, release, results, stress_run};
use supernode_control::{Refusal, query};
use supernode_types::node::NodeHealth;
use supernode_types::operation::Operation;
use supernode_types::stress::{
    Item, Measurement, Metric, Part, Shape, Share, StepEvidence, StressReport, StressReportState,
    StressResult, StressWish, Tier, Validity,
};

use crate::world::{Engine, World, job_spec, on_every_engine};

on_every_engine!(
    what_cannot_be_tested_is_refused_and_nothing_is_changed,
    a_run_is_told_reported_judged_and_recorded_once,
    a_restarted_server_and_a_repeated_report_judge_nothing_twice,
    a_slow_part_is_tested_again_and_then_the_node_is_quarantined,
    a_wrong_result_quarantines_and_an_operator_answers_for_the_release,
    an_agent_that_gives_up_and_one_that_restarts_leave_no_lease,
);

fn wish(super_node: Option<&str>, nodes: &[&str]) -> Wish {
    Wish {
        super_node: super_node.map(str::to_owned),
        nodes: nodes.iter().map(|name| (*name).to_owned()).collect(),
        items: Item::OF_ONE_NODE.to_vec(),
        tier: Tier::Quick,
        kernel_seconds: None,
        max_nodes: Share::ALL,
        window: Duration::from_mins(2),
        notify: Vec::new(),
    }
}

fn start(world: &World, wish: &Wish) -> Result<Operation, Refusal> {
    let wish = wish.clone();
    world.change("stress_run", move |tx, intent| {
        stress_run(tx, intent, &wish)
    })
}

/// Runs a test of these nodes up to the point where their agents were told.
fn begun(world: &mut World, nodes: &[&str]) -> Operation {
    let run = start(world, &wish(None, nodes)).expect("accepted");
    world.settle();
    run
}

fn told(world: &mut World, node: &str) -> Option<StressWish> {
    let desired = world.agent(node).desired.clone();
    desired.and_then(|desired| desired.stress)
}

/// The agent of `node` has ended the round that it was told to do.
fn ends(world: &mut World, node: &str, evidence: Vec<StepEvidence>) {
    let key = told(world, node).expect("it was told").key();
    let state = StressReportState::Ended { evidence };
    world.agent(node).stress = Some(StressReport { key, state });
    world.settle();
}

fn speed(value: f64) -> Vec<StepEvidence> {
    let shape = Some(Shape {
        level: value.ln(),
        tail: 0.0,
        ramp: 0.0,
    });
    vec![StepEvidence {
        item: Item::Compute,
        step: "matrices of f32".into(),
        settings: "10 s".into(),
        fingerprint: "1".into(),
        seconds: 10.0,
        validity: Validity::Valid,
        failures: Vec::new(),
        measurements: vec![Measurement {
            metric: Metric::GemmF32,
            part: Part::Core(3),
            samples: 100,
            median: value,
            worse: value,
            shape,
        }],
        remarks: Vec::new(),
    }]
}

fn wrong() -> Vec<StepEvidence> {
    let mut steps = speed(100.0);
    steps[0]
        .failures
        .push("core 3: digest: expected 1, got 2".into());
    steps
}

pub(crate) fn result(world: &World, run: &Operation) -> Vec<StressResult> {
    let id = run.id.clone();
    let found = world.read(move |tx| results(tx, &id));
    found.into_iter().map(|named| named.result).collect()
}

pub(crate) fn words(world: &World, run: &Operation) -> Vec<&'static str> {
    let results = result(world, run);
    results.iter().map(|result| result.outcome.word()).collect()
}

fn what_cannot_be_tested_is_refused_and_nothing_is_changed(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    world.created("train", 2);
    let refused = |wish: &Wish| start(&world, wish).expect_err("refused");
    let odd = Wish {
        kernel_seconds: Some(0),
        ..wish(None, &["n1"])
    };
    let long = Wish {
        window: Duration::from_hours(200),
        ..wish(None, &["n1"])
    };
    for wish in [odd, long, wish(None, &[]), wish(None, &["n1", "n1"])] {
        let refusal = refused(&wish);
        assert!(matches!(refusal, Refusal::Invalid(_)), "{refusal}");
    }
    let spare = world.spares().remove(0);
    let refusal = refused(&wish(Some("train"), &[&spare]));
    assert!(matches!(refusal, Refusal::Conflict(_)), "{refusal}");
    let refusal = refused(&wish(Some("nowhere"), &[]));
    assert!(matches!(refusal, Refusal::NotFound { .. }), "{refusal}");
    assert_eq!(world.event_count("operation.accepted"), 1, "the creation");
    assert!(world.nodes().iter().all(|node| node.stress.work.is_none()));
}

fn a_run_is_told_reported_judged_and_recorded_once(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    let run = start(&world, &wish(Some("train"), &[])).expect("accepted");
    world.settle();
    assert_eq!(world.leased(), 2, "all devices of both nodes");
    let job = world.submit("train", job_spec(1)).expect("queued");
    world.settle();
    assert!(world.queue_reason(&job.id).contains("2 busy (test op-"));
    let key = told(&mut world, "n1").expect("told").key();
    let step = "matrices of f32 (1 of 6)".to_owned();
    let state = StressReportState::Running { step };
    world.agent("n1").stress = Some(StressReport { key, state });
    world.settle();
    let state = format!("{:?}", world.operation(&run.id).state);
    assert!(
        state.contains("is tested: matrices of f32 (1 of 6)"),
        "{state}"
    );
    ends(&mut world, "n1", speed(100.0));
    ends(&mut world, "n2", speed(101.0));
    assert_eq!(world.operation(&run.id).state.word(), "succeeded");
    assert_eq!(words(&world, &run), ["passed", "passed"]);
    assert!(matches!(world.node("n1").health, NodeHealth::Proven { .. }));
    assert_eq!(world.node("n1").stress.last_passed, Some(world.now()));
    assert!(
        told(&mut world, "n1").is_none(),
        "nothing is wanted any more"
    );
    assert_eq!(world.job(&job.id).state.word(), "running");
    let node = world.node("n1");
    let (id, kept) = (run.id.clone(), speed(100.0));
    let rounds = world.read(move |tx| evidence(tx, &id, &node));
    assert_eq!(rounds, [kept]);
    assert_eq!(world.event_count("stress.passed"), 2);
}

fn a_restarted_server_and_a_repeated_report_judge_nothing_twice(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    let run = begun(&mut world, &["n1"]);
    world.restart();
    let wish = told(&mut world, "n1").expect("told");
    // The report is stored and the server dies before it has acted on it.
    let state = StressReportState::Ended {
        evidence: speed(100.0),
    };
    let key = wish.key();
    world.agent("n1").stress = Some(StressReport { key, state });
    let agent = world.agent("n1");
    let (id, stored, observed) = (agent.id.clone(), agent.stored, agent.observed());
    world.report(&id, stored, Some(observed.clone()));
    world.restart();
    world.report(&id, stored, Some(observed));
    world.settle();
    assert_eq!(words(&world, &run), ["passed"]);
    assert_eq!((world.leased(), world.event_count("stress.passed")), (0, 1));
    assert_eq!(world.operation(&run.id).state.word(), "succeeded");
}

fn a_slow_part_is_tested_again_and_then_the_node_is_quarantined(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    for value in [100.0, 100.4, 99.6, 100.1] {
        let run = begun(&mut world, &["n1"]);
        ends(&mut world, "n1", speed(value));
        assert_eq!(words(&world, &run), ["passed"]);
        world.wait(60);
    }
    let run = begun(&mut world, &["n1"]);
    ends(&mut world, "n1", speed(90.0));
    let again = told(&mut world, "n1").expect("it is not over");
    assert_eq!((again.round, again.items), (2, vec![Item::Compute]));
    assert_eq!(world.leased(), 1);
    ends(&mut world, "n1", speed(90.2));
    let found = result(&world, &run).remove(0);
    assert_eq!((found.outcome.word(), found.rounds), ("failed", 2));
    assert!(found.findings[0].confidence > 0.95);
    assert!(
        found.findings[0]
            .words
            .contains("core 3 is slower: 10.5 % worse"),
        "{found:?}"
    );
    assert_eq!(world.node("n1").health.word(), "quarantined");
    assert_eq!(world.event_count("node.quarantined"), 1);
    let job = world.submit("train", job_spec(2)).expect("queued");
    world.settle();
    let reason = world.queue_reason(&job.id);
    assert!(
        reason.contains("1 quarantined (n1: matrices of f32: gemm f32 of core 3"),
        "{reason}"
    );
    let run = begun(&mut world, &["n1"]);
    ends(&mut world, "n1", speed(100.0));
    assert_eq!(words(&world, &run), ["passed"]);
    assert_eq!(
        world.node("n1").health.word(),
        "proven",
        "everything in its full length"
    );
    assert_eq!(world.job(&job.id).state.word(), "running");
}

/// A test finds a node plainly wrong.
pub(crate) fn quarantine(world: &mut World, node: &str) {
    begun(world, &[node]);
    ends(world, node, wrong());
    assert_eq!(world.node(node).health.word(), "quarantined");
}

fn a_wrong_result_quarantines_and_an_operator_answers_for_the_release(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    let run = begun(&mut world, &["n1"]);
    ends(&mut world, "n1", wrong());
    assert_eq!(words(&world, &run), ["failed"]);
    let node = world.node("n1");
    assert_eq!(node.health.word(), "quarantined");
    let lines = explain(&node, &result(&world, &run), world.now()).join("\n");
    for part in [
        "is quarantined",
        run.id.as_str(),
        "one time is enough",
        "node release n1",
    ] {
        assert!(lines.contains(part), "{lines}");
    }
    let refusal = world
        .create("train", Selection::Count(1))
        .expect_err("no usable spare");
    assert!(
        matches!(refusal, Refusal::NotEnoughNodes { .. }),
        "{refusal}"
    );
    let released = |world: &World, reason: &'static str| {
        world.change("node_release", move |tx, intent| {
            release(tx, intent, "n1", reason, true)
        })
    };
    assert!(matches!(released(&world, " "), Err(Refusal::Invalid(_))));
    let node = released(&world, "new DIMM").expect("released");
    assert_eq!(node.health, NodeHealth::Unproven);
    assert!(matches!(
        released(&world, "again"),
        Err(Refusal::Conflict(_))
    ));
    assert_eq!(world.event_count("node.released"), 1);
    let audit = world.read(|tx| query::audit(tx, None, None, 10));
    assert!(audit.iter().any(|entry| entry.action == "node_release"));
    world.created("train", 1);
}

fn an_agent_that_gives_up_and_one_that_restarts_leave_no_lease(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    let run = begun(&mut world, &["n1", "n2"]);
    let key = told(&mut world, "n1").expect("told").key();
    let state = StressReportState::Incomplete {
        why: "the agent was started anew during the test".into(),
        evidence: wrong(),
    };
    world.agent("n1").stress = Some(StressReport { key, state });
    world.agent("n2").boot += 1;
    world.settle();
    assert_eq!(words(&world, &run), ["incomplete", "incomplete"]);
    assert_eq!(world.leased(), 0);
    assert_eq!(world.operation(&run.id).state.word(), "failed");
    assert_eq!(
        world.node("n1").health,
        NodeHealth::Unproven,
        "neither a pass nor a failure"
    );
}
