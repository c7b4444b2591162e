//! Around the ring: rank `r` receives from `r - 1` and sends to `r + 1`.
//!
//! Reduction: segment `j` starts at rank `j + 1` and gathers one contribution at each rank until it is complete at rank `j`. Gathering: the complete
//! segment goes around once more. A rank overwrites its partial segment `j` only with the complete one, which contains what its successor
//! received from it: so nothing needs to be kept.

use super::{Arrival, Keep, Program, Space, Span, segment, span};
use crate::operator::Rank;

pub(super) fn all_reduce(rank: Rank, world: usize, count: usize) -> Program {
    let mut program = Program::default();
    program.copy_first(span(Space::Input, 0, count), span(Space::Output, 0, count));
    let part = |index| segment(Space::Output, count, world, index);
    let last = reduce_around(&mut program, rank, world, part);
    gather_around(&mut program, rank, world, part, last);
    program
}

pub(super) fn reduce_scatter(rank: Rank, world: usize, count: usize) -> Program {
    let mut program = Program {
        scratch: count * world,
        ..Program::default()
    };
    program.copy_first(
        span(Space::Input, 0, count * world),
        span(Space::Scratch, 0, count * world),
    );
    let part = |index| span(Space::Scratch, index * count, count);
    reduce_around(&mut program, rank, world, part);
    program.epilogue.push(super::Move {
        from: part(rank),
        to: span(Space::Output, 0, count),
    });
    program
}

pub(super) fn all_gather(rank: Rank, world: usize, count: usize) -> Program {
    let mut program = Program::default();
    let part = |index| span(Space::Output, index * count, count);
    program.copy_first(span(Space::Input, 0, count), part(rank));
    gather_around(&mut program, rank, world, part, None);
    program
}

/// After it, segment `rank` is complete; says which step made it so.
fn reduce_around(
    program: &mut Program,
    rank: Rank,
    world: usize,
    part: impl Fn(usize) -> Span,
) -> Option<usize> {
    let (before, next) = neighbours(rank, world);
    let mut received = None;
    for hop in 1..world {
        program.send(
            next,
            part((rank + world - hop) % world),
            Keep::InPlace,
            received,
        );
        let arrival = if hop == world - 1 {
            Arrival::CombineLast
        } else {
            Arrival::Combine
        };
        let index = (rank + 2 * world - hop - 1) % world;
        received = Some(program.receive(before, part(index), arrival, None));
    }
    received
}

/// Sends segment `rank` and passes on the others; `ready` is the step that completed segment `rank`.
fn gather_around(
    program: &mut Program,
    rank: Rank,
    world: usize,
    part: impl Fn(usize) -> Span,
    mut ready: Option<usize>,
) {
    let (before, next) = neighbours(rank, world);
    for hop in 0..world - 1 {
        program.send(
            next,
            part((rank + world - hop) % world),
            Keep::InPlace,
            ready,
        );
        let index = (rank + 2 * world - hop - 1) % world;
        ready = Some(program.receive(before, part(index), Arrival::Store, None));
    }
}

const fn neighbours(rank: Rank, world: usize) -> (Rank, Rank) {
    ((rank + world - 1) % world, (rank + 1) % world)
}
