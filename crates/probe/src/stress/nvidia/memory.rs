//! A device's own memory: how fast it copies, and whether it keeps what was written.
//!
//! The pattern test covers nearly all of the memory that is free, in pieces, so that a bad cell is found wherever it is. As on the host
//! every word is written, read back, written inverted and read back again, and belongs to its own address.

use super::driver::{Failure, Memory};
use super::{Halt, Present};
use crate::stress::context::Context;
use crate::stress::number::real_of;
use crate::stress::sample::{Metric, Refusal, Wrong};

/// Bytes of a copy; a device's caches hold far less.
const COPY_BYTES: usize = 1 << 30;
/// Bytes of a piece of the pattern test: a few milliseconds, so that the order to stop is heard.
const PIECE_BYTES: usize = 1 << 30;
/// Of the free memory, so many hundredths are tested.
const PERCENT: usize = 92;
/// A device that is wrong this often has been heard.
const MOST_WRONG: u64 = 8;

/// Measures copies inside a device; a byte that is read and written counts twice.
pub(super) fn copy(context: &Context<'_>, seconds: u32, present: &Present<'_>) -> Result<(), Halt> {
    let gpu = present.gpu;
    let bytes = COPY_BYTES.min(gpu.free_bytes()? / 4);
    let (from, to) = (gpu.allocate(bytes)?, gpu.allocate(bytes)?);
    let mut original = vec![0; bytes];
    super::noise(&mut original);
    gpu.write(&from, &original)?;
    let expected = super::digest(&original);
    drop(original);
    let start = context.moment();
    // The first one pays for fresh pages; its result counts, its time does not.
    gpu.timed(|| gpu.copy(&to, &from))?;
    loop {
        context.check()?;
        let time = gpu.timed(|| gpu.copy(&to, &from))?;
        context.sample(
            Metric::DeviceMemoryBandwidth,
            present.part(),
            2.0 * real_of(bytes) / time / 1e9,
        );
        if context.seconds_since(start) >= f64::from(seconds) {
            break;
        }
    }
    let got = gpu.digest(&to, &gpu.allocate(8)?)?;
    if got != expected {
        context.wrong(Wrong {
            part: present.part(),
            what: format!("digest of {bytes} bytes copied inside the device"),
            expected: format!("{expected:#018x}"),
            got: format!("{got:#018x}"),
        });
    }
    Ok(())
}

/// Tests nearly all of a device's free memory, again and again.
pub(super) fn pattern(
    context: &Context<'_>,
    seconds: u32,
    present: &Present<'_>,
) -> Result<(), Halt> {
    let gpu = present.gpu;
    let wanted = gpu.free_bytes()? / 100 * PERCENT;
    let mut pieces: Vec<Memory<'_>> = Vec::new();
    let mut held = 0;
    while held < wanted {
        context.check()?;
        // Free memory may lie in pieces, or somebody else has just taken some: what can be had is tested.
        match gpu.allocate(PIECE_BYTES.min(wanted - held) / 8 * 8) {
            Ok(piece) if piece.bytes > 0 => {
                held += piece.bytes;
                pieces.push(piece);
            }
            Err(failure) if failure.broke => return Err(failure.into()),
            Ok(_) | Err(_) => break,
        }
    }
    if pieces.is_empty() {
        return Err(Refusal::CouldNotRun("no memory of the device is free".into()).into());
    }
    context.remark(format!(
        "{held} bytes of {} in {} pieces",
        present.part(),
        pieces.len()
    ));
    let faults = gpu.allocate(8 + 24 * 8)?;
    let mut wrong = 0;
    let start = context.moment();
    for round in 0_u64.. {
        let mut time = 0.0;
        for step in [March::Write, March::Up, March::Down, March::Up] {
            time += step.over(context, present, &pieces, round, &faults)?;
        }
        // Seven passes over everything: one write, then three times a read and a write.
        context.sample(
            Metric::PatternBandwidth,
            present.part(),
            7.0 * real_of(held) / time / 1e9,
        );
        for fault in found(present, &faults)? {
            if wrong == MOST_WRONG {
                break;
            }
            wrong += 1;
            context.wrong(Wrong {
                part: present.part(),
                what: format!(
                    "word {} of the device's memory in round {round}",
                    fault.word
                ),
                expected: format!("{:#018x}", fault.expected),
                got: format!("{:#018x}", fault.got),
            });
        }
        if context.seconds_since(start) >= f64::from(seconds) {
            return Ok(());
        }
    }
    Ok(())
}

/// One pass over all pieces.
#[derive(Debug, Clone, Copy)]
enum March {
    Write,
    Up,
    Down,
}

impl March {
    /// Seconds of the device that it took.
    fn over(
        self,
        context: &Context<'_>,
        present: &Present<'_>,
        pieces: &[Memory<'_>],
        round: u64,
        faults: &Memory<'_>,
    ) -> Result<f64, Halt> {
        let mut firsts = Vec::with_capacity(pieces.len());
        let mut words = 0;
        for piece in pieces {
            firsts.push((piece, words));
            words += piece.bytes as u64 / 8;
        }
        if matches!(self, Self::Down) {
            firsts.reverse();
        }
        let mut time = 0.0;
        for (piece, first) in firsts {
            context.check()?;
            time += present.gpu.timed(|| match self {
                Self::Write => present.gpu.pattern_write(piece, first, round),
                Self::Up => present.gpu.pattern_invert(piece, (first, round, 0), faults),
                Self::Down => present
                    .gpu
                    .pattern_invert(piece, (first, round, u64::MAX), faults),
            })?;
        }
        Ok(time)
    }
}

/// A word that did not keep its value.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    word: u64,
    expected: u64,
    got: u64,
}

/// Takes the faults that were noted, and forgets them.
fn found(present: &Present<'_>, faults: &Memory<'_>) -> Result<Vec<Fault>, Failure> {
    let mut bytes = vec![0; faults.bytes];
    present.gpu.read(&mut bytes, faults)?;
    present.gpu.write(faults, &[0; 8])?;
    let words: Vec<u64> = bytes
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
        .collect();
    let count = usize::try_from(words[0].min(MOST_WRONG)).expect("a few");
    let entries = words[1..].chunks_exact(3).take(count);
    Ok(entries
        .map(|entry| Fault {
            word: entry[0],
            expected: entry[1],
            got: entry[2],
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stress::context::{Pauses, Stop};
    use crate::stress::nvidia::driver::{Driver, Gpu};
    use supernode_types::time::SystemClock;

    #[test]
    fn a_flipped_bit_of_a_device_is_found_with_its_word() {
        let first = Driver::get().and_then(|driver| {
            let devices = driver.devices().map_err(|failure| failure.to_string())?;
            let first = devices.into_iter().next().ok_or("no device is listed")?;
            Ok((driver, first))
        });
        let (driver, (_, device)) = match first {
            Ok(first) => first,
            Err(why) => {
                eprintln!("skipped, no NVIDIA device can be used here: {why}");
                return;
            }
        };
        let gpu = Gpu::open(driver, device).expect("a device that works");
        let present = Present {
            index: 0,
            gpu: &gpu,
        };
        let (clock, stop, pauses) = (SystemClock, Stop::default(), Pauses::default());
        let say = |_| {};
        let context = Context::new(&clock, &stop, &pauses, &say);
        let allocate = |bytes| gpu.allocate(bytes).expect("memory");
        let (pieces, faults) = ([allocate(4096), allocate(8192)], allocate(8 + 24 * 8));
        let pass = |step: March, round| {
            step.over(&context, &present, &pieces, round, &faults)
                .ok()
                .expect("a device that works");
            found(&present, &faults).expect("a device that works")
        };
        for round in 0..2 {
            for step in [March::Write, March::Up, March::Down, March::Up] {
                assert_eq!(pass(step, round), [], "sound memory");
            }
            pass(March::Write, round);
            // Word 3 of the second piece: its number is 512 + 3.
            let mut bytes = [0; 32];
            gpu.read(&mut bytes, &pieces[1])
                .expect("a device that works");
            bytes[24] ^= 4;
            gpu.write(&pieces[1], &bytes).expect("a device that works");
            let got = u64::from_le_bytes(bytes[24..].try_into().expect("eight bytes"));
            let fault = Fault {
                word: 515,
                expected: got ^ 4,
                got,
            };
            assert_eq!(pass(March::Up, round), [fault]);
            assert_eq!(pass(March::Down, round), [], "it was written anew");
        }
        let mut original = vec![0; 4096];
        super::super::noise(&mut original);
        gpu.write(&pieces[0], &original)
            .expect("a device that works");
        let sum = gpu
            .digest(&pieces[0], &faults)
            .expect("a device that works");
        assert_eq!(sum, super::super::digest(&original));
    }
}
