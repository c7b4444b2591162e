//! Random groups, operators and faults. Each seed is one run; a failure names its seed.
//!
//! `SUPERNODE_COLLECTIVES_SEEDS` sets how many (10,000 if not set), `SUPERNODE_COLLECTIVES_SEED` runs one alone.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use supernode_collectives::element::DataType;
use supernode_collectives::engine::Limits;
use supernode_collectives::failure::Failure;
use supernode_collectives::handshake::Secret;
use supernode_collectives::memory::{Buffer, Input, Memory};
use supernode_collectives::node::{Carrier, Config, Node, Route, Statistics, Timing};
use supernode_collectives::operator::{Kind, Operator};

use crate::network::{Fault, Network, micros};
use crate::random::Random;
use crate::workload::Work;

const LIMIT: Duration = Duration::from_mins(2);

const fn keeps_little(seed: u64) -> bool {
    seed % 4 == 3
}

fn node(rank: usize, world: usize, lanes: usize, epoch: u64, seed: u64, now: Duration) -> Node {
    // Where there is little room for copies, an operator may be lost for good; then all ranks have to say so.
    let inputs = if keeps_little(seed) { 200 } else { 1 << 20 };
    let route = Route {
        lanes,
        carrier: Carrier::Connections,
    };
    let mut nonces = Random::new(seed ^ (rank as u64) << 32 ^ epoch);
    let config = Config {
        rank,
        routes: vec![route; world],
        secret: Secret::new(&[3; 32], [4; 16], epoch),
        limits: Limits {
            window: 700,
            inputs,
        },
        max_retries: 10,
        timing: Timing {
            heartbeat: Duration::from_millis(400),
            ..Timing::usual()
        },
    };
    Node::new(config, now, move || {
        (u128::from(nonces.next()) << 64 | u128::from(nonces.next())).to_le_bytes()
    })
}

/// What is going to happen.
struct Plan {
    world: usize,
    works: Vec<Work>,
    /// When each rank submits each operator.
    submissions: Vec<(Duration, usize, usize)>,
    faults: Vec<(Duration, Fault)>,
    has_leftover: bool,
}

fn plan(random: &mut Random, lanes: usize) -> Plan {
    let world = 1 + random.below(5);
    let works: Vec<Work> = (0..=random.below(5))
        .map(|_| Work::random(world, 150, random))
        .collect();
    let mut submissions = Vec::new();
    for rank in 0..world {
        let mut at = 0;
        for (index, work) in works.iter().enumerate() {
            // Mostly at once, sometimes much later than the others.
            at += match random.below(4) {
                0 => random.below(200_000),
                1 => random.below(3000),
                _ => 0,
            };
            if work.calls[rank].is_some() {
                submissions.push((micros(at as u64), rank, index));
            }
        }
    }
    submissions.sort();
    let mut faults = Vec::new();
    for _ in 0..random.below(9) {
        let at = micros(if random.once_in(2) {
            random.below(8000)
        } else {
            random.below(400_000)
        } as u64);
        let process = random.below(world);
        let longest = if random.once_in(3) { 1_500_000 } else { 60_000 };
        let length = micros(1000 + random.below(longest) as u64);
        let fault = match random.below(14) {
            0..=3 => Fault::Break,
            4 | 5 => {
                let (b, lane) = (random.below(world), random.below(lanes));
                Fault::Silence {
                    a: process,
                    b,
                    lane,
                    length,
                }
            }
            6 => Fault::Stop { process, length },
            7 => Fault::FalseAlarm,
            8 => Fault::Stranger { process },
            9 | 10 => Fault::Damage,
            11 | 12 => Fault::LoseWindow {
                process,
                peer: random.below(world),
            },
            _ => Fault::Replay { process },
        };
        faults.push((at, fault));
    }
    faults.sort_by_key(|(at, _)| *at);
    Plan {
        world,
        works,
        submissions,
        faults,
        has_leftover: random.once_in(8),
    }
}

/// What happened to connections, and whether the group failed as it may.
fn run(seed: u64) -> (Statistics, u64) {
    let mut random = Random::new(seed);
    let lanes = 1 + random.below(3);
    let delays = (0..lanes)
        .map(|_| micros(20 + random.below(900) as u64))
        .collect();
    let Plan {
        world,
        works,
        mut submissions,
        mut faults,
        has_leftover,
    } = plan(&mut random, lanes);
    let mut network = Network::new(random, delays, true, None);
    for rank in 0..world {
        network.add(node(rank, world, lanes, 9, seed, Duration::ZERO), true);
    }
    if has_leftover && world > 1 {
        let mut leftover = node(0, world, lanes, 8, seed, Duration::ZERO);
        let operator = Operator::new(Kind::Send { to: 1 }, DataType::U8, 3);
        let (input, output) = (Buffer::owned(vec![1, 2, 3]), Buffer::owned(Vec::new()));
        let memory = Memory::new(Input::Apart(input), output, &operator, 0, world);
        leftover.submit(operator, memory.expect("the buffers fit"));
        network.add(leftover, false);
    }
    let expected: Vec<usize> = (0..world)
        .map(|rank| {
            works
                .iter()
                .filter(|work| work.calls[rank].is_some())
                .count()
        })
        .collect();
    // Which operator of the plan each rank's n-th is.
    let mut order = vec![Vec::new(); world];
    submissions.reverse();
    faults.reverse();
    loop {
        let next = network.next_at();
        if let Some((at, fault)) = faults.last().copied().filter(|(at, _)| *at <= next) {
            faults.pop();
            network.now = network.now.max(at);
            network.inject(fault);
            continue;
        }
        if let Some((at, rank, index)) = submissions.last().copied().filter(|(at, ..)| *at <= next)
        {
            submissions.pop();
            network.now = network.now.max(at);
            let call = works[index].calls[rank].as_ref().expect("it was planned");
            let memory = call.memory(rank, world);
            let process = &mut network.processes[rank];
            process.node.submit(call.operator.clone(), memory);
            order[rank].push(index);
            network.serve(rank);
            continue;
        }
        let members = &network.processes[..world];
        let is_over = submissions.is_empty()
            && members.iter().zip(&expected).all(|(process, expected)| {
                process.ended.len() == *expected && process.node.may_leave()
            });
        if is_over {
            break;
        }
        network.step();
        assert!(network.now < LIMIT, "it does not end");
    }
    let mut failures = BTreeSet::new();
    for (rank, order) in order.iter().enumerate() {
        for (id, ending) in network.processes[rank].ended.drain(..) {
            let index = order[usize::try_from(id.0).expect("few operators")];
            let output = match ending {
                Ok(output) => output,
                Err(failure) => {
                    // A rank may hear of the verdict before it has what it needs to come to it.
                    let why = match &failure {
                        Failure::Told { why, .. } => why.clone(),
                        own => own.to_string(),
                    };
                    assert!(
                        keeps_little(seed) && why.contains("cannot be executed again"),
                        "rank {rank}, operator {index}: {failure}"
                    );
                    failures.insert(why);
                    continue;
                }
            };
            let call = works[index].calls[rank].as_ref().expect("it was planned");
            assert!(
                output.into_output().bytes() == call.wanted,
                "rank {rank}, operator {index} ({:?}) has other bits",
                call.operator
            );
        }
    }
    assert!(failures.len() <= 1, "ranks differ: {failures:?}");
    if let Some(leftover) = network.processes.get(world) {
        let failure = leftover.node.engine().failure();
        assert!(
            matches!(failure, None | Some(Failure::Stale { .. })),
            "{failure:?}"
        );
    }
    let mut sum = Statistics::default();
    for process in &network.processes[..world] {
        let one = process.node.statistics();
        sum.broken += one.broken;
        sum.suspected += one.suspected;
        sum.resumed += one.resumed;
        sum.lane_switches += one.lane_switches;
        sum.strangers += one.strangers;
        sum.other_epochs += one.other_epochs;
        sum.superseded += one.superseded;
        sum.damaged += one.damaged;
        sum.reexecutions += one.reexecutions;
    }
    (sum, failures.len() as u64)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn every_seed_gives_the_right_bits() {
    if let Some(seed) = number("SUPERNODE_COLLECTIVES_SEED") {
        println!("seed {seed}: {:?}", run(seed));
        return;
    }
    let count = number("SUPERNODE_COLLECTIVES_SEEDS").unwrap_or(10_000);
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let totals: Vec<(Statistics, u64)> = thread::scope(|scope| {
        let work = || {
            let mut all = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= count {
                    return all;
                }
                match catch_unwind(AssertUnwindSafe(|| run(seed))) {
                    Ok(one) => all.push(one),
                    Err(panic) => {
                        eprintln!(
                            "seed {seed} failed; repeat it with SUPERNODE_COLLECTIVES_SEED={seed}"
                        );
                        next.store(count, Ordering::Relaxed);
                        resume_unwind(panic);
                    }
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    });
    let sum = |value: fn(&Statistics) -> u64| totals.iter().map(|(one, _)| value(one)).sum::<u64>();
    let failed = totals.iter().map(|(_, failed)| failed).sum::<u64>();
    println!(
        "{} seeds: {} connections broken, {} suspected, {} streams resumed, {} on another lane, {} strangers, {} of another epoch, {} late, {} damaged, {} re-executions, {failed} groups without copies",
        totals.len(),
        sum(|one| one.broken),
        sum(|one| one.suspected),
        sum(|one| one.resumed),
        sum(|one| one.lane_switches),
        sum(|one| one.strangers),
        sum(|one| one.other_epochs),
        sum(|one| one.superseded),
        sum(|one| one.damaged),
        sum(|one| one.reexecutions),
    );
    // The faults really happen; otherwise all of this would show nothing.
    if count >= 1000 {
        for value in [
            sum(|one| one.suspected),
            sum(|one| one.resumed),
            sum(|one| one.lane_switches),
            sum(|one| one.strangers),
            sum(|one| one.other_epochs),
            sum(|one| one.superseded),
            sum(|one| one.damaged),
            sum(|one| one.reexecutions),
            failed,
        ] {
            assert!(value > 0, "a kind of fault never happened");
        }
    }
}
