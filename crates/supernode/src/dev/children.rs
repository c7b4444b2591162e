//! Child processes that are wanted, kept running: restarted when they end, at once the first time, with back-off when they end soon.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use super::network::{Namespaces, Network};
use super::nodes::{self, AgentDefaults};

/// How often children and the directory are looked at.
const TICK: Duration = Duration::from_millis(25);
/// A child that ran this long did not end "soon".
const SETTLED: Duration = Duration::from_secs(5);
/// The longest pause before a restart.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// While everything is being brought up, a child that ended soon this often will not come up at all.
const HOPELESS_AFTER: u32 = 5;
/// How long children may take to end when asked.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The executable.
    pub(crate) executable: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// Where it runs, when not on the host.
    pub(crate) namespaces: Option<Arc<Namespaces>>,
}

#[derive(Debug)]
struct Slot {
    program: Program,
    child: Option<Child>,
    started_at: Instant,
    start_at: Instant,
    soon: u32,
}

/// All children of `supernode dev`.
#[derive(Debug)]
pub(crate) struct Children {
    data: PathBuf,
    slots: BTreeMap<String, Slot>,
    agents: Option<AgentDefaults>,
    network: Option<Network>,
    /// Why nodes cannot be prepared, to say it once.
    complaints: BTreeMap<String, String>,
}

impl Children {
    /// None yet. Logs go to `data/logs`, process ids to `data/pids`.
    pub(crate) fn new(data: &Path) -> Self {
        Self {
            data: data.to_owned(),
            slots: BTreeMap::new(),
            agents: None,
            network: None,
            complaints: BTreeMap::new(),
        }
    }

    /// Wants a child.
    pub(crate) fn want(&mut self, name: &str, program: Program) {
        let now = Instant::now();
        self.slots.insert(
            name.to_owned(),
            Slot {
                program,
                child: None,
                started_at: now,
                start_at: now,
                soon: 0,
            },
        );
    }

    /// Wants an agent for each directory of a node, from now on; in networks of their own, if there is one.
    pub(crate) fn agents(&mut self, defaults: AgentDefaults, network: Option<Network>) {
        self.agents = Some(defaults);
        self.network = network;
    }

    /// Keeps children running until `condition` answers something.
    pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
        &mut self,
        what: &str,
        patience: Duration,
        condition: impl Fn() -> F,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            self.tick();
            if let Some(value) = condition().await {
                return Ok(value);
            }
            if let Some(name) = self.hopeless() {
                bail!(
                    "{name} ends again and again: {}",
                    last_line(&self.data.join("logs").join(format!("{name}.log")))
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "waited {} s for {what}; the logs in {} may say why not",
                    patience.as_secs(),
                    self.data.join("logs").display()
                );
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Keeps children running until `end`.
    pub(crate) async fn supervise(&mut self, end: impl Future<Output = ()>) {
        tokio::pin!(end);
        loop {
            self.tick();
            tokio::select! {
                () = &mut end => return,
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    /// Asks all children to end, then kills what is left.
    pub(crate) async fn stop(&mut self) {
        for slot in self.slots.values() {
            signal(slot.child.as_ref(), Signal::SIGTERM);
        }
        let deadline = Instant::now() + STOP_GRACE;
        while self
            .slots
            .values_mut()
            .any(|slot| slot.child.as_mut().is_some_and(running))
        {
            if Instant::now() > deadline {
                for slot in self.slots.values() {
                    signal(slot.child.as_ref(), Signal::SIGKILL);
                }
                return;
            }
            tokio::time::sleep(TICK).await;
        }
    }

    fn complain(&mut self, name: &str, why: String) {
        if self.complaints.get(name) != Some(&why) {
            eprintln!("node {name} cannot be prepared: {why}");
            self.complaints.insert(name.to_owned(), why);
        }
    }

    /// A child that never stays.
    fn hopeless(&self) -> Option<&str> {
        self.slots
            .iter()
            .find(|(_, slot)| slot.soon >= HOPELESS_AFTER)
            .map(|(name, _)| name.as_str())
    }

    fn tick(&mut self) {
        if let Some(defaults) = self.agents.clone() {
            self.follow_directory(&defaults);
        }
        let now = Instant::now();
        for (name, slot) in &mut self.slots {
            if slot.child.as_mut().is_some_and(|child| !running(child)) {
                slot.child = None;
                slot.soon = if now - slot.started_at > SETTLED {
                    0
                } else {
                    slot.soon + 1
                };
                let pause =
                    Duration::from_millis(50) * 2_u32.pow(slot.soon.saturating_sub(1).min(7));
                slot.start_at = now
                    + if slot.soon == 0 {
                        Duration::ZERO
                    } else {
                        pause.min(LONGEST_PAUSE)
                    };
            }
            if slot.child.is_none() && now >= slot.start_at {
                slot.started_at = now;
                match start(&self.data, name, &slot.program) {
                    Ok(child) => slot.child = Some(child),
                    Err(error) => {
                        eprintln!("{name} cannot be started: {error}");
                        slot.start_at = now + LONGEST_PAUSE;
                    }
                }
            }
        }
    }

    /// One agent per wanted node; an agent whose node was removed is stopped.
    fn follow_directory(&mut self, defaults: &AgentDefaults) {
        let directory = self.data.join("nodes");
        let wanted = nodes::wanted(&directory);
        for name in &wanted {
            if !self.slots.contains_key(name) {
                match nodes::program(&directory, name, defaults, self.network.as_mut()) {
                    Ok(program) => {
                        self.complaints.remove(name);
                        self.want(name, program);
                    }
                    Err(error) => self.complain(name, format!("{error:#}")),
                }
            }
        }
        if let Some(network) = &mut self.network {
            network.follow(&directory);
        }
        let gone: Vec<String> = self
            .slots
            .keys()
            .filter(|name| *name != "server" && !wanted.contains(name))
            .cloned()
            .collect();
        for name in gone {
            if let Some(slot) = self.slots.get_mut(&name) {
                signal(slot.child.as_ref(), Signal::SIGTERM);
                if slot.child.as_mut().is_none_or(|child| !running(child)) {
                    self.slots.remove(&name);
                    let _ = fs::remove_file(self.data.join("pids").join(&name));
                }
            }
        }
    }
}

fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().last().unwrap_or("its log is empty").to_owned()
}

fn running(child: &mut Child) -> bool {
    matches!(child.try_wait(), Ok(None))
}

fn signal(child: Option<&Child>, signal: Signal) {
    if let Some(pid) = child.and_then(|child| i32::try_from(child.id()).ok()) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// A child that ends when this process ends, whatever ends it. It gets its own process group: Ctrl-C in the terminal is for us alone,
/// and we end children in order.
fn start(data: &Path, name: &str, program: &Program) -> std::io::Result<Child> {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(data.join("logs").join(format!("{name}.log")))?;
    let mut command = Command::new(&program.executable);
    command
        .args(&program.arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    let namespaces = program.namespaces.clone();
    // SAFETY: between fork and exec only system calls are made, which are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            if let Some(namespaces) = &namespaces {
                namespaces.enter()?;
            }
            // Last: entering changes who this is, which takes the signal back.
            nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).map_err(std::io::Error::from)
        });
    }
    let child = command.spawn()?;
    // At once: somebody may be reading it.
    let aside = data.join("pids").join(format!(".{name}"));
    fs::write(&aside, child.id().to_string())?;
    fs::rename(&aside, data.join("pids").join(name))?;
    Ok(child)
}
