//! Real sockets and rings under a node: everything that happens is told to the node, and what the node wants is done.
//!
//! One thread at a time drives (`group` decides which). Nothing here blocks.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::shared::{Inbox, Outbox};
use super::tcp::{Moved, Socket};
use crate::engine::{Ending, OperatorId};
use crate::failure::Failure;
use crate::node::{AT_ONCE, Action, ConnectionId, End, Node};
use crate::operator::Rank;

/// Pieces of one system call: headers and payloads of frames.
const PIECES: usize = 16;
/// Between two looks at the paths.
const PROBE: Duration = Duration::from_millis(50);

const BELL: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;
const LISTENERS: u64 = u64::MAX - 1 - 256;

/// A network interface of this rank.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) listener: TcpListener,
    pub(super) address: IpAddr,
}

pub(super) struct Driver {
    pub(super) node: Node,
    pub(super) ended: BTreeMap<OperatorId, Ending>,
    /// A thread drives.
    pub(super) is_driven: bool,
    /// Threads that wait until another one stops driving or an operator has ended.
    pub(super) waiters: usize,
    epoll: Arc<OwnedFd>,
    lanes: Vec<Lane>,
    roster: Vec<Vec<SocketAddr>>,
    sockets: BTreeMap<ConnectionId, Socket>,
    inbox: Option<Inbox>,
    outboxes: BTreeMap<Rank, Outbox>,
    buffer: Vec<u8>,
    probe_at: Duration,
    accepted_limit: usize,
}

impl Driver {
    pub(super) fn new(
        node: Node,
        epoll: Arc<OwnedFd>,
        wake: &OwnedFd,
        lanes: Vec<Lane>,
        roster: Vec<Vec<SocketAddr>>,
        inbox: Option<Inbox>,
        outboxes: BTreeMap<Rank, Outbox>,
    ) -> io::Result<Self> {
        epoll::add(&epoll, wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        for (index, lane) in lanes.iter().enumerate() {
            lane.listener.set_nonblocking(true)?;
            let data = EventData::new_u64(LISTENERS + index as u64);
            epoll::add(&epoll, &lane.listener, data, EventFlags::IN)?;
        }
        if let Some(inbox) = &inbox {
            epoll::add(
                &epoll,
                inbox.bell(),
                EventData::new_u64(BELL),
                EventFlags::IN,
            )?;
        }
        Ok(Self {
            ended: BTreeMap::new(),
            is_driven: false,
            waiters: 0,
            // Every peer may have twice the connections that it needs; the rest are strangers.
            accepted_limit: 64 + 4 * node.world() * (lanes.len() + 1),
            node,
            epoll,
            lanes,
            roster,
            sockets: BTreeMap::new(),
            inbox,
            outboxes,
            buffer: vec![0; AT_ONCE],
            probe_at: Duration::ZERO,
        })
    }

    /// Tells the node what happened.
    pub(super) fn handle(&mut self, events: &[Event], now: Duration) {
        self.node.tick(now);
        for event in events {
            match event.data.u64() {
                BELL | WAKE => {}
                listener if listener >= LISTENERS => self.accept(listener - LISTENERS),
                id => self.socket_event(ConnectionId(id), event.flags),
            }
        }
        if now >= self.probe_at {
            self.probe_at = now + PROBE;
            self.probe();
        }
    }

    fn accept(&mut self, lane: u64) {
        let lane = usize::try_from(lane).expect("it is the number of a lane");
        while let Ok((stream, _)) = self.lanes[lane].listener.accept() {
            if self.sockets.len() >= self.accepted_limit {
                continue;
            }
            if let Ok(socket) = Socket::accepted(stream.into()) {
                let id = self.node.accepted(lane);
                self.watch(id, socket);
            }
        }
    }

    fn watch(&mut self, id: ConnectionId, mut socket: Socket) {
        socket.interest = if socket.is_connecting {
            EventFlags::OUT
        } else {
            EventFlags::IN
        };
        let data = EventData::new_u64(id.0);
        if epoll::add(&self.epoll, &socket, data, socket.interest).is_ok() {
            self.sockets.insert(id, socket);
        } else {
            self.node.closed(id, End::Broken);
        }
    }

    fn socket_event(&mut self, id: ConnectionId, flags: EventFlags) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        if socket.is_connecting {
            match socket.outcome() {
                Ok(()) if flags.contains(EventFlags::OUT) => {
                    socket.is_connecting = false;
                    self.node.connected(id);
                }
                Ok(()) => {}
                Err(Errno::CONNREFUSED) => self.node.closed(id, End::Refused),
                Err(_) => self.node.closed(id, End::Broken),
            }
            return;
        }
        if flags.contains(EventFlags::OUT) {
            socket.is_full = false;
        }
        let broken = EventFlags::ERR | EventFlags::HUP;
        if flags.intersects(EventFlags::IN | broken) && self.node.wants_bytes(id) {
            let len = self.node.readable(id);
            match socket.read(&mut self.buffer[..len]) {
                Moved::Bytes(len) => self.node.bytes(id, &self.buffer[..len]),
                Moved::Later => {}
                Moved::Over => self.node.closed(id, End::Broken),
            }
        } else if flags.intersects(broken) {
            // What it still holds is sent again over the next connection.
            self.node.closed(id, End::Broken);
        }
    }

    fn probe(&mut self) {
        let wanted: Vec<ConnectionId> = self
            .sockets
            .keys()
            .copied()
            .filter(|id| self.node.wants_path(*id))
            .collect();
        for id in wanted {
            if let Some(path) = self.sockets.get(&id).and_then(Socket::path) {
                self.node.path(id, path);
            }
        }
    }

    /// Does what the node wants. Says whether there is more to do at once.
    pub(super) fn settle(&mut self) -> bool {
        let mut is_busy = self.pump();
        loop {
            while let Some(action) = self.node.take_action() {
                self.act(action);
            }
            let mut over = Vec::new();
            for (id, socket) in &mut self.sockets {
                match flush(&mut self.node, *id, socket) {
                    Moved::Bytes(0) | Moved::Later => {}
                    Moved::Bytes(_) => is_busy = true,
                    Moved::Over => over.push(*id),
                }
                watch_for_what_matters(&self.node, &self.epoll, *id, socket);
            }
            if over.is_empty() {
                break;
            }
            for id in over {
                self.node.closed(id, End::Broken);
            }
        }
        // Whoever waits for one of them must not fall asleep now.
        self.keep_ended() || is_busy
    }

    /// Keeps what has ended for those who wait for it; says whether anything has.
    fn keep_ended(&mut self) -> bool {
        let mut has_ended = false;
        while let Some((id, ending)) = self.node.take_ended() {
            self.ended.insert(id, ending);
            has_ended = true;
        }
        has_ended
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Dial {
                connection,
                peer,
                lane,
            } => {
                let from = self.lanes[lane].address;
                match Socket::dial(from, self.roster[peer][lane]) {
                    Ok(socket) => {
                        let is_connecting = socket.is_connecting;
                        self.watch(connection, socket);
                        if !is_connecting {
                            self.node.connected(connection);
                        }
                    }
                    Err(_) => self.node.closed(connection, End::Broken),
                }
            }
            // Closing takes it out of the epoll set.
            Action::Close { connection } => drop(self.sockets.remove(&connection)),
        }
    }

    /// Shuts down all sockets that are connected, and says how many.
    pub(super) fn cut(&self) -> usize {
        let sockets = self.sockets.values().filter(|socket| !socket.is_connecting);
        sockets.filter(|socket| socket.cut()).count()
    }

    /// Moves bytes through the rings; says whether any moved.
    pub(super) fn pump(&mut self) -> bool {
        let mut moved = false;
        let Some(inbox) = &self.inbox else {
            return false;
        };
        for (rank, outbox) in &self.outboxes {
            let engine = self.node.engine_mut();
            let mut changed = false;
            loop {
                let Some(bytes) = inbox.readable(*rank) else {
                    engine.fail(nonsense(*rank));
                    break;
                };
                let taken = engine.receive(*rank, bytes);
                if taken == 0 {
                    break;
                }
                inbox.consume(*rank, taken);
                changed = true;
            }
            while let Some(bytes) = engine.transmit(*rank, 0) {
                match outbox.write(bytes) {
                    Some(0) => break,
                    Some(len) => {
                        engine.transmitted(*rank, len);
                        changed = true;
                    }
                    None => {
                        engine.fail(nonsense(*rank));
                        break;
                    }
                }
            }
            if changed {
                engine.acknowledged_all(*rank);
                outbox.ring();
                moved = true;
            }
        }
        if moved {
            self.node.settle();
            self.keep_ended();
        }
        moved
    }

    /// Whether everybody has what they need from this rank, in rings too.
    pub(super) fn may_leave(&self) -> bool {
        let is_done =
            |(rank, outbox): (&Rank, &Outbox)| outbox.is_drained() || self.node.has_left(*rank);
        self.node.may_leave()
            && (self.node.engine().failure().is_some() || self.outboxes.iter().all(is_done))
    }

    /// Whether it is worth while to look at the rings for a moment before sleeping.
    pub(super) fn has_rings(&self) -> bool {
        !self.outboxes.is_empty()
    }

    /// Before sleeping. Says whether there is something after all.
    pub(super) fn fall_asleep(&mut self) -> bool {
        if self.outboxes.is_empty() {
            return false;
        }
        if let Some(inbox) = &self.inbox {
            inbox.fall_asleep();
        }
        self.pump()
    }

    pub(super) fn wake_up(&self) {
        if let Some(inbox) = &self.inbox {
            inbox.wake_up();
        }
    }

    /// How long it may sleep.
    pub(super) fn patience(&self, now: Duration) -> Duration {
        let timer = self.node.next_timer().unwrap_or(Duration::MAX);
        let needs_probe = self.sockets.keys().any(|id| self.node.wants_path(*id));
        let probe = if needs_probe {
            self.probe_at
        } else {
            Duration::MAX
        };
        timer.min(probe).saturating_sub(now)
    }
}

fn nonsense(rank: Rank) -> Failure {
    Failure::StreamLost {
        from: rank,
        to: rank,
        why: "the counters in shared memory are damaged".into(),
    }
}

/// Writes once, as much as is useful in one system call.
fn flush(node: &mut Node, id: ConnectionId, socket: &mut Socket) -> Moved {
    if socket.is_full || socket.is_connecting {
        return Moved::Later;
    }
    node.prepare(id);
    let mut parts = [IoSlice::new(&[]); PIECES];
    let (mut count, mut total) = (0, 0);
    while count < PIECES
        && total < AT_ONCE
        && let Some(bytes) = node.transmit(id, total)
    {
        let bytes = &bytes[..bytes.len().min(AT_ONCE - total)];
        parts[count] = IoSlice::new(bytes);
        total += bytes.len();
        count += 1;
    }
    if total == 0 {
        return Moved::Bytes(0);
    }
    let moved = socket.write(&parts[..count]);
    match moved {
        Moved::Bytes(len) => {
            socket.is_full = len < total;
            node.transmitted(id, len);
        }
        Moved::Later => socket.is_full = true,
        Moved::Over => {}
    }
    moved
}

fn watch_for_what_matters(node: &Node, epoll: impl AsFd, id: ConnectionId, socket: &mut Socket) {
    if socket.is_connecting {
        return;
    }
    let mut interest = EventFlags::empty();
    if node.wants_bytes(id) {
        interest |= EventFlags::IN;
    }
    if socket.is_full {
        interest |= EventFlags::OUT;
    }
    if interest != socket.interest
        && epoll::modify(epoll, &socket, EventData::new_u64(id.0), interest).is_ok()
    {
        socket.interest = interest;
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;
    use crate::element::DataType;
    use crate::group::{LIMITS, MAX_RETRIES};
    use crate::handshake::Secret;
    use crate::memory::{Buffer, Input, Memory};
    use crate::node::{Carrier, Config, Route, Timing};
    use crate::operator::{Kind, Operator};
    use crate::system;

    /// A group of one has no timers: a thread that slept now would sleep for ever.
    #[test]
    fn who_waits_for_an_operator_that_has_ended_does_not_sleep() {
        let config = Config {
            rank: 0,
            routes: vec![Route {
                lanes: 0,
                carrier: Carrier::Connections,
            }],
            secret: Secret::new(&[1; 32], [1; 16], 1),
            limits: LIMITS,
            max_retries: MAX_RETRIES,
            timing: Timing::usual(),
        };
        let node = Node::new(config, system::monotonic(), system::random);
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).expect("a descriptor"));
        let wake = eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor");
        let (roster, outboxes) = (vec![Vec::new()], BTreeMap::new());
        let mut driver = Driver::new(node, epoll, &wake, Vec::new(), roster, None, outboxes)
            .expect("nothing is watched yet");
        assert!(!driver.settle(), "nothing has happened");
        let operator = Operator::new(Kind::Barrier, DataType::F32, 0);
        let memory = Memory::new(Input::InPlace, Buffer::owned(Vec::new()), &operator, 0, 1);
        let id = driver.node.submit(operator, memory.expect("it fits"));
        assert!(driver.settle(), "it has ended");
        assert!(driver.ended.contains_key(&id));
        assert!(!driver.settle(), "nothing else has happened");
    }
}
