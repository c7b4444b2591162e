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
    let mut ring = Ring::new(rank, world);
    ring.program
        .copy_first(span(Space::Input, 0, count), span(Space::Output, 0, count));
    let mut before = None;
    for slice in slices(count, slice).map(Some).chain([None]) {
        let mut received = None;
        for hop in 1..world {
            if let Some(slice) = slice {
                received = Some(ring.reduce(|index| part_of(slice, world, index), hop, received));
            }
            if let Some((slice, ready)) = &mut before {
                *ready = Some(ring.gather(|index| part_of(*slice, world, index), hop, *ready));
            }
        }
        before = slice.map(|slice| (slice, received));
    }
    ring.program
}

/// Elements `start .. end` of the output of an all-reduce, each of which is reduced and gathered by itself.
pub(super) fn slices(count: usize, slice: usize) -> impl Iterator<Item = (usize, usize)> {
    let starts = (0..count.max(1)).step_by(slice);
    starts.map(move |start| (start, count.min(start.saturating_add(slice))))
}

/// The segment of a slice that is complete at rank `index` first.
pub(super) const fn part_of((start, end): (usize, usize), world: usize, index: usize) -> Span {
    let mut part = segment(Space::Output, end - start, world, index);
    part.start += start;
    part
}

pub(super) fn reduce_scatter(rank: Rank, world: usize, count: usize) -> Program {
    let mut ring = Ring::new(rank, world);
    let part = |index| span(Space::Scratch, index * count, count);
    ring.program.scratch = count * world;
    ring.program.copy_first(
        span(Space::Input, 0, count * world),
        span(Space::Scratch, 0, count * world),
    );
    let mut received = None;
    for hop in 1..world {
        received = Some(ring.reduce(part, hop, received));
    }
    ring.program.epilogue.push(super::Move {
        from: part(rank),
        to: span(Space::Output, 0, count),
    });
    ring.program
}

pub(super) fn all_gather(rank: Rank, world: usize, count: usize) -> Program {
    let mut ring = Ring::new(rank, world);
    let part = |index| span(Space::Output, index * count, count);
    ring.program
        .copy_first(span(Space::Input, 0, count), part(rank));
    let mut ready = None;
    for hop in 1..world {
        ready = Some(ring.gather(part, hop, ready));
    }
    ring.program
}

/// The program of one rank, hop by hop. A hop gives the step that the next one has to wait for.
struct Ring {
    program: Program,
    rank: Rank,
    world: usize,
    before: Rank,
    next: Rank,
}

impl Ring {
    fn new(rank: Rank, world: usize) -> Self {
        Self {
            program: Program::default(),
            rank,
            world,
            before: (rank + world - 1) % world,
            next: (rank + 1) % world,
        }
    }

    /// After the last hop, segment `rank` is complete.
    fn reduce(
        &mut self,
        part: impl Fn(usize) -> Span,
        hop: usize,
        received: Option<usize>,
    ) -> usize {
        let sent = part((self.rank + self.world - hop) % self.world);
        self.program.send(self.next, sent, Keep::InPlace, received);
        let arrival = if hop == self.world - 1 {
            Arrival::CombineLast
        } else {
            Arrival::Combine
        };
        let index = (self.rank + 2 * self.world - hop - 1) % self.world;
        self.program
            .receive(self.before, part(index), arrival, None)
    }

    /// The first hop sends segment `rank`, and the others pass on what came.
    fn gather(&mut self, part: impl Fn(usize) -> Span, hop: usize, ready: Option<usize>) -> usize {
        let sent = part((self.rank + self.world + 1 - hop) % self.world);
        self.program.send(self.next, sent, Keep::InPlace, ready);
        let index = (self.rank + 2 * self.world - hop) % self.world;
        self.program
            .receive(self.before, part(index), Arrival::Store, None)
    }
}
