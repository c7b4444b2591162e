//! The proof that a set of programs is right, by running them symbolically, element by element.
//!
//! Every event (an element pushed into a stream, an element applied at a receiver) carries what is *known* when it happens: for each
//! step of each rank, how many of its elements are done for certain. Knowledge comes only from what the engine enforces: the step named in `after`,
//! earlier bytes of the same stream, and the message itself, which brings what its sender knew. A hazard is accepted only when
//! the earlier event is known to be done, so no timing can break it. What must be known:
//!
//! | later | earlier | known to be done |
//! |---|---|---|
//! | any access | a receive into the element | the receive |
//! | a receive into the element | a send of it from a copy | the send |
//! | a receive into the element | a send of it from memory | *the peer's receive* |
//!
//! The programs run with a window of one element for each edge. They are deterministic processes over bounded queues, so one run
//! that ends shows that every run ends.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::order::{Fold, Origin};
use super::{Arrival, Keep, Program, Space, Step};
use crate::operator::{Operator, Rank};

/// What is wrong with a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// Some steps never happen: `(rank, step)`.
    Deadlock(Vec<(Rank, usize)>),
    /// A step may read or write an element before an earlier step is done with it.
    Hazard {
        /// Whose program.
        rank: Rank,
        /// The step that comes too early.
        step: usize,
        /// The step that it does not wait for.
        earlier: usize,
        /// The element of the step's span.
        element: usize,
    },
    /// An element of the output is not the promised expression.
    Value {
        /// Whose output.
        rank: Rank,
        /// Which element.
        element: usize,
    },
    /// Elements that nobody receives.
    Unreceived {
        /// The sender.
        from: Rank,
        /// The receiver.
        to: Rank,
    },
}

/// Whether input and output of the caller are one memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Two memories.
    Apart,
    /// One memory.
    InPlace,
}

/// Checks the programs of all ranks. `operators` and `programs` are by rank; `promised` says what the output of a rank has to be.
pub fn check(
    operators: &[Operator],
    programs: &[Program],
    placement: Placement,
    promised: impl Fn(Rank) -> Vec<Origin>,
) -> Result<(), Flaw> {
    let mut run = Run::new(operators, programs, placement);
    while run.round()? {}
    run.ended()?;
    for rank in 0..programs.len() {
        for copy in &programs[rank].epilogue {
            run.copy(rank, *copy);
        }
        for origin in promised(rank) {
            run.compare(rank, &origin, &operators[rank])?;
        }
    }
    Ok(())
}

/// A symbolic value: an index into the table of expressions.
type Value = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Expression {
    /// Memory that nobody wrote.
    Blank,
    Input(Rank, usize),
    Combined(Value, Value),
    Averaged(Value),
}

/// Elements known to be done, by global number of the step.
type Knowledge = Rc<Vec<usize>>;

struct Message {
    value: Value,
    knowledge: Knowledge,
}

struct Run<'a> {
    programs: &'a [Program],
    placement: Placement,
    /// The global number of the first step of each rank.
    first: Vec<usize>,
    /// Elements done, and what was known after each, by global number.
    done: Vec<Vec<Knowledge>>,
    memory: BTreeMap<(Rank, Space, usize), Value>,
    edges: BTreeMap<(Rank, Rank), VecDeque<Message>>,
    /// The peer's step that receives element `i` of a send, by global number of the send.
    receipts: Vec<Vec<(usize, usize)>>,
    expressions: BTreeMap<Expression, Value>,
}

impl<'a> Run<'a> {
    fn new(operators: &[Operator], programs: &'a [Program], placement: Placement) -> Self {
        let mut first = Vec::new();
        let mut total = 0;
        for program in programs {
            first.push(total);
            total += program.steps.len();
        }
        let mut run = Self {
            programs,
            placement,
            first,
            done: vec![Vec::new(); total],
            memory: BTreeMap::new(),
            edges: BTreeMap::new(),
            receipts: receipts(programs),
            expressions: BTreeMap::new(),
        };
        for (rank, program) in programs.iter().enumerate() {
            for element in 0..operators[rank].input_count(rank, programs.len()) {
                let value = run.intern(Expression::Input(rank, element));
                let place = run.place(rank, Space::Input, element);
                run.memory.insert(place, value);
            }
            for copy in &program.prologue {
                run.copy(rank, *copy);
            }
        }
        run
    }

    fn intern(&mut self, expression: Expression) -> Value {
        let next = self.expressions.len();
        *self.expressions.entry(expression).or_insert(next)
    }

    fn combined(&mut self, a: Value, b: Value) -> Value {
        self.intern(Expression::Combined(a.min(b), a.max(b)))
    }

    fn place(&self, rank: Rank, space: Space, element: usize) -> (Rank, Space, usize) {
        let space = match (space, self.placement) {
            (Space::Input, Placement::InPlace) => Space::Output,
            (space, _) => space,
        };
        (rank, space, element)
    }

    fn read(&mut self, rank: Rank, space: Space, element: usize) -> Value {
        let place = self.place(rank, space, element);
        let found = self.memory.get(&place).copied();
        found.unwrap_or_else(|| self.intern(Expression::Blank))
    }

    fn copy(&mut self, rank: Rank, copy: super::Move) {
        for index in 0..copy.from.len {
            let value = self.read(rank, copy.from.space, copy.from.start + index);
            let place = self.place(rank, copy.to.space, copy.to.start + index);
            self.memory.insert(place, value);
        }
    }

    /// Lets every step advance as far as it can; says whether any did.
    fn round(&mut self) -> Result<bool, Flaw> {
        let mut moved = false;
        for rank in 0..self.programs.len() {
            for step in 0..self.programs[rank].steps.len() {
                while self.advance(rank, step)? {
                    moved = true;
                }
            }
        }
        Ok(moved)
    }

    /// One element of one step, if the engine would do it now.
    fn advance(&mut self, rank: Rank, step: usize) -> Result<bool, Flaw> {
        let program = &self.programs[rank];
        let this = program.steps[step];
        let number = self.first[rank] + step;
        let element = self.done[number].len();
        if element == this.span().len {
            return Ok(false);
        }
        let mut known = vec![0; self.done.len()];
        if let Some(after) = this.after() {
            let waited = program.steps[after].span();
            let needed = if waited == this.span() {
                element + 1
            } else {
                waited.len
            };
            let number = self.first[rank] + after;
            if self.done[number].len() < needed {
                return Ok(false);
            }
            if needed > 0 {
                join(&mut known, &self.done[number][needed - 1]);
            }
        }
        // The same stream, in order.
        for (index, earlier) in program.steps[..step].iter().enumerate() {
            if same_stream(earlier, &this) {
                let number = self.first[rank] + index;
                if self.done[number].len() < earlier.span().len {
                    return Ok(false);
                }
                if let Some(last) = self.done[number].last() {
                    join(&mut known, last);
                }
            }
        }
        if let Some(last) = self.done[number].last() {
            join(&mut known, last);
        }
        match this {
            Step::Send { to, span, .. } => {
                if self
                    .edges
                    .get(&(rank, to))
                    .is_some_and(|edge| !edge.is_empty())
                {
                    return Ok(false);
                }
                self.hazards(rank, step, element, &known)?;
                known[number] = element + 1;
                let knowledge = Rc::new(known);
                let value = self.read(rank, span.space, span.start + element);
                self.edges
                    .entry((rank, to))
                    .or_default()
                    .push_back(Message {
                        value,
                        knowledge: Rc::clone(&knowledge),
                    });
                self.done[number].push(knowledge);
            }
            Step::Receive {
                from,
                span,
                arrival,
                ..
            } => {
                let edge = self.edges.entry((from, rank)).or_default();
                let Some(message) = edge.pop_front() else {
                    return Ok(false);
                };
                join(&mut known, &message.knowledge);
                self.hazards(rank, step, element, &known)?;
                let present = self.read(rank, span.space, span.start + element);
                let value = match arrival {
                    Arrival::Store => message.value,
                    Arrival::Combine => self.combined(present, message.value),
                    Arrival::CombineLast => {
                        let sum = self.combined(present, message.value);
                        self.intern(Expression::Averaged(sum))
                    }
                };
                let place = self.place(rank, span.space, span.start + element);
                self.memory.insert(place, value);
                known[number] = element + 1;
                self.done[number].push(Rc::new(known));
            }
        }
        Ok(true)
    }

    /// Every earlier conflicting access of the same rank has to be known.
    fn hazards(
        &self,
        rank: Rank,
        step: usize,
        element: usize,
        known: &[usize],
    ) -> Result<(), Flaw> {
        let steps = &self.programs[rank].steps;
        let span = steps[step].span();
        let place = self.place(rank, span.space, span.start + element);
        for (index, earlier) in steps[..step].iter().enumerate() {
            let other = earlier.span();
            let (_, space, at) = self.place(rank, other.space, 0);
            if space != place.1
                || place.2 < at + other.start
                || place.2 >= at + other.start + other.len
            {
                continue;
            }
            let offset = place.2 - other.start;
            let number = self.first[rank] + index;
            let is_known = match (earlier, &steps[step]) {
                (Step::Send { .. }, Step::Send { .. }) => true,
                (
                    Step::Send {
                        keep: Keep::InPlace,
                        ..
                    },
                    Step::Receive { .. },
                ) => self.receipts[number]
                    .get(offset)
                    .is_some_and(|(receive, element)| known[*receive] > *element),
                _ => known[number] > offset,
            };
            if !is_known {
                return Err(Flaw::Hazard {
                    rank,
                    step,
                    earlier: index,
                    element,
                });
            }
        }
        Ok(())
    }

    fn ended(&self) -> Result<(), Flaw> {
        let mut waiting = Vec::new();
        for (rank, program) in self.programs.iter().enumerate() {
            for (index, step) in program.steps.iter().enumerate() {
                if self.done[self.first[rank] + index].len() < step.span().len {
                    waiting.push((rank, index));
                }
            }
        }
        if !waiting.is_empty() {
            return Err(Flaw::Deadlock(waiting));
        }
        match self.edges.iter().find(|(_, edge)| !edge.is_empty()) {
            Some(((from, to), _)) => Err(Flaw::Unreceived {
                from: *from,
                to: *to,
            }),
            None => Ok(()),
        }
    }

    fn compare(&mut self, rank: Rank, origin: &Origin, operator: &Operator) -> Result<(), Flaw> {
        let averages = operator.kind.reduction().is_some() && matches!(origin.fold, Fold::Two(..));
        for index in 0..origin.len {
            let mut wanted = self.evaluate(&origin.fold, origin.input + index);
            if averages {
                wanted = self.intern(Expression::Averaged(wanted));
            }
            if self.read(rank, Space::Output, origin.output + index) != wanted {
                return Err(Flaw::Value {
                    rank,
                    element: origin.output + index,
                });
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, fold: &Fold, element: usize) -> Value {
        match fold {
            Fold::One(rank) => self.intern(Expression::Input(*rank, element)),
            Fold::Two(a, b) => {
                let (a, b) = (self.evaluate(a, element), self.evaluate(b, element));
                self.combined(a, b)
            }
        }
    }
}

fn join(known: &mut [usize], more: &[usize]) {
    for (mine, theirs) in known.iter_mut().zip(more) {
        *mine = (*mine).max(*theirs);
    }
}

fn same_stream(a: &Step, b: &Step) -> bool {
    match (a, b) {
        (Step::Send { to: a, .. }, Step::Send { to: b, .. })
        | (Step::Receive { from: a, .. }, Step::Receive { from: b, .. }) => a == b,
        _ => false,
    }
}

/// For every element of every send, the receive that gets it: streams are matched by position alone.
fn receipts(programs: &[Program]) -> Vec<Vec<(usize, usize)>> {
    let mut arriving: BTreeMap<(Rank, Rank), VecDeque<(usize, usize)>> = BTreeMap::new();
    let mut number = 0;
    for (rank, program) in programs.iter().enumerate() {
        for step in &program.steps {
            if let Step::Receive { from, span, .. } = step {
                let edge = arriving.entry((*from, rank)).or_default();
                edge.extend((0..span.len).map(|element| (number, element)));
            }
            number += 1;
        }
    }
    let mut receipts = Vec::new();
    for (rank, program) in programs.iter().enumerate() {
        for step in &program.steps {
            receipts.push(match step {
                Step::Send { to, span, .. } => {
                    let edge = arriving.entry((rank, *to)).or_default();
                    let taken = span.len.min(edge.len());
                    edge.drain(..taken).collect()
                }
                Step::Receive { .. } => Vec::new(),
            });
        }
    }
    receipts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::{DataType, Reduction};
    use crate::operator::{Algorithm, Kind};
    use crate::schedule::{order, program};

    fn verdict(
        operators: &[Operator],
        placement: Placement,
        change: impl Fn(Rank, &mut Program),
    ) -> Result<(), Flaw> {
        let world = operators.len();
        let programs: Vec<Program> = (0..world)
            .map(|rank| {
                operators[rank]
                    .validate(rank, world)
                    .expect("the operator is valid");
                let mut program = program(&operators[rank], rank, world);
                change(rank, &mut program);
                program
            })
            .collect();
        check(operators, &programs, placement, |rank| {
            order::origins(operators, rank)
        })
    }

    fn everywhere(kind: &Kind, count: usize, algorithm: Algorithm, world: usize) -> Vec<Operator> {
        vec![Operator::new(kind.clone(), DataType::F32, count).by(algorithm); world]
    }

    fn kinds(world: usize) -> Vec<Kind> {
        let reduction = Reduction::Avg;
        let mut kinds = vec![
            Kind::AllReduce { reduction },
            Kind::ReduceScatter { reduction },
            Kind::AllGather,
            Kind::Barrier,
        ];
        for root in [0, world / 2, world - 1] {
            kinds.push(Kind::Broadcast { root });
            kinds.push(Kind::Reduce { root, reduction });
        }
        kinds
    }

    #[test]
    fn every_schedule_is_right_for_every_group_and_awkward_sizes() {
        let mut checked = 0;
        for world in 1..=16 {
            for kind in kinds(world) {
                for algorithm in Algorithm::of(&kind) {
                    let mut counts = vec![0, 1, world - 1, world, world + 1, 2 * world + 3];
                    if matches!(kind, Kind::ReduceScatter { .. }) {
                        counts = vec![0, 1, 2];
                    }
                    for count in counts {
                        let operators = everywhere(&kind, count, *algorithm, world);
                        let verdict = verdict(&operators, Placement::Apart, |_, _| ());
                        assert_eq!(
                            verdict,
                            Ok(()),
                            "{kind:?} by {algorithm} of {count} on {world}"
                        );
                        checked += 1;
                    }
                }
            }
        }
        println!("{checked} schedules checked");
    }

    #[test]
    fn slices_of_any_size_are_right_apart_and_in_place() {
        let reduction = Reduction::Avg;
        for world in 1..=9 {
            for (segment, count) in [(1, 2 * world + 3), (1, 4 * world), (2, 5 * world - 1)] {
                let ring = Kind::AllReduce { reduction };
                let operators: Vec<Operator> = everywhere(&ring, count, Algorithm::Ring, world)
                    .into_iter()
                    .map(|operator| operator.in_segments_of(segment))
                    .collect();
                assert!(operators[0].slice(world) < count, "there are slices");
                for placement in [Placement::Apart, Placement::InPlace] {
                    let verdict = verdict(&operators, placement, |_, _| ());
                    assert_eq!(
                        verdict,
                        Ok(()),
                        "{count} on {world} in segments of {segment}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_may_be_done_in_place_is_right_in_place() {
        for world in 1..=9 {
            for kind in kinds(world) {
                if matches!(kind, Kind::ReduceScatter { .. } | Kind::AllGather) {
                    continue;
                }
                for algorithm in Algorithm::of(&kind) {
                    for count in [1, world, world + 1] {
                        let operators = everywhere(&kind, count, *algorithm, world);
                        let verdict = verdict(&operators, Placement::InPlace, |_, _| ());
                        assert_eq!(
                            verdict,
                            Ok(()),
                            "{kind:?} by {algorithm} of {count} on {world}"
                        );
                    }
                }
            }
        }
    }

    /// Counts between ranks `from` and `to`, some of them zero.
    fn uneven(world: usize, count: impl Fn(Rank, Rank) -> usize) -> Vec<Operator> {
        let kind = |rank| Kind::AllToAll {
            send: (0..world).map(|to| count(rank, to)).collect(),
            receive: (0..world).map(|from| count(from, rank)).collect(),
        };
        (0..world)
            .map(|rank| Operator::new(kind(rank), DataType::U8, 0))
            .collect()
    }

    #[test]
    fn all_to_all_with_any_counts_is_right_but_not_in_place() {
        for world in 1..=16 {
            let operators = uneven(world, |from, to| (from * 7 + to * 5) % 4);
            assert_eq!(verdict(&operators, Placement::Apart, |_, _| ()), Ok(()));
        }
        let operators = uneven(3, |_, _| 1);
        let found = verdict(&operators, Placement::InPlace, |_, _| ());
        assert!(matches!(found, Err(Flaw::Hazard { .. })), "{found:?}");
    }

    #[test]
    fn messages_arrive() {
        let operators = [
            Operator::new(Kind::Send { to: 1 }, DataType::F32, 3),
            Operator::new(Kind::Receive { from: 0 }, DataType::F32, 3),
        ];
        assert_eq!(verdict(&operators, Placement::Apart, |_, _| ()), Ok(()));
    }

    /// The check finds each kind of mistake; otherwise its silence would mean nothing.
    #[test]
    fn broken_schedules_are_found() {
        let reduction = Reduction::Sum;
        let ring = everywhere(&Kind::AllReduce { reduction }, 7, Algorithm::Ring, 4);
        // A send that does not wait for the segment that it passes on.
        let found = verdict(&ring, Placement::Apart, |rank, program| {
            if rank == 2
                && let Step::Send { after, .. } = &mut program.steps[2]
            {
                *after = None;
            }
        });
        assert!(
            matches!(
                found,
                Err(Flaw::Hazard {
                    rank: 2,
                    step: 2,
                    ..
                })
            ),
            "{found:?}"
        );
        // A partner's bytes that are overwritten although the partner may not have them.
        let doubling = everywhere(&Kind::AllReduce { reduction }, 2, Algorithm::Doubling, 4);
        let found = verdict(&doubling, Placement::Apart, |_, program| {
            for step in &mut program.steps {
                if let Step::Send { keep, .. } = step {
                    *keep = Keep::InPlace;
                }
            }
        });
        assert!(matches!(found, Err(Flaw::Hazard { .. })), "{found:?}");
        // Everybody receives before sending.
        let found = verdict(&ring, Placement::Apart, |_, program| {
            if let Step::Send { after, .. } = &mut program.steps[0] {
                *after = Some(1);
            }
        });
        assert!(matches!(found, Err(Flaw::Deadlock(_))), "{found:?}");
        // A contribution that is stored instead of combined.
        let found = verdict(&ring, Placement::Apart, |rank, program| {
            if rank == 1
                && let Step::Receive { arrival, .. } = &mut program.steps[1]
            {
                *arrival = Arrival::Store;
            }
        });
        assert!(matches!(found, Err(Flaw::Value { .. })), "{found:?}");
        // More than the peer takes.
        let messages = [
            Operator::new(Kind::Send { to: 1 }, DataType::F32, 4),
            Operator::new(Kind::Receive { from: 0 }, DataType::F32, 3),
        ];
        let found = verdict(&messages, Placement::Apart, |_, _| ());
        assert_eq!(found, Err(Flaw::Unreceived { from: 0, to: 1 }));
    }
}
