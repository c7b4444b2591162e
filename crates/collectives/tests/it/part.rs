//! The program that tests run as real processes: this test binary again, told its part by its environment.
//!
//! Each rank runs all-reduces of 16 MiB in a loop, checks every number, and prints a line for each, until it is killed or the group stops.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use supernode_collectives::element::{DataType, Reduction};
use supernode_collectives::group::Environment;
use supernode_collectives::group::environment::{ADDRESSES, GROUP, KEY, ROOT, SHARED_MEMORY};
use supernode_collectives::operator::{Kind, Operator};

const PART: &str = "SUPERNODE_COLLECTIVES_TEST_PART";
pub(crate) const WAIT: Duration = Duration::from_mins(1);
/// Enough bytes to fill every buffer on the way, so that a rank that stands still is felt.
const NUMBERS: usize = 4 << 20;

/// Not a test: what the other tests start.
#[test]
fn main() {
    if std::env::var(PART).is_err() {
        return;
    }
    // The test holds the other end: a test that is killed leaves nothing behind.
    thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let environment =
        Environment::read(|name| std::env::var(name).ok()).expect("the variables are set");
    let group = environment.join(WAIT).expect("the ranks find each other");
    let small = |number: usize| i32::try_from(number).expect("a small group");
    let (rank, world) = (small(group.rank()), small(group.world()));
    let mut numbers = vec![0; 4 * NUMBERS];
    for round in 0_i32.. {
        numbers
            .as_chunks_mut::<4>()
            .0
            .fill((round + rank).to_ne_bytes());
        let kind = Kind::AllReduce {
            reduction: Reduction::Sum,
        };
        let operator = Operator::new(kind, DataType::I32, NUMBERS);
        if let Err(error) = group.run_in_place(operator, &mut numbers) {
            println!("\nfailed: {error}");
            return;
        }
        let wanted = (world * round + world * (world - 1) / 2).to_ne_bytes();
        assert!(
            numbers
                .as_chunks::<4>()
                .0
                .iter()
                .all(|number| *number == wanted)
        );
        let statistics = group.statistics();
        println!(
            "\nround {round} broken {} resumed {} switched {}",
            statistics.broken, statistics.resumed, statistics.lane_switches
        );
    }
}

/// Where and how a group of parts runs.
pub(crate) struct Stage<'a> {
    /// Words before the program, such as `nsenter`, by rank.
    pub(crate) enter: Vec<Vec<String>>,
    pub(crate) root: SocketAddr,
    /// By rank.
    pub(crate) addresses: Vec<&'a str>,
    pub(crate) shares_memory: bool,
}

/// A rank that runs.
pub(crate) struct Part {
    child: Child,
    lines: Receiver<String>,
}

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Round {
    pub(crate) number: u64,
    pub(crate) broken: u64,
    pub(crate) resumed: u64,
    pub(crate) switched: u64,
}

impl Part {
    pub(crate) fn start_all(stage: &Stage<'_>) -> Vec<Self> {
        let world = stage.addresses.len();
        let program = std::env::current_exe().expect("this binary has a path");
        let start = |rank: usize| {
            let mut words = stage.enter[rank].clone();
            words.push(program.display().to_string());
            let mut child = Command::new(&words[0])
                .args(&words[1..])
                .args(["part::main", "--exact", "--nocapture"])
                .env(PART, "")
                .env("RANK", rank.to_string())
                .env("WORLD_SIZE", world.to_string())
                .env(ROOT, stage.root.to_string())
                .env(KEY, "5a".repeat(32))
                .env(GROUP, "test")
                .env(ADDRESSES, stage.addresses[rank])
                .env(SHARED_MEMORY, if stage.shares_memory { "1" } else { "0" })
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("this binary runs");
            let output = child.stdout.take().expect("it is a pipe");
            let (sender, lines) = channel();
            thread::spawn(move || {
                let mut lines = BufReader::new(output).lines();
                while let Some(Ok(line)) = lines.next() {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
            Self { child, lines }
        };
        (0..world).map(start).collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("process ids are small");
        kill_process(Pid::from_raw(id).expect("not zero"), signal).expect("it runs");
    }

    /// The next line that begins with `word`.
    pub(crate) fn line(&self, word: &str) -> String {
        loop {
            let line = self
                .lines
                .recv_timeout(WAIT)
                .expect("the rank says something");
            if line.starts_with(word) {
                return line;
            }
        }
    }

    /// The next round.
    pub(crate) fn round(&self) -> Round {
        parse(&self.line("round"))
    }

    /// Waits until it has said nothing for so long, and gives the last round that it ended, if any.
    pub(crate) fn silence(&self, long: Duration) -> Option<Round> {
        let mut last = None;
        loop {
            match self.lines.recv_timeout(long) {
                Ok(line) if line.starts_with("round") => last = Some(parse(&line)),
                Ok(line) => assert!(line.is_empty(), "{line}"),
                Err(RecvTimeoutError::Timeout) => return last,
                Err(RecvTimeoutError::Disconnected) => panic!("the rank ended"),
            }
        }
    }
}

fn parse(line: &str) -> Round {
    let numbers: Vec<u64> = line
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    let [number, broken, resumed, switched] = numbers[..] else {
        panic!("no round: {line}")
    };
    Round {
        number,
        broken,
        resumed,
        switched,
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
