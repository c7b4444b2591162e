//! Tests the node: kernel after kernel as child processes, and what is kept of each.
//!
//! A kernel that was told to stop is gone within ten seconds, and so is one whose agent is gone. It judges nothing: it reports what was
//! measured and what the machine said meanwhile.

mod pair;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use supernode_probe::stress::child::Launcher;
use supernode_probe::stress::evidence::evidence;
use supernode_probe::stress::suite::{self, Parts};
use supernode_types::Clock;
use supernode_types::stress::{StressReport, StressReportState, StressWish};

/// How the node is tested.
#[derive(Debug, Clone)]
pub struct StressOptions {
    /// The program of a kernel.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// A directory on each disk to test.
    pub directories: Vec<PathBuf>,
}

impl StressOptions {
    /// This program with its hidden command, also after it was replaced on the disk.
    pub fn own_executable() -> Self {
        Self {
            program: PathBuf::from("/proc/self/exe"),
            arguments: vec!["stress-kernel".to_owned()],
            directories: Vec::new(),
        }
    }
}

/// What tests one node. Clones share the order to stop.
#[derive(Debug, Clone)]
pub struct StressExecutor {
    launcher: Launcher,
    directories: Vec<PathBuf>,
    clock: Arc<dyn Clock>,
    stop: Arc<AtomicBool>,
}

impl StressExecutor {
    /// With these options; disks are those of `data_directory` if none is named.
    pub fn new(options: &StressOptions, data_directory: &Path, clock: Arc<dyn Clock>) -> Self {
        let directories = match options.directories.as_slice() {
            [] => vec![data_directory.to_owned()],
            some => some.to_vec(),
        };
        Self {
            launcher: Launcher {
                program: options.program.clone(),
                arguments: options.arguments.clone(),
            },
            directories,
            clock,
            stop: Arc::default(),
        }
    }

    /// Forgets an order to stop; to be called when a test is asked for, before it is run somewhere else.
    pub fn begin(&self) {
        self.stop.store(false, Ordering::Relaxed);
    }

    /// Ends the test that is under way.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Runs all kernels and tells `report` of each; the last report says how it ended. Blocks, for minutes.
    pub fn run(&self, wish: &StressWish, report: &dyn Fn(StressReport)) {
        let tell = |state| {
            report(StressReport {
                key: wish.key(),
                state,
            });
        };
        if let Some(pair) = &wish.pair {
            return self.run_pair(wish, pair, &tell);
        }
        let told = || self.stop.load(Ordering::Relaxed);
        let mut all = Vec::new();
        let parts = Parts::of_this_machine(self.directories.clone());
        let steps = suite::steps(&wish.items, wish.tier, &parts);
        let count = steps.len();
        for (index, step) in steps.into_iter().enumerate() {
            if told() {
                break;
            }
            tell(StressReportState::Running {
                step: format!("{} ({} of {count})", step.name, index + 1),
            });
            let step = match wish.kernel_seconds {
                Some(seconds) => step.lasting(seconds),
                None => step,
            };
            let record = suite::run(&self.launcher, step, Path::new("/"), &*self.clock, told);
            all.push(evidence(&record, env!("CARGO_PKG_VERSION")));
        }
        tell(if told() {
            StressReportState::Incomplete {
                why: "stopped before its end".into(),
                evidence: all,
            }
        } else {
            StressReportState::Ended { evidence: all }
        });
    }
}
