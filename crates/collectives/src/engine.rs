//! One rank's share of all operators, without I/O: bytes in, bytes out.
//!
//! The engine runs the programs of `schedule` over streams. Operators run in the order in which they were submitted on every edge, and
//! overlap where their edges and memory allow. Ranks may be in different operators: what a peer sends for an operator that was not submitted here
//! yet is not taken (so it stays with the sender), and what a peer needs of an operator that ended here is in the replay window.
//!
//! ```text
//! waiting --memory is free (advance)--> running --all steps done, replay window has room (advance)--> ended
//!     ^\________________________________________/ |  \--fail--> failed
//!      \----------- streams begin again (repeat) --+
//! ```
//!
//! It knows no connection, no clock and no thread. It refuses a peer that runs another operator, with both named.

mod repeat;

pub use repeat::Restart;

use std::collections::VecDeque;

use crate::element::Reduction;
use crate::failure::Failure;
use crate::header::{self, Header};
use crate::kernels;
use crate::memory::Memory;
use crate::operator::{Kind, Operator, Rank};
use crate::recovery::{Edge, Lost};
use crate::schedule::{Arrival, Keep, Program, Span, Step, program};
use crate::stream::{Impossible, Lent, Next, SendStream};

/// Payloads up to this size travel with their header in one piece.
const SMALL: usize = 4096;

/// An operator of this group, in the order of submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperatorId(pub u64);

/// How an operator ended.
pub type Ending = Result<Memory, Failure>;

/// What an engine may keep besides the memory of its operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that each stream may keep after their operator has ended.
    pub window: usize,
    /// Bytes of inputs, all together, so that their operators can be executed again.
    pub inputs: usize,
}

/// One rank.
#[derive(Debug)]
pub struct Engine {
    rank: Rank,
    world: usize,
    limits: Limits,
    outgoing: Vec<Outgoing>,
    incoming: Vec<Incoming>,
    /// In the order of submission.
    active: VecDeque<Execution>,
    ended: VecDeque<(OperatorId, Ending)>,
    submitted: u64,
    collectives: u64,
    inputs: repeat::Inputs,
    /// Bytes were lost that a peer may need.
    lost: Option<Lost>,
    /// Streams stand still until the ranks agree.
    is_frozen: bool,
    failure: Option<Failure>,
}

#[derive(Debug, Default)]
struct Outgoing {
    stream: SendStream,
    turns: VecDeque<Turn>,
    messages: u64,
    /// Messages before this one cannot be sent again.
    repeatable: u64,
}

#[derive(Debug, Default)]
struct Incoming {
    received: u64,
    turns: VecDeque<Turn>,
    messages: u64,
    /// Bytes of an older stream that are still to come.
    skip: u64,
    /// What has arrived of a header.
    header: Vec<u8>,
    /// The beginning of an element whose end has not arrived.
    carry: [u8; 8],
    carried: usize,
}

/// An operator's place in a stream.
#[derive(Debug)]
struct Turn {
    operator: OperatorId,
    header: Header,
    header_done: bool,
    /// All steps of this stream before it are done.
    step: usize,
}

#[derive(Debug)]
struct Execution {
    id: OperatorId,
    /// Which collective of the group, or which message of the edge.
    sequence: u64,
    operator: Operator,
    memory: Memory,
    program: Program,
    is_running: bool,
    /// Bytes, by step.
    done: Vec<usize>,
    steps_left: usize,
    /// The input, where the output is in its place.
    copy: Option<Vec<u8>>,
    /// It has ended for the caller, and is executed again for other ranks.
    is_ghost: bool,
}

impl Execution {
    fn new(
        id: OperatorId,
        sequence: u64,
        operator: Operator,
        memory: Memory,
        program: Program,
    ) -> Self {
        Self {
            id,
            sequence,
            done: vec![0; program.steps.len()],
            steps_left: program.steps.len(),
            operator,
            memory,
            program,
            is_running: false,
            copy: None,
            is_ghost: false,
        }
    }

    const fn size(&self) -> usize {
        self.operator.data_type.size()
    }

    const fn total(&self, span: Span) -> usize {
        span.len * self.size()
    }

    /// Bytes of a step that the step it waits for allows.
    fn allowed(&self, step: usize) -> usize {
        let step = &self.program.steps[step];
        let total = self.total(step.span());
        let Some(after) = step.after() else {
            return total;
        };
        let waited = self.program.steps[after].span();
        if waited == step.span() {
            self.done[after]
        } else if self.done[after] == self.total(waited) {
            total
        } else {
            0
        }
    }

    fn lent(&self, lent: Lent, len: usize) -> &[u8] {
        let span = Span {
            space: lent.space,
            start: lent.start,
            len,
        };
        self.memory.read(span, 1)
    }
}

impl Engine {
    /// A rank that has done nothing yet.
    pub fn new(rank: Rank, world: usize, limits: Limits) -> Self {
        assert!(rank < world, "a rank is smaller than the number of ranks");
        Self {
            rank,
            world,
            limits,
            outgoing: (0..world).map(|_| Outgoing::default()).collect(),
            incoming: (0..world).map(|_| Incoming::default()).collect(),
            active: VecDeque::new(),
            ended: VecDeque::new(),
            submitted: 0,
            collectives: 0,
            inputs: repeat::Inputs::default(),
            lost: None,
            is_frozen: false,
            failure: None,
        }
    }

    /// Queues an operator whose memory was made for it. It ends in [`Self::take_ended`].
    pub fn submit(&mut self, operator: Operator, memory: Memory) -> OperatorId {
        let id = OperatorId(self.submitted);
        self.submitted += 1;
        if let Some(failure) = &self.failure {
            self.ended.push_back((id, Err(failure.clone())));
            return id;
        }
        let sequence = match &operator.kind {
            Kind::Send { to } => &mut self.outgoing[*to].messages,
            Kind::Receive { from } => &mut self.incoming[*from].messages,
            _ => &mut self.collectives,
        };
        *sequence += 1;
        let sequence = *sequence - 1;
        let program = program(&operator, self.rank, self.world);
        let execution = Execution::new(id, sequence, operator, memory, program);
        self.queue_turns(&execution);
        self.active.push_back(execution);
        self.advance();
        id
    }

    fn queue_turns(&mut self, execution: &Execution) {
        for peer in 0..self.world {
            let mut payloads = [None, None];
            for step in &execution.program.steps {
                let (direction, with) = match step {
                    Step::Send { to, .. } => (0, *to),
                    Step::Receive { from, .. } => (1, *from),
                };
                if with == peer {
                    *payloads[direction].get_or_insert(0) += execution.total(step.span());
                }
            }
            let turn = |payload| Turn {
                operator: execution.id,
                header: Header::new(&execution.operator, self.world, execution.sequence, payload),
                header_done: false,
                step: 0,
            };
            let [sent, received] = payloads.map(|payload| payload.map(turn));
            self.outgoing[peer].turns.extend(sent);
            self.incoming[peer].turns.extend(received);
        }
    }

    /// Does whatever can be done without a peer. Called by the other methods; says nothing, because their answers change by it.
    fn advance(&mut self) {
        while !self.is_frozen {
            let mut changed = self.start_waiting();
            for peer in 0..self.world {
                changed |= self.push(peer);
            }
            changed |= self.end_finished();
            if !changed {
                return;
            }
        }
    }

    fn start_waiting(&mut self) -> bool {
        let mut changed = false;
        for index in 0..self.active.len() {
            if self.active[index].is_running {
                continue;
            }
            let memory = &self.active[index].memory;
            let mut earlier = self.active.range(..index);
            if earlier.any(|earlier| earlier.memory.conflicts(memory)) {
                continue;
            }
            self.copy_input(index);
            let execution = &mut self.active[index];
            let size = execution.size();
            execution
                .memory
                .make_scratch(execution.program.scratch * size);
            for copy in &execution.program.prologue {
                execution.memory.copy(*copy, size);
            }
            execution.is_running = true;
            changed = true;
        }
        changed
    }

    /// Moves everything that may be sent to `peer` into its stream.
    fn push(&mut self, peer: Rank) -> bool {
        let Outgoing { stream, turns, .. } = &mut self.outgoing[peer];
        let mut changed = false;
        while let Some(turn) = turns.front_mut() {
            let execution = find(&mut self.active, turn.operator);
            if !execution.is_running {
                break;
            }
            if !turn.header_done {
                stream.push_copy(&turn.header.encode());
                turn.header_done = true;
                changed = true;
            }
            let step = execution.program.steps[turn.step..]
                .iter()
                .position(|step| matches!(step, Step::Send { to, .. } if *to == peer));
            let Some(step) = step.map(|step| turn.step + step) else {
                turns.pop_front();
                continue;
            };
            let Step::Send { span, keep, .. } = execution.program.steps[step] else {
                unreachable!("only sends are found")
            };
            let (done, total) = (execution.done[step], execution.total(span));
            let allowed = execution.allowed(step) - done;
            let room = self.limits.window.saturating_sub(stream.window_len());
            let start = span.start * execution.size() + done;
            let lent = Lent {
                operator: turn.operator,
                space: span.space,
                start,
            };
            let copies = keep == Keep::Copy || (total <= SMALL && allowed <= room);
            let len = if copies { allowed.min(room) } else { allowed };
            if copies {
                stream.push_copy(execution.lent(lent, len));
            } else {
                stream.push_lent(lent, len);
            }
            execution.done[step] += len;
            changed |= len > 0;
            if execution.done[step] < total {
                break;
            }
            execution.steps_left -= 1;
            turn.step = step + 1;
            changed = true;
        }
        changed
    }

    fn end_finished(&mut self) -> bool {
        let mut changed = false;
        let mut index = 0;
        while let Some(execution) = self.active.get(index) {
            let id = execution.id;
            let fits = |outgoing: &Outgoing| {
                let lent = outgoing.stream.lent_by(id);
                lent == 0 || lent + outgoing.stream.window_len() <= self.limits.window
            };
            if !execution.is_running || execution.steps_left > 0 || !self.outgoing.iter().all(fits)
            {
                index += 1;
                continue;
            }
            let mut execution = self.active.remove(index).expect("it was just looked at");
            for outgoing in &mut self.outgoing {
                outgoing
                    .stream
                    .take_over(id, |lent, len| execution.lent(lent, len));
            }
            let size = execution.size();
            for copy in &execution.program.epilogue {
                execution.memory.copy(*copy, size);
            }
            changed = true;
            if !execution.is_ghost {
                self.keep_input(&mut execution);
                self.ended.push_back((id, Ok(execution.memory)));
            }
        }
        changed
    }

    /// Takes bytes of the stream from `peer` and says how many. The rest has to be offered again when something has changed.
    pub fn receive(&mut self, peer: Rank, bytes: &[u8]) -> usize {
        if self.is_frozen {
            return 0;
        }
        let old = &mut self.incoming[peer].skip;
        let mut taken = usize::try_from(*old).unwrap_or(usize::MAX).min(bytes.len());
        *old -= taken as u64;
        while self.failure.is_none() {
            let more = match self.receive_some(peer, &bytes[taken..]) {
                Ok(Some(more)) => more,
                Ok(None) => break,
                Err(failure) => {
                    self.fail(failure);
                    break;
                }
            };
            taken += more;
            self.incoming[peer].received += more as u64;
        }
        self.advance();
        taken
    }

    /// One piece, or `None` if nothing can be done with these bytes now.
    fn receive_some(&mut self, peer: Rank, bytes: &[u8]) -> Result<Option<usize>, Failure> {
        let incoming = &mut self.incoming[peer];
        let Some(turn) = incoming.turns.front_mut() else {
            return Ok(None);
        };
        let execution = find(&mut self.active, turn.operator);
        if !execution.is_running {
            return Ok(None);
        }
        if !turn.header_done {
            if bytes.is_empty() {
                return Ok(None);
            }
            let len = bytes.len().min(header::LEN - incoming.header.len());
            incoming.header.extend_from_slice(&bytes[..len]);
            if let Ok(whole) = incoming.header[..].try_into() {
                let found = Header::decode(whole);
                if found != Some(turn.header) {
                    return Err(Failure::Mismatch {
                        rank: self.rank,
                        peer,
                        expected: turn.header.to_string(),
                        found: found.map_or("something else".into(), |found| found.to_string()),
                    });
                }
                incoming.header.clear();
                turn.header_done = true;
            }
            return Ok(Some(len));
        }
        let step = execution.program.steps[turn.step..]
            .iter()
            .position(|step| matches!(step, Step::Receive { from, .. } if *from == peer));
        let Some(step) = step.map(|step| turn.step + step) else {
            incoming.turns.pop_front();
            return Ok(Some(0));
        };
        let Step::Receive { span, arrival, .. } = execution.program.steps[step] else {
            unreachable!("only receives are found")
        };
        let (done, total) = (execution.done[step], execution.total(span));
        if done == total {
            execution.steps_left -= 1;
            turn.step = step + 1;
            return Ok(Some(0));
        }
        let size = execution.size();
        let allowed = execution.allowed(step) / size * size;
        let len = bytes
            .len()
            .min(allowed.saturating_sub(done + incoming.carried));
        if len == 0 {
            return Ok(None);
        }
        let mut bytes = &bytes[..len];
        let mut target = &mut execution.memory.write(span, size)[done..];
        if arrival == Arrival::Store {
            target[..len].copy_from_slice(bytes);
            execution.done[step] += len;
            return Ok(Some(len));
        }
        let mut combine = |target: &mut [u8], source: &[u8]| {
            let reduction = execution
                .operator
                .kind
                .reduction()
                .expect("only reductions combine");
            let data_type = execution.operator.data_type;
            kernels::combine(data_type, reduction, target, source);
            if arrival == Arrival::CombineLast && reduction == Reduction::Avg {
                kernels::divide(data_type, target, self.world);
            }
            execution.done[step] += target.len();
        };
        if incoming.carried > 0 {
            let missing = (size - incoming.carried).min(bytes.len());
            incoming.carry[incoming.carried..][..missing].copy_from_slice(&bytes[..missing]);
            incoming.carried += missing;
            bytes = &bytes[missing..];
            if incoming.carried == size {
                let (element, rest) = target.split_at_mut(size);
                combine(element, &incoming.carry[..size]);
                incoming.carried = 0;
                target = rest;
            }
        }
        let whole = bytes.len() / size * size;
        if whole > 0 {
            combine(&mut target[..whole], &bytes[..whole]);
        }
        let rest = &bytes[whole..];
        if !rest.is_empty() {
            incoming.carry[..rest.len()].copy_from_slice(rest);
            incoming.carried = rest.len();
        }
        Ok(Some(len))
    }

    /// Bytes of the stream from `peer` that are here for good.
    pub fn received(&self, peer: Rank) -> u64 {
        self.incoming[peer].received
    }

    /// The next bytes for `peer`, `skip` bytes after the first that is not on the present connection.
    pub fn transmit(&self, peer: Rank, skip: usize) -> Option<&[u8]> {
        if self.is_frozen {
            return None;
        }
        match self.outgoing[peer].stream.next(skip)? {
            Next::Window(bytes) => Some(bytes),
            Next::Lent { from, len } => {
                let execution = self.active.iter().find(|one| one.id == from.operator);
                Some(
                    execution
                        .expect("an operator with lent bytes is active")
                        .lent(from, len),
                )
            }
        }
    }

    /// `len` bytes went onto the connection to `peer`.
    pub fn transmitted(&mut self, peer: Rank, len: usize) {
        self.outgoing[peer].stream.sent(len);
    }

    /// `peer` has everything before `offset`.
    pub fn acknowledged(&mut self, peer: Rank, offset: u64) {
        let result = self.outgoing[peer].stream.acknowledge(offset);
        self.accept_claim(peer, result);
        self.advance();
    }

    /// `peer` has everything that was transmitted: it lies in memory that cannot get lost while the peer lives.
    pub fn acknowledged_all(&mut self, peer: Rank) {
        let sent = self.outgoing[peer].stream.position();
        self.acknowledged(peer, sent);
    }

    /// There is a new connection to `peer`, which has everything before `offset` and wants the rest. Says how many bytes are sent again.
    pub fn resume(&mut self, peer: Rank, offset: u64) -> u64 {
        let before = self.outgoing[peer].stream.position();
        let result = self.outgoing[peer].stream.resume(offset);
        self.accept_claim(peer, result);
        self.advance();
        before.saturating_sub(self.outgoing[peer].stream.position())
    }

    fn accept_claim(&mut self, peer: Rank, result: Result<(), Impossible>) {
        if let Err(Impossible { claimed, base, .. }) = result {
            // Who has more than was ever sent has something else.
            self.lose(peer, if claimed < base { base } else { u64::MAX });
        }
    }

    fn lose(&mut self, peer: Rank, before: u64) {
        let edge = Edge {
            from: self.rank,
            to: peer,
        };
        self.lost.get_or_insert(Lost { edge, before });
    }

    /// What is kept for `peer` is gone, as it would be with memory that failed. What it does not have yet has to be made again.
    pub fn lose_window(&mut self, peer: Rank) {
        let stream = &mut self.outgoing[peer].stream;
        if stream.unacknowledged() > 0 && self.failure.is_none() {
            stream.forget();
            let end = stream.position();
            self.lose(peer, end);
        }
    }

    /// `peer` has gone and said that it needs nothing any more: it has what it did not acknowledge.
    pub fn forget(&mut self, peer: Rank) {
        self.outgoing[peer].stream.forget();
        self.advance();
    }

    /// Bytes that `peer` has not acknowledged.
    pub fn unacknowledged(&self, peer: Rank) -> u64 {
        self.outgoing[peer].stream.unacknowledged()
    }

    /// Whether an operator waits for bytes from `peer`, or for room that its acknowledgements make.
    pub fn needs(&self, peer: Rank) -> bool {
        self.is_frozen
            || !self.incoming[peer].turns.is_empty()
            || !self.outgoing[peer].turns.is_empty()
            || self
                .active
                .iter()
                .any(|one| self.outgoing[peer].stream.lent_by(one.id) > 0)
    }

    /// Whether operators are running or waiting.
    pub fn is_busy(&self) -> bool {
        self.is_frozen || !self.active.is_empty()
    }

    /// Ends everything, now and later. The first failure counts.
    pub fn fail(&mut self, failure: Failure) {
        if self.failure.is_some() {
            return;
        }
        self.is_frozen = false;
        let own = self.active.drain(..).filter(|one| !one.is_ghost);
        for execution in own {
            self.ended.push_back((execution.id, Err(failure.clone())));
        }
        for outgoing in &mut self.outgoing {
            *outgoing = Outgoing::default();
        }
        for incoming in &mut self.incoming {
            incoming.turns.clear();
        }
        self.failure = Some(failure);
    }

    /// Why the group stopped.
    pub const fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// An operator that has ended, in the order of ends.
    pub fn take_ended(&mut self) -> Option<(OperatorId, Ending)> {
        self.ended.pop_front()
    }
}

fn find(active: &mut VecDeque<Execution>, id: OperatorId) -> &mut Execution {
    active
        .iter_mut()
        .find(|execution| execution.id == id)
        .expect("an operator with a turn is active")
}
