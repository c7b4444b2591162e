//! What an engine does so that operators can be executed again: copies of inputs, standing still, beginning again.
//!
//! An input that is apart from the output stays as it is until the operator ends. Where the output is in its place, a copy is made before the
//! first byte arrives; and at the end, because another rank may not be as far. Copies are bounded by [`Limits::inputs`](super::Limits); the
//! oldest go first. An operator for which there is none is never executed again.

use std::collections::VecDeque;
use std::mem;

use super::{Engine, Execution, Incoming, OperatorId};
use crate::memory::{Buffer, Input, Memory};
use crate::operator::{Kind, Operator, Rank};
use crate::recovery::{Lost, Obstacle, PeerInfo, Repeated, RetryInfo};
use crate::schedule::{Step, program};
use crate::stream::SendStream;

/// Operators that have ended and can be executed again.
const MOST: usize = 64;

/// Inputs of operators that have ended here, for ranks that are not as far.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    kept: VecDeque<Kept>,
    /// Of these, and of copies for operators that run.
    bytes: usize,
    /// Collectives before this one cannot be executed again.
    repeatable: u64,
}

#[derive(Debug)]
struct Kept {
    id: OperatorId,
    sequence: u64,
    operator: Operator,
    input: Vec<u8>,
}

/// What a rank has to know of a peer to begin again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// The first message to the peer that has not ended there.
    pub open: u64,
    /// Bytes of the old stream from it that are still to come.
    pub skip: u64,
}

impl Execution {
    /// Whether it could begin again with the same input.
    fn is_intact(&self) -> bool {
        let has_arrived =
            |(step, done): (&Step, &usize)| matches!(step, Step::Receive { .. }) && *done > 0;
        !self.memory.is_in_place()
            || self.copy.is_some()
            || !self.program.steps.iter().zip(&self.done).any(has_arrived)
    }

    fn restart(&mut self) {
        if let Some(copy) = &self.copy {
            self.memory.restore(copy);
        }
        self.done.fill(0);
        self.steps_left = self.program.steps.len();
        self.is_running = false;
    }
}

impl Engine {
    /// Before the operator at `index` of the active ones begins.
    pub(super) fn copy_input(&mut self, index: usize) {
        let execution = &self.active[index];
        let is_overwritten = execution.memory.is_in_place()
            && execution
                .program
                .steps
                .iter()
                .any(|step| matches!(step, Step::Receive { .. }));
        let len = execution.memory.input().len();
        if is_overwritten && execution.copy.is_none() && self.make_room(len) {
            let execution = &mut self.active[index];
            execution.copy = Some(execution.memory.input().to_vec());
            self.inputs.bytes += len;
        }
    }

    /// After an operator has ended, before the caller gets its memory back.
    pub(super) fn keep_input(&mut self, execution: &mut Execution) {
        let kind = &execution.operator.kind;
        if self.limits.inputs == 0 || matches!(kind, Kind::Receive { .. }) {
            self.give_up_repeating(kind, execution.sequence);
            return;
        }
        let copy = execution.copy.take();
        self.inputs.bytes -= copy.as_ref().map_or(0, Vec::len);
        let len = execution.memory.input().len();
        let input = match copy {
            Some(copy) => Some(copy),
            None if execution.is_intact() && self.make_room(len) => {
                Some(execution.memory.input().to_vec())
            }
            None => None,
        };
        let Some(input) = input else {
            self.give_up_repeating(&execution.operator.kind, execution.sequence);
            return;
        };
        self.inputs.bytes += input.len();
        self.inputs.kept.push_back(Kept {
            id: execution.id,
            sequence: execution.sequence,
            operator: execution.operator.clone(),
            input,
        });
        if self.inputs.kept.len() > MOST {
            self.drop_oldest_input();
        }
    }

    /// Makes room for a copy, if there can be room for it.
    fn make_room(&mut self, len: usize) -> bool {
        while self.inputs.bytes + len > self.limits.inputs {
            if len > self.limits.inputs || !self.drop_oldest_input() {
                return false;
            }
        }
        true
    }

    fn drop_oldest_input(&mut self) -> bool {
        let Some(oldest) = self.inputs.kept.pop_front() else {
            return false;
        };
        self.inputs.bytes -= oldest.input.len();
        self.give_up_repeating(&oldest.operator.kind, oldest.sequence);
        true
    }

    fn give_up_repeating(&mut self, kind: &Kind, sequence: u64) {
        let first = match kind {
            Kind::Send { to } => &mut self.outgoing[*to].repeatable,
            // Once it has ended, nobody else needs it.
            Kind::Receive { .. } => return,
            _ => &mut self.inputs.repeatable,
        };
        *first = (*first).max(sequence + 1);
    }

    /// A stream that is lost.
    pub const fn lost(&self) -> Option<Lost> {
        self.lost
    }

    /// Stops all streams. Nothing moves, and no operator ends, until [`Self::thaw`] or [`Self::repeat`].
    pub const fn freeze(&mut self) {
        self.is_frozen = true;
    }

    /// How far this rank is.
    pub fn retry_info(&self, max_retries: u64, repeated: Repeated) -> RetryInfo {
        let open = |is: &dyn Fn(&Kind) -> bool, otherwise| {
            let mut own = self
                .active
                .iter()
                .filter(|one| !one.is_ghost && is(&one.operator.kind));
            own.next().map_or(otherwise, |one| one.sequence)
        };
        let mut info = RetryInfo {
            lost: self.lost,
            max_retries,
            open: open(&|kind| !kind.is_message(), self.collectives),
            repeatable: self.inputs.repeatable,
            obstacle: Obstacle::NotKept,
            repeated,
            peers: Vec::with_capacity(self.world),
        };
        for execution in &self.active {
            let is_message = execution.operator.kind.is_message();
            if !is_message && !execution.is_intact() && execution.sequence >= info.repeatable {
                info.repeatable = execution.sequence + 1;
                info.obstacle = Obstacle::Overwritten;
            }
        }
        for (peer, (incoming, outgoing)) in self.incoming.iter().zip(&self.outgoing).enumerate() {
            let receive = |kind: &Kind| matches!(kind, Kind::Receive { from } if *from == peer);
            info.peers.push(PeerInfo {
                open: open(&receive, incoming.messages),
                repeatable: outgoing.repeatable,
                sent: outgoing.stream.position(),
                received: incoming.received,
            });
        }
        info
    }

    /// Streams go on where they stand.
    pub fn thaw(&mut self) {
        self.is_frozen = false;
        self.lost = None;
        self.advance();
    }

    /// Begins new streams, on which everything from collective `first` on is executed again. `peers` by rank.
    pub fn repeat(&mut self, first: u64, peers: &[Restart]) {
        let is_needed = |kind: &Kind, sequence| match kind {
            Kind::Send { to } => sequence >= peers[*to].open,
            Kind::Receive { .. } => false,
            _ => sequence >= first,
        };
        for (outgoing, (incoming, peer)) in self
            .outgoing
            .iter_mut()
            .zip(self.incoming.iter_mut().zip(peers))
        {
            outgoing.stream = SendStream::default();
            outgoing.turns.clear();
            *incoming = Incoming {
                messages: incoming.messages,
                skip: incoming.skip + peer.skip,
                ..Incoming::default()
            };
        }
        let mut again = Vec::new();
        let active = mem::take(&mut self.active).into_iter();
        for mut execution in active.filter(|one| !one.is_ghost) {
            let kind = &execution.operator.kind;
            if matches!(kind, Kind::Send { .. }) && !is_needed(kind, execution.sequence) {
                // It has arrived.
                self.keep_input(&mut execution);
                self.ended.push_back((execution.id, Ok(execution.memory)));
            } else {
                execution.restart();
                again.push(execution);
            }
        }
        let kept = self.inputs.kept.iter();
        let needed = kept.filter(|one| is_needed(&one.operator.kind, one.sequence));
        again.extend(needed.map(|one| ghost(one, self.rank, self.world)));
        again.sort_by_key(|execution| execution.id);
        for execution in &again {
            self.queue_turns(execution);
        }
        self.active = again.into();
        self.thaw();
    }
}

/// An operator that has ended, with memory of its own.
fn ghost(kept: &Kept, rank: Rank, world: usize) -> Execution {
    let operator = kept.operator.clone();
    let len = operator.output_count(rank, world) * operator.data_type.size();
    let (input, output) = (
        Buffer::owned(kept.input.clone()),
        Buffer::owned(vec![0; len]),
    );
    let memory = Memory::new(Input::Apart(input), output, &operator, rank, world)
        .expect("they fitted when it was executed first");
    let program = program(&operator, rank, world);
    Execution {
        is_ghost: true,
        ..Execution::new(kept.id, kept.sequence, operator, memory, program)
    }
}
