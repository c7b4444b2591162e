//! What a server process keeps in memory: when each node was heard of last, the open connections to agents, and wake-ups.
//!
//! None of it survives a restart and none of it has to: contacts begin anew with a full grace time, agents reconnect, waiters ask again.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use supernode_plan::Contact;
use supernode_types::agent::Desired;
use supernode_types::{AttemptId, Clock, Generation, NodeId, Timestamp};
use tokio::sync::{Notify, oneshot, watch};

/// An open connection to an agent, as whoever holds the socket gives it.
pub trait Link: Send + Sync + std::fmt::Debug {
    /// Tells what the node should do. Answers whether the message could be queued; a lost one is made good by the agent's next sync,
    /// which says what it has.
    fn desired(&self, desired: Box<Desired>) -> bool;
    /// The newest desired generation that its agent is known to have, or was sent, on this connection; 0 when that is not known.
    fn told(&self) -> Generation {
        0
    }
    /// Asks for a part of a rank's output.
    fn read_log(&self, request: LogRequest) -> oneshot::Receiver<Result<LogBytes, String>>;
    /// Ends the connection.
    fn close(&self, why: &'static str);
}

/// Which part of a rank's output to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRequest {
    /// The attempt.
    pub attempt: AttemptId,
    /// The rank.
    pub rank: u32,
    /// First byte.
    pub offset: u64,
    /// Most bytes.
    pub limit: u32,
}

/// A part of a rank's output.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogBytes {
    /// Where the content begins.
    pub offset: u64,
    /// Where to read on.
    pub next_offset: u64,
    /// The output.
    pub content: String,
    /// The rank has ended and this is all.
    pub end: bool,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    monotonic: Duration,
    wall: Timestamp,
}

/// How long syncs took, from receiving to acknowledging.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SyncLatency {
    /// How many.
    pub count: u64,
    /// In all.
    pub sum_microseconds: u64,
    /// The longest.
    pub longest_microseconds: u64,
}

#[derive(Debug)]
struct State {
    sync_latency: SyncLatency,
    /// Looked up with every sync of every node, never in order.
    heard: HashMap<NodeId, Heard>,
    links: HashMap<NodeId, Connection>,
}

#[derive(Debug)]
struct Connection {
    number: u64,
    link: Arc<dyn Link>,
    /// The newest desired generation that the loop sent.
    told: Generation,
}

/// Contacts, links and wake-ups; cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub {
    clock: Arc<dyn Clock>,
    started: Duration,
    state: Arc<Mutex<State>>,
    connections: Arc<AtomicU64>,
    wake: Arc<Notify>,
    revision: watch::Sender<u64>,
}

impl Hub {
    /// Nothing heard yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            started: clock.monotonic(),
            clock,
            state: Arc::new(Mutex::new(State {
                sync_latency: SyncLatency::default(),
                heard: HashMap::new(),
                links: HashMap::new(),
            })),
            connections: Arc::new(AtomicU64::new(0)),
            wake: Arc::new(Notify::new()),
            revision: watch::Sender::new(0),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Notes that a node's agent spoke just now.
    pub fn heard(&self, node: &NodeId) {
        let heard = Heard {
            monotonic: self.clock.monotonic(),
            wall: self.clock.now(),
        };
        let mut state = self.state();
        if let Some(known) = state.heard.get_mut(node) {
            *known = heard;
        } else {
            state.heard.insert(node.clone(), heard);
        }
    }

    /// When a node was heard of last.
    pub fn last_heard(&self, node: &NodeId) -> Option<Timestamp> {
        self.state().heard.get(node).map(|heard| heard.wall)
    }

    /// The contact of each of `nodes`; silence of a node that was never heard of counts from the start of this process.
    pub fn contacts<'a>(
        &self,
        nodes: impl Iterator<Item = &'a NodeId>,
        connected_within: Duration,
    ) -> BTreeMap<NodeId, Contact> {
        let now = self.clock.monotonic();
        let state = self.state();
        nodes
            .map(|node| {
                let heard = state
                    .heard
                    .get(node)
                    .map_or(self.started, |heard| heard.monotonic);
                let silence = now.saturating_sub(heard);
                let connected = state.heard.contains_key(node) && silence <= connected_within;
                (
                    node.clone(),
                    if connected {
                        Contact::Connected
                    } else {
                        Contact::Silent(silence)
                    },
                )
            })
            .collect()
    }

    /// Registers a connection; a former one of the same node is told to close. Answers a number that identifies this one.
    pub fn connect(&self, node: &NodeId, link: Arc<dyn Link>) -> u64 {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let connection = Connection {
            number,
            link,
            told: 0,
        };
        let former = self.state().links.insert(node.clone(), connection);
        if let Some(former) = former {
            former
                .link
                .close("a newer connection of the same node took over");
        }
        number
    }

    /// Whether a connection is still the one of its node: what an older one still brings is old news.
    pub fn is_current(&self, node: &NodeId, connection: u64) -> bool {
        let state = self.state();
        let present = state.links.get(node);
        present.is_some_and(|present| present.number == connection)
    }

    /// Forgets a connection unless a newer one has taken its place.
    pub fn disconnect(&self, node: &NodeId, connection: u64) {
        let mut state = self.state();
        let present = state.links.get(node);
        if present.is_some_and(|present| present.number == connection) {
            state.links.remove(node);
        }
    }

    /// Whether a node is connected and was not told of this desired generation on its connection.
    pub fn behind(&self, node: &NodeId, desired: Generation) -> bool {
        let state = self.state();
        let present = state.links.get(node);
        present.is_some_and(|present| present.told.max(present.link.told()) < desired)
    }

    /// Tells a connected node what it should do.
    pub fn tell(&self, node: &NodeId, desired: Desired) {
        let generation = desired.generation;
        let Some((number, link)) = self.connection(node) else {
            return;
        };
        if link.desired(Box::new(desired))
            && let Some(present) = self.state().links.get_mut(node)
            && present.number == number
        {
            present.told = present.told.max(generation);
        }
    }

    fn connection(&self, node: &NodeId) -> Option<(u64, Arc<dyn Link>)> {
        let state = self.state();
        let present = state.links.get(node)?;
        Some((present.number, Arc::clone(&present.link)))
    }

    /// Notes how long one sync took.
    pub fn note_sync(&self, took: Duration) {
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let latency = &mut self.state().sync_latency;
        latency.count += 1;
        latency.sum_microseconds += microseconds;
        latency.longest_microseconds = latency.longest_microseconds.max(microseconds);
    }

    /// How long syncs took since the start.
    pub fn sync_latency(&self) -> SyncLatency {
        self.state().sync_latency
    }

    /// How many agents are connected.
    pub fn link_count(&self) -> usize {
        self.state().links.len()
    }

    /// The open connection to a node's agent.
    pub fn link(&self, node: &NodeId) -> Option<Arc<dyn Link>> {
        self.connection(node).map(|(_, link)| link)
    }

    /// Makes the loop look again.
    pub fn wake_loop(&self) {
        self.wake.notify_one();
    }

    /// Waits until somebody wakes the loop.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Tells everybody who waits for a change that there may be one.
    pub fn announce_change(&self) {
        self.revision.send_modify(|revision| *revision += 1);
    }

    /// A receiver that is marked changed with every [`Hub::announce_change`].
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}
