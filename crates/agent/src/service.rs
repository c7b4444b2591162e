//! The agent as a whole: core, executor and session, in one task.
//!
//! ```text
//!  server <--WebSocket--> session --events--> +------+ --effects--> executor --> machine
//!                                 <--sends--- | core |  <--done----
//!                     watcher, clock -------> +------+ <-- inventory (discovery, once a minute)
//! ```
//! Whatever arrived by the time the task wakes is told to the core before it is asked what to do, so that what happens together is
//! stored and reported together. The agent ends when it is told to; its ranks go on, and the next agent finds them.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use supernode_api::agent::{FromAgent, ReadLog, ToAgent};
use supernode_probe::SystemTools;
use supernode_types::disk::{DiskUsage, SystemDisk};
use supernode_types::inventory::Inventory;
use supernode_types::{Clock, Entropy};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::core::{AgentCore, CoreOptions, Effect, Reception};
use crate::executor::{Done, Executor, ExecutorError, Found};
use crate::files::{Directory, FileError};
use crate::identity::{Authority, IdentityError, Keeper};
use crate::ledger::RankKey;
use crate::options::AgentOptions;
use crate::ranks::Watcher;
use crate::ranks::records::boot_id;
use crate::session::{Session, SessionEvent};

const LOCK_FILE: &str = "agent.lock";
/// How often every open rank is looked at although nothing was heard of it: an event may have been lost.
const LOOK_PERIOD: Duration = Duration::from_secs(5);
/// How often the machine is discovered anew.
const DISCOVERY_PERIOD: Duration = Duration::from_mins(1);
/// How often it is looked how full the system disk is.
const USAGE_PERIOD: Duration = Duration::from_secs(5);
/// How long an agent that ends waits for its ledger.
const STORE_PATIENCE: Duration = Duration::from_secs(2);
/// How many events of the session may wait.
const EVENTS: usize = 64;

/// Why an agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Another one does, on the same directory.
    #[error("another agent runs on {}; stop it, or give this one a data directory of its own", path.display())]
    AlreadyRuns {
        /// The directory.
        path: PathBuf,
    },
    /// The options cannot be used.
    #[error("{0}")]
    Options(String),
    /// The data directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// The executor.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// The node's certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The runtime.
    #[error("cannot {step}")]
    System {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// A runtime that fits an agent: one thread for everything that waits, and small threads that come and go for what blocks.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(24)
        .thread_keep_alive(Duration::from_secs(2))
        .thread_stack_size(512 * 1024)
        .build()
}

/// [`run`] in a [`runtime`] of its own. Returns as soon as the agent has ended, also if a discovery hangs in a driver.
pub fn run_to_end(
    options: AgentOptions,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let runtime = runtime().map_err(|source| AgentError::System {
        step: "start the runtime",
        source,
    })?;
    let result = runtime.block_on(run(options, clock, entropy, shutdown));
    runtime.shutdown_background();
    result
}

/// Runs an agent until `shutdown` is ready. Its ranks are not touched when it ends.
pub async fn run(
    options: AgentOptions,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    check(&options)?;
    let options = Arc::new(options);
    let (directory, _claim) = claim(&options.data_directory)?;
    let opened = {
        let (options, clock) = (Arc::clone(&options), Arc::clone(&clock));
        tokio::task::spawn_blocking(move || Executor::open(options, clock)).await
    };
    let (executor, found) = opened.map_err(|error| AgentError::System {
        step: "look at the data directory",
        source: error.into(),
    })??;
    let keeper = Keeper {
        directory: Arc::new(directory),
        authority: Authority::read(&options.ca_file)?,
        options: Arc::clone(&options),
        clock: Arc::clone(&clock),
        entropy: Arc::clone(&entropy),
    };
    tokio::pin!(shutdown);
    let identity = tokio::select! {
        () = &mut shutdown => return Ok(()),
        identity = keeper.obtain() => identity?,
    };
    let running = found
        .ranks
        .iter()
        .filter(|(_, state)| !state.ended())
        .count();
    tracing::info!(node = %identity.node, name = %options.name, server = options.server, running_ranks = running, "the agent begins");

    let (tls_sender, tls) = watch::channel(identity.tls(&keeper.authority, Arc::clone(&clock))?);
    let (events_sender, events) = mpsc::channel(EVENTS);
    let session = Session {
        server: options.server.clone(),
        tls,
        entropy,
        events: events_sender,
    };
    let (inventory_sender, inventories) = mpsc::channel(1);
    // Ended with this function: the set aborts what is left in it.
    let mut tasks = JoinSet::new();
    tasks.spawn(session.run());
    tasks.spawn(async move { keeper.renew_for_ever(identity, tls_sender).await });
    let discover_again = Arc::new(Notify::new());
    tasks.spawn(discover_for_ever(
        inventory_sender,
        executor.disk_look(),
        Arc::clone(&discover_again),
    ));
    let (usage_sender, usages) = mpsc::channel(1);
    tasks.spawn(measure_for_ever(usage_sender, executor.disk_usage()));

    let Found {
        ledger,
        ranks,
        watcher,
        done,
    } = found;
    let core_options = CoreOptions {
        boot_id: boot_id(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        capabilities: vec![
            "read_log".to_owned(),
            "disk_expand".to_owned(),
            "stress".to_owned(),
        ],
        address: options.address.clone(),
    };
    let core = AgentCore::new(core_options, ledger, ranks);
    // SAFETY: the watcher owns its one descriptor and closes it only when it is dropped.
    let watcher = unsafe { AsyncFd::register_with_interest(watcher, Interest::READABLE) };
    let watcher = watcher.map_err(|error| AgentError::System {
        step: "watch the rank directories",
        source: error.into(),
    })?;
    let agent = Agent {
        core,
        executor,
        clock,
        connection: None,
        discover_again,
    };
    agent
        .run(
            shutdown,
            Sources {
                done,
                events,
                inventories,
                usages,
                watcher,
            },
        )
        .await;
    tracing::info!("the agent ends; its ranks go on");
    Ok(())
}

fn check(options: &AgentOptions) -> Result<(), AgentError> {
    let port = options
        .server
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty())
        .and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none() {
        return Err(AgentError::Options(format!(
            "`{}` is not the address of an agent port; write host:port",
            options.server
        )));
    }
    if !options.data_directory.is_absolute() || !options.system_root.is_absolute() {
        return Err(AgentError::Options(
            "the data directory and the system root must be absolute paths".into(),
        ));
    }
    Ok(())
}

/// The right to a data directory; goes with the process, or when it is dropped.
struct Claim(std::os::fd::OwnedFd);

impl Drop for Claim {
    /// Closing is not enough: a child that another thread has just forked has the file open until it becomes another program.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// Makes sure that there is one agent for one data directory.
fn claim(path: &Path) -> Result<(Directory, Claim), AgentError> {
    let directory = Directory::open_or_create(path, 0o711)?;
    let failed = |errno: rustix::io::Errno| FileError::System {
        path: path.join(LOCK_FILE),
        step: "lock",
        source: errno.into(),
    };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = rustix::fs::openat(&directory, LOCK_FILE, flags, Mode::from_raw_mode(0o600))
        .map_err(failed)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok((directory, Claim(lock))),
        Err(rustix::io::Errno::AGAIN) => Err(AgentError::AlreadyRuns {
            path: path.to_owned(),
        }),
        Err(errno) => Err(failed(errno).into()),
    }
}

/// Discovers the machine now and then, and when it is asked to. A discovery that hangs delays the next one and nothing else.
async fn discover_for_ever(
    inventories: mpsc::Sender<Inventory>,
    disk: impl Fn() -> SystemDisk + Send + Sync + Clone + 'static,
    again: Arc<Notify>,
) {
    let tools = SystemTools::default();
    loop {
        let (tools, disk) = (tools.clone(), disk.clone());
        let discovered = tokio::task::spawn_blocking(move || Inventory {
            system_disk: Some(disk()),
            ..supernode_probe::discover(Path::new("/"), &tools)
        })
        .await;
        match discovered {
            Ok(inventory) => {
                if inventories.send(inventory).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "the discovery of this machine failed; trying again in a minute");
            }
        }
        let _ = tokio::time::timeout(DISCOVERY_PERIOD, again.notified()).await;
    }
}

/// Looks how full the system disk is. On a file system that hangs, the last answer stays.
async fn measure_for_ever(
    usages: mpsc::Sender<DiskUsage>,
    measure: impl Fn() -> Option<DiskUsage> + Send + Sync + Clone + 'static,
) {
    loop {
        let measured = tokio::task::spawn_blocking(measure.clone()).await;
        if let Ok(Some(usage)) = measured
            && usages.send(usage).await.is_err()
        {
            return;
        }
        tokio::time::sleep(USAGE_PERIOD).await;
    }
}

/// Where facts come from.
struct Sources {
    done: mpsc::UnboundedReceiver<Done>,
    events: mpsc::Receiver<SessionEvent>,
    inventories: mpsc::Receiver<Inventory>,
    usages: mpsc::Receiver<DiskUsage>,
    watcher: AsyncFd<Watcher>,
}

struct Agent {
    core: AgentCore,
    executor: Executor,
    clock: Arc<dyn Clock>,
    connection: Option<mpsc::Sender<FromAgent>>,
    discover_again: Arc<Notify>,
}

impl Agent {
    async fn run(mut self, mut shutdown: impl Future<Output = ()> + Unpin, mut sources: Sources) {
        let mut next_look = Instant::now() + LOOK_PERIOD;
        loop {
            let wait = self
                .act()
                .min(next_look.saturating_duration_since(Instant::now()));
            tokio::select! {
                () = &mut shutdown => return self.store(sources.done).await,
                Some(done) = sources.done.recv() => self.take_done(done),
                Some(event) = sources.events.recv() => self.take_event(event),
                Some(inventory) = sources.inventories.recv() => self.take_inventory(inventory),
                Some(usage) = sources.usages.recv() => self.core.on_disk_usage(usage),
                ready = sources.watcher.readable_mut() => {
                    if let Ok(mut ready) = ready {
                        self.look(ready.get_inner_mut());
                        ready.clear_ready();
                    }
                }
                () = tokio::time::sleep(wait) => {}
            }
            while let Ok(done) = sources.done.try_recv() {
                self.take_done(done);
            }
            while let Ok(event) = sources.events.try_recv() {
                self.take_event(event);
            }
            if Instant::now() >= next_look {
                next_look = Instant::now() + LOOK_PERIOD;
                let open: Vec<RankKey> = self.core.open_ranks().cloned().collect();
                for key in open {
                    self.executor.look(&key, true);
                }
                self.executor.read_retries(self.core.retry_logs());
            }
        }
    }

    /// Before the end: what was reported is on the disk, or the next agent would not know it. Nothing else is begun, and a disk that does not
    /// answer is not waited for.
    async fn store(mut self, mut done: mpsc::UnboundedReceiver<Done>) {
        let until = Instant::now() + STORE_PATIENCE;
        while !self.core.is_stored() {
            for effect in self.core.effects(self.clock.monotonic()) {
                if let Effect::StoreLedger { .. } = effect {
                    self.executor.perform(effect, self.clock.now());
                }
            }
            match tokio::time::timeout_at(until, done.recv()).await {
                Ok(Some(done)) => self.take_done(done),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Does what is due; says for how long nothing will be.
    fn act(&mut self) -> Duration {
        for effect in self.core.effects(self.clock.monotonic()) {
            match effect {
                Effect::Send(sync) => self.send(FromAgent::Sync(Box::new(sync))),
                Effect::Reconnect => self.connection = None,
                effect => self.executor.perform(effect, self.clock.now()),
            }
        }
        self.core.next_wake().map_or(LOOK_PERIOD, |wake| {
            wake.saturating_sub(self.clock.monotonic())
        })
    }

    fn send(&mut self, message: FromAgent) {
        if let Some(connection) = &self.connection
            && connection.try_send(message).is_err()
        {
            // The server does not take what we say: a new connection says all that matters.
            self.connection = None;
        }
    }

    fn take_event(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Connected(connection) => {
                self.connection = Some(connection);
                self.core.on_connected();
            }
            SessionEvent::Disconnected => {
                self.connection = None;
                self.core.on_disconnected();
            }
            SessionEvent::Received(ToAgent::Acknowledge {
                sequence,
                fence_seconds,
                interval_milliseconds,
            }) => {
                self.core.on_acknowledge(
                    sequence,
                    Duration::from_secs(fence_seconds),
                    Duration::from_millis(interval_milliseconds),
                );
            }
            SessionEvent::Received(ToAgent::Desired(desired)) => {
                let generation = desired.generation;
                match self.core.on_desired(*desired) {
                    Reception::Accepted => tracing::debug!(generation, "a new desired state"),
                    Reception::Known => {}
                    Reception::Refused => {
                        let known = self.core.ledger().generation;
                        tracing::warn!(
                            generation,
                            known,
                            "the server sent an older desired state than it did before; it is not used"
                        );
                    }
                }
            }
            SessionEvent::Received(ToAgent::ReadLog(ask)) => self.read_log(ask),
        }
    }

    fn read_log(&self, ask: ReadLog) {
        let Some(connection) = self.connection.clone() else {
            return;
        };
        let key = RankKey {
            attempt: ask.attempt.clone(),
            rank: ask.rank,
        };
        let record = self.core.ledger().ranks.get(&key).cloned();
        self.executor.read_log(ask, record, move |part| {
            // A connection that is gone or full asks again.
            let _ = connection.try_send(FromAgent::Log(part));
        });
    }

    fn take_done(&mut self, done: Done) {
        self.executor.note(&done);
        let now = self.clock.monotonic();
        match done {
            Done::Ledger {
                version,
                result: Ok(()),
            } => self.core.on_ledger_stored(version),
            Done::Ledger {
                version,
                result: Err(why),
            } => {
                tracing::error!(
                    why,
                    "the agent's ledger cannot be stored; nothing new is started or stopped until it can"
                );
                self.core.on_ledger_failed(version, now);
            }
            Done::Lease {
                deadline,
                result: Ok(()),
            } => self.core.on_lease_written(deadline),
            Done::Lease {
                result: Err(why), ..
            } => tracing::error!(
                why,
                "the lease cannot be written; ranks will stop themselves if this goes on"
            ),
            Done::Rank { key, result } => {
                if let Ok(Some(state)) = result {
                    let ended = state.ended();
                    self.core.on_rank_observed(&key, state);
                    if ended {
                        // While the server still wants it: soon it is forgotten.
                        self.executor.read_retries(self.core.retry_logs());
                    }
                }
            }
            Done::Environment { task, result } => {
                if let Err(why) = &result {
                    tracing::warn!(
                        ?task,
                        why,
                        "the environment's executor failed; trying again"
                    );
                }
                self.core.on_environment_done(task, result, now);
            }
            Done::Retries(seen) => self.core.on_retries(seen),
            Done::Removed(keys) => self.core.on_ranks_removed(&keys),
            Done::Stress(report) => self.core.on_stress_reported(*report),
            Done::Disk(report) => self.core.on_disk_reported(*report),
            Done::DiskEnded(operation) => {
                self.core.on_disk_ended(&operation);
                self.discover_again.notify_one();
            }
            Done::NotRestarted { operation, why } => {
                tracing::warn!(%operation, why, "the machine was to be restarted and goes on");
                self.core.on_not_restarted(&operation, why);
            }
        }
    }

    fn take_inventory(&mut self, inventory: Inventory) {
        self.executor.set_inventory(inventory.clone());
        self.core.on_inventory(inventory);
    }

    fn look(&mut self, watcher: &mut Watcher) {
        match watcher.changed() {
            Ok(changed) => {
                for key in changed.iter().filter_map(RankKey::of) {
                    self.executor.look(&key, false);
                }
            }
            // The regular look goes on without it.
            Err(error) => tracing::warn!(
                error = crate::files::one_line(&error),
                "changes of rank directories cannot be read"
            ),
        }
    }
}
