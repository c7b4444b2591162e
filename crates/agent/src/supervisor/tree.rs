//! The processes of a rank: finding all of them, signalling them, and finding strays that lost their supervisor.
//!
//! A supervisor is the *subreaper* of its rank: a process that loses its parent, a daemon for example, becomes a child of the
//! supervisor and not of init. So the descendants of the supervisor are the whole tree, and "no child left" means "nothing left".
//! A process id is only ever signalled through a handle on the process (pidfd) after its parent was checked again, so that an id
//! which was reused between looking and signalling never hits a stranger.

use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal};

/// What `/proc/PID/stat` says about a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessStatus {
    /// Its parent.
    pub parent: i32,
    /// When it began, in clock ticks since boot.
    pub began: u64,
}

/// The status of a process; `None` if there is none of this id.
pub fn process_status(pid: i32) -> Option<ProcessStatus> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets, and the name may hold spaces and brackets itself.
    let mut fields = text.get(text.rfind(')')? + 2..)?.split(' ');
    let parent = fields.nth(1)?.parse().ok()?;
    let began = fields.nth(17)?.parse().ok()?;
    Some(ProcessStatus { parent, began })
}

/// Sends a signal to a process if it is still the one that `check` accepts. Says whether it was sent.
pub fn signal_if(pid: i32, signal: Signal, check: impl Fn(ProcessStatus) -> bool) -> bool {
    let Some(raw) = Pid::from_raw(pid) else {
        return false;
    };
    match rustix::process::pidfd_open(raw, PidfdFlags::empty()) {
        Ok(handle) => {
            process_status(pid).is_some_and(check)
                && rustix::process::pidfd_send_signal(&handle, signal).is_ok()
        }
        // Before Linux 5.3 there are no handles on processes; the check alone leaves a window of microseconds.
        Err(rustix::io::Errno::NOSYS) => {
            process_status(pid).is_some_and(check)
                && rustix::process::kill_process(raw, signal).is_ok()
        }
        Err(_) => false,
    }
}

/// All descendants of a process with their parents, parents first.
pub fn descendants(root: i32) -> Vec<(i32, i32)> {
    let listed = fs::metadata(format!("/proc/{root}/task/{root}/children")).is_ok();
    let by_scan = if listed {
        Vec::new()
    } else {
        processes_with_parents()
    };
    let mut found: Vec<(i32, i32)> = Vec::new();
    let mut next = 0;
    let mut parent = root;
    loop {
        let children = if listed {
            listed_children(parent)
        } else {
            by_scan
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| *pid)
                .collect()
        };
        for child in children {
            // A process that was re-parented while we looked is seen twice.
            if !found.iter().any(|(pid, _)| *pid == child) {
                found.push((child, parent));
            }
        }
        let Some((pid, _)) = found.get(next) else {
            return found;
        };
        parent = *pid;
        next += 1;
    }
}

/// Signals every descendant of `root` once; says how many were reached.
pub fn signal_descendants(root: i32, signal: Signal) -> usize {
    descendants(root)
        .into_iter()
        .filter(|(pid, parent)| {
            signal_if(*pid, signal, |status| {
                status.parent == *parent || status.parent == root
            })
        })
        .count()
}

/// The processes, of any parent, that were started with the environment entry `entry` (`NAME=value`), and their descendants; each
/// with the moment it began, which tells it from a later process of the same id.
pub fn processes_with_environment(entry: &str) -> Vec<(i32, u64)> {
    let mut found = Vec::new();
    for pid in all_processes() {
        // Its status first: if the id was reused before the environment was read, the moments differ and no signal is sent.
        let Some(status) = process_status(pid) else {
            continue;
        };
        let marked = fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
            environment
                .split(|byte| *byte == 0)
                .any(|part| part == entry.as_bytes())
        });
        if marked {
            found.push((pid, status.began));
            for (child, parent) in descendants(pid) {
                found.extend(
                    process_status(child)
                        .filter(|status| status.parent == parent)
                        .map(|status| (child, status.began)),
                );
            }
        }
    }
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    found.retain(|(pid, _)| *pid != own);
    found.sort_unstable();
    found.dedup();
    found
}

fn listed_children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| {
            text.split_ascii_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<i32>>()
        })
        .collect()
}

fn all_processes() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn processes_with_parents() -> Vec<(i32, i32)> {
    all_processes()
        .into_iter()
        .filter_map(|pid| Some((pid, process_status(pid)?.parent)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use supernode_types::time::{Clock, SystemClock};

    #[test]
    fn a_child_is_found_by_walk_and_by_scan_and_by_its_environment() {
        let own = i32::try_from(std::process::id()).expect("a process id is positive");
        let marker = format!("TREE_TEST={own}");
        let mut child = Command::new("sleep")
            .arg("600")
            .env("TREE_TEST", own.to_string())
            .spawn()
            .expect("sleep starts");
        let pid = i32::try_from(child.id()).expect("a process id is positive");
        assert!(descendants(own).iter().any(|(found, _)| *found == pid));
        assert!(processes_with_parents().contains(&(pid, own)));
        let deadline = SystemClock.monotonic() + std::time::Duration::from_secs(5);
        while !processes_with_environment(&marker)
            .iter()
            .any(|(found, _)| *found == pid)
        {
            assert!(
                SystemClock.monotonic() < deadline,
                "the marker is in /proc once the program runs"
            );
        }
        assert!(
            !signal_if(pid, Signal::KILL, |status| status.parent == own + 1),
            "another parent is another process"
        );
        assert!(signal_if(pid, Signal::KILL, |status| status.parent == own));
        child.wait().expect("it is gone");
        assert_eq!(process_status(pid).map(|status| status.parent == own), None);
    }
}
