//! One direction of a TCP stream: as many bytes as go, counted at the receiving end in intervals.
//!
//! Buffers are as large as those of the usual tools, because the size of a system call is part of what is measured.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::stress::context::Context;
use crate::stress::number::real;

/// Bytes of one system call.
const BUFFER: usize = 128 * 1024;
/// A rate covers at least so much time.
const INTERVAL: f64 = 0.1;
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

/// Reads until the other end stops writing; Gbit/s of each interval.
pub(super) fn drain(
    context: &Context<'_>,
    stream: &mut TcpStream,
    longest: Duration,
) -> io::Result<Vec<f64>> {
    let mut buffer = vec![0; BUFFER];
    let mut rates = Vec::new();
    let start = context.moment();
    let mut begun = start;
    let mut bytes = 0;
    while !context.stopped() && context.seconds_since(start) < longest.as_secs_f64() {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => bytes += read as u64,
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
        let seconds = context.seconds_since(begun);
        if seconds >= INTERVAL && rates.len() < MOST_RATES {
            rates.push(real(bytes) * 8.0 / seconds / 1e9);
            (bytes, begun) = (0, context.moment());
        }
    }
    // The first interval has the slow start of TCP in it.
    if rates.len() > 3 {
        rates.remove(0);
    }
    Ok(rates)
}

/// Whether nothing moved for the time limit of one call, which is only a reason to look at the order to stop.
pub(super) fn is_pause(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}
