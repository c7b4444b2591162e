//! Retry policies: who may write them, what attempts get, that they keep it, what is found in the way, and what ranks write.

use std::collections::BTreeMap;

use supernode_control::job::Strictness;
use supernode_control::retry_policy::{self, Shown};
use supernode_control::{ChangeRequest, Refusal, desired, metrics, query};
use supernode_types::JobId;
use supernode_types::agent::{ObservedRetries, RankLaunch, RankWish};
use supernode_types::inventory::{Accelerator, AcceleratorVendor};
use supernode_types::job::JobSpec;
use supernode_types::retry_policy::{
    OverriddenBy, RetryEffect, RetryFindingKind, RetryLibrary, RetryOutcome, RetryPolicy,
    RetrySettings, RetrySighting, RetryWish,
};

use crate::world::{Engine, World, job_spec, keyed, on_every_engine, request, settings};

on_every_engine!(
    a_policy_is_written_once_and_shown,
    an_attempt_keeps_what_it_got,
    what_a_job_sets_itself_wins,
    what_stands_in_the_way_is_said_and_a_strict_job_is_refused,
    what_ranks_write_becomes_evidence,
);

fn enabled(change: impl FnOnce(&mut RetryWish)) -> RetryPolicy {
    let mut wish = RetryWish::default();
    change(&mut wish);
    RetryPolicy::Enabled(RetrySettings::new(wish).expect("the numbers fit"))
}

fn set_as(world: &World, request: ChangeRequest, policy: RetryPolicy) -> Result<i64, Refusal> {
    world.change_as(request, move |tx, intent| {
        retry_policy::set(tx, intent, "train", policy.clone())
            .map(|shown| shown.super_node.generation)
    })
}

fn set(world: &World, policy: RetryPolicy) {
    set_as(world, request("retry_policy_set"), policy).expect("accepted");
}

fn shown(world: &World) -> Shown {
    world.read(|tx| retry_policy::show(tx, "train"))
}

/// Nodes that look like Atlas A3 servers of one super pod.
fn ascend(engine: Engine, count: u32) -> World {
    let mut world = World::empty(engine, settings());
    for number in 1..=count {
        let node = format!("n{number}");
        world.enrol(&node);
        let agent = world.agent(&node);
        agent.address = format!("10.0.0.{number}");
        agent.inventory.accelerators = vec![Accelerator {
            model: "Ascend910_9392".into(),
            super_pod_id: Some("0".into()),
            ..Accelerator::new(0, AcceleratorVendor::Ascend)
        }];
        for (component, version) in [("cann", "8.5.0"), ("ascend_driver", "25.0.0")] {
            let versions = &mut agent.inventory.versions;
            versions.insert(component.into(), version.into());
        }
    }
    world.settle();
    world.declare("std", "n1");
    world.settle();
    world.created("train", count);
    world
}

/// What each node is told of its first rank.
fn launches(world: &World) -> BTreeMap<String, RankLaunch> {
    let nodes = world.nodes();
    let ids: Vec<_> = nodes.iter().map(|node| node.id.clone()).collect();
    let told = world.read(move |tx| Ok(desired(tx, ids.clone())?));
    let name = |id| {
        nodes
            .iter()
            .find(|node| node.id == id)
            .map(|node| node.name.to_string())
    };
    told.into_iter()
        .filter_map(
            |(id, desired)| match desired.ranks.into_iter().next()?.wish {
                RankWish::Run(launch) => Some((name(id)?, *launch)),
                RankWish::Stop { .. } => None,
            },
        )
        .collect()
}

fn with(nodes: u32, variables: &[(&str, &str)]) -> JobSpec {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    JobSpec {
        environment: variables.iter().map(pair).collect(),
        ..job_spec(nodes)
    }
}

fn a_policy_is_written_once_and_shown(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    assert!(shown(&world).super_node.retry_policy.is_none());
    assert!(shown(&world).rendering.is_none());
    let generation = world.super_node("train").generation;
    let stale = ChangeRequest {
        if_match: Some(generation + 7),
        ..request("retry_policy_set")
    };
    let refusal = set_as(&world, stale, enabled(|_| {}));
    assert!(
        matches!(refusal, Err(Refusal::PreconditionFailed { .. })),
        "{refusal:?}"
    );
    let fresh = || ChangeRequest {
        if_match: Some(generation),
        ..keyed("retry_policy_set", "key", "digest")
    };
    let first = set_as(&world, fresh(), enabled(|_| {})).expect("accepted");
    assert_eq!(first, generation + 1);
    world.restart();
    let again = set_as(&world, fresh(), enabled(|_| {})).expect("the same answer");
    assert_eq!(again, first);
    set(&world, enabled(|_| {}));
    assert_eq!(
        world.super_node("train").generation,
        first,
        "nothing to change"
    );
    assert_eq!(world.event_count("super_node.retry_policy_changed"), 1);
    let detail = shown(&world);
    assert_eq!(detail.super_node.retry_policy, Some(enabled(|_| {})));
    let rendering = detail.rendering.expect("members are known");
    assert_eq!(rendering.library, RetryLibrary::Collectives);
    assert_eq!(
        rendering.variables["SUPERNODE_COLLECTIVE_RETRY_TIMEOUT_SECONDS"],
        "300"
    );
    assert_eq!(detail.findings, []);
    set(&world, RetryPolicy::Disabled);
    assert_eq!(world.event_count("super_node.retry_policy_changed"), 2);
    let actions = world.read(|tx| query::audit(tx, None, None, 3));
    let count = |action: &str| actions.iter().filter(|one| one.action == action).count();
    assert_eq!(count("retry_policy_set"), 3);
}

fn an_attempt_keeps_what_it_got(engine: Engine) {
    const TIMEOUT: &str = "SUPERNODE_COLLECTIVE_RETRY_TIMEOUT_SECONDS";
    let mut world = World::with_spares(engine, 3);
    world.created("train", 3);
    set(&world, enabled(|wish| wish.retry_timeout_seconds = 77));
    let spec = JobSpec {
        requeue_limit: 1,
        ..job_spec(2)
    };
    let job = world.running("train", spec);
    let told = |world: &World| -> Vec<Option<String>> {
        let launches = launches(world).into_values();
        launches
            .map(|launch| launch.environment.get(TIMEOUT).cloned())
            .collect()
    };
    assert_eq!(told(&world), vec![Some("77".to_owned()); 2]);
    set(&world, enabled(|wish| wish.retry_timeout_seconds = 99));
    world.restart();
    assert_eq!(
        told(&world),
        vec![Some("77".to_owned()); 2],
        "it is stored with the attempt"
    );
    let of = |world: &World| {
        let job = world.job(&job);
        world.read(move |tx| query::retry_of(tx, &job)).0
    };
    assert_eq!(of(&world).expect("it has one").variables[TIMEOUT], "77");
    let node = world.ranks(&job)[0].node.clone();
    let lost = world
        .nodes()
        .into_iter()
        .find(|one| one.id == node)
        .expect("it is there");
    world.lose(lost.name.as_str());
    world.settle();
    assert_eq!(world.job(&job).attempts, 2);
    assert_eq!(
        of(&world).expect("it has one").variables[TIMEOUT],
        "99",
        "a new attempt, a new decision"
    );
    set(&world, RetryPolicy::Disabled);
    world.finish(&job);
    world.settle();
    let next = world.running("train", job_spec(1));
    let next = world.job(&next);
    let retry = world
        .read(move |tx| query::retry_of(tx, &next))
        .0
        .expect("a decision too");
    assert_eq!(retry.policy, RetryPolicy::Disabled);
    let never = (
        "SUPERNODE_COLLECTIVE_MAX_RETRIES".to_owned(),
        "0".to_owned(),
    );
    assert_eq!(retry.variables, [never].into());
}

fn what_a_job_sets_itself_wins(engine: Engine) {
    let mut world = ascend(engine, 2);
    set(&world, enabled(|_| {}));
    let mine = ("HCCL_EXEC_TIMEOUT", "5000");
    let job = world.running("train", with(2, &[mine]));
    for launch in launches(&world).values() {
        assert_eq!(launch.environment["HCCL_EXEC_TIMEOUT"], "5000");
        assert_eq!(launch.environment["HCCL_OP_RETRY_ENABLE"], "L1:1,L2:0");
        assert_eq!(
            launch.environment["HCCL_OP_RETRY_PARAMS"],
            "MaxCnt:3,HoldTime:5000,IntervalTime:1000"
        );
        assert_eq!(launch.retry_log, Some(RetryLibrary::Hccl));
    }
    let job = world.job(&job);
    let retry = world
        .read(move |tx| query::retry_of(tx, &job))
        .0
        .expect("it has one");
    let overridden = &retry.overridden[..];
    assert_eq!(overridden.len(), 1);
    assert_eq!(
        (
            overridden[0].variable.as_str(),
            overridden[0].policy_value.as_str(),
            overridden[0].by
        ),
        ("HCCL_EXEC_TIMEOUT", "2136", OverriddenBy::Job)
    );
}

fn what_stands_in_the_way_is_said_and_a_strict_job_is_refused(engine: Engine) {
    let mut world = ascend(engine, 2);
    let insist = |world: &World, spec: JobSpec| {
        world.submit_with(request("job_submit"), "train", spec, Strictness::Insist)
    };
    let refusal = insist(&world, job_spec(2)).expect_err("there is no policy");
    assert!(
        refusal.to_string().contains("retry-policy set"),
        "{refusal}"
    );
    set(&world, enabled(|_| {}));
    let refusal = insist(&world, with(2, &[("HCCL_OP_EXPANSION_MODE", "AIV")]));
    let Err(Refusal::RetryPrevented { message, findings }) = refusal else {
        panic!("{refusal:?}");
    };
    assert!(message.contains("AIV"), "{message}");
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].kind, RetryFindingKind::ExpansionMode);
    insist(&world, job_spec(2)).expect("what is unknown prevents nothing");

    let kinds = |world: &World, job: &JobId| -> Vec<_> {
        let found = world.job(job).retry_findings.into_iter();
        found
            .filter(|finding| finding.effect == RetryEffect::Prevents)
            .map(|finding| finding.kind)
            .collect()
    };
    world.settle();
    let alone = world
        .submit("train", job_spec(1))
        .expect("with a warning")
        .id;
    assert_eq!(kinds(&world, &alone), [RetryFindingKind::SingleServer]);
    world.cancel_job(&alone).expect("queued");
    // On the way from the queue to the start, the nodes changed.
    let later = world.submit("train", job_spec(2)).expect("queued").id;
    assert_eq!(kinds(&world, &later), []);
    world
        .agent("n2")
        .inventory
        .versions
        .insert("cann".into(), "8.0.0".into());
    world.settle();
    let first = world.read(|tx| query::jobs(tx, None, Some("running"), None, 9));
    world.finish(&first[0].id);
    world.settle();
    assert_eq!(world.job(&later).state.word(), "running");
    assert_eq!(kinds(&world, &later), [RetryFindingKind::ToolkitVersion]);
    set(&world, RetryPolicy::Disabled);
    assert_eq!(
        shown(&world).findings,
        [],
        "nothing is wanted, so nothing is in the way"
    );
}

fn what_ranks_write_becomes_evidence(engine: Engine) {
    let mut world = ascend(engine, 2);
    set(&world, enabled(|_| {}));
    let job = world.running("train", job_spec(2));
    let record = world.job(&job);
    let attempt = record.state.attempt().expect("it runs").clone();
    let say = |world: &mut World, node: &str, rank: u32, count: u64| {
        world.agent(node).retries = vec![ObservedRetries {
            attempt: attempt.clone(),
            rank,
            sightings: vec![RetrySighting {
                outcome: RetryOutcome::Started,
                link: "rank 0 - rank 1".into(),
                count,
                line: "[OpRetry]\u{1b}".into(),
            }],
        }];
        world.sync(node);
    };
    let evidence = |world: &World| {
        let job = world.job(&job);
        world.read(move |tx| query::retry_of(tx, &job)).1
    };
    let ranks = world.ranks(&job);
    let node_of = |world: &World, rank: usize| {
        let node = &ranks[rank].node;
        let found = world.nodes().into_iter().find(|one| one.id == *node);
        found.expect("it is there").name.to_string()
    };
    let (first, second) = (node_of(&world, 0), node_of(&world, 1));
    say(&mut world, &second, 0, 5);
    assert_eq!(evidence(&world), [], "no node speaks for a rank of another");
    for count in 1..=9 {
        say(&mut world, &first, 0, count);
    }
    say(&mut world, &first, 0, 3);
    let found = evidence(&world);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].sighting.count, found[0].sighting.line.as_str()),
        (9, "[OpRetry]")
    );
    assert_eq!(
        world.event_count("job.retry_started"),
        4,
        "at 1, 2, 4 and 8"
    );
    say(&mut world, &second, 1, 1);
    assert_eq!(world.event_count("job.retry_started"), 4, "10 is not 16");
    world.restart();
    assert_eq!(evidence(&world).len(), 2);
    let text = world
        .block_on(metrics::render(&world.control, &world.metrics))
        .expect("readable");
    for line in [
        format!("supernode_retries_total{{node=\"{first}\",outcome=\"started\"}} 9"),
        format!("supernode_retries_total{{node=\"{second}\",outcome=\"started\"}} 1"),
        format!(
            "supernode_link_retries{{node=\"{first}\",link=\"rank 0 - rank 1\",outcome=\"started\"}} 9"
        ),
    ] {
        assert!(text.contains(&line), "{line}\n{text}");
    }
}
