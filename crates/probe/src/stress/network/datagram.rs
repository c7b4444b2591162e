//! Round trips and losses of small UDP datagrams, each direction by itself: the listener counts what arrives, the asker what comes
//! back.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use super::stream::is_pause;
use crate::stress::context::Context;
use crate::stress::histogram::Histogram;

/// Bytes of a datagram: token, number, time, and filling.
const BYTES: usize = 64;
/// How long an answer may take before it is lost.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// One call waits this long, to look at the order to stop.
const PAUSE: Duration = Duration::from_millis(50);

/// What the asker saw.
#[derive(Debug, Default)]
pub(super) struct Probed {
    pub(super) sent: u64,
    pub(super) answered: u64,
    /// Round trips in microseconds.
    pub(super) round_trips: Histogram,
}

/// Sends datagrams at a steady pace, each when the answer to the last is there or its time has come.
pub(super) fn probe(
    context: &Context<'_>,
    to: SocketAddr,
    token: [u8; 16],
    time: Duration,
    pace: Duration,
) -> io::Result<Probed> {
    let any: SocketAddr = if to.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    let mut probed = Probed::default();
    let mut open = BTreeSet::new();
    let start = context.moment();
    let mut due = Duration::ZERO;
    loop {
        let elapsed = context.moment().saturating_sub(start);
        if context.stopped() || elapsed >= time + PATIENCE || (elapsed >= time && open.is_empty()) {
            return Ok(probed);
        }
        if elapsed >= due && elapsed < time {
            let datagram = datagram(token, probed.sent, elapsed);
            match socket.send(&datagram) {
                Ok(_) => {
                    open.insert(probed.sent);
                    probed.sent += 1;
                }
                // Taken away by a filter or a full queue of this host, which loses it as well as a link would.
                Err(error) if is_lost(&error) => {
                    open.insert(probed.sent);
                    probed.sent += 1;
                }
                // Not sent, or a port that is not open yet: the next one may go.
                Err(error)
                    if is_pause(&error) || error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error),
            }
            due += pace;
            // After a pause of our own the pace goes on from now; nothing is sent in a burst.
            due = due.max(elapsed.saturating_sub(pace));
        }
        let wait = due
            .saturating_sub(elapsed)
            .clamp(Duration::from_micros(20), PAUSE);
        socket.set_read_timeout(Some(wait))?;
        let mut answer = [0; BYTES];
        match socket.recv(&mut answer) {
            Ok(BYTES) if answer[..16] == token => {
                let number = number_at(&answer, 16);
                // Doubled answers count once.
                if open.remove(&number) {
                    probed.answered += 1;
                    let sent = Duration::from_nanos(number_at(&answer, 24));
                    let now = context.moment().saturating_sub(start);
                    probed
                        .round_trips
                        .add(now.saturating_sub(sent).as_secs_f64() * 1e6);
                }
            }
            Ok(_) => {}
            Err(error) if is_pause(&error) || error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends every datagram with the token back to where it came from, the same bytes; counts them. `more` ends it.
pub(super) fn echo(
    context: &Context<'_>,
    socket: &UdpSocket,
    token: [u8; 16],
    mut more: impl FnMut() -> bool,
) -> io::Result<u64> {
    socket.set_read_timeout(Some(PAUSE))?;
    let mut seen = BTreeSet::new();
    let mut buffer = [0; BYTES + 1];
    while !context.stopped() && more() {
        match socket.recv_from(&mut buffer) {
            Ok((BYTES, from)) if buffer[..16] == token => {
                seen.insert(number_at(&buffer, 16));
                // An answer that cannot be sent is lost; the asker counts it.
                let _ = socket.send_to(&buffer[..BYTES], from);
            }
            Ok(_) => {}
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(seen.len() as u64)
}

/// Whether the host itself has lost what it should have sent.
fn is_lost(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
        || error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}

fn datagram(token: [u8; 16], number: u64, sent: Duration) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let nanoseconds = u64::try_from(sent.as_nanos()).unwrap_or(u64::MAX);
    bytes[..16].copy_from_slice(&token);
    bytes[16..24].copy_from_slice(&number.to_be_bytes());
    bytes[24..32].copy_from_slice(&nanoseconds.to_be_bytes());
    bytes
}

fn number_at(bytes: &[u8], position: usize) -> u64 {
    let word = bytes[position..].first_chunk();
    u64::from_be_bytes(*word.expect("datagrams are longer than that"))
}
