//! Real links between network namespaces: sockets killed, one lane dead, all lanes dead for 15 seconds. Needs root, `ip` and `ss`.
//!
//! Two hosts, and a switch with a bridge for each lane. A bridge that is down carries nothing, and neither host sees its link go: the worst case.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::part::{Part, Stage};

const LANES: usize = 2;

/// Two hosts and a switch; gone when dropped.
struct Net {
    prefix: String,
}

fn ip(arguments: &str) -> Output {
    let words: Vec<&str> = arguments.split(' ').collect();
    Command::new("ip").args(words).output().expect("`ip` runs")
}

fn must(arguments: &str) {
    let output = ip(arguments);
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

/// Removes what killed tests have left behind.
fn remove_leftovers() {
    let Ok(names) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for name in names
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        let owner = name
            .strip_prefix("snc")
            .and_then(|rest| rest.split_once('x'));
        if owner.is_some_and(|(owner, _)| !std::path::Path::new("/proc").join(owner).exists()) {
            // Another test may have been faster.
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

impl Net {
    /// `None`, said aloud, where namespaces cannot be made.
    fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: network namespaces need root");
            return None;
        }
        remove_leftovers();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let net = Self {
            prefix: format!("snc{}x{number}", std::process::id()),
        };
        let first = ip(&format!("netns add {}", net.name("s")));
        if !first.status.success() {
            println!("SKIPPED: no network namespaces here: {first:?}");
            return None;
        }
        let switch = net.name("s");
        for host in ["a", "b"] {
            must(&format!("netns add {}", net.name(host)));
            must(&format!("-n {} link set lo up", net.name(host)));
        }
        for lane in 0..LANES {
            must(&format!("-n {switch} link add br{lane} type bridge"));
            must(&format!("-n {switch} link set br{lane} up"));
            for (index, host) in ["a", "b"].into_iter().enumerate() {
                let name = net.name(host);
                let port = format!("{host}{lane}");
                must(&format!(
                    "-n {name} link add eth{lane} type veth peer name {port} netns {switch}"
                ));
                must(&format!("-n {switch} link set {port} master br{lane}"));
                must(&format!("-n {switch} link set {port} up"));
                must(&format!(
                    "-n {name} addr add 10.77.{lane}.{}/24 dev eth{lane}",
                    index + 1
                ));
                must(&format!("-n {name} link set eth{lane} up"));
            }
        }
        Some(net)
    }

    fn name(&self, host: &str) -> String {
        format!("{}{host}", self.prefix)
    }

    /// Whether a lane carries anything.
    fn set_lane(&self, lane: usize, state: &str) {
        must(&format!("-n {} link set br{lane} {state}", self.name("s")));
    }

    fn start(&self, lanes: usize) -> Vec<Part> {
        let enter = |host| {
            vec![
                "nsenter".to_owned(),
                format!("--net=/run/netns/{}", self.name(host)),
            ]
        };
        let both = ["10.77.0.1,10.77.1.1", "10.77.0.2,10.77.1.2"];
        let one = ["10.77.0.1", "10.77.0.2"];
        Part::start_all(&Stage {
            enter: vec![enter("a"), enter("b")],
            root: "10.77.0.1:7700".parse().expect("it is an address"),
            addresses: if lanes == 1 {
                one.to_vec()
            } else {
                both.to_vec()
            },
            shares_memory: false,
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in ["a", "b", "s"] {
            // What was never made cannot be deleted.
            let _ = ip(&format!("netns del {}", self.name(host)));
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test says how long a real repair took"
)]
fn since(before: Option<Instant>) -> (Instant, Duration) {
    let now = Instant::now();
    (
        now,
        before.map_or(Duration::ZERO, |before| now.duration_since(before)),
    )
}

#[test]
fn killed_sockets_are_replaced() {
    let Some(net) = Net::new() else {
        return;
    };
    let ranks = net.start(1);
    for rank in &ranks {
        rank.round();
    }
    let mut before = ranks[0].round();
    for _ in 0..5 {
        // Everything that this host has connected to the other, whatever it carries.
        let output = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", net.name("a")))
            .args(["ss", "-K", "-t", "dst", "10.77.0.2"])
            .output()
            .expect("`ss` runs");
        assert!(output.status.success(), "{output:?}");
        let mut after = ranks[0].round();
        while after.resumed == before.resumed {
            assert!(after.number < before.number + 10_000, "nothing was killed");
            after = ranks[0].round();
        }
        before = after;
    }
    println!("killed sockets: {before:?}");
}

#[test]
fn a_dead_lane_is_left_for_another() {
    let Some(net) = Net::new() else {
        return;
    };
    let ranks = net.start(2);
    for rank in &ranks {
        rank.round();
    }
    net.set_lane(0, "down");
    let (cut, _) = since(None);
    let mut round = ranks[0].round();
    while round.switched == 0 {
        round = ranks[0].round();
    }
    let (_, took) = since(Some(cut));
    println!("lane switch: {took:?} from the cut to the end of the operator, {round:?}");
    // And it stays there.
    for _ in 0..3 {
        ranks[1].round();
    }
}

#[test]
fn all_lanes_may_be_dead_for_15_seconds() {
    let Some(net) = Net::new() else {
        return;
    };
    let ranks = net.start(2);
    for rank in &ranks {
        rank.round();
    }
    for lane in 0..LANES {
        net.set_lane(lane, "down");
    }
    let last = ranks[0].silence(Duration::from_secs(15));
    for lane in 0..LANES {
        net.set_lane(lane, "up");
    }
    let (returned, _) = since(None);
    let after = ranks[0].round();
    let (_, took) = since(Some(returned));
    println!(
        "15 s of silence: {took:?} from the return to the end of the operator, {last:?}, {after:?}"
    );
    assert!(after.resumed > 0, "{after:?}");
    for rank in &ranks {
        for _ in 0..3 {
            rank.round();
        }
    }
}
