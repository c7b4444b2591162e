//! One direction of a TCP stream: as many bytes as go, counted at the receiving end in intervals of the clock: those of several streams
//! can be added up, also where packets are lost and one stream waits while another goes on.
//!
//! Buffers are as large as those of the usual tools, because the size of a system call is part of what is measured.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::session::Received;
use crate::stress::context::Context;
use crate::stress::number::real;

/// Bytes of one system call.
const BUFFER: usize = 128 * 1024;
/// A rate covers so much time.
const INTERVAL: Duration = Duration::from_millis(100);
/// Rates are kept for a day at most.
const MOST_RATES: usize = 864_000;

/// Writes for a time, or until told to stop, or until the other end leaves.
pub(super) fn pour(
    context: &Context<'_>,
    stream: &mut TcpStream,
    time: Duration,
) -> io::Result<()> {
    let buffer = vec![0x5a; BUFFER];
    let start = context.moment();
    while !context.stopped() && context.seconds_since(start) < time.as_secs_f64() {
        match stream.write(&buffer) {
            Ok(_) => {}
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
    }
    stream.shutdown(Shutdown::Write)
}

/// Reads until the other end stops writing; Gbit/s of each whole interval.
pub(super) fn drain(
    context: &Context<'_>,
    stream: &mut TcpStream,
    longest: Duration,
) -> io::Result<Received> {
    let mut buffer = vec![0; BUFFER];
    let mut bytes: Vec<u64> = Vec::new();
    let start = context.moment();
    let interval = |moment: Duration| moment.as_millis() / INTERVAL.as_millis();
    let since_start = || {
        let number = interval(context.moment()) - interval(start);
        usize::try_from(number)
            .unwrap_or(MOST_RATES)
            .min(MOST_RATES)
    };
    while !context.stopped() && context.seconds_since(start) < longest.as_secs_f64() {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                let now = since_start();
                if bytes.len() <= now {
                    bytes.resize(now + 1, 0);
                }
                bytes[now] += read as u64;
            }
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
    }
    // Neither the first nor the last is whole.
    bytes.resize(since_start().max(1), 0);
    let gbps = |bytes: &u64| real(*bytes) * 8.0 / INTERVAL.as_secs_f64() / 1e9;
    Ok(Received {
        first: u64::try_from(interval(start))
            .unwrap_or(u64::MAX)
            .saturating_add(1),
        rates: bytes.iter().skip(1).map(gbps).collect(),
    })
}

/// Several streams added up. They need not have begun at the same time: where packets are lost, some begin much later.
pub(super) fn sum(streams: &[Received]) -> Vec<f64> {
    let mut sums: BTreeMap<u64, f64> = BTreeMap::new();
    for stream in streams {
        for (interval, rate) in (stream.first..).zip(&stream.rates) {
            *sums.entry(interval).or_default() += rate;
        }
    }
    // The first has the slow start of TCP in it, and in the last not all may have been there.
    if sums.len() > 4 {
        sums.pop_first();
        sums.pop_last();
    }
    sums.into_values().collect()
}

/// Whether nothing moved for the time limit of one call, which is only a reason to look at the order to stop.
pub(super) fn is_pause(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_added_when_they_ran() {
        let stream = |first, rates: &[f64]| Received {
            first,
            rates: rates.to_vec(),
        };
        let together = sum(&[
            stream(7, &[9.0, 9.0, 3.0, 3.0]),
            stream(9, &[3.0, 3.0, 6.0]),
        ]);
        assert_eq!(together, [9.0, 6.0, 6.0]);
        assert_eq!(sum(&[]), [0.0; 0]);
    }
}
