//! A whole agent against a real server: enrolment, syncs, ranks, logs, and everything that breaks in between.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use supernode_agent::options::{AgentOptions, JoinToken};
use supernode_agent::ranks::SupervisorCommand;
use supernode_agent::ranks::records::boot_id;
use supernode_agent::service::{self, AgentError};
use supernode_agent::supervisor::lease::{LeaseFile, boottime_nanoseconds};
use supernode_types::agent::{DesiredRank, EnvironmentWish, RankLaunch, RankPlace, RankWish};
use supernode_types::entropy::SystemEntropy;
use supernode_types::environment::{EnvironmentDesired, EnvironmentFile, ItemCondition};
use supernode_types::job::{RankEnd, RankState};
use supernode_types::time::{Clock, SystemClock};
use supernode_types::{AttemptId, JobId};
use tokio::sync::oneshot;

use crate::server::{Authority, Server, TOKEN};
use crate::support::{alive, kill, now, supervisor_program, wait_for};

/// The data directory of an agent, and the file with the authority that it trusts.
struct Place {
    temporary: tempfile::TempDir,
}

impl Place {
    fn new(authority: &Authority) -> Self {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        // So that the user that jobs run as can reach its scratch directory.
        std::fs::set_permissions(temporary.path(), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        let place = Self { temporary };
        place.trust(authority);
        place
    }

    fn trust(&self, authority: &Authority) {
        std::fs::write(self.ca_file(), &authority.pem).expect("it is written");
    }

    fn ca_file(&self) -> PathBuf {
        self.temporary.path().join("ca.pem")
    }

    fn data(&self) -> PathBuf {
        self.temporary.path().join("data")
    }

    fn options(&self, server: &Server) -> AgentOptions {
        let name = "n1".parse().expect("a name");
        let mut options = AgentOptions::new(server.address.to_string(), self.ca_file(), name, "127.0.0.1".into(), self.data());
        options.join_token = JoinToken::Secret(TOKEN.into());
        options.system_root = self.data().join("root");
        options.supervisor = SupervisorCommand { program: supervisor_program(), arguments: Vec::new() };
        options
    }

    /// An agent as a process of its own.
    fn process(&self, server: &Server) -> Process {
        let program = supervisor_program().with_file_name("agent");
        let [server, ca_file, data] = [server.address.to_string(), self.ca_file().display().to_string(), self.data().display().to_string()];
        let child = Command::new(program).args([&server, &ca_file, TOKEN, "n1", &data]).stdin(Stdio::null()).spawn();
        Process(child.expect("the example is built"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Without a lease, nothing of a failed test goes on.
        let _ = std::fs::remove_file(self.data().join("lease"));
    }
}

struct Process(Child);

impl Process {
    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("process ids are small")
    }

    fn kill(mut self) {
        kill(self.pid(), 9);
        self.0.wait().expect("it has ended");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An agent in a thread of this process.
struct Agent {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<Result<(), AgentError>>>,
}

impl Agent {
    fn start(options: AgentOptions) -> Self {
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move { drop(stopped.await) };
        let run = move || service::run_to_end(options, Arc::new(SystemClock), Arc::new(SystemEntropy), shutdown);
        Self { stop: Some(stop), thread: Some(std::thread::spawn(run)) }
    }

    /// Waits until it has ended by itself.
    fn outcome(mut self) -> Result<(), AgentError> {
        wait_for("the end of the agent", || self.thread.as_ref().expect("it was started").is_finished().then_some(()));
        self.thread.take().expect("it was started").join().expect("it does not panic")
    }

    fn end(mut self) -> Result<(), AgentError> {
        drop(self.stop.take());
        self.outcome()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn attempt() -> AttemptId {
    AttemptId::new(SystemClock.now(), &SystemEntropy)
}

fn wish(attempt: &AttemptId, wish: RankWish) -> DesiredRank {
    let job = JobId::new(SystemClock.now(), &SystemEntropy);
    DesiredRank { attempt: attempt.clone(), job, rank: 0, boot_id: boot_id(), wish }
}

fn launch(arguments: &[&str]) -> RankLaunch {
    RankLaunch {
        arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
        environment: BTreeMap::from([("GREETING".into(), "hello".into()), ("RANK".into(), "never this".into())]),
        workdir: None,
        run_as_root: false,
        place: RankPlace {
            local_rank: 0,
            local_world_size: 1,
            node_rank: 3,
            nodes: 4,
            world_size: 4,
            master_address: "10.0.0.7".into(),
            master_port: 20_017,
            device: 0,
            devices: vec![0],
            restart_count: 0,
        },
        rank_table: None,
    }
}

fn run(attempt: &AttemptId, arguments: &[&str]) -> DesiredRank {
    wish(attempt, RankWish::Run(Box::new(launch(arguments))))
}

fn end(state: &RankState) -> Option<RankEnd> {
    match state {
        RankState::Ended { end, .. } => Some(end.clone()),
        RankState::Assigned | RankState::Running => None,
    }
}

fn running(state: &RankState) -> Option<()> {
    (*state == RankState::Running).then_some(())
}

#[test]
fn an_agent_enrols_once_and_says_what_it_is() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    let place = Place::new(&authority);
    let agent = Agent::start(place.options(&server));
    let observed = server.observed("the inventory", |observed| observed.inventory.is_some().then(|| observed.clone()));
    assert_eq!((observed.boot_id.clone(), observed.address.as_str()), (boot_id(), "127.0.0.1"));
    assert_eq!(observed.inventory.expect("it was waited for").boot_id, boot_id());
    assert_eq!((observed.environment_applied, observed.ranks.len()), (0, 0));
    let mode = std::fs::metadata(place.data().join("identity.pem")).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    agent.end().expect("it ends well");
    let before = server.state().connections;
    let _agent = Agent::start(place.options(&server));
    wait_for("it to come back", || (server.state().connections > before).then_some(()));
    assert_eq!(server.state().enrolments.len(), 1);
}

#[test]
fn a_lease_lasts_from_the_sending_of_an_acknowledged_sync() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    let place = Place::new(&authority);
    let _agent = Agent::start(place.options(&server));
    let lease = LeaseFile::new(place.data().join("lease"));
    let read = || lease.read().expect("it can be read");
    let first = wait_for("a lease", read);
    let left = Duration::from_nanos(u64::try_from(first - boottime_nanoseconds()).expect("it is in the future"));
    assert!(left > Duration::from_secs(5) && left <= Duration::from_secs(8), "{left:?}");
    wait_for("it to be extended", || read().filter(|next| *next > first));
    server.state().acknowledges = false;
    // The last acknowledgement may still be under way: after three more syncs without one it no longer is.
    let heard = server.state().syncs.len();
    wait_for("three syncs", || (server.state().syncs.len() >= heard + 3).then_some(()));
    let last = read().expect("it is there");
    let sent = server.state().syncs.len();
    wait_for("more syncs", || (server.state().syncs.len() >= sent + 3).then_some(()));
    assert_eq!(read(), Some(last), "without an acknowledgement nothing is extended");
}

#[test]
fn a_rank_runs_is_reported_and_its_output_is_read() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    let place = Place::new(&authority);
    let _agent = Agent::start(place.options(&server));
    let (echo, env, missing) = (attempt(), attempt(), attempt());
    server.want(|desired| {
        desired.ranks = vec![run(&echo, &["/bin/echo", "hällo"]), run(&env, &["/usr/bin/env"]), run(&missing, &["no-such-program"])];
    });
    assert_eq!(server.rank("its end", &echo, 0, end), RankEnd::Exited { code: 0 });
    assert_eq!(server.rank("its end", &env, 0, end), RankEnd::Exited { code: 0 });
    let RankEnd::NotStarted { why } = server.rank("its end", &missing, 0, end) else { panic!("there is no such program") };
    assert!(why.contains("no-such-program"), "{why}");

    let log = server.read_log(&echo, 0, 0).expect("it has output");
    assert_eq!((log.content.as_str(), log.next_offset, log.end), ("hällo\n", 7, true));
    assert_eq!(server.read_log(&echo, 0, 3).expect("it has output").content, "llo\n");
    let variables = server.read_log(&env, 0, 0).expect("it has output").content;
    let lines: Vec<&str> = variables.lines().collect();
    for line in ["GREETING=hello", "RANK=0", "WORLD_SIZE=4", "NODE_RANK=3", "MASTER_ADDR=10.0.0.7", "MASTER_PORT=20017", "LANG=C.UTF-8"] {
        assert!(lines.contains(&line), "{line} in {lines:?}");
    }
    assert!(lines.iter().any(|line| line.starts_with("PATH=/usr/local/sbin:")));
    assert!(!lines.iter().any(|line| line.starts_with("CARGO")), "nothing of the agent's own environment: {lines:?}");
    let gone = server.read_log(&attempt(), 0, 0).expect_err("it never was here");
    assert!(gone.contains("never ran here"), "{gone}");

    // The server forgets them; their output can still be read.
    server.want(|desired| desired.ranks.clear());
    server.observed("nothing to report", |observed| observed.ranks.is_empty().then_some(()));
    assert_eq!(server.read_log(&echo, 0, 0).expect("it is kept").content, "hällo\n");
}

#[test]
fn jobs_run_unprivileged_and_only_where_they_may() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    let place = Place::new(&authority);
    let _agent = Agent::start(place.options(&server));
    let (user, root, nowhere) = (attempt(), attempt(), attempt());
    let as_root = RankLaunch { run_as_root: true, ..launch(&["/bin/true"]) };
    let in_nowhere = RankLaunch { workdir: Some("/no/such/place".into()), ..launch(&["/bin/true"]) };
    server.want(|desired| {
        let touch = run(&user, &["/bin/sh", "-c", "id -u; pwd; touch mine; ls -ld ."]);
        desired.ranks = vec![touch, wish(&root, RankWish::Run(Box::new(as_root))), wish(&nowhere, RankWish::Run(Box::new(in_nowhere)))];
    });
    assert_eq!(server.rank("its end", &user, 0, end), RankEnd::Exited { code: 0 });
    let output = server.read_log(&user, 0, 0).expect("it has output").content;
    let mut lines = output.lines();
    let uid = lines.next().expect("its user").to_owned();
    assert_eq!(uid == "0", false, "it must not be root");
    assert!(lines.next().expect("its directory").ends_with(&format!("work/{user}/scratch")), "{output}");
    let RankEnd::NotStarted { why } = server.rank("its end", &root, 0, end) else { panic!("it must not start") };
    assert!(why.contains("--allow-root-jobs"), "{why}");
    let RankEnd::NotStarted { why } = server.rank("its end", &nowhere, 0, end) else { panic!("it cannot start") };
    assert!(why.contains("/no/such/place does not exist"), "{why}");
}

#[test]
fn a_rank_is_stopped_when_it_is_asked_for_and_when_it_is_not_wanted_any_more() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    let place = Place::new(&authority);
    let _agent = Agent::start(place.options(&server));
    let (asked, unlisted, never) = (attempt(), attempt(), attempt());
    server.want(|desired| desired.ranks = vec![run(&asked, &["/bin/sleep", "600"]), run(&unlisted, &["/bin/sleep", "600"])]);
    server.rank("it to run", &asked, 0, running);
    server.rank("it to run", &unlisted, 0, running);
    let stop = || RankWish::Stop { grace_milliseconds: 10_000, why: "the job was cancelled".into() };
    server.want(|desired| desired.ranks = vec![wish(&asked, stop()), wish(&never, stop())]);
    for attempt in [&asked, &unlisted, &never] {
        assert_eq!(server.rank("its end", attempt, 0, end), RankEnd::Stopped { code: 143 });
    }
}

#[test]
fn a_server_that_comes_back_is_found_at_once() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    let place = Place::new(&authority);
    let _agent = Agent::start(place.options(&server));
    let first = attempt();
    server.want(|desired| desired.ranks = vec![run(&first, &["/bin/sleep", "600"])]);
    server.rank("it to run", &first, 0, running);
    let began = now();
    let server = server.restarted();
    let next = attempt();
    server.want(|desired| desired.ranks.push(run(&next, &["/bin/true"])));
    assert_eq!(server.rank("its end", &next, 0, end), RankEnd::Exited { code: 0 });
    let took = now() - began;
    assert!(took < Duration::from_millis(1500), "a new job ended {took:?} after the server was killed");
    println!("a new job had ended {took:?} after the server was killed");
    assert_eq!(server.rank("the first rank", &first, 0, |state| Some(state.clone())), RankState::Running);
    assert!(server.state().observed.as_ref().is_some_and(|observed| observed.inventory.is_some()), "everything is said anew");
}

#[test]
fn a_server_that_falls_silent_is_left_and_connected_to_again() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    let place = Place::new(&authority);
    let _agent = Agent::start(place.options(&server));
    server.observed("a report", |_| Some(()));
    server.state().acknowledges = false;
    wait_for("another connection", || (server.state().connections >= 2).then_some(()));
    server.state().acknowledges = true;
}

#[test]
fn another_authority_is_not_trusted() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = Server::start(&theirs);
    let place = Place::new(&ours);
    let error = Agent::start(place.options(&server)).outcome().expect_err("it must not enrol");
    let text = supernode_agent::files::one_line(&error);
    assert!(text.contains("not trusted"), "{text}");
    assert_eq!(server.state().enrolments.len(), 0, "the token was not shown");

    // Nor later, by an agent that has its certificate.
    let good = Server::start(&ours);
    let agent = Agent::start(place.options(&good));
    good.observed("a report", |_| Some(()));
    agent.end().expect("it ends well");
    let failed = server.state().failed_handshakes;
    let _agent = Agent::start(place.options(&server));
    wait_for("several tries", || (server.state().failed_handshakes >= failed + 3).then_some(()));
    assert_eq!(server.state().connections, 0);
}

#[test]
fn a_refused_token_ends_the_agent_and_a_refused_node_goes_on() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    let place = Place::new(&authority);
    let mut options = place.options(&server);
    options.join_token = JoinToken::Secret("used up".into());
    let error = Agent::start(options).outcome().expect_err("it must not enrol");
    let text = supernode_agent::files::one_line(&error);
    assert!(text.contains("refuses the node n1: the join token is used up"), "{text}");
    let mut options = place.options(&server);
    options.join_token = JoinToken::None;
    let error = Agent::start(options).outcome().expect_err("it cannot enrol");
    assert!(error.to_string().contains("supernode join-token create"), "{error}");

    let process = place.process(&server);
    server.observed("a report", |_| Some(()));
    server.state().refuses = true;
    let server = server.restarted();
    wait_for("a refusal", || (server.state().refusals > 0).then_some(()));
    server.state().refuses = false;
    wait_for("it to be let in again", || (server.state().connections > 0).then_some(()));
    assert!(alive(process.pid()) && server.state().refusals == 1, "it asks slowly");
}

#[test]
fn starts_and_ends_are_quick() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    server.state().interval = Duration::from_secs(1);
    let place = Place::new(&authority);
    let _agent = Agent::start(place.options(&server));
    server.observed("the inventory", |observed| observed.inventory.as_ref().map(drop));
    let mut starts = Vec::new();
    let mut ends = Vec::new();
    for _ in 0..10 {
        let first = attempt();
        let told = SystemClock.now();
        server.want(|desired| desired.ranks = vec![run(&first, &["/bin/sh", "-c", "while [ ! -e go ]; do sleep 0.002; done"])]);
        server.rank("it to run", &first, 0, running);
        let started: serde_json::Value =
            serde_json::from_slice(&std::fs::read(place.data().join(format!("ranks/{first}.0/started.json"))).expect("it was started")).expect("a record");
        starts.push(started["started_at_micros"].as_i64().expect("a moment") - told.0);
        std::fs::write(scratch(&place.data(), &first).join("go"), "").expect("it is written");
        server.rank("its end", &first, 0, end);
        let reported = SystemClock.now();
        let exit: serde_json::Value =
            serde_json::from_slice(&std::fs::read(place.data().join(format!("ranks/{first}.0/exit.json"))).expect("it has ended")).expect("a record");
        ends.push(reported.0 - exit["ended_at_micros"].as_i64().expect("a moment"));
    }
    starts.sort_unstable();
    ends.sort_unstable();
    println!("microseconds from being told to the start of the program: {starts:?}; from its end to the report: {ends:?}");
    assert!(starts[5] < 500_000 && ends[5] < 500_000, "half of them");
}

#[test]
fn one_agent_for_one_data_directory() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    let place = Place::new(&authority);
    let _agent = Agent::start(place.options(&server));
    server.observed("a report", |_| Some(()));
    let error = Agent::start(place.options(&server)).outcome().expect_err("there is one already");
    assert!(matches!(error, AgentError::AlreadyRuns { .. }), "{error}");
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
    server.want(|desired| desired.ranks = vec![run(&long, &["/bin/sh", "-c", script]), run(&short, &["/bin/sh", "-c", until_short])]);
    server.rank("it to run", &long, 0, running);
    server.rank("it to run", &short, 0, running);
    let started = |attempt: &AttemptId| std::fs::read(place.data().join(format!("ranks/{attempt}.0/started.json"))).expect("it was started");
    let before = started(&long);
    process.kill();
    // One goes on without an agent, the other ends without one.
    std::fs::write(scratch(&place.data(), &short).join("go"), "").expect("it is written");
    wait_for("the end of a rank", || place.data().join(format!("ranks/{short}.0/exit.json")).exists().then_some(()));
    server.state().observed = None;

    let process = place.process(&server);
    assert_eq!(server.rank("its end", &short, 0, end), RankEnd::Exited { code: 0 });
    server.rank("it to run", &long, 0, running);
    assert_eq!(started(&long), before, "it is the same one");
    // Told again, it is not started again.
    server.want(|_| {});
    std::fs::write(scratch(&place.data(), &long).join("go"), "").expect("it is written");
    let state = server.rank("its end", &long, 0, |state| state.ended().then(|| state.clone()));
    let RankState::Ended { end, last_lines } = state else { panic!("it was waited for") };
    assert_eq!((end, last_lines), (RankEnd::Exited { code: 7 }, vec!["began".to_owned(), "ended".to_owned()]));
    assert_eq!(server.read_log(&long, 0, 0).expect("it has output").content, "began\nended\n");
    process.kill();
}

fn scratch(data: &Path, attempt: &AttemptId) -> PathBuf {
    data.join("work").join(attempt.as_str()).join("scratch")
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
        files: vec![EnvironmentFile { path: "/etc/app.conf".into(), mode: "0644".into(), content: "x=1\n".into() }],
        sysctls: BTreeMap::new(),
        required_versions: BTreeMap::from([("kernel".into(), ">=1000".into())]),
    };
    server.want(|desired| desired.environment = EnvironmentWish::Have(Box::new(environment)));
    let observed = server.observed("it to be applied", |observed| (observed.environment_applied == 4).then(|| observed.clone()));
    let problems: Vec<String> = observed.environment_items.iter().filter_map(supernode_types::environment::ItemState::problem).collect();
    assert!(matches!(&problems[..], [kernel] if kernel.contains("kernel")), "{problems:?}");
    let file = place.data().join("root/etc/app.conf");
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "x=1\n");

    // Drift, found by the look with which every agent begins.
    agent.end().expect("it ends well");
    std::fs::write(&file, "x=2\n").expect("it is written");
    let known = server.state().syncs.len();
    let _agent = Agent::start(place.options(&server));
    wait_for("the drift to be reported", || {
        let state = server.state();
        let items = state.syncs[known..].iter().filter_map(|(_, sync)| sync.observed.as_ref()).flat_map(|observed| &observed.environment_items);
        let drifted = items.into_iter().any(|item| matches!(item.state, ItemCondition::Drifted { .. }));
        drifted.then_some(())
    });
    wait_for("the repair", || (std::fs::read_to_string(&file).ok()? == "x=1\n").then_some(()));
    server.want(|desired| desired.environment = EnvironmentWish::Clean);
    server.observed("it to be clean", |observed| (observed.environment_applied == 0).then_some(()));
    assert!(!file.exists());
}

#[test]
fn a_certificate_is_renewed_before_it_ends() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    server.state().certificate_lifetime = Duration::from_secs(3);
    let place = Place::new(&authority);
    let _agent = Agent::start(place.options(&server));
    server.observed("a report", |_| Some(()));
    wait_for("two renewals, each with a new connection", || {
        let state = server.state();
        (state.renewals >= 2 && state.connections >= 3).then_some(())
    });
    assert_eq!(server.state().enrolments.len(), 1);
}
