//! Simulated ranks: directories, supervisors and programs, with the rules of the real supervisor.
//!
//! A rank begins once. Its supervisor looks at the lease and at the stop record before it starts the program, kills it when the lease
//! is over, and writes how it ended when nothing of it is left. All of that goes on whatever happens to the agent.

use std::time::Duration;

use supernode_agent::executor::Done;
use supernode_agent::ledger::RankKey;
use supernode_types::job::{RankEnd, RankState};

use crate::event::{AgentEvent, Event, MachineEvent, Work};
use crate::machine::Lane;
use crate::options::Defect;
use crate::world::World;

/// Between two looks of an agent at all its ranks.
const LOOK_PERIOD: Duration = Duration::from_secs(5);
const TERMINATED: i32 = 143;
const KILLED: i32 = 137;

/// What a simulated program does, written in a job's arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Program {
    /// How long it runs; for ever when absent.
    pub(crate) run: Option<Duration>,
    /// With what it exits; 127 is a program that cannot be started.
    pub(crate) code: i32,
    /// Whether it ends when it is asked to.
    pub(crate) heeds: bool,
    /// Only this rank exits with the code, the others with 0.
    pub(crate) only_rank: Option<u32>,
}

impl Program {
    /// The arguments of a job that runs this program.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let run = self
            .run
            .map_or_else(|| "forever".into(), |run| run.as_millis().to_string());
        let heeds = if self.heeds { "heeds" } else { "ignores" };
        let only = self
            .only_rank
            .map_or_else(|| "all".into(), |rank| rank.to_string());
        vec!["sim".into(), run, self.code.to_string(), heeds.into(), only]
    }

    /// Reads what [`Program::arguments`] wrote.
    pub(crate) fn parse(arguments: &[String]) -> Option<Self> {
        let [_, run, code, heeds, only] = arguments else {
            return None;
        };
        Some(Self {
            run: run.parse().ok().map(Duration::from_millis),
            code: code.parse().ok()?,
            heeds: heeds == "heeds",
            only_rank: only.parse().ok(),
        })
    }
}

/// A rank directory.
#[derive(Debug, Clone)]
pub(crate) struct RankDirectory {
    boot: u64,
    device: u32,
    program: Program,
    started: bool,
    stop: bool,
    pub(crate) exit: Option<RankEnd>,
}

/// A program that runs, with its supervisor.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) device: u32,
    heeds: bool,
    stopped: bool,
    fenced: bool,
    kill_at: Option<Duration>,
}

/// Something to do with a rank.
#[derive(Debug)]
pub(crate) enum RankTask {
    Launch {
        device: u32,
        program: Program,
        granted: Duration,
    },
    Stop {
        grace: Duration,
    },
    Look,
}

impl World {
    /// Puts a task into the lane of a rank.
    pub(crate) fn enter(&mut self, machine: usize, key: RankKey, task: RankTask) {
        let Some(agent) = &mut self.machines[machine].agent else {
            return;
        };
        let lane = agent.lanes.entry(key.clone()).or_default();
        let looks = |lane: &Lane| {
            lane.waiting
                .iter()
                .any(|task| matches!(task, RankTask::Look))
        };
        if !(matches!(task, RankTask::Look) && looks(lane)) {
            lane.waiting.push_back(task);
        }
        self.go_on(machine, key);
    }

    /// Begins the next task of a lane.
    pub(crate) fn go_on(&mut self, machine: usize, key: RankKey) {
        let Some(agent) = &mut self.machines[machine].agent else {
            return;
        };
        let Some(lane) = agent.lanes.get_mut(&key).filter(|lane| !lane.busy) else {
            return;
        };
        if lane.waiting.is_empty() {
            agent.lanes.remove(&key);
            return;
        }
        lane.busy = true;
        let delay = self.disk_time();
        self.agent_event(machine, delay, AgentEvent::Work(Work::Rank(key)));
    }

    /// Does the first task of a lane.
    pub(crate) fn work_on_rank(&mut self, machine: usize, key: RankKey) {
        let Some(agent) = &mut self.machines[machine].agent else {
            return;
        };
        let Some(task) = agent
            .lanes
            .get_mut(&key)
            .and_then(|lane| lane.waiting.pop_front())
        else {
            return;
        };
        let result = match task {
            RankTask::Launch {
                device,
                program,
                granted,
            } => Ok(self.launch(machine, &key, device, program, granted)),
            _ if self.chance.percent(self.options.faults.bad_disk_percent) => {
                Err("the disk did not answer".to_owned())
            }
            RankTask::Stop { grace } => Ok(self.stop(machine, &key, grace)),
            RankTask::Look => Ok(self.observe(machine, &key)),
        };
        let delay = self
            .chance
            .between((Duration::ZERO, self.options.faults.delay.0));
        self.agent_event(machine, delay, AgentEvent::Done(Done::Rank { key, result }));
    }

    fn launch(
        &mut self,
        machine: usize,
        key: &RankKey,
        device: u32,
        program: Program,
        granted: Duration,
    ) -> Option<RankState> {
        let boot = self.machines[machine].boot;
        let fresh = RankDirectory {
            boot,
            device,
            program,
            started: false,
            stop: false,
            exit: None,
        };
        let directory = self.machines[machine]
            .disk
            .ranks
            .entry(key.clone())
            .or_insert(fresh)
            .clone();
        let state = self.observe(machine, key);
        if state.is_none() {
            let delay = self
                .chance
                .between((Duration::from_millis(1), self.options.faults.disk.1));
            let event = MachineEvent::Supervise {
                key: key.clone(),
                device: directory.device,
                program: directory.program,
                granted,
            };
            self.machine_event(machine, delay, event);
        }
        state
    }

    /// How a rank stands; one that cannot run any more is said to have ended from now on.
    pub(crate) fn observe(&mut self, machine: usize, key: &RankKey) -> Option<RankState> {
        let machine = &mut self.machines[machine];
        let running = machine.processes.contains_key(key);
        let directory = machine.disk.ranks.get_mut(key)?;
        if directory.exit.is_none() && !running {
            if directory.boot != machine.boot {
                directory.exit = Some(RankEnd::Lost {
                    why: "the host restarted".into(),
                });
            } else if directory.started {
                directory.exit = Some(RankEnd::Lost {
                    why: "its supervisor was killed".into(),
                });
            }
        }
        match &directory.exit {
            Some(end) => Some(RankState::Ended {
                end: end.clone(),
                last_lines: Vec::new(),
            }),
            None if running => Some(RankState::Running),
            None => None,
        }
    }

    fn stop(&mut self, machine: usize, key: &RankKey, grace: Duration) -> Option<RankState> {
        let stopped = RankEnd::Stopped { code: TERMINATED };
        let Some(directory) = self.machines[machine].disk.ranks.get_mut(key) else {
            return Some(RankState::Ended {
                end: stopped,
                last_lines: Vec::new(),
            });
        };
        directory.stop = true;
        let state = self.observe(machine, key);
        if state.is_none()
            && let Some(directory) = self.machines[machine].disk.ranks.get_mut(key)
        {
            directory.started = true;
            directory.exit = Some(stopped);
            return self.observe(machine, key);
        }
        let kill_at = self.now + grace + self.chance.milliseconds(0, 50);
        if let Some(process) = self.machines[machine].processes.get_mut(key) {
            let first = !std::mem::replace(&mut process.stopped, true);
            let heeds = process.heeds;
            let sooner = process.kill_at.is_none_or(|known| kill_at < known);
            if sooner {
                process.kill_at = Some(kill_at);
                let end = RankEnd::Stopped { code: KILLED };
                self.machine_event(
                    machine,
                    kill_at.saturating_sub(self.now),
                    MachineEvent::End {
                        key: key.clone(),
                        end,
                    },
                );
            }
            if first && heeds {
                let code = if self.chance.percent(20) {
                    0
                } else {
                    TERMINATED
                };
                let delay = self
                    .chance
                    .between((Duration::from_millis(1), self.options.faults.environment.1));
                self.machine_event(
                    machine,
                    delay,
                    MachineEvent::End {
                        key: key.clone(),
                        end: RankEnd::Stopped { code },
                    },
                );
            }
        }
        state
    }

    /// A supervisor begins; what it does for its rank it does once.
    pub(crate) fn supervise(
        &mut self,
        machine: usize,
        key: RankKey,
        device: u32,
        program: Program,
        granted: Duration,
    ) {
        // A lease that has run out since the launch was decided is over, whatever was written meanwhile.
        let lease_over =
            self.lease_over(machine) || self.machines[machine].clock(self.now) >= granted;
        let Some(directory) = self.machines[machine]
            .disk
            .ranks
            .get_mut(&key)
            .filter(|directory| !directory.started && directory.exit.is_none())
        else {
            return;
        };
        directory.started = true;
        directory.exit = if lease_over {
            Some(RankEnd::Fenced)
        } else if directory.stop {
            Some(RankEnd::Stopped { code: TERMINATED })
        } else if program.code == 127 {
            Some(RankEnd::NotStarted {
                why: "there is no such program".into(),
            })
        } else {
            None
        };
        if directory.exit.is_none() {
            let process = Process {
                device,
                heeds: program.heeds,
                stopped: false,
                fenced: false,
                kill_at: None,
            };
            self.machines[machine]
                .processes
                .insert(key.clone(), process);
            self.check.processes_changed = true;
            self.note(|world| {
                format!(
                    "{} runs {key} on device {device}",
                    world.machines[machine].name
                )
            });
            if let Some(run) = program.run {
                let code = if program.only_rank.is_none_or(|only| only == key.rank) {
                    program.code
                } else {
                    0
                };
                let jitter = self
                    .chance
                    .between((Duration::ZERO, self.options.faults.delay.1));
                self.machine_event(
                    machine,
                    run + jitter,
                    MachineEvent::End {
                        key: key.clone(),
                        end: RankEnd::Exited { code },
                    },
                );
            }
            self.fence(machine, key.clone());
        }
        self.tell_changed(machine, key);
    }

    /// Whether the supervisors of a node see that the lease is over.
    fn lease_over(&self, machine: usize) -> bool {
        let machine = &self.machines[machine];
        let over = machine
            .disk
            .lease
            .is_none_or(|deadline| machine.clock(self.now) >= deadline);
        over && self.options.defect != Some(Defect::SupervisorsIgnoreFence)
    }

    /// A supervisor looks at the lease, and will look again when it ends.
    pub(crate) fn fence(&mut self, machine: usize, key: RankKey) {
        if !self.machines[machine].processes.contains_key(&key) {
            return;
        }
        if self.lease_over(machine) {
            if let Some(process) = self.machines[machine].processes.get_mut(&key) {
                process.fenced = true;
            }
            let delay = self.chance.milliseconds(0, 400);
            self.machine_event(
                machine,
                delay,
                MachineEvent::End {
                    key,
                    end: RankEnd::Fenced,
                },
            );
            return;
        }
        let here = &self.machines[machine];
        let deadline = here
            .disk
            .lease
            .map_or(self.now, |deadline| here.world_time(deadline));
        let wait = deadline
            .saturating_sub(self.now)
            .max(Duration::from_millis(1));
        self.machine_event(machine, wait, MachineEvent::Fence { key });
    }

    /// A program ends, and its supervisor writes how.
    pub(crate) fn end(&mut self, machine: usize, key: RankKey, end: RankEnd) {
        let Some(process) = self.machines[machine].processes.remove(&key) else {
            return;
        };
        let end = match end {
            RankEnd::Exited { .. } | RankEnd::Stopped { .. } if process.fenced => RankEnd::Fenced,
            RankEnd::Exited { code } if process.stopped => RankEnd::Stopped { code },
            end => end,
        };
        self.note(|world| format!("{}: {key} {end}", world.machines[machine].name));
        if let Some(directory) = self.machines[machine].disk.ranks.get_mut(&key) {
            directory.exit = Some(end);
        }
        self.tell_changed(machine, key);
    }

    /// A supervisor is killed; it takes its program along and writes nothing.
    pub(crate) fn kill_supervisor(&mut self, machine: usize, key: RankKey) {
        if self.machines[machine].processes.remove(&key).is_some() {
            self.note(|world| {
                format!(
                    "{}: the supervisor of {key} is killed",
                    world.machines[machine].name
                )
            });
            self.tell_changed(machine, key);
        }
    }

    /// The agent is told of a change, if somebody is there and the event is not lost.
    fn tell_changed(&mut self, machine: usize, key: RankKey) {
        if self.machines[machine].agent.is_some()
            && !self.chance.percent(self.options.faults.lost_watch_percent)
        {
            let delay = self
                .chance
                .between((Duration::ZERO, self.options.faults.disk.0));
            self.agent_event(machine, delay, AgentEvent::Changed(key));
        }
    }

    /// The regular look at every open rank.
    pub(crate) fn look_at_all(&mut self, machine: usize) {
        let Some(core) = self.machines[machine]
            .agent
            .as_ref()
            .and_then(|agent| agent.core.as_ref())
        else {
            return;
        };
        let open: Vec<RankKey> = core.open_ranks().cloned().collect();
        for key in open {
            self.enter(machine, key, RankTask::Look);
        }
        self.agent_event(machine, LOOK_PERIOD, AgentEvent::LookAtAll);
    }

    /// How long a small disk operation takes.
    pub(crate) fn disk_time(&mut self) -> Duration {
        let faults = &self.options.faults;
        let (usual, bad) = (faults.disk, faults.bad_disk_percent);
        if self.chance.percent(bad) {
            self.chance.milliseconds(400, 4000)
        } else {
            self.chance.between(usual)
        }
    }

    /// Something will happen on a machine, in its present boot.
    pub(crate) fn machine_event(&mut self, machine: usize, delay: Duration, event: MachineEvent) {
        let boot = self.machines[machine].boot;
        self.queue.push(
            self.now + delay,
            Event::Machine {
                machine,
                boot,
                event,
            },
        );
    }
}
