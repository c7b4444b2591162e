//! Real processes: stopped, continued, killed. Each rank is this test binary again, told its part by its environment.

use std::io::{BufRead, BufReader, Lines};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use supernode_collectives::element::{DataType, Reduction};
use supernode_collectives::group::{Card, Group, Inbox, Membership, Roster, WINDOW};
use supernode_collectives::node::Timing;
use supernode_collectives::operator::{Kind, Operator};

use crate::real::{listener, secret};

const PART: &str = "SUPERNODE_COLLECTIVES_TEST_PART";
const WAIT: Duration = Duration::from_mins(1);

/// Not a test: what the other tests start. Prints a line for each operator, and how it ended.
#[test]
fn part() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    let words: Vec<&str> = part.split(' ').collect();
    let [root, rank, world, carrier] = words[..] else {
        panic!("a part has four words")
    };
    let root: SocketAddr = root.parse().expect("an address");
    let (rank, world): (usize, usize) = (
        rank.parse().expect("a rank"),
        world.parse().expect("a count"),
    );
    let own = listener();
    let inbox = (carrier == "memory").then(|| Inbox::new(world).expect("memory files exist"));
    let card = Card {
        lanes: vec![own.local_addr().expect("it is bound")],
        location: inbox.as_ref().and_then(Inbox::location),
    };
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let roster = if rank == 0 {
        let root = std::net::TcpListener::bind(root).expect("the port is free");
        Roster::collect(&root, &secret(5), card, world, WAIT)
    } else {
        Roster::ask(root, loopback, &secret(5), rank, &card, world, WAIT)
    };
    let group = Group::join(Membership {
        rank,
        secret: secret(5),
        listeners: vec![own],
        roster: roster.expect("they find each other"),
        inbox,
        window: WINDOW,
        timing: Timing::usual(),
    })
    .expect("sockets work");
    for round in 0_u32.. {
        // Enough bytes to fill every buffer on the way, so that a stopped rank is felt.
        let mut numbers = vec![0; 16 << 20];
        let value = (round + u32::try_from(rank).expect("a small rank")).to_ne_bytes();
        numbers.as_chunks_mut::<4>().0.fill(value);
        let kind = Kind::AllReduce {
            reduction: Reduction::Sum,
        };
        let operator = Operator::new(kind, DataType::I32, 4 << 20);
        if let Err(error) = group.run_in_place(operator, &mut numbers) {
            println!("\nfailed: {error}");
            return;
        }
        let small = u32::try_from(world).expect("a small group");
        let wanted = (small * round + small * (small - 1) / 2).to_ne_bytes();
        assert!(
            numbers
                .as_chunks::<4>()
                .0
                .iter()
                .all(|number| *number == wanted)
        );
        println!("\nround {round} broken {}", group.statistics().broken);
    }
}

struct Rank {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Rank {
    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are small"))
            .expect("not zero")
    }

    /// The next line that begins with `word`.
    fn next(&mut self, word: &str) -> String {
        loop {
            let line = self
                .lines
                .next()
                .expect("the rank goes on")
                .expect("it writes text");
            if line.starts_with(word) {
                return line;
            }
        }
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(world: usize, carrier: &str) -> Vec<Rank> {
    let root = listener().local_addr().expect("it is bound");
    let rank = |rank: usize| {
        let mut child = Command::new(std::env::current_exe().expect("this binary has a path"))
            .args(["processes::part", "--exact", "--nocapture"])
            .env(PART, format!("{root} {rank} {world} {carrier}"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("this binary runs");
        let output = child.stdout.take().expect("it is a pipe");
        Rank {
            lines: BufReader::new(output).lines(),
            child,
        }
    };
    (0..world).map(rank).collect()
}

fn stopped_and_continued(carrier: &str) {
    let mut ranks = start(2, carrier);
    ranks[0].next("round 0 ");
    ranks[1].next("round 0 ");
    let second = ranks[1].pid();
    kill_process(second, Signal::STOP).expect("it runs");
    // Rank 0 gets stuck within a few rounds: it may not go on without rank 1, and longer than any path may be quiet.
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let first = &mut ranks[0];
        scope.spawn(move || while sender.send(first.next("round")).is_ok() {});
        while receiver.recv_timeout(Duration::from_millis(1500)).is_ok() {}
        kill_process(second, Signal::CONT).expect("it is stopped");
        for _ in 0..3 {
            let line = receiver.recv_timeout(WAIT).expect("it goes on");
            assert!(
                line.ends_with("broken 0"),
                "slow was taken for broken: {line}"
            );
        }
        drop(receiver);
    });
}

#[test]
fn a_stopped_process_is_waited_for_and_nothing_is_reconnected() {
    stopped_and_continued("sockets");
    stopped_and_continued("memory");
}

fn killed(carrier: &str) {
    let mut ranks = start(3, carrier);
    for rank in &mut ranks {
        rank.next("round 0 ");
    }
    kill_process(ranks[1].pid(), Signal::KILL).expect("it runs");
    for rank in [0, 2] {
        let line = ranks[rank].next("failed");
        assert!(
            line.contains("rank 1 is gone"),
            "{carrier}, rank {rank}: {line}"
        );
    }
}

#[test]
fn a_killed_process_is_named_on_every_other_rank() {
    killed("sockets");
    killed("memory");
}
