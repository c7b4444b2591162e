//! PyTorch training under `supernode run` while links between its ranks are down, flap, or lose packets: the weights are those of a run in
//! which nothing happened. Needs root, `ip`, and a python3 with torch; lost packets need `nft`. What is missing is said, and skipped.
//!
//! The ranks of the job enter a network namespace each. Two bridges in a third one are their lanes; a bridge that is down carries nothing, and
//! nobody sees a link go.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::Dev;

const LANES: usize = 2;
/// How often the training waits. The last time keeps it from ending before everything was broken.
const GATES: usize = 6;
const WAIT: Duration = Duration::from_mins(2);
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Two hosts and a switch; gone when dropped.
struct Net {
    prefix: String,
}

fn ip(arguments: &str) -> Output {
    let words = arguments.split(' ');
    Command::new("ip").args(words).output().expect("`ip` runs")
}

fn must(arguments: &str) {
    let output = ip(arguments);
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

impl Net {
    /// `None`, said aloud, where namespaces cannot be made.
    fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: network namespaces need root");
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let net = Self {
            prefix: format!("sno{}x{number}x", std::process::id()),
        };
        let (prefix, switch) = (&net.prefix, format!("{}s", net.prefix));
        let first = ip(&format!("netns add {switch}"));
        if !first.status.success() {
            println!("SKIPPED: no network namespaces here: {first:?}");
            return None;
        }
        for rank in 0..2 {
            must(&format!("netns add {prefix}{rank}"));
            must(&format!("-n {prefix}{rank} link set lo up"));
        }
        for lane in 0..LANES {
            must(&format!("-n {switch} link add br{lane} type bridge"));
            must(&format!("-n {switch} link set br{lane} up"));
            for rank in 0..2 {
                let host = format!("{prefix}{rank}");
                let port = format!("port{rank}{lane}");
                must(&format!(
                    "-n {host} link add eth{lane} type veth peer name {port} netns {switch}"
                ));
                must(&format!("-n {switch} link set {port} master br{lane}"));
                must(&format!("-n {switch} link set {port} up"));
                must(&format!(
                    "-n {host} addr add 10.78.{lane}.{}/24 dev eth{lane}",
                    rank + 1
                ));
                must(&format!("-n {host} link set eth{lane} up"));
            }
        }
        Some(net)
    }

    fn set_lane(&self, lane: usize, state: &str) {
        must(&format!("-n {}s link set br{lane} {state}", self.prefix));
    }

    fn set_lanes(&self, state: &str) {
        for lane in 0..LANES {
            self.set_lane(lane, state);
        }
    }

    /// A command inside the host of `rank`.
    fn inside(&self, rank: usize, words: &str) -> Output {
        let output = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}{rank}", self.prefix))
            .args(words.split(' '))
            .output();
        output.expect("`nsenter` runs")
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in ["0", "1", "s"] {
            // What was never made cannot be deleted.
            let _ = ip(&format!("netns del {}{host}", self.prefix));
        }
    }
}

/// A python3 with torch, said aloud if there is none.
fn python() -> Option<&'static str> {
    let has_torch = |python: &&str| {
        let found = Command::new(python)
            .args(["-c", "import torch.distributed"])
            .output();
        found.is_ok_and(|output| output.status.success())
    };
    let found = ["python3", "/usr/bin/python3"].into_iter().find(has_torch);
    if found.is_none() {
        println!("SKIPPED: no python3 with torch; on Debian: apt-get install python3-torch");
    }
    found
}

/// The library for C, which cargo builds beside this test.
fn library() -> PathBuf {
    let program = std::env::current_exe().expect("this binary has a path");
    let library = program.with_file_name("libsupernode_collectives.so");
    assert!(library.exists(), "{} is not there", library.display());
    library
}

/// A training that runs.
struct Training {
    child: Child,
    lines: Receiver<String>,
    /// Lines that came while nobody wanted them.
    early: VecDeque<String>,
    /// The gate that opens next.
    gate: usize,
    /// What was resumed before it.
    resumed: u64,
    /// Where the files are that it waits for.
    gates: tempfile::TempDir,
}

impl Training {
    fn start(dev: &Dev, net: &Net, python: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/it/train_through_outages.py")
            .display()
            .to_string();
        let prefix = &net.prefix;
        // All ranks are on this host; they must not notice.
        let line = format!(
            "export SUPERNODE_COLLECTIVE_SHARED_MEMORY=0 MASTER_ADDR=10.78.1.1 SUPERNODE_COLLECTIVE_ADDRESSES=10.78.0.$((RANK+1)),10.78.1.$((RANK+1)); exec nsenter --net=/run/netns/{prefix}$RANK {python} {script}"
        );
        let gates = tempfile::tempdir().expect("a temporary directory");
        let library = format!("SUPERNODE_COLLECTIVES_LIBRARY={}", library().display());
        let directory = format!("GATES={}", gates.path().display());
        let path = format!("PYTHONPATH={REPOSITORY}/python");
        let mut child = dev
            .command(&[
                "run",
                "--super-node",
                "train",
                "--nodes",
                "2",
                "--as-root",
                "--env",
                &library,
                "--env",
                &directory,
                "--env",
                &path,
                "--env",
                "PYTHONDONTWRITEBYTECODE=1",
                "--",
                "sh",
                "-c",
                &line,
            ])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let output = child.stdout.take().expect("it is a pipe");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            early: VecDeque::new(),
            gate: 0,
            resumed: 0,
            gates,
        }
    }

    /// A line of each rank with `word`, and the sum of what they have resumed.
    fn both(&mut self, word: &str) -> ([String; 2], u64) {
        let lines = [(); 2].map(|()| {
            loop {
                let early = self.early.pop_front();
                let line = early.or_else(|| self.lines.recv_timeout(WAIT).ok());
                let line = line.unwrap_or_else(|| panic!("no rank says `{word}`"));
                if line.contains(word) {
                    return line;
                }
            }
        });
        let resumed = lines.iter().map(|line| {
            let number = field(line, "resumed=").parse::<u64>();
            number.expect("a number")
        });
        let resumed = resumed.sum();
        (lines, resumed)
    }

    /// Lets both ranks go on to the next gate.
    fn open(&mut self) {
        fs::write(self.gates.path().join(self.gate.to_string()), "").expect("there is room");
        self.gate += 1;
    }

    /// Waits until both ranks are at the next gate; answers how many streams were resumed on the way.
    fn reached(&mut self) -> u64 {
        let (_, resumed) = self.both(&format!("gate={}", self.gate));
        resumed - std::mem::replace(&mut self.resumed, resumed)
    }

    /// Does something to both ranks on their way to the next gate, which it opens, and makes sure that they noticed.
    fn disturb(&mut self, what: &str, disturb: impl FnOnce(&mut Self)) {
        disturb(self);
        let resumed = self.reached();
        println!("{what}: {resumed} streams were resumed");
        assert!(resumed > 0, "{what}: nothing was disturbed");
    }

    /// For so long; nobody gets to the end meanwhile.
    #[expect(
        clippy::disallowed_methods,
        reason = "an outage lasts as long as it lasts"
    )]
    fn wait(&mut self, long: Duration) {
        let over = Instant::now() + long;
        while let Some(left) = over.checked_duration_since(Instant::now()) {
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    assert!(!line.contains("weights="), "it ended too early: {line}");
                    self.early.push_back(line);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("the job ended"),
            }
        }
    }

    /// The end of both ranks: the digest of their weights, which are the same, and how many streams were resumed in all.
    fn end(mut self) -> (String, u64) {
        while self.gate < GATES {
            self.open();
        }
        let (lines, resumed) = self.both("weights=");
        let status = self.child.wait().expect("it can be waited for");
        assert!(status.success(), "{status}: {lines:?}");
        let [first, second] = lines.each_ref().map(|line| field(line, "weights="));
        assert_eq!(first, second, "ranks have different weights");
        (first.to_owned(), resumed)
    }
}

/// What a line says behind `name`.
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let mut words = line.split_whitespace();
    let found = words.find_map(|word| word.strip_prefix(name));
    found.expect("it says that")
}

impl Drop for Training {
    fn drop(&mut self) {
        // It has usually ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Trains while `disturb` does something, and compares with a training in which nothing happens.
fn check(disturb: impl FnOnce(&Net, &mut Training)) {
    let (Some(python), Some(net)) = (python(), Net::new()) else {
        return;
    };
    let dev = Dev::start_with(2, &["--allow-root-jobs"]);
    dev.ok(&["super-node", "create", "train", "--nodes", "2", "--wait"]);
    let (wanted, resumed) = Training::start(&dev, &net, python).end();
    assert_eq!(resumed, 0, "nothing was disturbed");
    let mut training = Training::start(&dev, &net, python);
    training.reached();
    disturb(&net, &mut training);
    let (found, _) = training.end();
    assert_eq!(found, wanted, "other weights than without faults");
}

/// No link works on the way to the next gate until later.
fn outage(net: &Net, training: &mut Training, long: Duration) {
    training.disturb(&format!("{long:?} without a link"), |training| {
        net.set_lanes("down");
        training.open();
        training.wait(long);
        net.set_lanes("up");
    });
}

/// One training for all of it: to start PyTorch costs more than to train.
#[test]
fn training_survives_15_seconds_without_a_link_flaps_dead_lanes_and_dropped_packets() {
    check(|net, training| {
        outage(net, training, Duration::from_secs(15));
        training.disturb("a link that flaps", |training| {
            training.open();
            for _ in 0..5 {
                net.set_lanes("down");
                training.wait(Duration::from_millis(600));
                net.set_lanes("up");
                training.wait(Duration::from_millis(300));
            }
        });
        // Whichever lane the streams are on: first one is dead, then the other.
        let before = training.resumed;
        for lane in 0..LANES {
            net.set_lane(lane, "down");
            training.open();
            training.reached();
            net.set_lane(lane, "up");
        }
        assert!(training.resumed > before, "no stream changed its lane");
        if has_nft() {
            training.disturb("packets that are dropped", |training| {
                drop_packets(net, training);
            });
        }
    });
}

fn has_nft() -> bool {
    let version = Command::new("nft").arg("--version").output();
    let found = version.is_ok_and(|output| output.status.success());
    if !found {
        println!("SKIPPED: dropped packets: no nft; on Debian: apt-get install nftables");
    }
    found
}

/// Most acknowledgements are among them, so that paths look dead again and again.
fn drop_packets(net: &Net, training: &mut Training) {
    let nft = |words: &str| {
        let output = net.inside(0, &format!("nft {words}"));
        assert!(output.status.success(), "nft {words}: {output:?}");
    };
    nft("add table inet outage");
    nft("add chain inet outage input { type filter hook input priority 0 ; }");
    nft("add rule inet outage input iifname eth* numgen random mod 10 < 6 drop");
    training.open();
    training.wait(Duration::from_secs(3));
    nft("delete table inet outage");
}

#[test]
#[ignore = "takes more than a minute; `cargo xtask ci --only outages` runs it"]
fn training_survives_60_seconds_without_a_link() {
    check(|net, training| outage(net, training, Duration::from_mins(1)));
}
