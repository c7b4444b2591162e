//! The network test of a run: what the two agents of a pair are told, what they report, what is said of the network, and what is killed on the way.

use std::time::Duration;

use supernode_control::stress_run::{Wish, explain, release, results_of, stress_run};
use supernode_control::{Refusal, desired, stress_network};
use supernode_types::operation::Operation;
use supernode_types::stress::{
    Certainty, FindingKind, Item, Measurement, Metric, NetworkPlace, NetworkState, NetworkVerdict,
    PairSide, PairState, Part, Share, StepEvidence, StressPair, StressReport, StressReportState,
    StressWish, Tier, Validity,
};

use crate::stress_run::{result, words};
use crate::world::{Engine, World, on_every_engine};

on_every_engine!(
    a_slow_sender_is_named_and_kept_out_until_its_network_is_sound,
    both_sides_get_one_key_for_each_try_and_nobody_else_does,
    a_server_that_is_killed_at_any_report_judges_every_round_once,
    two_nodes_are_both_suspect_and_the_link_is_named,
    a_node_that_is_alone_passes_and_it_is_said_that_its_network_was_not_tested,
    an_agent_that_gives_up_costs_a_try_and_leaves_no_lease,
    a_cancelled_run_gives_everything_back,
);

/// What a node sends and what arrives, by the names of both: Gbit/s.
type Carries = dyn Fn(&str, &str) -> f64;

fn begun(world: &mut World, nodes: &[&str], items: &[Item]) -> Operation {
    let wish = Wish {
        super_node: None,
        nodes: nodes.iter().map(|name| (*name).to_owned()).collect(),
        items: items.to_vec(),
        tier: Tier::Quick,
        kernel_seconds: None,
        max_nodes: Share::ALL,
        window: Duration::from_mins(30),
        notify: Vec::new(),
    };
    let run = world.change("stress_run", move |tx, intent| {
        stress_run(tx, intent, &wish)
    });
    world.settle();
    run.expect("accepted")
}

fn told(world: &mut World, node: &str) -> Option<StressWish> {
    let desired = world.agent(node).desired.clone();
    desired.and_then(|desired| desired.stress)
}

fn says(world: &mut World, node: &str, state: StressReportState) {
    let key = told(world, node).expect("it was told").key();
    world.agent(node).stress = Some(StressReport { key, state });
}

fn step(item: Item, measurements: Vec<Measurement>) -> StepEvidence {
    StepEvidence {
        item,
        step: item.name().into(),
        settings: "5 s".into(),
        fingerprint: "1".into(),
        seconds: 15.0,
        validity: Validity::Valid,
        failures: Vec::new(),
        measurements,
        remarks: Vec::new(),
    }
}

fn flows(out: f64, back: f64) -> Vec<StepEvidence> {
    let of = |metric, median| Measurement {
        metric,
        part: Part::Host,
        samples: 50,
        median,
        worse: median,
        shape: None,
    };
    let measurements = vec![
        of(Metric::NetworkSend, out),
        of(Metric::NetworkReceive, back),
        of(Metric::LossOut, 0.0),
        of(Metric::RoundTrip, 80.0),
    ];
    vec![step(Item::Network, measurements)]
}

/// What the agent of a node says next of its test, if it has something to say.
fn next(world: &mut World, node: &str, carries: &Carries) -> Option<StressReportState> {
    let wish = told(world, node)?;
    let evidence = match wish.pair.map(|pair| pair.side) {
        None => vec![step(Item::Compute, Vec::new())],
        Some(PairSide::Listen { address }) => {
            assert_eq!(address, format!("{node}.test"), "its own address");
            return Some(StressReportState::Listening { port: 4711 });
        }
        Some(PairSide::Ask {
            peer,
            address,
            port,
        }) => {
            assert_eq!((address, port), (format!("{peer}.test"), 4711));
            flows(carries(node, &peer), carries(&peer, node))
        }
    };
    Some(StressReportState::Ended { evidence })
}

/// All agents do what they are told until nothing is left; `between` happens after each report.
fn play(world: &mut World, carries: &Carries, between: &dyn Fn(&mut World)) {
    for _ in 0..60 {
        let mut news = false;
        for node in world.agents.keys().cloned().collect::<Vec<_>>() {
            let Some(state) = next(world, &node, carries) else {
                continue;
            };
            let key = told(world, &node).map(|wish| wish.key());
            let report = key.map(|key| StressReport { key, state });
            if world.agent(&node).stress != report {
                world.agent(&node).stress = report;
                news = true;
                between(world);
            }
            world.settle();
        }
        if !news {
            return;
        }
    }
    panic!("it never ends");
}

fn sound(_: &str, _: &str) -> f64 {
    100.0
}

fn slow_from_n2(from: &str, _: &str) -> f64 {
    if from == "n2" { 40.0 } else { 100.0 }
}

fn network(world: &World, run: &Operation) -> (NetworkVerdict, Vec<StressPair>) {
    let id = run.id.clone();
    let found = world.read(move |tx| stress_network::network(tx, &id));
    let (network, pairs) = found.expect("it has begun");
    match network.state {
        NetworkState::Judged { verdict } => (verdict, pairs),
        NetworkState::Testing { round } => panic!("round {round} is not over"),
    }
}

fn a_slow_sender_is_named_and_kept_out_until_its_network_is_sound(engine: Engine) {
    let mut world = World::with_spares(engine, 4);
    let all = ["n1", "n2", "n3", "n4"];
    let everything = [Item::Compute, Item::Network];
    let run = begun(&mut world, &all, &everything);
    play(&mut world, &sound, &|_| {});
    assert_eq!(world.operation(&run.id).state.word(), "succeeded");
    assert_eq!(words(&world, &run), ["passed"; 4]);
    let (verdict, pairs) = network(&world, &run);
    assert_eq!((verdict.rounds, verdict.findings), (2, vec![]));
    assert_eq!(pairs.len(), 4, "two rounds of two pairs");
    assert_eq!(
        (world.leased(), world.event_count("stress.network")),
        (0, 0)
    );

    let run = begun(&mut world, &all, &everything);
    play(&mut world, &slow_from_n2, &|_| {});
    assert_eq!(
        words(&world, &run),
        ["passed", "failed", "passed", "passed"]
    );
    let (verdict, _) = network(&world, &run);
    let [finding] = verdict.findings.as_slice() else {
        panic!("{verdict:?}");
    };
    let node = world.node("n2");
    let place = NetworkPlace::NodeOut {
        node: node.id.clone(),
    };
    assert_eq!(
        (&finding.place, finding.certainty),
        (&place, Certainty::Confirmed)
    );
    assert!(
        verdict.rounds > 2,
        "another round before anything bad is said"
    );
    assert_eq!(node.health.word(), "quarantined");
    assert_eq!(world.event_count("node.quarantined"), 1);
    assert_eq!(world.event_count("stress.network"), 0, "it is a node's");
    assert!(matches!(
        &result(&world, &run)[1].findings[0].kind,
        FindingKind::Network(found) if **found == *finding
    ));
    let lines = explain(&node, &result(&world, &run)[1..2], world.now()).join("\n");
    for part in [
        "what n2 sends is slow",
        "named again",
        "together with other nodes",
    ] {
        assert!(lines.contains(part), "{lines}");
    }

    // Alone it proves nothing of its network.
    let whole = Item::ALL;
    begun(&mut world, &["n2"], &whole);
    play(&mut world, &sound, &|_| {});
    assert_eq!(world.node("n2").health.word(), "quarantined");
    begun(&mut world, &all, &whole);
    play(&mut world, &sound, &|_| {});
    let node = world.node("n2");
    assert_eq!(
        (node.health.word(), node.stress.network_doubt),
        ("proven", None)
    );
}

fn both_sides_get_one_key_for_each_try_and_nobody_else_does(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    let run = begun(&mut world, &["n1", "n2"], &[Item::Network]);
    let id = run.id.clone();
    let pair = world.read(move |tx| stress_network::network(tx, &id));
    let pair = pair.expect("it has begun").1.remove(0);
    let names = ["n1", "n2"].map(|name| (world.node(name).id, name));
    let name = |id| {
        names
            .iter()
            .find(|(node, _)| node == id)
            .expect("one of two")
            .1
    };
    let (asker, listener) = (name(&pair.asker), name(&pair.listener));
    assert_eq!(
        told(&mut world, asker),
        None,
        "not before its partner listens"
    );
    let listens = told(&mut world, listener)
        .expect("told")
        .pair
        .expect("of a pair");
    says(
        &mut world,
        listener,
        StressReportState::Listening { port: 9 },
    );
    world.settle();
    let asks = told(&mut world, asker)
        .expect("told")
        .pair
        .expect("of a pair");
    assert_eq!(asks.key, listens.key);
    let secret = asks.key.expose().to_owned();
    let id = run.id.clone();
    let stored = world.read(move |tx| stress_network::network(tx, &id));
    let shown = serde_json::to_string(&stored).expect("plain data")
        + &serde_json::to_string(&world.nodes()).expect("plain data")
        + &serde_json::to_string(&world.events()).expect("plain data")
        + &serde_json::to_string(&world.operation(&run.id)).expect("plain data");
    assert!(!shown.contains(&secret), "nobody else learns it");
    let why = "no route".to_owned();
    let failed = StepEvidence {
        validity: Validity::CouldNotRun(why),
        ..step(Item::Network, Vec::new())
    };
    let evidence = vec![failed];
    says(&mut world, asker, StressReportState::Ended { evidence });
    world.settle();
    let again = told(&mut world, listener).expect("once more");
    assert_eq!(again.round, 2);
    assert_ne!(again.pair.expect("of a pair").key, listens.key);
    assert_eq!(
        told(&mut world, asker),
        None,
        "the port of the try before is forgotten"
    );
}

fn a_server_that_is_killed_at_any_report_judges_every_round_once(engine: Engine) {
    let mut world = World::with_spares(engine, 4);
    let run = begun(&mut world, &["n1", "n2", "n3", "n4"], &[Item::Network]);
    play(&mut world, &slow_from_n2, &|world| {
        // The reports are stored and the server dies before the loop looks; then the agents say the same again.
        for _ in 0..2 {
            let agents = world.agents.values();
            let said: Vec<_> = agents
                .map(|agent| (agent.id.clone(), agent.stored, agent.observed()))
                .collect();
            for (id, stored, observed) in said {
                world.report(&id, stored, Some(observed));
            }
            world.restart();
        }
        world.pass();
        world.restart();
    });
    assert_eq!(
        words(&world, &run),
        ["passed", "failed", "passed", "passed"]
    );
    let (verdict, pairs) = network(&world, &run);
    assert_eq!(pairs.len(), 2 * verdict.rounds as usize);
    assert!(pairs.iter().all(|pair| pair.tries == 1), "{pairs:?}");
    assert_eq!(
        (world.leased(), world.event_count("node.quarantined")),
        (0, 1)
    );
}

fn two_nodes_are_both_suspect_and_the_link_is_named(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    let run = begun(&mut world, &["n1", "n2"], &[Item::Network]);
    play(&mut world, &slow_from_n2, &|_| {});
    assert_eq!(words(&world, &run), ["suspect", "suspect"]);
    for name in ["n1", "n2"] {
        assert_eq!(world.node(name).health.word(), "suspect", "{name}");
    }
    let events = world.events();
    let told = events.iter().find(|event| event.kind == "stress.network");
    let message = &told.expect("the link is no node's").message;
    assert!(
        message.contains("what n2 sends") && message.contains("what n1 receives"),
        "{message}"
    );
    let released = world.change("node_release", move |tx, intent| {
        release(tx, intent, "n1", "another cable", false)
    });
    assert_eq!(released.expect("released").stress.network_doubt, None);
}

fn a_node_that_is_alone_passes_and_it_is_said_that_its_network_was_not_tested(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    let run = begun(&mut world, &["n1"], &Item::ALL);
    play(&mut world, &sound, &|_| {});
    assert_eq!(words(&world, &run), ["passed"]);
    assert_eq!(world.node("n1").health.word(), "proven");
    let undecided = &result(&world, &run)[0].undecided;
    let why = "it takes two nodes, and only n1 could be used";
    assert_eq!(undecided.last(), Some(&format!("network: {why}")));
    let run = begun(&mut world, &["n1"], &[Item::Network]);
    assert_eq!(words(&world, &run), ["undecided"], "nothing was tested");
    assert_eq!(world.operation(&run.id).state.word(), "succeeded");
}

fn an_agent_that_gives_up_costs_a_try_and_leaves_no_lease(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    let run = begun(&mut world, &["n1", "n2"], &[Item::Network]);
    let first = ["n1", "n2"]
        .into_iter()
        .find(|name| told(&mut world, name).is_some());
    let first = first.expect("one listens");
    for tries in 1..=2 {
        assert_eq!(
            (world.leased(), told(&mut world, first).expect("told").round),
            (2, tries)
        );
        let why = "the agent was started anew during the test".to_owned();
        let evidence = Vec::new();
        says(
            &mut world,
            first,
            StressReportState::Incomplete { why, evidence },
        );
        world.settle();
    }
    assert_eq!(world.leased(), 0);
    let (verdict, pairs) = network(&world, &run);
    assert!(
        verdict
            .undecided
            .is_some_and(|why| why.contains("started anew"))
    );
    assert!(
        matches!(&pairs[0].state, PairState::Ended { outcome, .. } if outcome.word() == "incomplete")
    );
    assert_eq!(words(&world, &run), ["undecided", "undecided"]);
    let node = world.node("n1");
    let kept = world.read(move |tx| results_of(tx, &node, 5));
    assert_eq!(kept.len(), 1);
    assert_eq!(world.node("n1").health.word(), "unproven");
}

fn a_cancelled_run_gives_everything_back(engine: Engine) {
    let mut world = World::with_spares(engine, 4);
    let run = begun(&mut world, &["n1", "n2", "n3", "n4"], &[Item::Network]);
    assert_eq!(world.leased(), 4);
    world.cancel(&run.id).expect("it runs");
    world.settle();
    assert_eq!(
        (world.leased(), world.operation(&run.id).state.word()),
        (0, "cancelled")
    );
    for name in ["n1", "n2", "n3", "n4"] {
        assert_eq!(told(&mut world, name), None, "{name}");
    }
    let id = world.node("n1").id;
    let wanted = id.clone();
    let all = world.read(move |tx| Ok::<_, Refusal>(desired(tx, [wanted.clone()])?));
    assert_eq!(all[&id].stress, None);
}
