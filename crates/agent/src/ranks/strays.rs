//! Killing what a rank left behind when its supervisor was killed.
//!
//! The program itself dies with its supervisor. What it started is found by the rank's control group, where there is one, and by the
//! environment variable that every process of the rank inherited.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use super::records::{MARKER, STARTED, StartedRecord};
use super::{RankId, RanksError, record};
use crate::files::Directory;
use crate::supervisor::{cgroup, tree};

const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

/// Kills every process of the rank and waits until none is left; says how many there were.
pub(super) fn kill(id: &RankId, directory: &Directory) -> Result<usize, RanksError> {
    let group = record::<StartedRecord>(directory, STARTED)?.and_then(|started| started.cgroup);
    let group = group.as_deref().map(Path::new);
    let marker = format!("{MARKER}={}", directory.path().display());
    let mut killed: Vec<i32> = Vec::new();
    let mut waited = Duration::ZERO;
    loop {
        let left = find(group, &marker);
        if left.is_empty() {
            if let Some(group) = group {
                cgroup::remove(group);
            }
            return Ok(killed.len());
        }
        if waited > PATIENCE {
            let pids = left.into_iter().map(|(pid, _)| pid).collect();
            return Err(RanksError::Strays {
                id: id.clone(),
                pids,
            });
        }
        if let Some(group) = group {
            cgroup::kill(group);
        }
        for (pid, began) in left {
            tree::signal_if(pid, Signal::KILL, |status| status.began == began);
            if !killed.contains(&pid) {
                killed.push(pid);
            }
        }
        std::thread::sleep(PAUSE);
        waited += PAUSE;
    }
}

fn find(group: Option<&Path>, marker: &str) -> Vec<(i32, u64)> {
    let mut found = tree::processes_with_environment(marker);
    for pid in group.map(cgroup::processes).unwrap_or_default() {
        if let Some(status) = tree::process_status(pid)
            && !found.contains(&(pid, status.began))
        {
            found.push((pid, status.began));
        }
    }
    found
}
