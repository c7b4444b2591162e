//! A process that is started again at once whenever it ends, as a service manager would.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::processes::{kill, wait_for};

/// Between two starts of a process that ends by itself: a broken one must not take a core.
const PAUSE: Duration = Duration::from_millis(5);
const REACTION: Duration = Duration::from_secs(20);

pub(super) struct Supervised {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    /// 0 while there is no process.
    pid: AtomicU32,
    starts: AtomicU32,
    ended: AtomicBool,
}

impl Supervised {
    /// Runs what `make` makes, until dropped.
    pub(super) fn start(make: impl Fn() -> Result<Command> + Send + 'static) -> Result<Self> {
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            while !shared.ended.load(Ordering::Relaxed) {
                let started = make().and_then(|mut command| Ok(command.spawn()?));
                match started {
                    Ok(mut child) => {
                        shared.pid.store(child.id(), Ordering::Relaxed);
                        shared.starts.fetch_add(1, Ordering::Relaxed);
                        let _ = child.wait();
                        shared.pid.store(0, Ordering::Relaxed);
                    }
                    Err(error) => eprintln!("cannot be started: {error:#}"),
                }
                std::thread::sleep(PAUSE);
            }
        });
        let supervised = Self {
            state,
            thread: Some(thread),
        };
        wait_for("the start of a process", REACTION, || {
            Ok(supervised.pid().map(|_| ()))
        })?;
        Ok(supervised)
    }

    /// The process of this moment.
    pub(super) fn pid(&self) -> Option<u32> {
        Some(self.state.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// How often it was started.
    pub(super) fn starts(&self) -> u32 {
        self.state.starts.load(Ordering::Relaxed)
    }

    /// `kill -9`. Returns when it is gone; its successor is being started then.
    pub(super) fn kill(&self) -> Result<()> {
        let before = self.starts();
        let pid = self.pid().context("there is no process to kill")?;
        kill(&[pid]);
        wait_for("the end of a killed process", REACTION, || {
            Ok((self.pid() != Some(pid)).then_some(()))
        })?;
        if self.starts() > before + 1 {
            bail!("the process ended by itself");
        }
        Ok(())
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else {
            return;
        };
        while !thread.is_finished() {
            if let Some(pid) = self.pid() {
                kill(&[pid]);
            }
            std::thread::sleep(PAUSE);
        }
        let _ = thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::Process;

    #[test]
    fn killed_processes_come_back_until_dropped() {
        let supervised = Supervised::start(|| {
            let mut command = Command::new("sleep");
            command.arg("600");
            Ok(command)
        })
        .expect("sleep starts");
        let first = supervised.pid().expect("runs");
        supervised.kill().expect("can be killed");
        let second = wait_for("the successor", REACTION, || {
            Ok(supervised.pid().filter(|pid| *pid != first))
        })
        .expect("is started again");
        assert_eq!(supervised.starts(), 2);
        drop(supervised);
        assert_eq!(Process::resident_bytes(second), None);
    }
}
