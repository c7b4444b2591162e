//! What the core of an agent asks for, done to a simulated machine: late, sometimes not at all, and reported later still.

use std::sync::Arc;
use std::time::Duration;

use supernode_agent::core::{Effect, EnvironmentTask};
use supernode_agent::executor::Done;
use supernode_agent::ledger::{Ledger, RankKey, RankRecord};
use supernode_api::agent::FromAgent;
use supernode_types::agent::RankLaunch;
use supernode_types::environment::{EnvironmentDesired, ItemCondition, ItemState};

use crate::event::{AgentEvent, Work};
use crate::machine::EnvironmentOnDisk;
use crate::options::Defect;
use crate::ranks::{Program, RankTask};
use crate::world::World;

impl World {
    pub(crate) fn perform(&mut self, machine: usize, effect: Effect) {
        match effect {
            Effect::StoreLedger { version, ledger } => {
                let delay = self.disk_time();
                self.agent_event(
                    machine,
                    delay,
                    AgentEvent::Work(Work::Ledger { version, ledger }),
                );
            }
            Effect::ExtendLease { deadline } => {
                if let Some(agent) = &mut self.machines[machine].agent {
                    agent.lease_next = Some(deadline);
                }
                self.write_lease(machine);
            }
            Effect::LaunchRank {
                key,
                launch,
                granted,
                ..
            } => self.launch_rank(machine, key, &launch, granted),
            Effect::StopRank { key, grace, .. } => {
                self.enter(machine, key, RankTask::Stop { grace });
            }
            Effect::ApplyEnvironment { desired } => {
                let task = EnvironmentTask::Apply {
                    generation: desired.generation,
                };
                let wanted = &self.machines[machine].disk.ledger.environment.wanted;
                if wanted.as_ref() != Some(&desired) {
                    let generation = desired.generation;
                    return self.violated(format!(
                        "environment {generation} is applied before the ledger that wants it is stored"
                    ));
                }
                // From now on something of it may be there.
                self.machines[machine].disk.environment = EnvironmentOnDisk {
                    present: Some(desired.clone()),
                    wrong: true,
                };
                self.environment(machine, task, Some(desired));
            }
            Effect::VerifyEnvironment { desired } => {
                self.environment(
                    machine,
                    EnvironmentTask::Verify {
                        generation: desired.generation,
                    },
                    Some(desired),
                );
            }
            Effect::CleanEnvironment => self.environment(machine, EnvironmentTask::Clean, None),
            Effect::Send(sync) => {
                let text = serde_json::to_string(&FromAgent::Sync(Box::new(sync)))
                    .expect("the contract's types serialize");
                self.agent_sends(machine, text);
            }
            Effect::Reconnect => {
                if let Some(connection) = self.machines[machine]
                    .agent
                    .as_mut()
                    .and_then(|agent| agent.connection.take())
                {
                    self.agent_hangs_up(machine, connection);
                }
                self.connect_again(machine);
            }
            // Simulated machines have no disks to grow, and nothing to test.
            Effect::ExpandDisk { .. }
            | Effect::RestartMachine { .. }
            | Effect::RunStress { .. }
            | Effect::StopStress { .. } => {}
            Effect::Prune { archived } => {
                let delay = self.disk_time();
                self.agent_event(machine, delay, AgentEvent::Work(Work::Prune(archived)));
            }
        }
    }

    fn launch_rank(
        &mut self,
        machine: usize,
        key: RankKey,
        launch: &RankLaunch,
        granted: Duration,
    ) {
        let Some(program) = Program::parse(&launch.arguments) else {
            return self.violated(format!(
                "{key} is launched with other arguments than its job has: {:?}",
                launch.arguments
            ));
        };
        let stored = self.machines[machine].disk.ledger.ranks.get(&key);
        if !matches!(stored, Some(RankRecord::Launched { .. })) {
            return self.violated(format!(
                "{key} is launched before the ledger that says so is stored: {stored:?}"
            ));
        }
        if !launch.place.devices.contains(&launch.place.device) {
            return self.violated(format!(
                "{key} is launched on a device that its job does not have: {:?}",
                launch.place
            ));
        }
        self.enter(
            machine,
            key,
            RankTask::Launch {
                device: launch.place.device,
                program,
                granted,
            },
        );
    }

    fn environment(
        &mut self,
        machine: usize,
        task: EnvironmentTask,
        desired: Option<Arc<EnvironmentDesired>>,
    ) {
        let usual = self.options.faults.environment;
        let delay = if task_looks(task) {
            usual.0
        } else {
            self.chance.between(usual)
        };
        self.agent_event(
            machine,
            delay,
            AgentEvent::Work(Work::Environment { task, desired }),
        );
    }

    fn write_lease(&mut self, machine: usize) {
        let Some(agent) = self.machines[machine]
            .agent
            .as_mut()
            .filter(|agent| !agent.lease_under_way)
        else {
            return;
        };
        let Some(deadline) = agent.lease_next.take() else {
            return;
        };
        agent.lease_under_way = true;
        let delay = self.disk_time();
        self.agent_event(machine, delay, AgentEvent::Work(Work::Lease { deadline }));
    }

    /// The executor does something, and will report it.
    pub(crate) fn work(&mut self, machine: usize, work: Work) {
        let fails = self.machines[machine].disk_full
            || self.chance.percent(self.options.faults.bad_disk_percent);
        let done = match work {
            Work::Rank(key) => return self.work_on_rank(machine, key),
            Work::Ledger { version, ledger } => {
                // Of a failure nobody knows whether it came before or after the new content was there.
                if !fails || self.chance.percent(50) {
                    self.store_ledger(machine, &ledger);
                }
                Done::Ledger {
                    version,
                    result: if fails {
                        Err("no space left".into())
                    } else {
                        Ok(())
                    },
                }
            }
            Work::Lease { deadline } => {
                if !fails {
                    self.machines[machine].disk.lease = Some(deadline);
                }
                Done::Lease {
                    deadline,
                    result: if fails {
                        Err("no space left".into())
                    } else {
                        Ok(())
                    },
                }
            }
            Work::Environment { task, desired } => {
                let result = self.environment_work(machine, task, desired);
                Done::Environment { task, result }
            }
            Work::Prune(archived) => {
                let mut removed = Vec::new();
                for key in archived {
                    let runs = self.machines[machine].processes.contains_key(&key);
                    if !runs && self.chance.percent(50) {
                        self.machines[machine].disk.ranks.remove(&key);
                        removed.push(key);
                    }
                }
                Done::Removed(removed)
            }
        };
        let delay = self
            .chance
            .between((Duration::ZERO, self.options.faults.delay.0));
        self.agent_event(machine, delay, AgentEvent::Done(done));
    }

    fn store_ledger(&mut self, machine: usize, ledger: &Ledger) {
        let text = serde_json::to_string(ledger).expect("a ledger is JSON");
        let stored: Ledger = match serde_json::from_str(&text) {
            Ok(stored) => stored,
            Err(error) => {
                return self.violated(format!("a ledger cannot be read again: {error}: {text}"));
            }
        };
        if stored != *ledger {
            return self.violated(format!(
                "a ledger is read as another one than was written: {text}"
            ));
        }
        let forgets = self.options.defect == Some(Defect::DiskForgetsLedger);
        let here = &mut self.machines[machine];
        if forgets && let Some(agent) = &mut here.agent {
            agent.honest_ledger = Some(Box::new(here.disk.ledger.clone()));
        }
        if stored.generation < here.disk.highest_generation {
            let (name, from, to) = (
                here.name.clone(),
                here.disk.highest_generation,
                stored.generation,
            );
            return self.violated(format!("the desired generation that the agent of {name} has stored went back from {from} to {to}"));
        }
        here.disk.highest_generation = stored.generation;
        here.disk.former_ledger = std::mem::replace(&mut here.disk.ledger, stored);
    }

    fn environment_work(
        &mut self,
        machine: usize,
        task: EnvironmentTask,
        desired: Option<Arc<EnvironmentDesired>>,
    ) -> Result<Vec<ItemState>, String> {
        let bad = self.options.faults.bad_environment_percent;
        if self.chance.percent(bad / 2) {
            return Err("the manifest cannot be written".into());
        }
        let broken = self.machines[machine].environment_broken || self.chance.percent(bad);
        let item = |state| {
            vec![ItemState {
                item: "file /etc/sim".into(),
                state,
            }]
        };
        let disk = &mut self.machines[machine].disk;
        let reached = &mut disk.environment_reached;
        let disk = &mut disk.environment;
        Ok(match task {
            EnvironmentTask::Apply { .. } if broken => {
                *disk = EnvironmentOnDisk {
                    present: desired,
                    wrong: true,
                };
                item(ItemCondition::Failed {
                    why: "read-only file system".into(),
                })
            }
            EnvironmentTask::Apply { generation } => {
                *reached = generation.max(*reached);
                *disk = EnvironmentOnDisk {
                    present: desired,
                    wrong: false,
                };
                item(ItemCondition::Applied)
            }
            EnvironmentTask::Verify { .. } => {
                disk.wrong |= broken;
                item(if disk.wrong {
                    ItemCondition::Drifted {
                        why: "has other content".into(),
                    }
                } else {
                    ItemCondition::Applied
                })
            }
            EnvironmentTask::Clean if broken && disk.present.is_some() => {
                disk.wrong = true;
                item(ItemCondition::Failed {
                    why: "read-only file system".into(),
                })
            }
            EnvironmentTask::Clean => {
                *disk = EnvironmentOnDisk::default();
                Vec::new()
            }
        })
    }

    /// The executor reports.
    pub(crate) fn done(&mut self, machine: usize, done: Done) {
        let clock = self.machines[machine].clock(self.now);
        match &done {
            Done::Lease { .. } => {
                if let Some(agent) = &mut self.machines[machine].agent {
                    agent.lease_under_way = false;
                }
                self.write_lease(machine);
            }
            Done::Rank { key, .. } => {
                let lane = self.machines[machine]
                    .agent
                    .as_mut()
                    .and_then(|agent| agent.lanes.get_mut(key));
                if let Some(lane) = lane {
                    lane.busy = false;
                }
                self.go_on(machine, key.clone());
            }
            Done::Ledger { .. }
            | Done::Environment { .. }
            | Done::Retries(_)
            | Done::Removed(_)
            | Done::Disk(_)
            | Done::DiskEnded(_)
            | Done::Stress(_)
            | Done::NotRestarted { .. } => {}
        }
        let Some(core) = self.core(machine) else {
            return;
        };
        match done {
            Done::Ledger {
                version,
                result: Ok(()),
            } => core.on_ledger_stored(version),
            Done::Ledger {
                version,
                result: Err(_),
            } => core.on_ledger_failed(version, clock),
            Done::Lease {
                deadline,
                result: Ok(()),
            } => core.on_lease_written(deadline),
            Done::Rank { key, result } => {
                if let Ok(Some(state)) = result {
                    core.on_rank_observed(&key, state);
                }
            }
            Done::Environment { task, result } => core.on_environment_done(task, result, clock),
            Done::Retries(seen) => core.on_retries(seen),
            Done::Removed(keys) => core.on_ranks_removed(&keys),
            // No disk grows here, see `Effect::ExpandDisk`.
            Done::Lease { result: Err(_), .. }
            | Done::Stress(_)
            | Done::Disk(_)
            | Done::DiskEnded(_)
            | Done::NotRestarted { .. } => {}
        }
    }
}

/// Whether a task only looks.
fn task_looks(task: EnvironmentTask) -> bool {
    matches!(task, EnvironmentTask::Verify { .. })
}
