//! `supernode collective drill`: all-reduces whose connections are really cut while they run, and what that cost.
//!
//! The ranks take turns: one starts its part, waits for half of the time that an undisturbed run took, and shuts down all its sockets
//! as far as the kernel is concerned. The node is not told; it finds out as it would in a real network. Every result is compared with the oracle's,
//! bit for bit. A cut counts only when the operator had not ended.

use std::thread;
use std::time::Duration;

use crate::element::{DataType, Reduction};
use crate::group::{CollectiveError, Group};
use crate::memory::{Buffer, Input};
use crate::operator::{Kind, Operator, Rank};
use crate::oracle;
use crate::system;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Bytes of each all-reduce.
    pub bytes: usize,
    /// Cuts in the middle of an operator, on all ranks together.
    pub cuts: u32,
}

/// What came of it, on this rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// All-reduces.
    pub rounds: u32,
    /// Those among them that had other bits than the oracle's.
    pub wrong: u32,
    /// Cuts in the middle of an operator, by whichever rank.
    pub cuts: u32,
    /// Streams of this rank that went on over a new connection.
    pub resumed: u64,
    /// Bytes that it sent once more.
    pub resent_bytes: u64,
    /// The longest time from a break to the resumption.
    pub longest_recovery: Duration,
}

/// Rounds for each cut, until operators count as too short to be hit.
const MOST_ROUNDS: u32 = 20;

/// Runs it. All ranks call it with the same plan.
pub fn run(group: &Group, plan: &Plan) -> Result<Outcome, CollectiveError> {
    let (rank, world) = (group.rank(), group.world());
    let kind = Kind::AllReduce {
        reduction: Reduction::Sum,
    };
    let operator = Operator::new(kind, DataType::F32, plan.bytes / DataType::F32.size());
    let inputs: Vec<Vec<u8>> = (0..world)
        .map(|rank| numbers(rank, operator.count))
        .collect();
    let wanted = oracle::output(&vec![operator.clone(); world], &inputs, rank);
    let mut outcome = Outcome {
        rounds: 0,
        wrong: 0,
        cuts: 0,
        resumed: 0,
        resent_bytes: 0,
        longest_recovery: Duration::ZERO,
    };
    let mut undisturbed = Duration::MAX;
    while outcome.cuts < plan.cuts && outcome.rounds < MOST_ROUNDS * plan.cuts {
        let turn = outcome
            .rounds
            .checked_sub(1)
            .map(|turn| turn as usize % world);
        let begun = system::monotonic();
        let output = Buffer::owned(inputs[rank].clone());
        let handle = group.start(operator.clone(), Input::InPlace, output)?;
        let mut has_cut = false;
        if turn == Some(rank) {
            thread::sleep(undisturbed / 2);
            has_cut = !handle.is_done() && group.cut() > 0;
        }
        let output = handle.wait()?;
        undisturbed = undisturbed.min(system::monotonic().saturating_sub(begun));
        outcome.rounds += 1;
        outcome.wrong += u32::from(output.bytes() != wanted);
        outcome.cuts += u32::from(anybody(group, has_cut)?);
    }
    let statistics = group.statistics();
    outcome.resumed = statistics.resumed;
    outcome.resent_bytes = statistics.resent_bytes;
    outcome.longest_recovery = statistics.longest_recovery;
    Ok(outcome)
}

fn anybody(group: &Group, own: bool) -> Result<bool, CollectiveError> {
    let mut vote = [u8::from(own)];
    let kind = Kind::AllReduce {
        reduction: Reduction::Max,
    };
    group.run_in_place(Operator::new(kind, DataType::U8, 1), &mut vote)?;
    Ok(vote == [1])
}

/// Numbers of different sizes, so that another order of additions would show.
#[expect(clippy::cast_precision_loss, reason = "any number will do")]
fn numbers(rank: Rank, count: usize) -> Vec<u8> {
    let number = |index: usize| {
        let word = (index + 1)
            .wrapping_mul(2_654_435_761)
            .wrapping_mul(rank + 1);
        (word % 1_000_003) as f32 / (1 << (word % 13)) as f32
    };
    (0..count)
        .flat_map(|index| number(index).to_ne_bytes())
        .collect()
}
