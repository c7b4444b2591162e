//! Everybody with everybody, and the two ends of a message. No rank passes anything on.
//!
//! Each rank starts with its next neighbour, so that not all of them send to rank 0 first. An all-to-all in place would overwrite
//! blocks that were not sent yet; its blocks are sent from a copy.

use super::{Arrival, Keep, Program, Space, span};
use crate::operator::Rank;

pub(super) fn all_gather(rank: Rank, world: usize, count: usize) -> Program {
    let mut program = Program::default();
    let part = |index| span(Space::Output, index * count, count);
    program.copy_first(span(Space::Input, 0, count), part(rank));
    for distance in 1..world {
        program.send((rank + distance) % world, part(rank), Keep::InPlace, None);
    }
    for distance in 1..world {
        let from = (rank + world - distance) % world;
        program.receive(from, part(from), Arrival::Store, None);
    }
    program
}

pub(super) fn all_to_all(rank: Rank, world: usize, send: &[usize], receive: &[usize]) -> Program {
    let mut program = Program::default();
    let place = |counts: &[usize], index: usize| counts[..index].iter().sum::<usize>();
    let own = send[rank];
    program.copy_first(
        span(Space::Input, place(send, rank), own),
        span(Space::Output, place(receive, rank), own),
    );
    for distance in 1..world {
        let to = (rank + distance) % world;
        let block = span(Space::Input, place(send, to), send[to]);
        program.send(to, block, Keep::InPlace, None);
    }
    for distance in 1..world {
        let from = (rank + world - distance) % world;
        let block = span(Space::Output, place(receive, from), receive[from]);
        program.receive(from, block, Arrival::Store, None);
    }
    program
}

pub(super) fn send(to: Rank, count: usize) -> Program {
    let mut program = Program::default();
    program.send(to, span(Space::Input, 0, count), Keep::InPlace, None);
    program
}

pub(super) fn receive(from: Rank, count: usize) -> Program {
    let mut program = Program::default();
    program.receive(from, span(Space::Output, 0, count), Arrival::Store, None);
    program
}
