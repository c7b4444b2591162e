//! Everything that can happen, and when: the queue from which a world takes its next step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use supernode_agent::core::EnvironmentTask;
use supernode_agent::executor::Done;
use supernode_agent::ledger::{Ledger, RankKey};
use supernode_control::provisioner::ProvisionAnswer;
use supernode_types::environment::EnvironmentDesired;
use supernode_types::job::RankEnd;
use supernode_types::{CertificateSerial, Generation, NodeId};

use crate::client::Answer;
use crate::cloud::Call;
use crate::ranks::Program;

/// One thing that happens. Numbers say which process of the server, boot of a node or process of an agent it belongs to; what belongs
/// to one that is gone does not happen.
#[derive(Debug)]
pub(crate) enum Event {
    Server(ServerEvent),
    Agent {
        machine: usize,
        agent: u64,
        event: AgentEvent,
    },
    Machine {
        machine: usize,
        boot: u64,
        event: MachineEvent,
    },
    Client(ClientEvent),
    Fault,
    Heal(Heal),
}

#[derive(Debug)]
pub(crate) enum ServerEvent {
    /// The process starts.
    Start,
    /// The loop looks, because somebody woke it or its period is over.
    Loop { process: u64, periodic: bool },
    /// What the links were given goes out.
    Flush { process: u64 },
    /// An agent asks for a certificate.
    Enrol {
        machine: usize,
        agent: u64,
        attempt: u32,
    },
    /// An agent opens a connection.
    Connect {
        machine: usize,
        agent: u64,
        connection: u64,
    },
    /// A frame of an agent arrives.
    Frame {
        machine: usize,
        connection: u64,
        text: String,
    },
    /// The end of a connection becomes known.
    Gone { machine: usize, connection: u64 },
    /// The server looks for wishes for the provisioner.
    Provision { process: u64 },
    /// A call reaches the provisioner.
    Call { process: u64, call: Box<Call> },
    /// The provisioner's answer, or that there was none.
    CallAnswer {
        process: u64,
        call: Box<Call>,
        answer: ProvisionAnswer,
    },
    /// What a sync said is stored; now it is answered.
    Answer {
        process: u64,
        connection: u64,
        sequence: u64,
        stored: Generation,
        outcome: Option<(Generation, bool)>,
    },
}

impl ServerEvent {
    /// The machine whose network brings it.
    pub(crate) fn source(&self) -> Option<usize> {
        match self {
            Self::Enrol { machine, .. }
            | Self::Connect { machine, .. }
            | Self::Frame { machine, .. }
            | Self::Gone { machine, .. } => Some(*machine),
            Self::Start
            | Self::Loop { .. }
            | Self::Flush { .. }
            | Self::Answer { .. }
            | Self::Provision { .. }
            | Self::Call { .. }
            | Self::CallAnswer { .. } => None,
        }
    }
}

/// What happens to the process of an agent; a halted one does it when it goes on.
#[derive(Debug)]
pub(crate) enum AgentEvent {
    /// Time to ask the core.
    Wake,
    /// The machine was discovered.
    Discovered,
    /// It tries to get a certificate.
    Enrol,
    /// It has one.
    Enrolled {
        attempt: u32,
        node: NodeId,
        serial: CertificateSerial,
    },
    /// It tries to open a connection.
    Connect,
    /// The answer to that; `None` is nobody there.
    Connected {
        connection: u64,
        welcome: Option<bool>,
    },
    /// A frame of the server.
    Frame { connection: u64, text: String },
    /// The connection is gone.
    Gone { connection: u64 },
    /// Something is done to the disk or to the machine.
    Work(Work),
    /// And reported.
    Done(Done),
    /// A rank directory changed.
    Changed(RankKey),
    /// The regular look at all ranks.
    LookAtAll,
}

impl AgentEvent {
    /// Whether the network brings it.
    pub(crate) fn by_network(&self) -> bool {
        matches!(
            self,
            Self::Enrolled { .. } | Self::Connected { .. } | Self::Frame { .. } | Self::Gone { .. }
        )
    }
}

/// What an agent's executor does.
#[derive(Debug)]
pub(crate) enum Work {
    Ledger {
        version: u64,
        ledger: Box<Ledger>,
    },
    Lease {
        deadline: Duration,
    },
    Rank(RankKey),
    Environment {
        task: EnvironmentTask,
        desired: Option<Arc<EnvironmentDesired>>,
    },
    Prune(Vec<RankKey>),
}

/// What happens on a machine whatever becomes of its agent.
#[derive(Debug)]
pub(crate) enum MachineEvent {
    /// It comes up.
    Boot,
    /// The agent is started.
    AgentStart,
    /// A supervisor begins.
    Supervise {
        key: RankKey,
        device: u32,
        program: Program,
        granted: Duration,
    },
    /// The supervisor looks at the lease.
    Fence { key: RankKey },
    /// A program ends.
    End { key: RankKey, end: RankEnd },
}

#[derive(Debug)]
pub(crate) enum ClientEvent {
    /// The operator wants something.
    Ask,
    /// A request arrives at the server, under this key.
    Arrive { number: usize, key: String },
    /// Its answer arrives.
    Answer {
        number: usize,
        key: String,
        answer: Answer,
    },
    /// There was none.
    Timeout { number: usize },
}

/// The end of a fault.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Heal {
    Halt { machine: usize, agent: u64 },
    Partition { machine: usize },
    Clock,
    Disk { machine: usize },
    Environment { machine: usize },
}

/// Events by time, and those of one moment in the order in which they were made.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    events: BTreeMap<(Duration, u64), Event>,
    made: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, at: Duration, event: Event) {
        self.made += 1;
        self.events.insert((at, self.made), event);
    }

    pub(crate) fn pop(&mut self) -> Option<(Duration, Event)> {
        self.events.pop_first().map(|((at, _), event)| (at, event))
    }

    /// When the next one happens.
    pub(crate) fn next_at(&self) -> Option<Duration> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }
}
