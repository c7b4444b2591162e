//! The side that waits: it serves whoever has the key, a few at a time, until its own time is over.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use supernode_types::Entropy;

use super::session::{self, Account, EchoPort, Echoed, Key, Request};
use super::{datagram, stream};
use crate::stress::context::Context;
use crate::stress::processor::Waiting;
use crate::stress::sample::{Event, Refusal};

/// Waits for a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Where; port 0 lets the system choose, and the address is said.
    pub address: SocketAddr,
    /// The key of this test.
    pub key: Key,
    /// For how long.
    pub seconds: u32,
}

/// Connections at a time: the streams of one peer and some to spare.
const MOST_CONNECTIONS: u32 = 64;
/// A peer that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(5);
/// Streams that are accounted for at most.
const MOST_SHARES: usize = 1024;
/// How often the order to stop is looked at.
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) fn run(
    context: &Context<'_>,
    entropy: &dyn Entropy,
    settings: &Listen,
) -> Result<(), Refusal> {
    let because =
        |error| Refusal::because(&format!("cannot listen on {}", settings.address), error);
    let listener = TcpListener::bind(settings.address).map_err(because)?;
    listener.set_nonblocking(true).map_err(because)?;
    let address = listener.local_addr().map_err(because)?;
    context.say(Event::Listening(address));
    let connections = AtomicU32::new(0);
    let cpu_shares = Mutex::new(Vec::new());
    let start = context.moment();
    std::thread::scope(|scope| {
        while !context.stopped() && context.seconds_since(start) < f64::from(settings.seconds) {
            match listener.accept() {
                Ok((stream, peer)) => {
                    if connections.fetch_add(1, Ordering::SeqCst) >= MOST_CONNECTIONS {
                        connections.fetch_sub(1, Ordering::SeqCst);
                        continue;
                    }
                    let (connections, cpu_shares) = (&connections, &cpu_shares);
                    scope.spawn(move || {
                        let served = serve(context, entropy, settings, stream, address, cpu_shares);
                        if let Err(error) = served {
                            context.remark(format!("a connection of {peer} ended: {error}"));
                        }
                        connections.fetch_sub(1, Ordering::SeqCst);
                    });
                }
                Err(error) if stream::is_pause(&error) => std::thread::sleep(PAUSE),
                Err(error) => return Err(Refusal::because("connections cannot be taken", error)),
            }
        }
        Ok(())
    })?;
    context.check()
}

fn serve(
    context: &Context<'_>,
    entropy: &dyn Entropy,
    settings: &Listen,
    mut stream: TcpStream,
    address: SocketAddr,
    cpu_shares: &Mutex<Vec<f64>>,
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let session = session::answer(&mut stream, &settings.key, entropy)?;
    let longest = Duration::from_secs(u64::from(settings.seconds));
    let waiting = Waiting::begin(context);
    let count = || {
        let mut cpu_shares = cpu_shares.lock().expect("nobody panics with it");
        if cpu_shares.len() < MOST_SHARES {
            cpu_shares.extend(waiting.cpu_share(context));
        }
    };
    match session::read_message(&mut stream)? {
        Request::Upload => {
            stream.set_read_timeout(Some(PAUSE))?;
            let received = stream::drain(context, &mut stream, longest)?;
            count();
            session::write_message(&mut stream, &received)
        }
        Request::Download { milliseconds } => {
            stream.set_write_timeout(Some(PAUSE))?;
            let time = Duration::from_millis(milliseconds).min(longest);
            stream::pour(context, &mut stream, time)?;
            count();
            Ok(())
        }
        Request::Account => {
            let account = Account {
                longest_pause_seconds: context.longest_pause_seconds(),
                cpu_shares: cpu_shares.lock().expect("nobody panics with it").clone(),
            };
            session::write_message(&mut stream, &account)
        }
        Request::Echo { milliseconds } => {
            let socket = UdpSocket::bind((address.ip(), 0))?;
            let port = socket.local_addr()?.port();
            session::write_message(&mut stream, &EchoPort { port })?;
            let time = (Duration::from_millis(milliseconds) + datagram::PATIENCE).min(longest);
            let start = context.moment();
            let more = || context.seconds_since(start) < time.as_secs_f64();
            let datagrams = datagram::echo(context, &socket, settings.key.token(&session), more)?;
            session::write_message(&mut stream, &Echoed { datagrams })
        }
    }
}
