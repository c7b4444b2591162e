//! Partners at distance 1, 2, 4, …: after each round everybody knows twice as much.
//!
//! An all-reduce between partners is symmetric: each overwrites what the other may not have yet, so these sends are copied. That
//! is cheap, because this is the algorithm for small sizes. Ranks beyond the largest power of two give their contribution to a partner
//! before the first round and get the result after the last.

use super::{Arrival, Keep, Program, Space, span};
use crate::operator::Rank;

pub(super) fn all_reduce(rank: Rank, world: usize, count: usize) -> Program {
    let mut program = Program::default();
    let all = span(Space::Output, 0, count);
    program.copy_first(span(Space::Input, 0, count), all);
    let core = 1 << world.ilog2();
    if rank >= core {
        let partner = rank - core;
        program.send(partner, all, Keep::InPlace, None);
        program.receive(partner, all, Arrival::Store, None);
        return program;
    }
    let extra = (rank + core < world).then_some(rank + core);
    let mut ready = extra.map(|extra| program.receive(extra, all, Arrival::Combine, None));
    let mut distance = 1;
    while distance < core {
        let partner = rank ^ distance;
        let sent = program.send(partner, all, Keep::Copy, ready);
        distance *= 2;
        let arrival = if distance == core {
            Arrival::CombineLast
        } else {
            Arrival::Combine
        };
        ready = Some(program.receive(partner, all, arrival, Some(sent)));
    }
    if let Some(extra) = extra {
        program.send(extra, all, Keep::InPlace, ready);
    }
    program
}

/// One byte in each round: whoever has heard from distance `2^k` in all rounds has heard, through others, from everybody.
pub(super) fn barrier(rank: Rank, world: usize) -> Program {
    let mut program = Program::default();
    let mut heard = None;
    let mut distance = 1;
    while distance < world {
        let round = span(Space::Scratch, program.scratch, 1);
        program.scratch += 1;
        let token = span(Space::Scratch, program.scratch, 1);
        program.scratch += 1;
        program.send((rank + distance) % world, token, Keep::InPlace, heard);
        let from = (rank + world - distance) % world;
        heard = Some(program.receive(from, round, Arrival::Store, heard));
        distance *= 2;
    }
    program
}
