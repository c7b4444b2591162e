//! Around the ring: rank `r` receives from `r - 1` and sends to `r + 1`.
//!
//! Reduction: segment `j` starts at rank `j + 1` and gathers one contribution at each rank until it is complete at rank `j`. Gathering: the complete
//! segment goes around once more. A rank overwrites its partial segment `j` only with the complete one, which contains what its successor
//! received from it: so nothing needs to be kept.

use super::{Arrival, Keep, Program, Space, Span, segment, span};
use crate::operator::Rank;

/// In slices, so that what was combined is passed on while it is still in the cache. While one slice is reduced, the one before it is
/// gathered, hop by hop in turn: whichever waits for its neighbour leaves the ring to the other.
pub(super) fn all_reduce(rank: Rank, world: usize, count: usize, slice: usize) -> Program {
    let mut program = Program::default();
    program.copy_first(span(Space::Input, 0, count), span(Space::Output, 0, count));
    let mut before = None;
    for slice in slices(count, slice).map(Some).chain([None]) {
        let mut received = None;
        for hop in 1..world {
            if let Some(slice) = slice {
                let part = |index| part_of(slice, world, index);
                received = Some(reduce(&mut program, rank, world, part, hop, received));
            }
            if let Some((slice, ready)) = &mut before {
                let part = |index| part_of(*slice, world, index);
                *ready = Some(gather(&mut program, rank, world, part, hop, *ready));
            }
        }
        before = slice.map(|slice| (slice, received));
    }
    program
}

/// Elements `start .. end` of the output of a long all-reduce, each of which is reduced and gathered by itself.
pub(super) fn slices(count: usize, slice: usize) -> impl Iterator<Item = (usize, usize)> {
    let starts = (0..count.max(1)).step_by(slice);
    starts.map(move |start| (start, (start + slice).min(count)))
}

/// The segment of a slice that is complete at rank `index` first.
pub(super) const fn part_of((start, end): (usize, usize), world: usize, index: usize) -> Span {
    let mut part = segment(Space::Output, end - start, world, index);
    part.start += start;
    part
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
    let mut received = None;
    for hop in 1..world {
        received = Some(reduce(&mut program, rank, world, part, hop, received));
    }
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
    let mut ready = None;
    for hop in 1..world {
        ready = Some(gather(&mut program, rank, world, part, hop, ready));
    }
    program
}

/// One hop of a reduction, the number of the step that has to be waited for by the next one. After the last, segment `rank` is complete.
fn reduce(
    program: &mut Program,
    rank: Rank,
    world: usize,
    part: impl Fn(usize) -> Span,
    hop: usize,
    received: Option<usize>,
) -> usize {
    let (before, next) = neighbours(rank, world);
    let sent = part((rank + world - hop) % world);
    program.send(next, sent, Keep::InPlace, received);
    let arrival = if hop == world - 1 {
        Arrival::CombineLast
    } else {
        Arrival::Combine
    };
    let index = (rank + 2 * world - hop - 1) % world;
    program.receive(before, part(index), arrival, None)
}

/// One hop of a gathering, which begins with segment `rank`, and the number of the step that has to be waited for by the next one.
fn gather(
    program: &mut Program,
    rank: Rank,
    world: usize,
    part: impl Fn(usize) -> Span,
    hop: usize,
    ready: Option<usize>,
) -> usize {
    let (before, next) = neighbours(rank, world);
    let sent = part((rank + world + 1 - hop) % world);
    program.send(next, sent, Keep::InPlace, ready);
    let index = (rank + 2 * world - hop) % world;
    program.receive(before, part(index), Arrival::Store, None)
}

const fn neighbours(rank: Rank, world: usize) -> (Rank, Rank) {
    ((rank + world - 1) % world, (rank + 1) % world)
}
