//! Everything around the model that a control plane has to live with: agents that start and stop real processes, networks that are
//! cut, machines that restart, provisioners, and people. Written to be obviously as in reality, not to be kind to the planner.

use std::collections::BTreeMap;
use std::time::Duration;

use supernode_plan::{Contact, choose};
use supernode_types::job::{JobSpec, JobState, RankEnd, RankState};
use supernode_types::node::{Cordon, Membership, NodeCondition, NodeHealth, NodePolicy};
use supernode_types::operation::{Admission, OperationKind, ProvisionState};
use supernode_types::stress::{StressOutcome, StressProgress};
use supernode_types::super_node::DrainMode;
use supernode_types::{AttemptId, JobId, NodeId, OperationId, SuperNodeId, Timestamp};

use crate::build::{job_spec, limits};
use crate::model::Model;
use crate::stress_run::stress_run;

/// One thing that happens. Numbers choose among what is there.
#[derive(Debug, Clone)]
pub(crate) enum Move {
    Wait {
        seconds: u64,
    },
    Sync(usize),
    SyncAll,
    Cut(usize),
    Heal(usize),
    Restart(usize),
    RestartServer,
    Exit {
        rank: usize,
        code: i32,
    },
    Submit {
        super_node: usize,
        nodes: u32,
        devices: Option<u32>,
        limit: Option<u64>,
        requeue: u32,
        priority: i32,
    },
    CancelJob(usize),
    Cordon(usize),
    Uncordon(usize),
    Quarantine(usize),
    Release(usize),
    /// A stress run on all members of a super node.
    Test(usize),
    /// A test of a node is over.
    Judge {
        node: usize,
        outcome: usize,
    },
    Break(usize),
    Repair(usize),
    Create {
        count: usize,
    },
    ScaleUp {
        super_node: usize,
        count: usize,
        provisioned: usize,
    },
    ScaleDown {
        super_node: usize,
        count: usize,
        mode: DrainMode,
    },
    Replace {
        super_node: usize,
        member: usize,
        admission: bool,
        mode: DrainMode,
    },
    ReplaceAutomatically(usize),
    Delete(usize),
    ChangeEnvironment(usize),
    CancelOperation(usize),
    Remove(usize),
    Provisioner {
        provision: usize,
        works: bool,
    },
}

/// A node as it really is.
#[derive(Debug)]
struct Agent {
    connected: bool,
    last_heard: Timestamp,
    boot: u32,
    /// Environment changes fail on it.
    broken: bool,
    /// Running processes by attempt and rank, with their device.
    processes: BTreeMap<(AttemptId, u32), u32>,
    /// How ended ones ended, as long as the server may ask.
    results: BTreeMap<(AttemptId, u32), RankEnd>,
}

pub(crate) struct World {
    pub(crate) model: Model,
    agents: BTreeMap<NodeId, Agent>,
    created: usize,
}

fn pick<T>(items: impl Iterator<Item = T>, number: usize) -> Option<T> {
    let items: Vec<T> = items.collect();
    let count = items.len();
    items.into_iter().nth(number.checked_rem(count)?)
}

impl World {
    pub(crate) fn new(nodes: usize) -> Self {
        let mut world = Self {
            model: Model::new(limits()),
            agents: BTreeMap::new(),
            created: 0,
        };
        for number in 0..nodes {
            let id = world.model.spare(&format!("n{number}"), 2);
            let node = world.model.node(&id);
            node.position.rack = Some(format!("r{}", number % 2));
            if number % 3 == 0 {
                node.address = format!("10.0.0.{number}");
            }
            world.enrol(&id);
        }
        world
    }

    fn enrol(&mut self, node: &NodeId) {
        let last_heard = self.model.snapshot.now;
        let agent = Agent {
            connected: true,
            last_heard,
            boot: 0,
            broken: false,
            processes: BTreeMap::new(),
            results: BTreeMap::new(),
        };
        self.agents.insert(node.clone(), agent);
    }

    /// One move, all that follows from it, and the check that what runs may run.
    pub(crate) fn step(&mut self, step: &Move) {
        self.act(step);
        let now = self.model.snapshot.now;
        self.agents
            .retain(|node, _| self.model.snapshot.nodes.contains_key(node));
        for (node, agent) in &mut self.agents {
            if agent.connected {
                agent.last_heard = now;
            }
            let silence = now.since(agent.last_heard);
            // The fence is shorter than what the server waits for.
            if silence >= self.model.limits.lost_after / 2 {
                let processes = std::mem::take(&mut agent.processes);
                agent
                    .results
                    .extend(processes.into_keys().map(|key| (key, RankEnd::Fenced)));
            }
            let contact = if agent.connected {
                Contact::Connected
            } else {
                Contact::Silent(silence)
            };
            self.model.snapshot.contacts.insert(node.clone(), contact);
        }
        self.model.reconcile();
        self.agents
            .retain(|node, _| self.model.snapshot.nodes.contains_key(node));
        self.check_processes();
    }

    /// No process without a lease on its device, and never two attempts of a job.
    fn check_processes(&self) {
        let mut attempts: BTreeMap<&JobId, &AttemptId> = BTreeMap::new();
        for (node, agent) in &self.agents {
            for ((attempt, rank), device) in &agent.processes {
                let mut leases = self.model.snapshot.leases.iter();
                let lease = leases.find(|lease| {
                    lease.node == *node
                        && lease.device == *device
                        && lease.attempt() == Some(attempt)
                });
                let lease = lease.unwrap_or_else(|| {
                    panic!("rank {rank} of {attempt} runs on {node} without a lease")
                });
                let job = lease.job().expect("of a job");
                assert_eq!(
                    attempts.entry(job).or_insert(attempt),
                    &attempt,
                    "two attempts of one job run"
                );
            }
        }
    }

    fn test(&mut self, number: usize) {
        let Some(super_node) = self.super_node(number) else {
            return;
        };
        let members: Vec<NodeId> = self
            .model
            .snapshot
            .members(&super_node)
            .map(|node| node.id.clone())
            .collect();
        let window = Duration::from_mins(1);
        let run = stress_run(&self.model, 1, window);
        self.model
            .operation(OperationKind::StressRun(run), Some(&super_node), &members);
    }

    /// An agent in contact that was told to test has ended.
    fn judge(&mut self, number: usize, outcome: usize) {
        let agents = &self.agents;
        let tested = self.model.snapshot.nodes.values_mut().filter(|node| {
            let connected = agents.get(&node.id).is_some_and(|agent| agent.connected);
            connected && node.stress.work.is_some()
        });
        let text = String::new;
        if let Some(work) = pick(tested, number).and_then(|node| node.stress.work.as_mut()) {
            let outcome = match outcome {
                _ if work.stop.is_some() => StressOutcome::Incomplete { why: text() },
                0 => StressOutcome::Failed { finding: text() },
                1 => StressOutcome::Suspect { finding: text() },
                2 => StressOutcome::Undecided { why: text() },
                3 => StressOutcome::Incomplete { why: text() },
                _ => StressOutcome::Passed,
            };
            work.progress = StressProgress::Judged { outcome };
        }
    }

    fn act(&mut self, step: &Move) {
        match step {
            Move::Wait { seconds } => self.model.advance(Duration::from_secs(*seconds)),
            Move::Sync(number) => {
                if let Some(node) = pick(self.agents.keys().cloned(), *number) {
                    self.sync(&node);
                }
            }
            Move::SyncAll => self.sync_all(),
            Move::Cut(number) => self.agent(*number, |agent| agent.connected = false),
            Move::Heal(number) => {
                self.agent(*number, |agent| agent.connected = true);
                if let Some(node) = pick(self.agents.keys().cloned(), *number) {
                    self.sync(&node);
                }
            }
            Move::Restart(number) => self.agent(*number, |agent| {
                agent.boot += 1;
                agent.processes.clear();
                agent.results.clear();
            }),
            Move::RestartServer => {
                let now = self.model.snapshot.now;
                self.agents
                    .values_mut()
                    .for_each(|agent| agent.last_heard = now);
            }
            Move::Exit { rank, code } => self.exit(*rank, *code),
            Move::Submit {
                super_node,
                nodes,
                devices,
                limit,
                requeue,
                priority,
            } => {
                if let Some(super_node) = self.super_node(*super_node) {
                    let (devices, priority) = (*devices, *priority);
                    let spec = JobSpec {
                        devices,
                        priority,
                        time_limit_seconds: *limit,
                        requeue_limit: *requeue,
                        ..job_spec(*nodes)
                    };
                    self.model.submit(&super_node, spec);
                }
            }
            Move::CancelJob(number) => {
                if let Some(job) = pick(self.model.snapshot.jobs.values_mut(), *number) {
                    job.cancel_requested_by = Some("eve".into());
                }
            }
            Move::Cordon(number) => self.policy(*number, |policy| {
                policy
                    .cordon(Cordon {
                        by: "ada".into(),
                        reason: "fan".into(),
                    })
                    .ok()
            }),
            Move::Uncordon(number) => self.policy(*number, |policy| policy.uncordon().ok()),
            Move::Quarantine(number) => self.health(
                *number,
                NodeHealth::Quarantined {
                    finding: "ECC".into(),
                },
            ),
            Move::Release(number) => self.health(
                *number,
                NodeHealth::Proven {
                    run: "again".into(),
                },
            ),
            Move::Test(number) => self.test(*number),
            Move::Judge { node, outcome } => self.judge(*node, *outcome),
            Move::Break(number) => self.agent(*number, |agent| agent.broken = true),
            Move::Repair(number) => self.agent(*number, |agent| agent.broken = false),
            Move::Create { count } => self.create(*count),
            Move::ScaleUp {
                super_node,
                count,
                provisioned,
            } => {
                let admission = if *count % 2 == 1 {
                    Admission::Quick {
                        kernel_seconds: None,
                    }
                } else {
                    Admission::None
                };
                if let Some(super_node) = self.super_node(*super_node) {
                    let _ = self.model.scale_up(
                        OperationKind::ScaleUp { admission },
                        &super_node,
                        *count,
                        *provisioned,
                    );
                }
            }
            Move::ScaleDown {
                super_node,
                count,
                mode,
            } => self.scale_down(*super_node, *count, *mode),
            Move::Replace {
                super_node,
                member,
                admission,
                mode,
            } => self.replace(*super_node, *member, *admission, *mode),
            Move::ReplaceAutomatically(number) => {
                if let Some(super_node) = self.super_node(*number) {
                    self.model.replace_automatically(&super_node);
                }
            }
            Move::Delete(number) => self.delete(*number),
            Move::ChangeEnvironment(number) => {
                if let Some(super_node) = self.super_node(*number) {
                    self.model.change_environment(&super_node);
                }
            }
            Move::CancelOperation(number) => {
                if let Some(operation) = pick(self.model.snapshot.operations.values_mut(), *number)
                {
                    operation.cancel_requested = true;
                }
            }
            Move::Remove(number) => {
                let spares = self
                    .model
                    .snapshot
                    .nodes
                    .values()
                    .filter(|node| node.membership == Membership::Spare);
                if let Some(node) = pick(spares.map(|node| node.id.clone()), *number) {
                    self.model
                        .operation(OperationKind::NodeRemove, None, &[node]);
                }
            }
            Move::Provisioner { provision, works } => self.provisioner(*provision, *works),
        }
    }

    fn agent(&mut self, number: usize, change: impl FnOnce(&mut Agent)) {
        if let Some(agent) = pick(self.agents.values_mut(), number) {
            change(agent);
        }
    }

    fn policy(&mut self, number: usize, change: impl FnOnce(NodePolicy) -> Option<NodePolicy>) {
        if let Some(node) = pick(self.model.snapshot.nodes.values_mut(), number) {
            node.policy = change(node.policy.clone()).unwrap_or_else(|| node.policy.clone());
        }
    }

    fn health(&mut self, number: usize, health: NodeHealth) {
        if let Some(node) = pick(self.model.snapshot.nodes.values_mut(), number) {
            node.health = health;
            node.stress.replacement = None;
        }
    }

    /// A super node that is not being deleted.
    fn super_node(&self, number: usize) -> Option<SuperNodeId> {
        let there = self
            .model
            .snapshot
            .super_nodes
            .values()
            .filter(|super_node| super_node.deleting.is_none());
        pick(there.map(|super_node| super_node.id.clone()), number)
    }

    fn create(&mut self, count: usize) {
        let spec = self.model.spec("std");
        if choose::choose_spares(&self.model.snapshot, &spec, Some("h1"), &[], count).is_ok() {
            self.created += 1;
            let id = self.model.empty_super_node(&format!("s{}", self.created));
            assert!(
                self.model
                    .scale_up(OperationKind::SuperNodeCreate, &id, count, 0)
                    .is_some()
            );
        }
    }

    fn scale_down(&mut self, number: usize, count: usize, mode: DrainMode) {
        let Some(super_node) = self.super_node(number) else {
            return;
        };
        let only_idle = mode == DrainMode::Refuse;
        if let Ok(chosen) =
            choose::choose_leavers(&self.model.snapshot, &super_node, count, only_idle)
        {
            let nodes: Vec<NodeId> = chosen.into_iter().map(|choice| choice.node).collect();
            self.model.scale_down(&super_node, &nodes, mode);
        }
    }

    fn replace(&mut self, number: usize, member: usize, tested: bool, mode: DrainMode) {
        let Some(super_node) = self.super_node(number) else {
            return;
        };
        let snapshot = &self.model.snapshot;
        let members = snapshot.members(&super_node).filter(|node| {
            let busy = !snapshot.jobs_on(&node.id).is_empty();
            let draining = matches!(node.policy, NodePolicy::Draining { .. });
            let replaced = snapshot.operations.values().any(|operation| {
                let replaces = matches!(operation.kind, OperationKind::NodeReplace { .. });
                replaces && operation.targets[1].node.as_ref() == Some(&node.id)
            });
            !draining && !replaced && (mode != DrainMode::Refuse || !busy)
        });
        let Some(node) = pick(members.map(|node| node.id.clone()), member) else {
            return;
        };
        let nodes = snapshot.nodes.values();
        let existing: Vec<_> = nodes
            .filter(|node| node.membership.listed_in(&super_node))
            .collect();
        let spec = &snapshot.super_nodes[&super_node].spec;
        let Ok(spares) = choose::choose_spares(snapshot, spec, Some("h1"), &existing, 1) else {
            return;
        };
        let spare = spares[0].node.clone();
        let admission = if tested {
            Admission::Quick {
                kernel_seconds: None,
            }
        } else {
            Admission::None
        };
        self.model
            .replace(&super_node, &node, &spare, admission, mode);
    }

    /// Accepted when no job runs and no node is being drained.
    fn delete(&mut self, number: usize) {
        let Some(super_node) = self.super_node(number) else {
            return;
        };
        let snapshot = &self.model.snapshot;
        let kept = snapshot.members(&super_node).any(|node| {
            !snapshot.jobs_on(&node.id).is_empty()
                || matches!(node.policy, NodePolicy::Draining { .. })
        });
        if !kept {
            self.model.delete(&super_node);
        }
    }

    fn provisioner(&mut self, number: usize, works: bool) {
        let Some(provision) = pick(self.model.snapshot.provisions.values().cloned(), number) else {
            return;
        };
        let state = match &provision.state {
            ProvisionState::Creating { .. } if works => ProvisionState::Created,
            ProvisionState::Creating { .. } | ProvisionState::Deleting { .. } if !works => {
                ProvisionState::Failed {
                    reason: "no quota".into(),
                }
            }
            ProvisionState::Deleting { .. } => ProvisionState::Deleted,
            other => other.clone(),
        };
        let enrols = state == ProvisionState::Created && provision.node.is_none();
        let node = enrols.then(|| self.model.spare(&provision.node_name, 2));
        let found = self
            .model
            .snapshot
            .provisions
            .get_mut(&provision.id)
            .expect("it was there");
        found.state = state;
        if let Some(node) = node {
            found.node = Some(node.clone());
            let new = self.model.node(&node);
            new.provision = Some(provision.id);
            new.condition = NodeCondition::Unknown;
            self.enrol(&node);
        }
    }

    pub(crate) fn sync_all(&mut self) {
        for node in self.agents.keys().cloned().collect::<Vec<_>>() {
            self.sync(&node);
        }
    }

    /// One exchange: the agent does what it is told, then says what it observed.
    fn sync(&mut self, id: &NodeId) {
        let agent = self.agents.get_mut(id).expect("the agent is there");
        if !agent.connected {
            return;
        }
        let boot_id = format!("boot-{}", agent.boot);
        let jobs = &self.model.snapshot.jobs;
        for (attempt, ranks) in &mut self.model.snapshot.ranks {
            let stopping = matches!(
                jobs.get(&ranks[0].job).map(|job| &job.state),
                Some(JobState::Stopping { .. })
            );
            for rank in ranks
                .iter_mut()
                .filter(|rank| rank.node == *id && !rank.state.ended() && rank.boot_id == boot_id)
            {
                let key = (attempt.clone(), rank.rank);
                if stopping && !agent.results.contains_key(&key) {
                    agent.processes.remove(&key);
                    agent
                        .results
                        .insert(key.clone(), RankEnd::Stopped { code: 143 });
                } else if rank.state == RankState::Assigned && !agent.results.contains_key(&key) {
                    agent.processes.insert(key.clone(), rank.device);
                    rank.state = RankState::Running;
                }
                if let Some(end) = agent.results.get(&key) {
                    rank.state = RankState::Ended {
                        end: end.clone(),
                        last_lines: vec!["last words".into()],
                    };
                }
            }
        }
        let wanted = |attempt: &AttemptId| self.model.snapshot.ranks.contains_key(attempt);
        agent.processes.retain(|(attempt, _), _| wanted(attempt));
        let broken = agent.broken;
        if broken {
            self.model.node(id).environment_problems = vec!["file /etc/x failed: read-only".into()];
        } else {
            self.model.apply_environment(id);
        }
        self.model.node(id).boot_id = boot_id;
    }

    fn exit(&mut self, number: usize, code: i32) {
        let running = self.agents.iter().flat_map(|(node, agent)| {
            agent
                .processes
                .keys()
                .map(move |key| (node.clone(), key.clone()))
        });
        if let Some((node, key)) = pick(running, number) {
            let agent = self.agents.get_mut(&node).expect("it was there");
            agent.processes.remove(&key);
            agent.results.insert(key, RankEnd::Exited { code });
        }
    }

    /// Everything works again, and programs end well.
    pub(crate) fn heal(&mut self) {
        for agent in self.agents.values_mut() {
            agent.connected = true;
            agent.broken = false;
        }
        for node in self.model.snapshot.nodes.values_mut() {
            node.health = NodeHealth::Unproven;
            node.stress.replacement = None;
            node.policy = node
                .policy
                .clone()
                .uncordon()
                .unwrap_or_else(|_| node.policy.clone());
        }
    }

    /// A round of a world without faults.
    pub(crate) fn calm(&mut self) {
        self.sync_all();
        self.step(&Move::Wait { seconds: 5 });
        self.sync_all();
        for _ in 0..self
            .agents
            .values()
            .map(|agent| agent.processes.len())
            .sum::<usize>()
        {
            self.exit(0, 0);
        }
        for provision in 0..self.model.snapshot.provisions.len() {
            self.provisioner(provision, true);
        }
        for node in 0..self.agents.len() {
            self.judge(node, 5);
        }
        self.sync_all();
        self.step(&Move::SyncAll);
    }

    pub(crate) fn open_operations(&self) -> Vec<OperationId> {
        self.model.snapshot.operations.keys().cloned().collect()
    }
}
