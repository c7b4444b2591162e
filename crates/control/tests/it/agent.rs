//! An agent as a test drives it: it remembers what it was told, does it at once, and says what it has.

use std::collections::{BTreeMap, BTreeSet};

use supernode_types::agent::{
    Desired, EnvironmentWish, Observed, ObservedRank, ObservedRetries, RankWish,
};
use supernode_types::disk::{DiskReport, DiskUsage};
use supernode_types::environment::{EnvironmentDesired, ItemCondition, ItemState};
use supernode_types::inventory::{Cpu, Inventory};
use supernode_types::job::{RankEnd, RankState};
use supernode_types::stress::StressReport;
use supernode_types::{AttemptId, CertificateSerial, Generation, NodeId};

/// A rank of an attempt.
pub(crate) type Key = (AttemptId, u32);

/// One node's agent, with the machine below it.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) id: NodeId,
    pub(crate) serial: CertificateSerial,
    pub(crate) connected: bool,
    pub(crate) boot: u32,
    pub(crate) address: String,
    pub(crate) inventory: Inventory,
    /// The desired generation that is stored.
    pub(crate) stored: Generation,
    pub(crate) desired: Option<Desired>,
    pub(crate) environment: Option<EnvironmentDesired>,
    pub(crate) applied: Generation,
    pub(crate) items: Vec<ItemState>,
    /// Environments stay as they are.
    pub(crate) stuck: bool,
    /// Ranks are neither started nor stopped.
    pub(crate) frozen: bool,
    /// Every rank that was ever started here.
    pub(crate) started: BTreeSet<Key>,
    pub(crate) ranks: BTreeMap<Key, RankState>,
    pub(crate) disk_expand: Option<DiskReport>,
    pub(crate) stress: Option<StressReport>,
    pub(crate) disk_usage: Option<DiskUsage>,
    pub(crate) retries: Vec<ObservedRetries>,
}

/// A plain host.
pub(crate) fn inventory() -> Inventory {
    Inventory {
        cpu: Cpu {
            architecture: "x86_64".into(),
            model: "Test".into(),
            cores: 8,
            ..Cpu::default()
        },
        memory_bytes: 64 << 30,
        ..Inventory::default()
    }
}

impl Agent {
    pub(crate) fn new(id: NodeId, serial: CertificateSerial, address: String) -> Self {
        Self {
            id,
            serial,
            connected: true,
            boot: 1,
            address,
            disk_expand: None,
            stress: None,
            disk_usage: None,
            retries: Vec::new(),
            inventory: inventory(),
            stored: 0,
            desired: None,
            environment: None,
            applied: 0,
            items: Vec::new(),
            stuck: false,
            frozen: false,
            started: BTreeSet::new(),
            ranks: BTreeMap::new(),
        }
    }

    pub(crate) fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }

    pub(crate) fn observed(&self) -> Observed {
        let ranks = self
            .ranks
            .iter()
            .map(|((attempt, rank), state)| ObservedRank {
                attempt: attempt.clone(),
                rank: *rank,
                state: state.clone(),
            });
        Observed {
            boot_id: self.boot_id(),
            agent_version: "1".into(),
            capabilities: Vec::new(),
            address: self.address.clone(),
            environment_applied: self.applied,
            environment_items: self.items.clone(),
            ranks: ranks.collect(),
            disk_expand: self.disk_expand.clone(),
            stress: self.stress.clone(),
            disk_usage: self.disk_usage,
            retries: self.retries.clone(),
            inventory: Some(self.inventory.clone()),
        }
    }

    /// Stores what it is told and does it; an older wish is refused, the same one again changes nothing.
    pub(crate) fn take(&mut self, desired: Desired) {
        if desired.generation <= self.stored {
            return;
        }
        self.stored = desired.generation;
        self.desired = Some(desired);
        self.act();
    }

    /// Does what is stored.
    pub(crate) fn act(&mut self) {
        let Some(desired) = self.desired.clone() else {
            return;
        };
        if !self.stuck {
            self.apply(&desired.environment);
        }
        if self.frozen {
            return;
        }
        let boot_id = self.boot_id();
        let listed: BTreeSet<Key> = desired
            .ranks
            .iter()
            .map(|rank| (rank.attempt.clone(), rank.rank))
            .collect();
        for rank in &desired.ranks {
            let key = (rank.attempt.clone(), rank.rank);
            match &rank.wish {
                RankWish::Run(_) if rank.boot_id != boot_id => {
                    self.ranks.entry(key).or_insert_with(|| {
                        ended(RankEnd::Lost {
                            why: "restart".into(),
                        })
                    });
                }
                RankWish::Run(_) => {
                    if self.started.insert(key.clone()) {
                        self.ranks.insert(key, RankState::Running);
                    }
                }
                RankWish::Stop { .. } => {
                    let state = self.ranks.entry(key).or_insert(RankState::Assigned);
                    if !state.ended() {
                        *state = ended(RankEnd::Stopped { code: 143 });
                    }
                }
            }
        }
        self.ranks.retain(|key, _| listed.contains(key));
    }

    fn apply(&mut self, wish: &EnvironmentWish) {
        match wish {
            EnvironmentWish::Clean => {
                self.environment = None;
                self.applied = 0;
            }
            EnvironmentWish::Keep { generation } => {
                let kept = self.environment.as_ref().map(|kept| kept.generation);
                assert_eq!(
                    kept,
                    Some(*generation),
                    "the node is told to keep what it has"
                );
            }
            EnvironmentWish::Have(environment) => {
                self.environment = Some((**environment).clone());
                self.applied = environment.generation;
            }
        }
    }

    /// The machine is switched off and on again.
    pub(crate) fn reboot(&mut self) {
        self.boot += 1;
        for state in self.ranks.values_mut().filter(|state| !state.ended()) {
            *state = ended(RankEnd::Lost {
                why: "restart".into(),
            });
        }
    }

    /// Contact was lost for too long: the supervisors have stopped the ranks.
    pub(crate) fn fence(&mut self) {
        for state in self.ranks.values_mut().filter(|state| !state.ended()) {
            *state = ended(RankEnd::Fenced);
        }
    }

    /// A rank ends by itself.
    pub(crate) fn exit(&mut self, number: u32, code: i32, last_lines: &[&str]) {
        let mut open = self
            .ranks
            .iter_mut()
            .filter(|((_, rank), state)| *rank == number && !state.ended());
        let (_, state) = open.next().unwrap_or_else(|| panic!("rank {number} runs"));
        *state = RankState::Ended {
            end: RankEnd::Exited { code },
            last_lines: last_lines.iter().map(|line| (*line).to_owned()).collect(),
        };
    }

    /// The ranks that run.
    pub(crate) fn running(&self) -> Vec<u32> {
        let running = self
            .ranks
            .iter()
            .filter(|(_, state)| **state == RankState::Running);
        running.map(|((_, rank), _)| *rank).collect()
    }

    /// An item of the environment cannot be made right.
    pub(crate) fn fail_item(&mut self, item: &str, why: &str) {
        let state = ItemCondition::Failed { why: why.into() };
        self.items = vec![ItemState {
            item: item.into(),
            state,
        }];
    }
}

fn ended(end: RankEnd) -> RankState {
    RankState::Ended {
        end,
        last_lines: Vec::new(),
    }
}
