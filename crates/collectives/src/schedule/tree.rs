//! From and to a root: a binomial tree for small sizes, a chain for large ones. Both pass bytes on as they arrive.
//!
//! Places are counted from the root: place 0 is the root, place `p` is rank `root + p`. The parent of a place is the place without its lowest bit.
//! A reduction combines children in the order of their places, so the order is fixed.

use super::{Arrival, Keep, Program, Space, Span, span};
use crate::operator::Rank;

pub(super) fn broadcast(rank: Rank, world: usize, count: usize, root: Rank) -> Program {
    let (place, at) = places(rank, world, root);
    let mut program = Program::default();
    let all = span(Space::Output, 0, count);
    let ready = if place == 0 {
        program.copy_first(span(Space::Input, 0, count), all);
        None
    } else {
        Some(program.receive(at(parent(place)), all, Arrival::Store, None))
    };
    // The largest subtree first.
    for child in children(place, world).rev() {
        program.send(at(child), all, Keep::InPlace, ready);
    }
    program
}

pub(super) fn reduce(rank: Rank, world: usize, count: usize, root: Rank) -> Program {
    let (place, at) = places(rank, world, root);
    let children: Vec<usize> = children(place, world).collect();
    let (mut program, all) = accumulator(place, count, children.is_empty());
    let mut ready = None;
    for (index, child) in children.iter().enumerate() {
        let arrival = if place == 0 && index == children.len() - 1 {
            Arrival::CombineLast
        } else {
            Arrival::Combine
        };
        ready = Some(program.receive(at(*child), all, arrival, ready));
    }
    if place != 0 {
        program.send(at(parent(place)), all, Keep::InPlace, ready);
    }
    program
}

pub(super) fn chain_broadcast(rank: Rank, world: usize, count: usize, root: Rank) -> Program {
    let (place, at) = places(rank, world, root);
    let mut program = Program::default();
    let all = span(Space::Output, 0, count);
    let ready = if place == 0 {
        program.copy_first(span(Space::Input, 0, count), all);
        None
    } else {
        Some(program.receive(at(place - 1), all, Arrival::Store, None))
    };
    if place + 1 < world {
        program.send(at(place + 1), all, Keep::InPlace, ready);
    }
    program
}

pub(super) fn chain_reduce(rank: Rank, world: usize, count: usize, root: Rank) -> Program {
    let (place, at) = places(rank, world, root);
    let is_end = place + 1 == world;
    let (mut program, all) = accumulator(place, count, is_end);
    let ready = (!is_end).then(|| {
        let arrival = if place == 0 {
            Arrival::CombineLast
        } else {
            Arrival::Combine
        };
        program.receive(at(place + 1), all, arrival, None)
    });
    if place != 0 {
        program.send(at(place - 1), all, Keep::InPlace, ready);
    }
    program
}

/// Where a rank combines: the root in its output, others in scratch; who only gives, sends the input itself.
fn accumulator(place: usize, count: usize, only_gives: bool) -> (Program, Span) {
    let mut program = Program::default();
    let input = span(Space::Input, 0, count);
    let all = if place == 0 {
        span(Space::Output, 0, count)
    } else if only_gives {
        return (program, input);
    } else {
        program.scratch = count;
        span(Space::Scratch, 0, count)
    };
    program.copy_first(input, all);
    (program, all)
}

fn places(rank: Rank, world: usize, root: Rank) -> (usize, impl Fn(usize) -> Rank) {
    ((rank + world - root) % world, move |place| {
        (place + root) % world
    })
}

const fn parent(place: usize) -> usize {
    place & (place - 1)
}

fn children(place: usize, world: usize) -> impl DoubleEndedIterator<Item = usize> {
    let bits = if place == 0 {
        usize::BITS
    } else {
        place.trailing_zeros()
    };
    let room = move |bit: &u32| *bit < usize::BITS - 1 && place + (1 << bit) < world;
    let bits: Vec<u32> = (0..bits).take_while(room).collect();
    bits.into_iter().map(move |bit| place + (1 << bit))
}
