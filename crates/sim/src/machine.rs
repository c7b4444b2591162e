//! A simulated node: what its disk keeps, what runs on it, and whom it can reach.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use supernode_agent::core::AgentCore;
use supernode_agent::ledger::{Ledger, RankKey};
use supernode_types::environment::EnvironmentDesired;
use supernode_types::inventory::{Accelerator, AcceleratorVendor, Cpu, Inventory};
use supernode_types::node::Position;
use supernode_types::{CertificateSerial, Generation, Name, NodeId};

use crate::event::{AgentEvent, Event};
use crate::ranks::{Process, RankDirectory, RankTask};
use crate::server::JOIN_TOKEN;

/// One node.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) name: Name,
    pub(crate) hardware: Hardware,
    /// Counts the boots.
    pub(crate) boot: u64,
    pub(crate) booted_at: Duration,
    /// What it enrols with.
    pub(crate) token: String,
    pub(crate) power: Power,
    pub(crate) disk: Disk,
    pub(crate) processes: BTreeMap<RankKey, Process>,
    /// Counts the processes of the agent.
    pub(crate) agents: u64,
    pub(crate) agent: Option<Agent>,
    pub(crate) network: Cut,
    pub(crate) disk_full: bool,
    pub(crate) environment_broken: bool,
}

/// Whether a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Power {
    /// It is down, or boots.
    Off,
    On,
    /// Its provisioner has deleted it.
    Gone,
}

/// What a node is made of.
#[derive(Debug, Clone)]
pub(crate) struct Hardware {
    pub(crate) devices: u32,
    pub(crate) position: Position,
    pub(crate) second_spec: bool,
}

impl Hardware {
    pub(crate) fn inventory(&self) -> Inventory {
        let accelerators = if self.devices > 1 {
            (0..self.devices)
                .map(|index| Accelerator::new(index, AcceleratorVendor::Nvidia))
                .collect()
        } else {
            Vec::new()
        };
        let cores = if self.second_spec { 64 } else { 32 };
        let cpu = Cpu {
            architecture: "x86_64".into(),
            cores,
            ..Cpu::default()
        };
        Inventory {
            memory_bytes: 256 << 30,
            cpu,
            accelerators,
            ..Inventory::default()
        }
    }
}

/// What survives everything.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) identity: Option<(NodeId, CertificateSerial)>,
    /// Somebody has to enrol it again.
    pub(crate) refused: bool,
    pub(crate) ledger: Ledger,
    /// The one before: what a loss of power can bring back, because ledgers are not flushed.
    pub(crate) former_ledger: Ledger,
    /// The largest generation that a stored ledger had since power was lost.
    pub(crate) highest_generation: Generation,
    /// In the boot clock of the boot that wrote it.
    pub(crate) lease: Option<Duration>,
    pub(crate) ranks: BTreeMap<RankKey, RankDirectory>,
    pub(crate) environment: EnvironmentOnDisk,
    /// The largest generation of an environment that was ever applied whole.
    pub(crate) environment_reached: Generation,
}

/// What of an environment is really on a node.
#[derive(Debug, Default, Clone)]
pub(crate) struct EnvironmentOnDisk {
    /// What was begun to be applied last; `None` after all was removed.
    pub(crate) present: Option<Arc<EnvironmentDesired>>,
    /// Not all items are as wanted.
    pub(crate) wrong: bool,
}

/// Directions in which a node and the server do not hear each other, and what waits there.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    pub(crate) to_server: bool,
    pub(crate) to_agent: bool,
    pub(crate) held: Vec<Event>,
}

/// The process of an agent.
#[derive(Debug)]
pub(crate) struct Agent {
    /// Absent until it has a certificate.
    pub(crate) core: Option<AgentCore>,
    pub(crate) halted: bool,
    /// What happened while it was halted.
    pub(crate) waiting: Vec<AgentEvent>,
    pub(crate) connection: Option<u64>,
    /// The attempt that is under way.
    pub(crate) connecting: Option<u64>,
    pub(crate) lanes: BTreeMap<RankKey, Lane>,
    pub(crate) lease_under_way: bool,
    pub(crate) lease_next: Option<Duration>,
    pub(crate) discovered: bool,
    /// When it will wake, in world time.
    pub(crate) wake_at: Option<Duration>,
    /// How often in a row the core wanted to be asked at once and had nothing to do.
    pub(crate) idle_turns: u32,
    /// Counts its tries to get a certificate; only the last one is waited for.
    pub(crate) enrolments: u32,
    /// What of its ledger was stored, where the disk is not honest.
    pub(crate) honest_ledger: Option<Box<Ledger>>,
}

/// Tasks on one rank keep their order.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    pub(crate) waiting: VecDeque<RankTask>,
    pub(crate) busy: bool,
}

impl Agent {
    pub(crate) fn new() -> Self {
        Self {
            core: None,
            halted: false,
            waiting: Vec::new(),
            connection: None,
            connecting: None,
            lanes: BTreeMap::new(),
            lease_under_way: false,
            lease_next: None,
            discovered: false,
            wake_at: None,
            idle_turns: 0,
            enrolments: 0,
            honest_ledger: None,
        }
    }
}

impl Machine {
    pub(crate) fn new(name: Name, hardware: Hardware) -> Self {
        Self {
            name,
            hardware,
            boot: 0,
            booted_at: Duration::ZERO,
            token: JOIN_TOKEN.into(),
            power: Power::Off,
            disk: Disk::default(),
            processes: BTreeMap::new(),
            agents: 0,
            agent: None,
            network: Cut::default(),
            disk_full: false,
            environment_broken: false,
        }
    }

    pub(crate) fn boot_id(&self) -> String {
        format!("{}-boot-{}", self.name, self.boot)
    }

    /// What the node's boot clock shows; it differs from the server's and begins anew with each boot.
    pub(crate) fn clock(&self, now: Duration) -> Duration {
        now.saturating_sub(self.booted_at) + Duration::from_secs(7)
    }

    /// When the boot clock will show this, in world time.
    pub(crate) fn world_time(&self, clock: Duration) -> Duration {
        (self.booted_at + clock).saturating_sub(Duration::from_secs(7))
    }

    pub(crate) fn node(&self) -> Option<&NodeId> {
        self.disk.identity.as_ref().map(|(node, _)| node)
    }

    /// Whether it needs a certificate.
    pub(crate) fn must_enrol(&self) -> bool {
        self.disk.identity.is_none() || self.disk.refused
    }

    /// The agent, if this process of it is still there.
    pub(crate) fn agent(&mut self, process: u64) -> Option<&mut Agent> {
        if self.agents == process {
            self.agent.as_mut()
        } else {
            None
        }
    }
}
