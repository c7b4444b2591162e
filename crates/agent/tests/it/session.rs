//! The connection of a whole agent to a real server, and everything that breaks in between.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use supernode_agent::options::JoinToken;
use supernode_agent::ranks::records::boot_id;
use supernode_agent::service::AgentError;
use supernode_agent::supervisor::lease::{LeaseFile, boottime_nanoseconds};
use supernode_types::job::{RankEnd, RankState};

use crate::agent::{Agent, Place, attempt, end, run, running};
use crate::server::{Authority, Server};
use crate::support::{alive, now, wait_for};

#[test]
fn an_agent_enrols_once_and_says_what_it_is() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    let place = Place::new(&authority);
    let agent = Agent::start(place.options(&server));
    let observed = server.observed("the inventory", |observed| {
        observed.inventory.is_some().then(|| observed.clone())
    });
    assert_eq!(
        (observed.boot_id.clone(), observed.address.as_str()),
        (boot_id(), "127.0.0.1")
    );
    assert_eq!(
        observed.inventory.expect("it was waited for").boot_id,
        boot_id()
    );
    assert_eq!(observed.ranks.len(), 0);
    assert_ne!(
        observed.environment_applied, 0,
        "it says that it is clean only after it has cleaned, which it does when it is told to"
    );
    let mode = std::fs::metadata(place.data().join("identity.pem"))
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    agent.end().expect("it ends well");
    let before = server.state().connections;
    let _agent = Agent::start(place.options(&server));
    wait_for("it to come back", || {
        (server.state().connections > before).then_some(())
    });
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
    let left = Duration::from_nanos(
        u64::try_from(first - boottime_nanoseconds()).expect("it is in the future"),
    );
    assert!(
        left > Duration::from_secs(5) && left <= Duration::from_secs(8),
        "{left:?}"
    );
    wait_for("it to be extended", || read().filter(|next| *next > first));
    server.state().acknowledges = false;
    // The last acknowledgement may still be under way: after three more syncs without one it no longer is.
    let heard = server.state().syncs.len();
    wait_for("three syncs", || {
        (server.state().syncs.len() >= heard + 3).then_some(())
    });
    let last = read().expect("it is there");
    let sent = server.state().syncs.len();
    wait_for("more syncs", || {
        (server.state().syncs.len() >= sent + 3).then_some(())
    });
    assert_eq!(
        read(),
        Some(last),
        "without an acknowledgement nothing is extended"
    );
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
    assert_eq!(
        server.rank("its end", &next, 0, end),
        RankEnd::Exited { code: 0 }
    );
    let took = now().saturating_sub(began);
    assert!(
        took < Duration::from_millis(1500),
        "a new job ended {took:?} after the server was killed"
    );
    println!("a new job had ended {took:?} after the server was killed");
    assert_eq!(
        server.rank("the first rank", &first, 0, |state| Some(state.clone())),
        RankState::Running
    );
    assert!(
        server
            .state()
            .observed
            .as_ref()
            .is_some_and(|observed| observed.inventory.is_some()),
        "everything is said anew"
    );
}

#[test]
fn a_server_that_falls_silent_is_left_and_connected_to_again() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    let place = Place::new(&authority);
    let _agent = Agent::start(place.options(&server));
    server.observed("a report", |_| Some(()));
    server.state().acknowledges = false;
    wait_for("another connection", || {
        (server.state().connections >= 2).then_some(())
    });
    server.state().acknowledges = true;
}

#[test]
fn another_authority_is_not_trusted() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = Server::start(&theirs);
    let place = Place::new(&ours);
    let error = Agent::start(place.options(&server))
        .outcome()
        .expect_err("it must not enrol");
    let text = supernode_agent::files::one_line(&error);
    assert!(text.contains("not trusted"), "{text}");
    assert_eq!(
        server.state().enrolments.len(),
        0,
        "the token was not shown"
    );

    // Nor later, by an agent that has its certificate.
    let good = Server::start(&ours);
    let agent = Agent::start(place.options(&good));
    good.observed("a report", |_| Some(()));
    agent.end().expect("it ends well");
    let failed = server.state().failed_handshakes;
    let _agent = Agent::start(place.options(&server));
    wait_for("several tries", || {
        (server.state().failed_handshakes >= failed + 3).then_some(())
    });
    assert_eq!(server.state().connections, 0);
}

#[test]
fn a_refused_token_ends_the_agent_and_a_refused_node_goes_on() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    let place = Place::new(&authority);
    let mut options = place.options(&server);
    options.join_token = JoinToken::Secret("used up".into());
    let error = Agent::start(options)
        .outcome()
        .expect_err("it must not enrol");
    let text = supernode_agent::files::one_line(&error);
    assert!(
        text.contains("refuses the node n1: the join token is used up"),
        "{text}"
    );
    let mut options = place.options(&server);
    options.join_token = JoinToken::None;
    let error = Agent::start(options)
        .outcome()
        .expect_err("it cannot enrol");
    assert!(
        error.to_string().contains("supernode join-token create"),
        "{error}"
    );

    let process = place.process(&server);
    server.observed("a report", |_| Some(()));
    server.state().refuses = true;
    let server = server.restarted();
    wait_for("a refusal", || (server.state().refusals > 0).then_some(()));
    server.state().refuses = false;
    wait_for("it to be let in again", || {
        (server.state().connections > 0).then_some(())
    });
    assert!(
        alive(process.pid()) && server.state().refusals == 1,
        "it asks slowly"
    );
}

#[test]
fn one_agent_for_one_data_directory() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    let place = Place::new(&authority);
    let _agent = Agent::start(place.options(&server));
    server.observed("a report", |_| Some(()));
    let error = Agent::start(place.options(&server))
        .outcome()
        .expect_err("there is one already");
    assert!(matches!(error, AgentError::AlreadyRuns { .. }), "{error}");
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

#[test]
#[ignore = "a measurement; AGENT_PROGRAM names an agent that was built for release"]
fn memory_of_an_idle_agent() {
    let authority = Authority::new();
    let server = Server::start(&authority);
    let place = Place::new(&authority);
    let process = place.process(&server);
    let mut heard = 0;
    for count in [1, 10, 50, 80] {
        wait_for("syncs", || {
            (server.state().syncs.len() >= heard + count).then_some(())
        });
        heard += count;
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid()))
            .expect("it runs");
        let numbers: Vec<&str> = rollup
            .lines()
            .filter(|line| {
                ["Rss:", "Pss:", "Pss_Anon:"]
                    .iter()
                    .any(|name| line.starts_with(name))
            })
            .collect();
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("it runs");
        let switches: Vec<&str> = status
            .lines()
            .filter(|line| line.contains("ctxt_switches") || line.starts_with("Threads"))
            .collect();
        println!("after {heard} syncs: {numbers:?} {switches:?}");
    }
}
