//! The network between two nodes: streams each way, round trips, and losses each way.
//!
//! Our own, so that both ends are always there, have the same version, ask for a key, count at the receiving end and stop when told.

mod datagram;
mod listener;
pub mod pair;
mod session;
mod stream;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use supernode_types::Entropy;

pub use self::listener::Listen;
pub(crate) use self::listener::run as run_listener;
pub use self::session::Key;
use self::session::{Account, EchoPort, Echoed, Received, Request};
use super::context::Context;
use super::number::real;
use super::processor::counting_waits;
use super::sample::{Event, Metric, Part, Pause, Refusal};

/// Asks a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Where it listens.
    pub address: SocketAddr,
    /// How samples name it.
    pub peer: String,
    /// The key of this test.
    pub key: Key,
    /// Streams at a time.
    pub streams: u32,
    /// For how long each direction of the streams is measured.
    pub stream_seconds: u32,
    /// For how long datagrams are sent; none when zero.
    pub datagram_seconds: u32,
    /// Datagrams a second.
    pub datagrams_per_second: u32,
}

/// A listener answers within this time or is not there.
const PATIENCE: Duration = Duration::from_secs(5);
/// One call of a stream waits this long, to look at the order to stop.
const PAUSE: Duration = Duration::from_millis(50);
/// Beyond what was asked for, a stream may need so long to drain.
const SLACK: Duration = Duration::from_secs(5);
const MOST_STREAMS: u32 = 32;

/// Which way the bytes go, seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Out,
    In,
}

pub(crate) fn run(
    context: &Context<'_>,
    entropy: &dyn Entropy,
    settings: &Ask,
) -> Result<(), Refusal> {
    let test = Test {
        context: *context,
        entropy,
        settings,
    };
    test.datagrams()?;
    test.streams(Direction::Out)?;
    test.streams(Direction::In)?;
    test.account()?;
    context.check()
}

struct Test<'a> {
    context: Context<'a>,
    entropy: &'a dyn Entropy,
    settings: &'a Ask,
}

impl Test<'_> {
    fn connect(&self) -> Result<(TcpStream, session::Session), Refusal> {
        let connect = || -> io::Result<(TcpStream, session::Session)> {
            let mut stream = TcpStream::connect_timeout(&self.settings.address, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            let session = session::ask(&mut stream, &self.settings.key, self.entropy)?;
            Ok((stream, session))
        };
        connect().map_err(|error| self.refusal(error))
    }

    fn refusal(&self, error: io::Error) -> Refusal {
        let Ask { peer, address, .. } = self.settings;
        let what = format!("{peer} at {address}");
        // A machine takes connections for a process that does not run: then it is not the network that is silent.
        if stream::is_pause(&error) && TcpStream::connect_timeout(address, PATIENCE).is_ok() {
            return Refusal::Interrupted(format!(
                "{what}: its machine answers, and the process that listens there does not"
            ));
        }
        Refusal::because(&what, error)
    }

    fn streams(&self, direction: Direction) -> Result<(), Refusal> {
        let streams = self.settings.streams.clamp(1, MOST_STREAMS);
        let time = Duration::from_secs(u64::from(self.settings.stream_seconds));
        let received: Result<Vec<Received>, Refusal> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..streams)
                .map(|_| scope.spawn(|| self.stream(direction, time)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("a kernel's thread does not panic"))
                .collect()
        });
        let metric = match direction {
            Direction::Out => Metric::NetworkSend,
            Direction::In => Metric::NetworkReceive,
        };
        for rate in stream::sum(&received?) {
            self.context.sample(metric, self.part(), rate);
        }
        self.context.check()
    }

    fn stream(&self, direction: Direction, time: Duration) -> Result<Received, Refusal> {
        counting_waits(&self.context, || self.received(direction, time))
    }

    fn received(&self, direction: Direction, time: Duration) -> Result<Received, Refusal> {
        let (mut stream, _) = self.connect()?;
        let mut move_bytes = || -> io::Result<Received> {
            match direction {
                Direction::Out => {
                    session::write_message(&mut stream, &Request::Upload)?;
                    stream.set_write_timeout(Some(PAUSE))?;
                    stream::pour(&self.context, &mut stream, time)?;
                    session::read_message(&mut stream)
                }
                Direction::In => {
                    let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                    session::write_message(&mut stream, &Request::Download { milliseconds })?;
                    stream.set_read_timeout(Some(PAUSE))?;
                    stream::drain(&self.context, &mut stream, time + SLACK)
                }
            }
        };
        move_bytes().map_err(|error| self.refusal(error))
    }

    fn datagrams(&self) -> Result<(), Refusal> {
        if self.settings.datagram_seconds == 0 {
            return Ok(());
        }
        let (mut stream, session) = self.connect()?;
        let time = Duration::from_secs(u64::from(self.settings.datagram_seconds));
        let pace = Duration::from_secs(1) / self.settings.datagrams_per_second.max(1);
        let mut exchange = || -> io::Result<(datagram::Probed, Echoed)> {
            let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            session::write_message(&mut stream, &Request::Echo { milliseconds })?;
            let EchoPort { port } = session::read_message(&mut stream)?;
            let to = SocketAddr::new(self.settings.address.ip(), port);
            let token = self.settings.key.token(&session);
            let probed = datagram::probe(&self.context, to, token, time, pace)?;
            stream.set_read_timeout(Some(PATIENCE + datagram::PATIENCE))?;
            Ok((probed, session::read_message(&mut stream)?))
        };
        let (probed, echoed) = exchange().map_err(|error| self.refusal(error))?;
        self.context.check()?;
        if probed.sent == 0 {
            return Err(self.refusal(io::Error::other("no datagram could be sent")));
        }
        let arrived = echoed.datagrams.min(probed.sent);
        let share = |lost: u64, of: u64| real(lost) / real(of.max(1));
        let out = share(probed.sent - arrived, probed.sent);
        let back = share(arrived.saturating_sub(probed.answered), arrived);
        self.context.sample(Metric::LossOut, self.part(), out);
        self.context.sample(Metric::LossIn, self.part(), back);
        self.context.say(Event::Distribution {
            metric: Metric::RoundTrip,
            part: self.part(),
            histogram: probed.round_trips,
        });
        Ok(())
    }

    /// How the other end has run. One of an older version does not say it.
    fn account(&self) -> Result<(), Refusal> {
        let (mut stream, _) = self.connect()?;
        let answer = session::write_message(&mut stream, &Request::Account)
            .and_then(|()| session::read_message::<Account>(&mut stream));
        let account = match answer {
            Err(error) if stream::is_pause(&error) => return Err(self.refusal(error)),
            answer => answer.unwrap_or_default(),
        };
        for share in account.cpu_shares {
            self.context.sample(Metric::CpuShare, self.part(), share);
        }
        self.context.say(Event::Paused(Pause {
            part: self.part(),
            seconds: account.longest_pause_seconds,
        }));
        Ok(())
    }

    fn part(&self) -> Part {
        Part::Peer(self.settings.peer.clone())
    }
}
