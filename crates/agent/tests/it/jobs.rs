//! Ranks and environments with a whole agent and a real server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use supernode_types::AttemptId;
use supernode_types::agent::{EnvironmentWish, RankLaunch, RankWish};
use supernode_types::environment::{EnvironmentDesired, EnvironmentFile, ItemCondition};
use supernode_types::job::{RankEnd, RankState};
use supernode_types::retry_policy::{RetryLibrary, RetryOutcome};
use supernode_types::time::{Clock, SystemClock};

use crate::agent::{Agent, Place, attempt, end, launch, run, running, scratch, wish};
use crate::server::{Authority, Server};
use crate::support::wait_for;

#[test]
fn a_rank_runs_is_reported_and_its_output_is_read() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    let place = Place::new(&authority);
    let _agent = Agent::start(place.options(&server));
    let (echo, env, missing) = (attempt(), attempt(), attempt());
    server.want(|desired| {
        desired.ranks = vec![
            run(&echo, &["/bin/echo", "hällo"]),
            run(&env, &["/usr/bin/env"]),
            run(&missing, &["no-such-program"]),
        ];
    });
    assert_eq!(
        server.rank("its end", &echo, 0, end),
        RankEnd::Exited { code: 0 }
    );
    assert_eq!(
        server.rank("its end", &env, 0, end),
        RankEnd::Exited { code: 0 }
    );
    let RankEnd::NotStarted { why } = server.rank("its end", &missing, 0, end) else {
        panic!("there is no such program")
    };
    assert!(why.contains("no-such-program"), "{why}");

    let log = server.read_log(&echo, 0, 0).expect("it has output");
    assert_eq!(
        (log.content.as_str(), log.next_offset, log.end),
        ("hällo\n", 7, true)
    );
    assert_eq!(
        server.read_log(&echo, 0, 3).expect("it has output").content,
        "llo\n"
    );
    let variables = server.read_log(&env, 0, 0).expect("it has output").content;
    let lines: Vec<&str> = variables.lines().collect();
    for line in [
        "GREETING=hello",
        "RANK=0",
        "WORLD_SIZE=4",
        "NODE_RANK=3",
        "MASTER_ADDR=10.0.0.7",
        "MASTER_PORT=20017",
        "LANG=C.UTF-8",
    ] {
        assert!(lines.contains(&line), "{line} in {lines:?}");
    }
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("PATH=/usr/local/sbin:"))
    );
    assert!(
        !lines.iter().any(|line| line.starts_with("CARGO")),
        "nothing of the agent's own environment: {lines:?}"
    );
    let gone = server
        .read_log(&attempt(), 0, 0)
        .expect_err("it never was here");
    assert!(gone.contains("never ran here"), "{gone}");

    // The server forgets them; their output can still be read.
    server.want(|desired| desired.ranks.clear());
    server.observed("nothing to report", |observed| {
        observed.ranks.is_empty().then_some(())
    });
    assert_eq!(
        server.read_log(&echo, 0, 0).expect("it is kept").content,
        "hällo\n"
    );
}

#[test]
fn jobs_run_unprivileged_and_only_where_they_may() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    let place = Place::new(&authority);
    let _agent = Agent::start(place.options(&server));
    let (user, root, nowhere) = (attempt(), attempt(), attempt());
    let as_root = RankLaunch {
        run_as_root: true,
        ..launch(&["/bin/true"])
    };
    let in_nowhere = RankLaunch {
        workdir: Some("/no/such/place".into()),
        ..launch(&["/bin/true"])
    };
    server.want(|desired| {
        let touch = run(
            &user,
            &["/bin/sh", "-c", "id -u; pwd; touch mine; ls -ld ."],
        );
        desired.ranks = vec![
            touch,
            wish(&root, RankWish::Run(Box::new(as_root))),
            wish(&nowhere, RankWish::Run(Box::new(in_nowhere))),
        ];
    });
    assert_eq!(
        server.rank("its end", &user, 0, end),
        RankEnd::Exited { code: 0 }
    );
    let output = server.read_log(&user, 0, 0).expect("it has output").content;
    let mut lines = output.lines();
    let uid = lines.next().expect("its user").to_owned();
    assert_ne!(uid, "0", "it must not be root");
    assert!(
        lines
            .next()
            .expect("its directory")
            .ends_with(&format!("work/{user}/scratch")),
        "{output}"
    );
    let RankEnd::NotStarted { why } = server.rank("its end", &root, 0, end) else {
        panic!("it must not start")
    };
    assert!(why.contains("--allow-root-jobs"), "{why}");
    let RankEnd::NotStarted { why } = server.rank("its end", &nowhere, 0, end) else {
        panic!("it cannot start")
    };
    assert!(why.contains("/no/such/place does not exist"), "{why}");
}

#[test]
fn a_rank_is_stopped_when_it_is_asked_for_and_when_it_is_not_wanted_any_more() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    let place = Place::new(&authority);
    let _agent = Agent::start(place.options(&server));
    let (asked, unlisted, never) = (attempt(), attempt(), attempt());
    server.want(|desired| {
        desired.ranks = vec![
            run(&asked, &["/bin/sleep", "600"]),
            run(&unlisted, &["/bin/sleep", "600"]),
        ];
    });
    server.rank("it to run", &asked, 0, running);
    server.rank("it to run", &unlisted, 0, running);
    let stop = || RankWish::Stop {
        grace_milliseconds: 10_000,
        why: "the job was cancelled".into(),
    };
    server.want(|desired| desired.ranks = vec![wish(&asked, stop()), wish(&never, stop())]);
    for attempt in [&asked, &unlisted, &never] {
        assert_eq!(
            server.rank("its end", attempt, 0, end),
            RankEnd::Stopped { code: 143 }
        );
    }
}

#[test]
fn starts_and_ends_are_quick() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    server.state().interval = Duration::from_secs(1);
    let place = Place::new(&authority);
    let _agent = Agent::start(place.options(&server));
    server.observed("the inventory", |observed| {
        observed.inventory.as_ref().map(drop)
    });
    let mut starts = Vec::new();
    let mut ends = Vec::new();
    for _ in 0..10 {
        let first = attempt();
        let told = SystemClock.now();
        server.want(|desired| {
            desired.ranks = vec![run(
                &first,
                &["/bin/sh", "-c", "while [ ! -e go ]; do sleep 0.002; done"],
            )];
        });
        server.rank("it to run", &first, 0, running);
        let started: serde_json::Value = serde_json::from_slice(
            &std::fs::read(place.data().join(format!("ranks/{first}.0/started.json")))
                .expect("it was started"),
        )
        .expect("a record");
        starts.push(started["started_at_micros"].as_i64().expect("a moment") - told.0);
        std::fs::write(scratch(&place.data(), &first).join("go"), "").expect("it is written");
        server.rank("its end", &first, 0, end);
        let reported = SystemClock.now();
        let exit: serde_json::Value = serde_json::from_slice(
            &std::fs::read(place.data().join(format!("ranks/{first}.0/exit.json")))
                .expect("it has ended"),
        )
        .expect("a record");
        ends.push(reported.0 - exit["ended_at_micros"].as_i64().expect("a moment"));
    }
    starts.sort_unstable();
    ends.sort_unstable();
    println!(
        "microseconds from being told to the start of the program: {starts:?}; from its end to the report: {ends:?}"
    );
    assert!(starts[5] < 500_000 && ends[5] < 500_000, "half of them");
}

#[test]
fn a_killed_agent_finds_its_ranks_again() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    let place = Place::new(&authority);
    let process = place.process(&server);
    let (long, short) = (attempt(), attempt());
    let script = "echo began; while [ ! -e go ]; do sleep 0.01; done; echo ended; exit 7";
    let until_short = "while [ ! -e go ]; do sleep 0.01; done";
    server.want(|desired| {
        desired.ranks = vec![
            run(&long, &["/bin/sh", "-c", script]),
            run(&short, &["/bin/sh", "-c", until_short]),
        ];
    });
    server.rank("it to run", &long, 0, running);
    server.rank("it to run", &short, 0, running);
    let started = |attempt: &AttemptId| {
        std::fs::read(place.data().join(format!("ranks/{attempt}.0/started.json")))
            .expect("it was started")
    };
    let before = started(&long);
    process.kill();
    // One goes on without an agent, the other ends without one.
    std::fs::write(scratch(&place.data(), &short).join("go"), "").expect("it is written");
    wait_for("the end of a rank", || {
        place
            .data()
            .join(format!("ranks/{short}.0/exit.json"))
            .exists()
            .then_some(())
    });
    server.state().observed = None;

    let process = place.process(&server);
    assert_eq!(
        server.rank("its end", &short, 0, end),
        RankEnd::Exited { code: 0 }
    );
    server.rank("it to run", &long, 0, running);
    assert_eq!(started(&long), before, "it is the same one");
    // Told again, it is not started again.
    server.want(|_| {});
    std::fs::write(scratch(&place.data(), &long).join("go"), "").expect("it is written");
    let state = server.rank("its end", &long, 0, |state| {
        state.ended().then(|| state.clone())
    });
    let RankState::Ended { end, last_lines } = state else {
        panic!("it was waited for")
    };
    assert_eq!(
        (end, last_lines),
        (
            RankEnd::Exited { code: 7 },
            vec!["began".to_owned(), "ended".to_owned()]
        )
    );
    assert_eq!(
        server.read_log(&long, 0, 0).expect("it has output").content,
        "began\nended\n"
    );
    process.kill();
}

#[test]
fn an_environment_is_applied_repaired_and_removed() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    let place = Place::new(&authority);
    let agent = Agent::start(place.options(&server));
    let environment = EnvironmentDesired {
        super_node_name: "train".into(),
        generation: 4,
        members: Vec::new(),
        variables: BTreeMap::new(),
        files: vec![EnvironmentFile {
            path: "/etc/app.conf".into(),
            mode: "0644".into(),
            content: "x=1\n".into(),
        }],
        sysctls: BTreeMap::new(),
        required_versions: BTreeMap::from([("kernel".into(), ">=1000".into())]),
    };
    server.want(|desired| desired.environment = EnvironmentWish::Have(Arc::new(environment)));
    let observed = server.observed("it to be applied", |observed| {
        (observed.environment_applied == 4).then(|| observed.clone())
    });
    let problems: Vec<String> = observed
        .environment_items
        .iter()
        .filter_map(supernode_types::environment::ItemState::problem)
        .collect();
    assert!(
        matches!(&problems[..], [kernel] if kernel.contains("kernel")),
        "{problems:?}"
    );
    let file = place.data().join("root/etc/app.conf");
    assert_eq!(
        std::fs::read_to_string(&file).expect("it is there"),
        "x=1\n"
    );

    // Drift, found by the look with which every agent begins.
    agent.end().expect("it ends well");
    std::fs::write(&file, "x=2\n").expect("it is written");
    let known = server.state().syncs.len();
    let _agent = Agent::start(place.options(&server));
    wait_for("the drift to be reported", || {
        let state = server.state();
        let items = state.syncs[known..]
            .iter()
            .filter_map(|(_, sync)| sync.observed.as_ref())
            .flat_map(|observed| &observed.environment_items);
        let drifted = items
            .into_iter()
            .any(|item| matches!(item.state, ItemCondition::Drifted { .. }));
        drifted.then_some(())
    });
    wait_for("the repair", || {
        (std::fs::read_to_string(&file).ok()? == "x=1\n").then_some(())
    });
    server.want(|desired| desired.environment = EnvironmentWish::Clean);
    server.observed("it to be clean", |observed| {
        (observed.environment_applied == 0).then_some(())
    });
    assert!(!file.exists());
}

#[test]
fn what_ranks_write_of_repeated_operators_is_counted_once() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    let place = Place::new(&authority);
    let agent = Agent::start(place.options(&server));
    let (watched, unwatched) = (attempt(), attempt());
    let line = "[INFO] HCCL(1,python): [opretry_server.cc:274] [9][OpRetry][Server]begin to exec retry of tag[a] from rank[0] and rank[3]";
    let script = format!("echo '{line}'; echo step; echo '{line}'; sleep 300");
    let with_log = RankLaunch {
        retry_log: Some(RetryLibrary::Hccl),
        ..launch(&["/bin/sh", "-c", &script])
    };
    server.want(|desired| {
        desired.ranks = vec![
            wish(&watched, RankWish::Run(Box::new(with_log))),
            run(&unwatched, &["/bin/sh", "-c", &script]),
        ];
    });
    let seen = || {
        server.observed("two retries", |observed| {
            let [retries] = &observed.retries[..] else {
                return None;
            };
            let [sighting] = &retries.sightings[..] else {
                return None;
            };
            let found = (retries.attempt == watched && sighting.count == 2).then_some(sighting);
            found.cloned()
        })
    };
    let first = seen();
    assert_eq!(first.outcome, RetryOutcome::Started);
    assert_eq!(first.link, "rank 0 - rank 3");
    assert_eq!(first.line, line);
    // Another agent reads the same output again, and counts the same.
    agent.end().expect("it ends");
    server.state().observed = None;
    let _agent = Agent::start(place.options(&server));
    assert_eq!(seen(), first);
    server.want(|desired| {
        let stop = || RankWish::Stop {
            grace_milliseconds: 0,
            why: "the test is over".into(),
        };
        desired.ranks = vec![wish(&watched, stop()), wish(&unwatched, stop())];
    });
    server.rank("its end", &watched, 0, end);
    server.rank("its end", &unwatched, 0, end);
}
