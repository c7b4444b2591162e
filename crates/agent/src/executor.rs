//! Does what the core asks for: the only part of an agent that touches the machine.
//!
//! Everything that may block is done in the runtime's blocking threads and comes back as a [`Done`]. Work on one rank keeps its order,
//! ranks do not wait for each other, and nothing waits for the environment or for discovery. Of the lease only the newest is written.

mod job_user;
mod launch;
mod log;
mod retention;
mod retry_log;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use supernode_api::agent::{LogPart, ReadLog};
use supernode_types::agent::RankLaunch;
use supernode_types::disk::{DiskReport, DiskUsage, SystemDisk};
use supernode_types::environment::{EnvironmentDesired, ItemState};
use supernode_types::inventory::Inventory;
use supernode_types::job::{RankEnd, RankState};
use supernode_types::retry_policy::{RetryLibrary, RetrySighting};
use supernode_types::stress::StressReport;
use supernode_types::time::Timestamp;
use supernode_types::{Clock, JobId, OperationId};
use tokio::sync::mpsc;

use crate::core::{Effect, EnvironmentTask};
use crate::disk::{DiskExecutor, DiskOptions};
use crate::environment::{EnvironmentError, EnvironmentExecutor, EnvironmentOptions};
use crate::files::{Directory, Durability, FileError, Permissions, one_line};
use crate::ledger::{Ledger, RankKey, RankRecord};
use crate::options::AgentOptions;
use crate::ranks::records::boot_id;
use crate::ranks::work::WorkError;
use crate::ranks::{RankObservation, Ranks, RanksError, Watcher, Work};
use crate::stress::StressExecutor;
use job_user::JobUser;
pub use job_user::JobUserError;
use retry_log::RetryLogs;

/// Room that is given up when the ledger cannot be stored on a full disk.
const RESERVE_FILE: &str = "reserve";
const RESERVE_BYTES: usize = 1 << 20;
/// Signal number of SIGTERM, with which stopping begins.
const TERMINATE: i32 = 15;
/// Signal number of SIGKILL.
const KILL: i32 = 9;

/// Why the executor cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// A file of the data directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// The rank directories.
    #[error(transparent)]
    Ranks(#[from] RanksError),
    /// The work directories.
    #[error(transparent)]
    Work(#[from] WorkError),
    /// The environment's place.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The user that jobs run as.
    #[error(transparent)]
    JobUser(#[from] JobUserError),
}

/// What was done.
#[derive(Debug)]
pub enum Done {
    /// The ledger is stored, or why it is not.
    Ledger {
        /// Its version.
        version: u64,
        /// The outcome.
        result: Result<(), String>,
    },
    /// The lease is written, or why it is not.
    Lease {
        /// Which one.
        deadline: Duration,
        /// The outcome.
        result: Result<(), String>,
    },
    /// A rank was looked at, after something was done with it. `None` says that nothing can be said yet.
    Rank {
        /// Which one.
        key: RankKey,
        /// How it stands.
        result: Result<Option<RankState>, String>,
    },
    /// The environment.
    Environment {
        /// What was done.
        task: EnvironmentTask,
        /// How its items stand.
        result: Result<Vec<ItemState>, String>,
    },
    /// What the output of ranks says of repeated operators; those with news alone.
    Retries(Vec<(RankKey, Vec<RetrySighting>)>),
    /// These have no directory any more.
    Removed(Vec<RankKey>),
    /// How an expansion of the system disk stands.
    Disk(Box<DiskReport>),
    /// How the test of the node stands.
    Stress(Box<StressReport>),
    /// An expansion ended; its last report came before.
    DiskEnded(OperationId),
    /// The machine was to be restarted and goes on.
    NotRestarted {
        /// On whose behalf.
        operation: OperationId,
        /// Why.
        why: String,
    },
}

/// What is shared with the blocking threads.
#[derive(Debug)]
struct Shared {
    directory: Directory,
    data_directory: PathBuf,
    ranks: Ranks,
    work: Work,
    /// One task at a time anyway.
    environment: Mutex<EnvironmentExecutor>,
    disk: DiskExecutor,
    stress: StressExecutor,
    user: JobUser,
    options: Arc<AgentOptions>,
    /// How far the output of ranks was read.
    retry_logs: Mutex<RetryLogs>,
    /// Held while a work directory is made: its parts appear to other ranks of the attempt only when all is there.
    making_work: Mutex<()>,
}

/// Something to do with one rank.
#[derive(Debug)]
enum RankTask {
    Launch {
        job: JobId,
        launch: Box<RankLaunch>,
        /// Nanoseconds of the boot clock.
        granted: i64,
        inventory: Arc<Inventory>,
    },
    Stop {
        grace: Duration,
        why: String,
    },
    Look {
        patient: bool,
    },
}

/// What is under way for one rank.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<RankTask>,
    /// What it complained about last; said once.
    complaint: Option<String>,
    busy: bool,
}

/// The executor of one agent.
#[derive(Debug)]
pub struct Executor {
    shared: Arc<Shared>,
    done: mpsc::UnboundedSender<Done>,
    lanes: BTreeMap<RankKey, Lane>,
    lease_under_way: bool,
    lease_next: Option<Duration>,
    inventory: Arc<Inventory>,
}

/// What the disk told when the executor was opened.
#[derive(Debug)]
pub struct Found {
    /// The ledger.
    pub ledger: Ledger,
    /// How the ranks stand that have a directory.
    pub ranks: Vec<(RankKey, RankState)>,
    /// Tells of changes in their directories.
    pub watcher: Watcher,
    /// What comes back.
    pub done: mpsc::UnboundedReceiver<Done>,
}

impl Executor {
    /// Opens everything in the data directory and looks at every rank in it: those that run go on, those that lost their supervisor
    /// are cleaned up. Blocks.
    pub fn open(
        options: Arc<AgentOptions>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Found), ExecutorError> {
        let user = JobUser::of(&options)?;
        let ranks = Ranks::open(&options.data_directory, options.supervisor.clone())?;
        let directory = Directory::open(&options.data_directory)?;
        let data_directory =
            options
                .data_directory
                .canonicalize()
                .map_err(|source| FileError::System {
                    path: options.data_directory.clone(),
                    step: "find the real path",
                    source,
                })?;
        user.warn_if_shut_out(&data_directory);
        let environment_options = EnvironmentOptions::for_root(&options.system_root);
        let environment = EnvironmentExecutor::open(
            &options.system_root,
            &data_directory.join("environment"),
            environment_options,
        )?;
        let disk_options = DiskOptions {
            place: options
                .system_disk
                .clone()
                .unwrap_or_else(|| options.system_root.clone()),
            tool_directories: options.tool_directories.clone(),
            restart_program: options.restart_program.clone(),
        };
        let stress = StressExecutor::new(&options.stress, &data_directory, Arc::clone(&clock));
        let disk = DiskExecutor::open(&data_directory, disk_options, clock, boot_id())?;
        let (ledger, damage) = Ledger::load(&directory)?;
        if let Some(damage) = damage {
            tracing::error!(damage);
        }
        // Before looking: whatever happens after the look is an event.
        let watcher = ranks.watcher()?;
        let mut found = Vec::new();
        for id in ranks.list()? {
            let Some(key) = RankKey::of(&id) else {
                continue;
            };
            match ranks.observe(&id) {
                Ok(observation) => found.extend(state(observation, true).map(|state| (key, state))),
                // Something of it may run: that is what is said until more is known.
                Err(error) => {
                    tracing::warn!(rank = %id, error = one_line(&error), "a rank of an earlier agent cannot be looked at");
                    found.push((key, RankState::Running));
                }
            }
        }
        let work = Work::open(&data_directory)?;
        let (sender, done) = mpsc::unbounded_channel();
        let shared = Shared {
            directory,
            data_directory,
            ranks,
            work,
            environment: Mutex::new(environment),
            disk,
            stress,
            user,
            options,
            retry_logs: Mutex::default(),
            making_work: Mutex::new(()),
        };
        shared.remove_orphaned_work(&ledger);
        let executor = Self {
            shared: Arc::new(shared),
            done: sender,
            lanes: BTreeMap::new(),
            lease_under_way: false,
            lease_next: None,
            inventory: Arc::default(),
        };
        Ok((
            executor,
            Found {
                ledger,
                ranks: found,
                watcher,
                done,
            },
        ))
    }

    /// What ranks and the environment are told of the machine from now on.
    pub fn set_inventory(&mut self, inventory: Inventory) {
        self.inventory = Arc::new(inventory);
    }

    /// Begins to do what the core asked for. What is to be sent is the caller's. `now` is wall time.
    pub fn perform(&mut self, effect: Effect, now: Timestamp) {
        match effect {
            Effect::StoreLedger { version, ledger } => self.blocking(move |shared| {
                let result = shared
                    .store_ledger(&ledger)
                    .map_err(|error| one_line(&error));
                Done::Ledger { version, result }
            }),
            Effect::ExtendLease { deadline } => {
                self.lease_next = Some(deadline);
                self.write_lease();
            }
            Effect::LaunchRank {
                key,
                job,
                launch,
                granted,
            } => {
                let inventory = Arc::clone(&self.inventory);
                let granted = nanoseconds(granted);
                self.enter(
                    key,
                    RankTask::Launch {
                        job,
                        launch,
                        granted,
                        inventory,
                    },
                );
            }
            Effect::StopRank { key, grace, why } => self.enter(key, RankTask::Stop { grace, why }),
            Effect::ApplyEnvironment { desired } => {
                let task = EnvironmentTask::Apply {
                    generation: desired.generation,
                };
                self.with_environment(task, desired, EnvironmentExecutor::apply);
            }
            Effect::VerifyEnvironment { desired } => {
                let task = EnvironmentTask::Verify {
                    generation: desired.generation,
                };
                self.with_environment(task, desired, |environment, desired, inventory| {
                    Ok(environment.verify(desired, inventory))
                });
            }
            Effect::CleanEnvironment => self.blocking(move |shared| {
                let result = shared
                    .environment
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clean()
                    .map_err(|error| one_line(&error));
                Done::Environment {
                    task: EnvironmentTask::Clean,
                    result,
                }
            }),
            Effect::Prune { archived } => {
                self.blocking(move |shared| Done::Removed(shared.prune(&archived, now)));
            }
            Effect::ExpandDisk { wish } => {
                let done = self.done.clone();
                self.blocking(move |shared| {
                    shared.disk.expand(&wish, &|report| {
                        // Nobody listens when the agent ends; the next one begins again.
                        let _ = done.send(Done::Disk(Box::new(report)));
                    });
                    Done::DiskEnded(wish.operation)
                });
            }
            Effect::RestartMachine { operation } => self.blocking(move |shared| {
                let why = shared.disk.restart();
                Done::NotRestarted { operation, why }
            }),
            Effect::RunStress { wish } => {
                let (done, stress) = (self.done.clone(), self.shared.stress.clone());
                stress.begin();
                tokio::task::spawn_blocking(move || {
                    stress.run(&wish, &|report| {
                        // Nobody listens when the agent ends; its successor says that the test is incomplete.
                        let _ = done.send(Done::Stress(Box::new(report)));
                    });
                });
            }
            Effect::StopStress { why } => {
                tracing::info!(why, "the test of this node is being stopped");
                self.shared.stress.stop();
            }
            Effect::Send(_) | Effect::Reconnect => {}
        }
    }

    /// Looks how a rank stands, after what was asked for before. `patient` looks do not hurry: what has not said yet that it runs,
    /// although it was started, counts as running.
    pub fn look(&mut self, key: &RankKey, patient: bool) {
        let waits = |lane: &Lane| {
            lane.waiting
                .iter()
                .any(|task| matches!(task, RankTask::Look { .. }))
        };
        if !self.lanes.get(key).is_some_and(waits) {
            self.enter(key.clone(), RankTask::Look { patient });
        }
    }

    /// Reads on in the output of ranks for what it says of repeated operators. One look at a time: the next one goes on.
    pub fn read_retries(&self, wanted: Vec<(RankKey, RetryLibrary)>) {
        let idle = |logs: &Mutex<RetryLogs>| logs.try_lock().is_ok_and(|logs| logs.is_empty());
        if wanted.is_empty() && idle(&self.shared.retry_logs) {
            return;
        }
        self.blocking(move |shared| {
            Done::Retries(match shared.retry_logs.try_lock() {
                Ok(mut logs) => logs.read(&shared.ranks, wanted),
                Err(_) => Vec::new(),
            })
        });
    }

    /// Has to be told everything that came back, before the core is.
    pub fn note(&mut self, done: &Done) {
        match done {
            Done::Lease { .. } => {
                self.lease_under_way = false;
                self.write_lease();
            }
            Done::Rank { key, result } => {
                if let Some(lane) = self.lanes.get_mut(key) {
                    lane.busy = false;
                    let complaint = result.as_ref().err();
                    if let Some(why) = complaint.filter(|_| lane.complaint.as_ref() != complaint) {
                        tracing::warn!(rank = %key, why, "something could not be done with a rank; trying again");
                    }
                    lane.complaint = complaint.cloned();
                }
                self.go_on(key.clone());
            }
            Done::Ledger { .. }
            | Done::Environment { .. }
            | Done::Retries(_)
            | Done::Removed(_)
            | Done::Disk(_)
            | Done::Stress(_)
            | Done::DiskEnded(_)
            | Done::NotRestarted { .. } => {}
        }
    }

    /// Answers a request for output; `record` is what the ledger says of the rank. Does not wait for anything else.
    pub fn read_log(
        &self,
        ask: ReadLog,
        record: Option<RankRecord>,
        answer: impl FnOnce(LogPart) + Send + 'static,
    ) {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || {
            answer(log::read(&shared.ranks, &ask, record.as_ref()));
        });
    }

    /// What looks at the system disk, for whoever may block.
    pub fn disk_look(&self) -> impl Fn() -> SystemDisk + Send + Sync + Clone + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.disk.look()
    }

    /// What tells how full the system disk is, for whoever may block.
    pub fn disk_usage(&self) -> impl Fn() -> Option<DiskUsage> + Send + Sync + Clone + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.disk.usage()
    }

    fn blocking(&self, work: impl FnOnce(&Shared) -> Done + Send + 'static) {
        let (shared, done) = (Arc::clone(&self.shared), self.done.clone());
        // Nobody listens when the agent ends; what was done is found again by the next one.
        tokio::task::spawn_blocking(move || done.send(work(&shared)));
    }

    fn with_environment(
        &self,
        task: EnvironmentTask,
        desired: Arc<EnvironmentDesired>,
        work: impl FnOnce(
            &EnvironmentExecutor,
            &EnvironmentDesired,
            &Inventory,
        ) -> Result<Vec<ItemState>, EnvironmentError>
        + Send
        + 'static,
    ) {
        let inventory = Arc::clone(&self.inventory);
        self.blocking(move |shared| {
            let environment = shared
                .environment
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let result = work(&environment, &desired, &inventory).map_err(|error| one_line(&error));
            Done::Environment { task, result }
        });
    }

    fn write_lease(&mut self) {
        if self.lease_under_way {
            return;
        }
        let Some(deadline) = self.lease_next.take() else {
            return;
        };
        self.lease_under_way = true;
        self.blocking(move |shared| {
            let result = shared
                .ranks
                .lease()
                .write(nanoseconds(deadline))
                .map_err(|error| error.to_string());
            Done::Lease { deadline, result }
        });
    }

    fn enter(&mut self, key: RankKey, task: RankTask) {
        self.lanes
            .entry(key.clone())
            .or_default()
            .waiting
            .push_back(task);
        self.go_on(key);
    }

    fn go_on(&mut self, key: RankKey) {
        let Some(lane) = self.lanes.get_mut(&key) else {
            return;
        };
        if lane.busy {
            return;
        }
        let Some(task) = lane.waiting.pop_front() else {
            if lane.complaint.is_none() {
                self.lanes.remove(&key);
            }
            return;
        };
        lane.busy = true;
        self.blocking(move |shared| {
            let result = shared.rank_task(&key, task);
            Done::Rank { key, result }
        });
    }
}

impl Shared {
    /// On a full disk the ledger takes the place of the reserve, which is there for this: without a ledger nothing is done, and what
    /// is to be done may be to make room.
    fn store_ledger(&self, ledger: &Ledger) -> Result<(), FileError> {
        match ledger.store(&self.directory) {
            Err(error) if error.errno() == Some(rustix::io::Errno::NOSPC) => {
                self.directory.remove_file(RESERVE_FILE)?;
                ledger.store(&self.directory)
            }
            result => {
                reserve(&self.directory);
                result
            }
        }
    }

    fn rank_task(&self, key: &RankKey, task: RankTask) -> Result<Option<RankState>, String> {
        let said = |error: RanksError| one_line(&error);
        match task {
            RankTask::Launch {
                job,
                launch,
                granted,
                inventory,
            } => Ok(self.launch(key, &job, &launch, granted, &inventory)),
            RankTask::Stop { grace, why } => match self
                .ranks
                .stop(&key.id(), TERMINATE, grace, &why)
                .map_err(said)?
            {
                // It has no directory: it never began, and the core knows that it must not.
                RankObservation::NotStarted => Ok(Some(ended(RankEnd::Stopped {
                    code: 128 + TERMINATE,
                }))),
                observation => Ok(state(observation, false)),
            },
            RankTask::Look { patient } => {
                Ok(state(self.ranks.observe(&key.id()).map_err(said)?, patient))
            }
        }
    }

    fn rank_path(&self, key: &RankKey) -> PathBuf {
        self.data_directory.join("ranks").join(key.id().as_str())
    }

    fn work_path(&self, attempt: &str) -> PathBuf {
        self.data_directory.join("work").join(attempt)
    }
}

/// A moment of the boot clock as supervisors read it.
fn nanoseconds(moment: Duration) -> i64 {
    i64::try_from(moment.as_nanos()).unwrap_or(i64::MAX)
}

fn ended(end: RankEnd) -> RankState {
    RankState::Ended {
        end,
        last_lines: Vec::new(),
    }
}

/// How a rank stands, in the words of the protocol. One whose supervisor has begun but not yet started the program is running only
/// for those who have waited: an event will tell.
fn state(observation: RankObservation, patient: bool) -> Option<RankState> {
    match observation {
        RankObservation::NotStarted => None,
        RankObservation::Running { pid, .. } => {
            (patient || pid.is_some()).then_some(RankState::Running)
        }
        RankObservation::Ended(exit) => Some(RankState::Ended {
            end: exit.end,
            last_lines: exit.last_lines,
        }),
    }
}

/// Keeps some room for the ledger; on a disk that has none, later.
fn reserve(directory: &Directory) {
    if matches!(directory.status(RESERVE_FILE), Ok(Some(_))) {
        return;
    }
    let content = vec![0xA5; RESERVE_BYTES];
    let permissions = Permissions::mode(0o600);
    let _ = directory.write_atomic(RESERVE_FILE, &content, permissions, Durability::Process);
}

/// The name of a directory as text, for messages.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
