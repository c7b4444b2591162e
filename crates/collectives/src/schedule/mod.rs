//! Schedules: which rank sends which bytes to whom, when, and what the receiver does with them. Pure functions without I/O.
//!
//! A [`Program`] is what one rank does for one operator. Its steps are concurrent except where they are ordered: the sends to one peer
//! happen in the order of the program, so do the receives from one peer, and a step waits for the one step that it names in `after`. If
//! both have the same span, it follows byte by byte, so that a whole ring is busy at once.
//!
//! Nothing here is taken on trust: [`check`](check::check) runs all programs of an operator symbolically and proves, for every element, that each
//! contribution is in the result once and in the documented order, that nothing deadlocks with the smallest window, that no step
//! reads too early or overwrites too early. *Too early* includes the wire: bytes that were sent from the caller's memory may be overwritten only
//! when the peer has provably received them, because a broken connection is repaired by sending them again. Sends for which that
//! does not hold are [`Keep::Copy`].

pub mod check;
pub mod order;

mod direct;
mod doubling;
mod ring;
mod tree;

use crate::operator::{Algorithm, Kind, Operator, Rank};

/// One of the three memories of an operator on a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// What the caller gives. Never written.
    Input,
    /// What the caller gets. The same memory as the input when the caller works in place.
    Output,
    /// The operator's own.
    Scratch,
}

/// Elements `start .. start + len` of a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// Which memory.
    pub space: Space,
    /// The first element.
    pub start: usize,
    /// How many.
    pub len: usize,
}

/// What keeps sent bytes until the peer has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The memory they were sent from: nothing overwrites it before the peer has them.
    InPlace,
    /// A copy in the replay window.
    Copy,
}

/// What a receiver does with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Stores them.
    Store,
    /// Combines them with what is there.
    Combine,
    /// The same, and it was the last contribution: `avg` divides.
    CombineLast,
}

/// One step of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Send a span.
    Send {
        /// To whom.
        to: Rank,
        /// What.
        span: Span,
        /// Who keeps it.
        keep: Keep,
        /// The step to wait for.
        after: Option<usize>,
    },
    /// Receive a span.
    Receive {
        /// From whom.
        from: Rank,
        /// Where to.
        span: Span,
        /// How.
        arrival: Arrival,
        /// The step to wait for.
        after: Option<usize>,
    },
}

impl Step {
    /// The elements that it reads or writes.
    pub const fn span(&self) -> Span {
        match self {
            Self::Send { span, .. } | Self::Receive { span, .. } => *span,
        }
    }

    /// The step to wait for.
    pub const fn after(&self) -> Option<usize> {
        match self {
            Self::Send { after, .. } | Self::Receive { after, .. } => *after,
        }
    }
}

/// A copy inside a rank: `len` elements between two spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// From here,
    pub from: Span,
    /// to here.
    pub to: Span,
}

/// What one rank does for one operator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program {
    /// Elements of scratch memory.
    pub scratch: usize,
    /// Copies before the first step. Nothing happens where both spans are the same memory.
    pub prologue: Vec<Move>,
    /// The steps.
    pub steps: Vec<Step>,
    /// Copies after the last step.
    pub epilogue: Vec<Move>,
}

impl Program {
    fn copy_first(&mut self, from: Span, to: Span) {
        self.prologue.push(Move { from, to });
    }

    /// Adds a send and says its number.
    fn send(&mut self, to: Rank, span: Span, keep: Keep, after: Option<usize>) -> usize {
        self.steps.push(Step::Send {
            to,
            span,
            keep,
            after,
        });
        self.steps.len() - 1
    }

    /// Adds a receive and says its number.
    fn receive(&mut self, from: Rank, span: Span, arrival: Arrival, after: Option<usize>) -> usize {
        self.steps.push(Step::Receive {
            from,
            span,
            arrival,
            after,
        });
        self.steps.len() - 1
    }
}

/// The program of `rank` of `world` for an operator that was validated.
pub fn program(operator: &Operator, rank: Rank, world: usize) -> Program {
    let count = operator.count;
    match (&operator.kind, operator.algorithm) {
        (Kind::AllReduce { .. }, Algorithm::Ring) => {
            ring::all_reduce(rank, world, count, operator.slice(world))
        }
        (Kind::AllReduce { .. }, _) => doubling::all_reduce(rank, world, count),
        (Kind::ReduceScatter { .. }, _) => ring::reduce_scatter(rank, world, count),
        (Kind::AllGather, Algorithm::Ring) => ring::all_gather(rank, world, count),
        (Kind::AllGather, _) => direct::all_gather(rank, world, count),
        (Kind::Broadcast { root }, Algorithm::Chain) => {
            tree::chain_broadcast(rank, world, count, *root)
        }
        (Kind::Broadcast { root }, _) => tree::broadcast(rank, world, count, *root),
        (Kind::Reduce { root, .. }, Algorithm::Chain) => {
            tree::chain_reduce(rank, world, count, *root)
        }
        (Kind::Reduce { root, .. }, _) => tree::reduce(rank, world, count, *root),
        (Kind::AllToAll { send, receive }, _) => direct::all_to_all(rank, world, send, receive),
        (Kind::Send { to }, _) => direct::send(*to, count),
        (Kind::Receive { from }, _) => direct::receive(*from, count),
        (Kind::Barrier, _) => doubling::barrier(rank, world),
    }
}

const fn span(space: Space, start: usize, len: usize) -> Span {
    Span { space, start, len }
}

/// Segment `index` of `count` elements in `world` nearly equal parts.
const fn segment(space: Space, count: usize, world: usize, index: usize) -> Span {
    let (whole, rest) = (count / world, count % world);
    let start = index * whole + if index < rest { index } else { rest };
    let len = whole + if index < rest { 1 } else { 0 };
    Span { space, start, len }
}
