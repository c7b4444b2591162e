//! One rank with its connections, without I/O: what a driver reads, what it writes, when it calls, whom it calls.
//!
//! A driver (real sockets, or the simulated network of the tests) tells the node what happened, and asks what to do: [`Node::take_action`],
//! [`Node::transmit`], [`Node::next_timer`], [`Node::take_ended`]. The node never blocks and reads no clock.
//!
//! Between two ranks, in each direction, there is one data connection that the sender dials when it has something to send, and for
//! each lane one control connection, kept for as long as the group lives. The sender decides when a data connection is broken, because only it has bytes
//! in flight; the receiver takes the newest one that proves itself. What is *slow* is never taken for *broken*: a peer whose
//! kernel acknowledges, or whose window is closed, is waited for.
//!
//! It refuses strangers, other attempts, late connections, and peers that run something else.

mod calls;
mod connection;
mod frame;
mod incoming;
mod negotiation;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

pub use connection::ConnectionId;
pub(crate) use frame::AT_ONCE;

use crate::engine::{Ending, Engine, Limits, OperatorId};
use crate::failure::Failure;
use crate::handshake::{Channel, Nonce, Secret};
use crate::memory::Memory;
use crate::operator::{Operator, Rank};
use calls::Dialing;
use connection::{Connection, LONGEST_TEXT, Phase, Record, Side};
use negotiation::Negotiation;

/// How long a node waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// For a handshake, the first time; doubles with every failure in a row, up to eight times.
    pub handshake: Duration,
    /// Before it dials again, the second time; doubles up to [`Self::longest_pause`]. The first time it dials at once.
    pub shortest_pause: Duration,
    /// The longest pause before it dials again.
    pub longest_pause: Duration,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// Until a path on which nothing is acknowledged counts as broken.
    pub quiet: Duration,
    /// Until a rank whose addresses refuse connections counts as gone.
    pub gone: Duration,
    /// Until a rank from which nothing is heard counts as lost.
    pub silent: Duration,
    /// Until received bytes are acknowledged, if not enough of them come together.
    pub acknowledge: Duration,
}

impl Timing {
    /// For real networks.
    pub const fn usual() -> Self {
        Self {
            handshake: Duration::from_millis(250),
            shortest_pause: Duration::from_millis(10),
            longest_pause: Duration::from_millis(50),
            heartbeat: Duration::from_millis(100),
            quiet: Duration::from_millis(250),
            gone: Duration::from_secs(2),
            silent: Duration::from_mins(5),
            acknowledge: Duration::from_millis(5),
        }
    }
}

/// Received bytes that are acknowledged at once.
const ACKNOWLEDGE_BYTES: u64 = 256 * 1024;

/// How a peer is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Lanes to it; at least one.
    pub lanes: usize,
    /// Who carries the data.
    pub carrier: Carrier,
}

/// Who carries the data to and from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// Connections of the node.
    Connections,
    /// The driver itself, by memory that both processes see. Control connections are kept all the same.
    Driver,
}

/// What a node has to know.
#[derive(Debug)]
pub struct Config {
    /// Who it is.
    pub rank: Rank,
    /// How each rank is reached; the entry of its own rank is not used.
    pub routes: Vec<Route>,
    /// What members of the group know.
    pub secret: Secret,
    /// What it may keep.
    pub limits: Limits,
    /// How often an operator may be executed again; the smallest of all ranks counts.
    pub max_retries: u64,
    /// How long to wait for what.
    pub timing: Timing,
}

/// What the driver has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Connect, and report [`Node::connected`] or [`Node::closed`].
    Dial {
        /// The name of the connection from now on.
        connection: ConnectionId,
        /// To whom.
        peer: Rank,
        /// On which lane.
        lane: usize,
    },
    /// Close; what was to be written is still written if that needs no waiting.
    Close {
        /// Which.
        connection: ConnectionId,
    },
}

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The peer's host said that nobody listens.
    Refused,
    /// Anything else.
    Broken,
}

/// What a driver sees of a connection that the node dialed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// Bytes that were written and that the peer's kernel has not acknowledged, sent or not.
    pub pending: u64,
    /// Bytes that the peer's kernel has acknowledged since the connection exists.
    pub acknowledged: u64,
    /// Whether the peer's kernel takes more.
    pub window_is_open: bool,
}

/// What happened to connections so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Data connections that broke.
    pub broken: u64,
    /// Those among them that the node gave up because nothing was acknowledged.
    pub suspected: u64,
    /// Streams that went on over a new connection.
    pub resumed: u64,
    /// Bytes that were sent once more after that.
    pub resent_bytes: u64,
    /// Frames and messages that arrived damaged.
    pub damaged: u64,
    /// Times that the group began operators again, because bytes were lost.
    pub reexecutions: u64,
    /// Those among them that went on over another lane.
    pub lane_switches: u64,
    /// From the break to the resumption, the longest.
    pub longest_recovery: Duration,
    /// Connections that did not know the key.
    pub strangers: u64,
    /// Connections of another attempt.
    pub other_epochs: u64,
    /// Connections that came after a newer one.
    pub superseded: u64,
}

#[derive(Debug)]
struct Peer {
    data: Dialing,
    control: Vec<Dialing>,
    /// Its data connection to us.
    incoming: Accepting,
    /// Its control connections to us, by lane.
    incoming_control: Vec<Accepting>,
    /// When it was heard of last.
    heard: Duration,
    /// What was acknowledged to it.
    told: u64,
    tell_at: Option<Duration>,
    /// Damaged frames from it since the last good one.
    damaged: u64,
    has_left: bool,
}

/// One channel that a peer dials.
#[derive(Debug, Clone, Copy, Default)]
struct Accepting {
    connection: Option<ConnectionId>,
    /// The highest number that has proven itself.
    newest: u64,
}

/// One rank with its connections.
pub struct Node {
    config: Config,
    engine: Engine,
    now: Duration,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: u64,
    peers: Vec<Peer>,
    actions: VecDeque<Action>,
    nonces: Box<dyn FnMut() -> Nonce + Send>,
    statistics: Statistics,
    has_stopped: bool,
    is_leaving: bool,
    /// What every control connection says first, once this rank has stopped or leaves.
    last_words: Vec<u8>,
    negotiation: Negotiation,
}

impl fmt::Debug for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Node")
            .field("config", &self.config)
            .field("engine", &self.engine)
            .field("now", &self.now)
            .field("connections", &self.connections)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// A node that knows everybody's addresses and calls them. `nonces` gives random numbers.
    pub fn new(
        config: Config,
        now: Duration,
        nonces: impl FnMut() -> Nonce + Send + 'static,
    ) -> Self {
        let world = config.routes.len();
        let peers = config.routes.iter().map(|route| Peer {
            data: Dialing::new(now),
            control: (0..route.lanes).map(|_| Dialing::new(now)).collect(),
            incoming: Accepting::default(),
            incoming_control: vec![Accepting::default(); route.lanes],
            heard: now,
            told: 0,
            tell_at: None,
            damaged: 0,
            has_left: false,
        });
        let mut node = Self {
            peers: peers.collect(),
            engine: Engine::new(config.rank, world, config.limits),
            config,
            now,
            connections: BTreeMap::new(),
            next_connection: 0,
            actions: VecDeque::new(),
            nonces: Box::new(nonces),
            statistics: Statistics::default(),
            has_stopped: false,
            is_leaving: false,
            last_words: Vec::new(),
            negotiation: Negotiation::new(world),
        };
        node.tick(now);
        node
    }

    /// Who it is.
    pub const fn rank(&self) -> Rank {
        self.config.rank
    }

    /// Ranks in the group.
    pub fn world(&self) -> usize {
        self.config.routes.len()
    }

    /// Queues an operator.
    pub fn submit(&mut self, operator: Operator, memory: Memory) -> OperatorId {
        let id = self.engine.submit(operator, memory);
        self.settle();
        id
    }

    /// The engine, for a driver that carries data itself. Call [`Self::settle`] after changing it.
    pub const fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// The engine.
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What happened to connections so far.
    pub const fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// What the driver has to do next.
    pub fn take_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// An operator that has ended.
    pub fn take_ended(&mut self) -> Option<(OperatorId, Ending)> {
        self.engine.take_ended()
    }

    /// Whether a group that is being closed may go: everybody has what they need from this rank.
    pub fn may_leave(&self) -> bool {
        let is_flushed =
            |rank: Rank| self.engine.unacknowledged(rank) == 0 || self.peers[rank].has_left;
        self.engine.failure().is_some()
            || (!self.engine.is_busy() && (0..self.world()).all(is_flushed))
    }

    /// Whether `rank` has said that it goes.
    pub fn has_left(&self, rank: Rank) -> bool {
        self.peers[rank].has_left
    }

    /// Whether somebody has not been told yet why this rank stops or that it goes. Somebody who is gone is never told: do not wait for ever.
    pub fn has_last_words(&self) -> bool {
        let is_told = |rank: Rank| {
            self.connections.values().any(|connection| {
                connection.is_open()
                    && connection.purpose() == Some((rank, Channel::Control))
                    && connection.outbound.is_empty()
            })
        };
        let others = (0..self.world()).filter(|rank| *rank != self.config.rank);
        let mut listening = others.filter(|rank| !self.peers[*rank].has_left);
        !self.last_words.is_empty() && listening.any(|rank| !is_told(rank))
    }

    /// Tells everybody that this rank goes. Operators that were not finished fail.
    pub fn leave(&mut self) {
        if self.is_leaving {
            return;
        }
        self.is_leaving = true;
        for rank in 0..self.world() {
            self.tell(rank);
        }
        if !self.has_stopped {
            self.say(&Record::Leave.encode());
        }
        self.has_stopped = true;
        self.engine.fail(Failure::Closed);
    }

    /// What is kept for `peer` is gone, as it would be with memory that failed.
    pub fn lose_window(&mut self, peer: Rank) {
        self.engine.lose_window(peer);
        self.settle();
    }

    /// Stops the group and tells everybody why.
    pub fn stop(&mut self, failure: Failure) {
        self.engine.fail(failure);
        self.settle();
    }

    /// On every control connection that is there, and on those to come.
    fn say(&mut self, message: &[u8]) {
        self.last_words.extend_from_slice(message);
        self.write_to_all(message);
    }

    /// Brings connections in line with the engine after it has changed.
    pub fn settle(&mut self) {
        self.offer_again();
        self.negotiate();
        if let Some(failure) = self.engine.failure()
            && !self.has_stopped
        {
            self.has_stopped = true;
            if !matches!(failure, Failure::Told { .. }) {
                let text = failure.to_string();
                let text = &text.as_bytes()[..text.len().min(LONGEST_TEXT)];
                let mut message = Record::Stop(text.len() as u64).encode().to_vec();
                message.extend_from_slice(text);
                message.extend_from_slice(&frame::checksum(text).to_le_bytes());
                self.say(&message);
            }
        }
        self.dial_where_needed();
    }

    /// Makes ready what there is to write. Call it before [`Self::transmit`].
    pub fn prepare(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id)
            && let Some(peer) = connection.stream_to()
        {
            let engine = &self.engine;
            let stream = |offset| engine.transmit(peer, offset);
            connection.frames.prepare(stream);
        }
    }

    /// The next bytes to write, `skip` bytes after the first that was not written.
    pub fn transmit(&self, id: ConnectionId, skip: usize) -> Option<&[u8]> {
        let connection = self.connections.get(&id)?;
        if skip < connection.outbound.len() {
            return Some(&connection.outbound[skip..]);
        }
        let peer = connection.stream_to()?;
        let stream = |offset| self.engine.transmit(peer, offset);
        connection
            .frames
            .next(skip - connection.outbound.len(), stream)
    }

    /// So many of those bytes were written.
    pub fn transmitted(&mut self, id: ConnectionId, len: usize) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let own = len.min(connection.outbound.len());
        connection.outbound.drain(..own);
        if len > own
            && let Side::Dialed { peer, .. } = connection.side
        {
            let payload = connection.frames.written(len - own);
            self.engine.transmitted(peer, payload);
        }
    }

    /// Whether the driver should read; if not, what it has given was not used yet.
    pub fn wants_bytes(&self, id: ConnectionId) -> bool {
        let is_stalled = |connection: &Connection| connection.is_open() && connection.verified > 0;
        self.connections
            .get(&id)
            .is_some_and(|connection| !is_stalled(connection))
    }

    /// Whether the node wants [`Self::path`] reports about it.
    pub fn wants_path(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|connection| {
            connection.is_open() && matches!(connection.side, Side::Dialed { .. })
        })
    }

    /// The next moment at which [`Self::tick`] has something to do.
    pub fn next_timer(&self) -> Option<Duration> {
        let mut next: Option<Duration> = None;
        let mut at = |moment: Duration| next = Some(next.map_or(moment, |known| known.min(moment)));
        for connection in self.connections.values() {
            if !connection.is_open() {
                at(connection.deadline);
            } else if matches!(
                connection.side,
                Side::Dialed {
                    channel: Channel::Control,
                    ..
                }
            ) && connection.ping.is_none()
            {
                at(connection.ping_at);
            }
        }
        if let Some(deadline) = self.negotiation.deadline(self.config.timing.silent) {
            at(deadline);
        }
        for (rank, peer) in self.peers.iter().enumerate() {
            if rank == self.config.rank {
                continue;
            }
            if let Some(moment) = peer.tell_at {
                at(moment);
            }
            if !self.has_stopped && self.engine.needs(rank) {
                // Once this moment is over, a refusal decides, and the next dial finds out.
                let gone = peer.heard + self.config.timing.gone;
                if gone > self.now {
                    at(gone);
                }
                at(peer.heard + self.config.timing.silent);
            }
            let data = (self.wants_data_to(rank)).then_some(&peer.data);
            let control = peer.control.iter().filter(|_| !peer.has_left);
            for dialing in data.into_iter().chain(control) {
                if let Some(moment) = dialing.due() {
                    at(moment);
                }
            }
        }
        next.map(|moment| moment.max(self.now))
    }

    /// Time passes.
    pub fn tick(&mut self, now: Duration) {
        self.now = self.now.max(now);
        let now = self.now;
        let late = |(id, connection): (&ConnectionId, &Connection)| {
            (!connection.is_open() && connection.deadline <= now).then_some(*id)
        };
        let late: Vec<ConnectionId> = self.connections.iter().filter_map(late).collect();
        for id in late {
            self.give_up(id, End::Broken);
        }
        for connection in self.connections.values_mut() {
            if let Side::Dialed {
                channel: Channel::Control,
                ..
            } = connection.side
                && connection.is_open()
                && connection.ping.is_none()
                && connection.ping_at <= now
            {
                connection
                    .outbound
                    .extend_from_slice(&Record::Ping.encode());
                connection.ping = Some(now);
                connection.ping_at = now + self.config.timing.heartbeat;
            }
        }
        for rank in 0..self.world() {
            if self.peers[rank].tell_at.is_some_and(|moment| moment <= now) {
                self.tell(rank);
            }
        }
        self.judge_peers();
        self.judge_negotiation();
        self.dial_where_needed();
    }

    /// What the driver sees of a path.
    pub fn path(&mut self, id: ConnectionId, path: Path) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if path.pending == 0 || !path.window_is_open {
            connection.stuck = None;
            return;
        }
        let since = match connection.stuck {
            Some((acknowledged, since)) if acknowledged == path.acknowledged => since,
            _ => {
                connection.stuck = Some((path.acknowledged, now));
                return;
            }
        };
        if now.saturating_sub(since) >= self.config.timing.quiet {
            self.suspect(id);
        }
    }

    /// Gives up a connection whose path seems to be broken. Being wrong costs a reconnection and nothing else.
    pub fn suspect(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let (Some((peer, channel)), lane) = (connection.purpose(), connection.lane) else {
            return;
        };
        match channel {
            Channel::Data => self.statistics.suspected += 1,
            Channel::Control => {
                // A path without acknowledgements is broken for data too, also while the peer's window hides it.
                let data = self.peers[peer].data.connection();
                let same = data.filter(|data| {
                    self.connections
                        .get(data)
                        .is_some_and(|data| data.is_open() && data.lane == lane)
                });
                if let Some(data) = same.filter(|_| self.engine.unacknowledged(peer) > 0) {
                    self.statistics.suspected += 1;
                    self.give_up(data, End::Broken);
                }
            }
        }
        self.give_up(id, End::Broken);
        self.dial_where_needed();
    }

    /// A connection is over, or could not be made.
    pub fn closed(&mut self, id: ConnectionId, end: End) {
        if self.connections.contains_key(&id) {
            self.give_up(id, end);
            self.settle();
        }
    }

    /// Decides which peers are lost.
    fn judge_peers(&mut self) {
        if self.has_stopped {
            return;
        }
        for rank in 0..self.world() {
            if rank == self.config.rank || !self.engine.needs(rank) {
                continue;
            }
            let peer = &self.peers[rank];
            let since = self.now.saturating_sub(peer.heard);
            let is_refused = peer.control.iter().all(Dialing::was_refused);
            let failure = if peer.has_left {
                Failure::RankLeft { rank }
            } else if is_refused && since >= self.config.timing.gone {
                Failure::RankGone { rank, since }
            } else if since >= self.config.timing.silent {
                Failure::RankSilent { rank, since }
            } else {
                continue;
            };
            self.stop(failure);
            return;
        }
    }

    fn wants_data_to(&self, rank: Rank) -> bool {
        self.config.routes[rank].carrier == Carrier::Connections
            && !self.peers[rank].has_left
            && self.engine.unacknowledged(rank) > 0
    }

    const fn connection_id(&mut self) -> ConnectionId {
        self.next_connection += 1;
        ConnectionId(self.next_connection)
    }

    /// Somebody connected to a lane of this rank.
    pub fn accepted(&mut self, lane: usize) -> ConnectionId {
        let id = self.connection_id();
        let deadline = self.now + self.config.timing.handshake * 8;
        let connection = Connection::new(Side::Accepted(None), lane, Phase::Expecting, deadline);
        self.connections.insert(id, connection);
        id
    }
}
