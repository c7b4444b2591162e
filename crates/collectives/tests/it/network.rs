//! A simulated network: real nodes, virtual time, and faults. The same start gives the same run.
//!
//! Each connection is a *wire* with two directions. A direction carries chunks that arrive after the lane's delay and in order; a chunk
//! whose process does not want it waits (the closed window of TCP). Lanes have different delays, so the last bytes of an old wire can
//! arrive after the first of a new one. A wire can break (one end may never notice), a lane can be silent for a while, a process can stand still.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use supernode_collectives::engine::{Ending, OperatorId};
use supernode_collectives::node::{Action, ConnectionId, End, Node, Path};

use crate::random::Random;

/// How much a direction holds.
const CAPACITY: usize = 4096;
const PROBE: Duration = Duration::from_millis(50);

pub(crate) const fn micros(count: u64) -> Duration {
    Duration::from_micros(count)
}

/// One process: a node, and when its operators are submitted is up to the caller.
pub(crate) struct Process {
    pub(crate) node: Node,
    /// Whose address the others see; a leftover of an older attempt has none.
    listens: bool,
    ends: BTreeMap<ConnectionId, usize>,
    stopped_until: Duration,
    tick_at: Option<Duration>,
    pub(crate) ended: Vec<(OperatorId, Ending)>,
}

/// An end of a wire: a process, and its name for the connection once it has one.
#[derive(Debug, Clone, Copy)]
struct Place {
    process: usize,
    connection: Option<ConnectionId>,
}

#[derive(Debug, Default)]
struct Direction {
    chunks: VecDeque<(Duration, Vec<u8>)>,
    /// Bytes on the way and waiting.
    held: usize,
    arrived: u64,
    last_arrival: Duration,
}

#[derive(Debug)]
struct Wire {
    /// The dialer and the acceptor.
    places: [Place; 2],
    lane: usize,
    directions: [Direction; 2],
    /// Nothing arrives any more.
    is_broken: bool,
    /// Break when so many bytes have arrived in this direction.
    break_at: Option<(usize, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive {
        wire: usize,
        direction: usize,
    },
    Connect {
        wire: usize,
    },
    Close {
        process: usize,
        connection: ConnectionId,
        refused: bool,
    },
    Tick {
        process: usize,
    },
    Probe,
}

/// Something that a test wants to happen.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// A random wire breaks; perhaps an end does not notice.
    Break,
    /// A lane between two processes carries nothing for a while.
    Silence {
        a: usize,
        b: usize,
        lane: usize,
        length: Duration,
    },
    /// A process does nothing for a while.
    Stop { process: usize, length: Duration },
    /// A node takes a healthy connection for broken.
    FalseAlarm,
    /// A bit of something that is sent soon flips on the way.
    Damage,
    /// What a process keeps for another is gone.
    LoseWindow { process: usize, peer: usize },
    /// Somebody connects and sends noise.
    Stranger { process: usize },
    /// Somebody connects and repeats the hello of a member.
    Replay { process: usize },
}

/// Where a wire has to break, for the test that tries every place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// Which of the wires that `from` dials to `to`.
    pub(crate) nth: usize,
    /// 0: bytes of the dialer; 1: bytes of the acceptor.
    pub(crate) direction: usize,
    pub(crate) after: u64,
}

pub(crate) struct Network {
    pub(crate) now: Duration,
    pub(crate) processes: Vec<Process>,
    wires: Vec<Wire>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    sequence: u64,
    random: Random,
    delays: Vec<Duration>,
    /// Until when a lane between two processes is silent.
    silent: BTreeMap<(usize, usize, usize), Duration>,
    hellos: BTreeMap<usize, Vec<u8>>,
    cut: Option<Cut>,
    /// Whether the cut has happened.
    pub(crate) was_cut: bool,
    /// Fragments and delays vary.
    is_rough: bool,
    /// Chunks that are still to be damaged.
    damages: u32,
}

impl Network {
    pub(crate) fn new(
        random: Random,
        delays: Vec<Duration>,
        is_rough: bool,
        cut: Option<Cut>,
    ) -> Self {
        let mut network = Self {
            now: Duration::ZERO,
            processes: Vec::new(),
            wires: Vec::new(),
            events: BinaryHeap::new(),
            sequence: 0,
            random,
            delays,
            silent: BTreeMap::new(),
            hellos: BTreeMap::new(),
            cut,
            was_cut: false,
            is_rough,
            damages: 0,
        };
        network.schedule(PROBE, Event::Probe);
        network
    }

    /// Adds a process. Members come in the order of their ranks, before others.
    pub(crate) fn add(&mut self, node: Node, listens: bool) {
        self.processes.push(Process {
            node,
            listens,
            ends: BTreeMap::new(),
            stopped_until: Duration::ZERO,
            tick_at: None,
            ended: Vec::new(),
        });
        self.serve(self.processes.len() - 1);
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, event)));
    }

    /// When the next thing happens.
    pub(crate) fn next_at(&self) -> Duration {
        self.events
            .peek()
            .map_or(Duration::MAX, |Reverse((at, ..))| *at)
    }

    /// Lets the next thing happen.
    pub(crate) fn step(&mut self) {
        let Some(Reverse((at, _, event))) = self.events.pop() else {
            return;
        };
        self.now = self.now.max(at);
        match event {
            Event::Arrive { wire, direction } => self.arrive(wire, direction),
            Event::Connect { wire } => self.connect(wire),
            Event::Tick { process } => {
                if self.is_stopped(process, event) {
                    return;
                }
                self.processes[process].tick_at = None;
                self.serve(process);
            }
            Event::Close {
                process,
                connection,
                refused,
            } => {
                if self.is_stopped(process, event) {
                    return;
                }
                let end = if refused { End::Refused } else { End::Broken };
                self.processes[process].node.tick(self.now);
                self.processes[process].node.closed(connection, end);
                self.serve(process);
            }
            Event::Probe => {
                for process in 0..self.processes.len() {
                    self.probe(process);
                }
                self.schedule(self.now + PROBE, Event::Probe);
            }
        }
    }

    /// A process that stands still gets its events later.
    fn is_stopped(&mut self, process: usize, event: Event) -> bool {
        let until = self.processes[process].stopped_until;
        let is_stopped = until > self.now;
        if is_stopped {
            self.schedule(until, event);
        }
        is_stopped
    }

    fn silent_until(&self, wire: usize) -> Duration {
        let wire = &self.wires[wire];
        let (a, b) = (wire.places[0].process, wire.places[1].process);
        let key = (a.min(b), a.max(b), wire.lane);
        self.silent.get(&key).copied().unwrap_or_default()
    }

    fn delay(&mut self, lane: usize) -> Duration {
        let delay = self.delays[lane];
        if self.is_rough {
            delay + micros(self.random.below(200) as u64)
        } else {
            delay
        }
    }

    fn connect(&mut self, index: usize) {
        if self.silent_until(index) > self.now {
            return;
        }
        let (dialer, target, lane) = {
            let wire = &self.wires[index];
            (wire.places[0], wire.places[1].process, wire.lane)
        };
        let Some(connection) = dialer.connection else {
            return;
        };
        if !self.processes[target].listens {
            let process = dialer.process;
            self.schedule(
                self.now,
                Event::Close {
                    process,
                    connection,
                    refused: true,
                },
            );
            return;
        }
        // The kernel of a process that stands still accepts all the same.
        self.processes[target].node.tick(self.now);
        let accepted = self.processes[target].node.accepted(lane);
        self.processes[target].ends.insert(accepted, index);
        self.wires[index].places[1].connection = Some(accepted);
        if self.processes[dialer.process]
            .ends
            .contains_key(&connection)
        {
            self.processes[dialer.process].node.tick(self.now);
            self.processes[dialer.process].node.connected(connection);
        }
        self.serve(dialer.process);
    }

    fn arrive(&mut self, index: usize, direction: usize) {
        let until = self.silent_until(index);
        if until > self.now {
            // TCP sends again, later.
            let later = until + micros(self.random.below(400_000) as u64);
            self.schedule(
                later,
                Event::Arrive {
                    wire: index,
                    direction,
                },
            );
            return;
        }
        let place = self.wires[index].places[1 - direction];
        if self.is_stopped(
            place.process,
            Event::Arrive {
                wire: index,
                direction,
            },
        ) {
            return;
        }
        self.deliver(index, direction);
        self.serve(place.process);
    }

    /// Hands over what has arrived and is wanted.
    fn deliver(&mut self, index: usize, direction: usize) {
        let target = self.wires[index].places[1 - direction];
        let Some(connection) = target.connection else {
            return;
        };
        let process = target.process;
        self.processes[process].node.tick(self.now);
        while !self.wires[index].is_broken
            && self.processes[process].ends.contains_key(&connection)
            && self.processes[process].node.wants_bytes(connection)
        {
            let wire = &mut self.wires[index];
            let flow = &mut wire.directions[direction];
            if flow.chunks.front().is_none_or(|(at, _)| *at > self.now) {
                break;
            }
            let (_, mut chunk) = flow.chunks.pop_front().expect("it was just looked at");
            flow.held -= chunk.len();
            let mut breaks = false;
            if let Some((which, at)) = wire.break_at
                && which == direction
                && flow.arrived + chunk.len() as u64 >= at
            {
                chunk.truncate(usize::try_from(at - flow.arrived).expect("it is within the chunk"));
                breaks = true;
            }
            flow.arrived += chunk.len() as u64;
            if direction == 0 && !self.hellos.contains_key(&process) && chunk.len() >= 100 {
                self.hellos.insert(process, chunk[..100].to_vec());
            }
            self.processes[process].node.bytes(connection, &chunk);
            if breaks {
                self.was_cut = true;
                self.break_wire(index, [true, true]);
            }
        }
        // The other side may have room again.
        let source = self.wires[index].places[direction].process;
        if source != process {
            self.flush(source);
        }
    }

    fn break_wire(&mut self, index: usize, notices: [bool; 2]) {
        self.wires[index].is_broken = true;
        for (place, notices) in self.wires[index].places.into_iter().zip(notices) {
            if let (Some(connection), true) = (place.connection, notices) {
                let later = if self.is_rough {
                    self.random.below(5000) as u64
                } else {
                    0
                };
                let process = place.process;
                self.schedule(
                    self.now + micros(later),
                    Event::Close {
                        process,
                        connection,
                        refused: false,
                    },
                );
            }
        }
    }

    /// Does what a driver does after every event.
    pub(crate) fn serve(&mut self, process: usize) {
        if self.processes[process].stopped_until > self.now {
            return;
        }
        self.processes[process].node.tick(self.now);
        loop {
            while let Some(action) = self.processes[process].node.take_action() {
                match action {
                    Action::Dial {
                        connection,
                        peer,
                        lane,
                    } => self.dial(process, connection, peer, lane),
                    Action::Close { connection } => self.close(process, connection),
                }
            }
            // What waited for this process may be wanted now.
            let ends: Vec<(ConnectionId, usize)> = self.processes[process]
                .ends
                .iter()
                .map(|(id, wire)| (*id, *wire))
                .collect();
            for (id, wire) in ends {
                let direction = usize::from(
                    self.wires[wire].places[0].process == process
                        && self.wires[wire].places[0].connection == Some(id),
                );
                let flow = &self.wires[wire].directions[direction];
                let waits = flow.chunks.front().is_some_and(|(at, _)| *at < self.now);
                if waits
                    && self.silent_until(wire) <= self.now
                    && self.processes[process].node.wants_bytes(id)
                {
                    self.deliver(wire, direction);
                }
            }
            self.flush(process);
            let one = &mut self.processes[process];
            while let Some(ended) = one.node.take_ended() {
                one.ended.push(ended);
            }
            let Some(action) = one.node.take_action() else {
                break;
            };
            match action {
                Action::Dial {
                    connection,
                    peer,
                    lane,
                } => self.dial(process, connection, peer, lane),
                Action::Close { connection } => self.close(process, connection),
            }
        }
        let next = self.processes[process].node.next_timer();
        if let Some(next) = next
            && self.processes[process]
                .tick_at
                .is_none_or(|known| next < known)
        {
            self.processes[process].tick_at = Some(next);
            self.schedule(next, Event::Tick { process });
        }
    }

    fn dial(&mut self, process: usize, connection: ConnectionId, peer: usize, lane: usize) {
        let index = self.wires.len();
        let nth = self
            .wires
            .iter()
            .filter(|wire| wire.places[0].process == process && wire.places[1].process == peer)
            .count();
        let break_at = self
            .cut
            .filter(|cut| cut.from == process && cut.to == peer && cut.nth == nth)
            .map(|cut| (cut.direction, cut.after));
        self.wires.push(Wire {
            places: [
                Place {
                    process,
                    connection: Some(connection),
                },
                Place {
                    process: peer,
                    connection: None,
                },
            ],
            lane,
            directions: [Direction::default(), Direction::default()],
            is_broken: false,
            break_at,
        });
        self.processes[process].ends.insert(connection, index);
        let at = self.now + self.delay(lane);
        self.schedule(at, Event::Connect { wire: index });
    }

    /// The peer reads what was written before the end.
    fn close(&mut self, process: usize, connection: ConnectionId) {
        let Some(index) = self.processes[process].ends.remove(&connection) else {
            return;
        };
        let wire = &self.wires[index];
        let other = usize::from(
            wire.places[0].process == process && wire.places[0].connection == Some(connection),
        );
        let place = wire.places[other];
        let last = wire.directions[1 - other].last_arrival;
        if let (Some(peer), false) = (place.connection, wire.is_broken) {
            let at = last.max(self.now + self.delays[wire.lane]);
            let process = place.process;
            self.schedule(
                at,
                Event::Close {
                    process,
                    connection: peer,
                    refused: false,
                },
            );
        }
    }

    /// Moves what the node wants to write onto the wires.
    fn flush(&mut self, process: usize) {
        if self.processes[process].stopped_until > self.now {
            return;
        }
        let ends: Vec<(ConnectionId, usize)> = self.processes[process]
            .ends
            .iter()
            .map(|(id, wire)| (*id, *wire))
            .collect();
        for (id, index) in ends {
            loop {
                let wire = &self.wires[index];
                let direction = usize::from(
                    !(wire.places[0].process == process && wire.places[0].connection == Some(id)),
                );
                let (lane, held) = (wire.lane, wire.directions[direction].held);
                self.processes[process].node.prepare(id);
                let Some(bytes) = self.processes[process].node.transmit(id, 0) else {
                    break;
                };
                let room = bytes.len().min(CAPACITY - held.min(CAPACITY));
                if room == 0 {
                    break;
                }
                let len = if self.is_rough {
                    1 + self.random.below(room)
                } else {
                    room
                };
                let mut chunk = bytes[..len].to_vec();
                if self.damages > 0 && self.random.once_in(3) {
                    self.damages -= 1;
                    let bit = self.random.below(8 * len);
                    chunk[bit / 8] ^= 1 << (bit % 8);
                }
                self.processes[process].node.transmitted(id, len);
                if self.wires[index].is_broken {
                    continue;
                }
                let delay = self.delay(lane);
                let flow = &mut self.wires[index].directions[direction];
                let at = flow.last_arrival.max(self.now + delay);
                flow.last_arrival = at;
                flow.held += len;
                flow.chunks.push_back((at, chunk));
                self.schedule(
                    at,
                    Event::Arrive {
                        wire: index,
                        direction,
                    },
                );
            }
        }
    }

    /// What `tcp_info` would say.
    fn probe(&mut self, process: usize) {
        if self.processes[process].stopped_until > self.now {
            return;
        }
        self.processes[process].node.tick(self.now);
        let ends: Vec<(ConnectionId, usize)> = self.processes[process]
            .ends
            .iter()
            .map(|(id, wire)| (*id, *wire))
            .collect();
        let mut reported = false;
        for (id, index) in ends {
            if !self.processes[process].node.wants_path(id) {
                continue;
            }
            let wire = &self.wires[index];
            let flow = &wire.directions[0];
            let is_silent = self.silent_until(index) > self.now;
            let on_the_way = |at: Duration| at > self.now || is_silent || wire.is_broken;
            let pending: usize = flow
                .chunks
                .iter()
                .filter(|(at, _)| on_the_way(*at))
                .map(|(_, chunk)| chunk.len())
                .sum();
            let waiting = flow.held - pending;
            // Bytes that went into a broken wire are pending for ever.
            let pending = pending as u64 + u64::from(wire.is_broken);
            let path = Path {
                pending,
                acknowledged: flow.arrived + waiting as u64,
                window_is_open: waiting < CAPACITY,
            };
            self.processes[process].node.path(id, path);
            reported = true;
        }
        if reported {
            self.serve(process);
        }
    }

    /// Makes something happen.
    pub(crate) fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::Break => {
                let alive: Vec<usize> = (0..self.wires.len())
                    .filter(|index| {
                        let wire = &self.wires[*index];
                        let end = wire.places[0];
                        !wire.is_broken
                            && end.connection.is_some_and(|id| {
                                self.processes[end.process].ends.contains_key(&id)
                            })
                    })
                    .collect();
                if !alive.is_empty() {
                    let index = *self.random.pick(&alive);
                    let notices = *self.random.pick(&[
                        [true, true],
                        [true, false],
                        [false, true],
                        [false, false],
                    ]);
                    self.break_wire(index, notices);
                }
            }
            Fault::Silence { a, b, lane, length } => {
                self.silent
                    .insert((a.min(b), a.max(b), lane), self.now + length);
            }
            Fault::Stop { process, length } => {
                self.processes[process].stopped_until = self.now + length;
                self.schedule(self.now + length, Event::Tick { process });
            }
            Fault::FalseAlarm => {
                let process = self.random.below(self.processes.len());
                let known: Vec<ConnectionId> =
                    self.processes[process].ends.keys().copied().collect();
                if !known.is_empty() && self.processes[process].stopped_until <= self.now {
                    let id = *self.random.pick(&known);
                    if self.processes[process].node.wants_path(id) {
                        self.processes[process].node.suspect(id);
                        self.serve(process);
                    }
                }
            }
            Fault::Damage => self.damages += 1,
            Fault::LoseWindow { process, peer } => {
                if self.processes[process].stopped_until <= self.now {
                    self.processes[process].node.tick(self.now);
                    self.processes[process].node.lose_window(peer);
                    self.serve(process);
                }
            }
            Fault::Stranger { process } => {
                let len = 1 + self.random.below(300);
                let noise: Vec<u8> = (0..len)
                    .map(|_| self.random.next().to_le_bytes()[0])
                    .collect();
                self.intrude(process, &noise);
            }
            Fault::Replay { process } => {
                if let Some(hello) = self.hellos.get(&process).cloned() {
                    self.intrude(process, &hello);
                    self.intrude(process, &[hello, vec![7; 500]].concat());
                }
            }
        }
    }

    /// Bytes from nowhere; the connection stays open, as that of somebody who waits would.
    fn intrude(&mut self, process: usize, bytes: &[u8]) {
        if self.processes[process].stopped_until > self.now {
            return;
        }
        let node = &mut self.processes[process].node;
        node.tick(self.now);
        let id = node.accepted(0);
        node.bytes(id, bytes);
        self.serve(process);
    }
}
