//! Moving patterns: every word is written, read back, written inverted and read back again, from both ends.
//!
//! Words depend on their own address, so a line that answers for another is found like a bit that sticks. Runs on all cores at
//! once, each on a piece of its own; a piece that fits into the cache would test the cache, so pieces are large.

use serde::{Deserialize, Serialize};

use crate::stress::context::Context;
use crate::stress::number::real_of;
use crate::stress::processor;
use crate::stress::sample::{Metric, Part, Refusal, Wrong};

/// How the patterns move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pattern {
    /// For how long; the round that has begun is finished.
    pub seconds: u32,
    /// Bytes of all pieces together, a quarter of the available memory at most.
    pub bytes: u64,
}

/// Words between two looks at the order to stop: a tenth of a second on a slow machine.
const STEP: usize = 1 << 20;
/// A piece that is wrong this often has been heard.
const MOST_WRONG: u32 = 8;

pub(crate) fn run(context: &Context<'_>, settings: &Pattern) -> Result<(), Refusal> {
    let cores = processor::allowed()?;
    let bytes = super::bounded(settings.bytes)?;
    let words = usize::try_from(bytes / 8).unwrap_or(usize::MAX) / cores.len();
    if words == 0 {
        return Err(Refusal::CouldNotRun("no memory is available".into()));
    }
    context.remark(format!("{bytes} bytes in {} pieces", cores.len()));
    processor::on_each(&cores, |core| piece(context, settings, core, words))
}

fn piece(
    context: &Context<'_>,
    settings: &Pattern,
    core: u32,
    words: usize,
) -> Result<(), Refusal> {
    let mut memory = vec![0_u64; words];
    let mut wrong = 0;
    let start = context.moment();
    for round in 0_u64.. {
        let moment = context.moment();
        let found = march(&mut memory, round, || context.check())?;
        // Seven passes over the piece: one write, then three times a read and a write.
        let bytes = 56.0 * real_of(words);
        context.sample(
            Metric::PatternBandwidth,
            Part::Core(core),
            bytes / context.seconds_since(moment).max(1e-9) / 1e9,
        );
        for fault in found {
            if wrong == MOST_WRONG {
                break;
            }
            wrong += 1;
            context.wrong(Wrong {
                part: Part::Core(core),
                what: format!("memory word {} of {words} in round {round}", fault.word),
                expected: format!("{:#018x}", fault.expected),
                got: format!("{:#018x}", fault.got),
            });
        }
        if context.seconds_since(start) >= f64::from(settings.seconds) {
            break;
        }
    }
    Ok(())
}

/// A word that did not keep its value.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    word: usize,
    expected: u64,
    got: u64,
}

/// The word that belongs at an address: all bits of it mixed, or in every other round a single bit that walks.
fn pattern(word: usize, round: u64) -> u64 {
    if round.is_multiple_of(2) {
        (word as u64 ^ round).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    } else {
        1_u64.rotate_left(u32::try_from((word as u64 + round) % 64).expect("below 64"))
    }
}

/// One round over a piece: write; up: read, write inverted; down: read, write back; up again.
fn march(
    memory: &mut [u64],
    round: u64,
    mut check: impl FnMut() -> Result<(), Refusal>,
) -> Result<Vec<Fault>, Refusal> {
    let mut faults = Vec::new();
    for (chunk, words) in memory.chunks_mut(STEP).enumerate() {
        check()?;
        for (offset, value) in words.iter_mut().enumerate() {
            *value = pattern(chunk * STEP + offset, round);
        }
    }
    let memory = std::hint::black_box(memory);
    for (chunk, words) in memory.chunks_mut(STEP).enumerate() {
        check()?;
        invert(
            words.iter_mut().enumerate(),
            chunk * STEP,
            round,
            0,
            &mut faults,
        );
    }
    let memory = std::hint::black_box(memory);
    for (chunk, words) in memory.chunks_mut(STEP).enumerate().rev() {
        check()?;
        let downwards = words.iter_mut().enumerate().rev();
        invert(downwards, chunk * STEP, round, u64::MAX, &mut faults);
    }
    let memory = std::hint::black_box(memory);
    for (chunk, words) in memory.chunks_mut(STEP).enumerate() {
        check()?;
        invert(
            words.iter_mut().enumerate(),
            chunk * STEP,
            round,
            0,
            &mut faults,
        );
    }
    Ok(faults)
}

/// Compares words with their pattern, of which the bits `flipped` are inverted, and writes them inverted.
fn invert<'a>(
    words: impl Iterator<Item = (usize, &'a mut u64)>,
    first: usize,
    round: u64,
    flipped: u64,
    faults: &mut Vec<Fault>,
) {
    for (offset, value) in words {
        let expected = pattern(first + offset, round) ^ flipped;
        if *value != expected && faults.len() < MOST_WRONG as usize {
            faults.push(Fault {
                word: first + offset,
                expected,
                got: *value,
            });
        }
        *value = !expected;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_memory_has_no_faults() {
        let mut memory = vec![0; 1000];
        for round in 0..3 {
            assert_eq!(march(&mut memory, round, || Ok(())), Ok(vec![]));
        }
    }

    #[test]
    fn a_flipped_bit_is_found_with_its_word() {
        for (round, bit) in [(0, 0), (1, 63)] {
            let mut memory: Vec<u64> = (0..100).map(|word| pattern(word, round)).collect();
            memory[42] ^= 1 << bit;
            let mut faults = Vec::new();
            invert(memory.iter_mut().enumerate(), 0, round, 0, &mut faults);
            let expected = pattern(42, round);
            let got = expected ^ (1 << bit);
            assert_eq!(
                faults,
                [Fault {
                    word: 42,
                    expected,
                    got
                }]
            );
            faults.clear();
            invert(
                memory.iter_mut().enumerate().rev(),
                0,
                round,
                u64::MAX,
                &mut faults,
            );
            assert_eq!(faults, [], "it was written anew");
        }
    }

    #[test]
    fn the_order_to_stop_is_heard() {
        let mut memory = vec![0; 10];
        assert_eq!(
            march(&mut memory, 0, || Err(Refusal::Stopped)),
            Err(Refusal::Stopped)
        );
    }
}
