//! One small operator of four ranks, its connections cut after every single byte in both directions, handshake included.

use std::time::Duration;

use supernode_collectives::element::{DataType, Reduction};
use supernode_collectives::engine::Limits;
use supernode_collectives::handshake::Secret;
use supernode_collectives::node::{Carrier, Config, Node, Route, Timing};
use supernode_collectives::operator::{Algorithm, Kind, Operator};

use crate::network::{Cut, Network, micros};
use crate::random::Random;
use crate::workload::Work;

const WORLD: usize = 4;

/// A node with one lane to everybody.
fn node(rank: usize) -> Node {
    let route = Route {
        lanes: 1,
        carrier: Carrier::Connections,
    };
    let config = Config {
        rank,
        routes: vec![route; WORLD],
        secret: Secret::new(&[7; 32], [1; 16], 1),
        limits: Limits {
            window: 512,
            inputs: 0,
        },
        max_retries: 3,
        timing: Timing::usual(),
    };
    let mut counter = rank as u128;
    Node::new(config, Duration::ZERO, move || {
        counter += 16;
        counter.to_le_bytes()
    })
}

/// Runs the operators in a row with one cut; says whether the cut happened.
fn run(works: &[Work], cut: Cut) -> bool {
    let mut network = Network::new(Random::new(0), vec![micros(50)], false, Some(cut));
    for rank in 0..WORLD {
        network.add(node(rank), true);
    }
    for rank in 0..WORLD {
        for work in works {
            let call = work.calls[rank].as_ref().expect("everybody takes part");
            let memory = call.memory(rank, WORLD);
            network.processes[rank]
                .node
                .submit(call.operator.clone(), memory);
        }
        network.serve(rank);
    }
    let is_over = |network: &Network| {
        network
            .processes
            .iter()
            .all(|process| process.ended.len() == works.len() && process.node.may_leave())
    };
    while !is_over(&network) {
        network.step();
        assert!(
            network.now < Duration::from_secs(20),
            "{cut:?}: it does not end"
        );
    }
    for (rank, process) in network.processes.iter_mut().enumerate() {
        for (id, ending) in process.ended.drain(..) {
            let output = ending
                .unwrap_or_else(|failure| panic!("{cut:?}: {failure}"))
                .into_output();
            let wanted = &works[usize::try_from(id.0).expect("few operators")].calls[rank];
            let wanted = &wanted.as_ref().expect("everybody takes part").wanted;
            assert!(
                output.bytes() == wanted,
                "{cut:?}: rank {rank} has other bits"
            );
        }
    }
    network.was_cut
}

/// Cuts every wire that `edges` names at every byte.
fn cut_everywhere(works: &[Work], edges: &[(usize, usize)]) -> u64 {
    let mut cuts = 0;
    for (from, to) in edges {
        // The control connection, the data connection, and the one that replaces what broke.
        for nth in 0..2 {
            for direction in 0..2 {
                let mut after = 0;
                loop {
                    let cut = Cut {
                        from: *from,
                        to: *to,
                        nth,
                        direction,
                        after,
                    };
                    if !run(works, cut) {
                        break;
                    }
                    cuts += 1;
                    after += 1;
                }
            }
        }
    }
    cuts
}

fn all_reduce(algorithm: Algorithm, count: usize, segment: usize) -> Work {
    let kind = Kind::AllReduce {
        reduction: Reduction::Avg,
    };
    let operator = Operator::new(kind, DataType::F32, count)
        .by(algorithm)
        .in_segments_of(segment);
    Work::everywhere(&operator, WORLD, &mut Random::new(5))
}

#[test]
fn a_ring_survives_a_cut_at_every_byte() {
    let works = [
        // Three slices, and one.
        all_reduce(Algorithm::Ring, 61, 7),
        all_reduce(Algorithm::Ring, 3, 3),
    ];
    let edges = [(0, 1), (1, 2), (2, 3), (3, 0)];
    let cuts = cut_everywhere(&works, &edges);
    println!("{cuts} cuts of a ring");
    assert!(cuts > 3500, "{cuts}");
}

/// Here the bytes of one operator are overwritten while the peer may not have them: the replay window has to hold them.
#[test]
fn partners_survive_a_cut_at_every_byte() {
    let works = [
        all_reduce(Algorithm::Doubling, 17, 17),
        all_reduce(Algorithm::Doubling, 17, 17),
    ];
    let cuts = cut_everywhere(&works, &[(0, 1), (1, 0), (2, 0)]);
    println!("{cuts} cuts between partners");
    assert!(cuts > 1500, "{cuts}");
}
