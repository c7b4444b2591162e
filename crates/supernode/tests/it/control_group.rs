//! Limits that are put on an agent from outside. Needs root and a control group that can be made; what is missing is said, and skipped.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A limit in the words of both versions of control groups.
pub(crate) struct Limit {
    /// Where version 1 has it.
    pub(crate) controller: &'static str,
    /// Files of version 1 and what to write into them.
    pub(crate) first_version: Vec<(&'static str, String)>,
    /// The file of version 2 and what to write into it.
    pub(crate) second_version: (&'static str, String),
}

/// A control group with a limit; gone when dropped, after all that was in it.
pub(crate) struct ControlGroup(PathBuf);

impl ControlGroup {
    pub(crate) fn new(limit: &Limit) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("supernode-test-{}-{number}", std::process::id());
        let first = Path::new("/sys/fs/cgroup").join(limit.controller);
        let parent = if first.is_dir() {
            first
        } else {
            PathBuf::from("/sys/fs/cgroup")
        };
        let group = Self(parent.join(name));
        let made = fs::create_dir(&group.0).and_then(|()| group.set(limit));
        if let Err(error) = made {
            println!("SKIPPED: no control group can be limited here: {error}");
            return None;
        }
        Some(group)
    }

    /// Changes the limit.
    pub(crate) fn set(&self, limit: &Limit) -> io::Result<()> {
        let second = std::slice::from_ref(&limit.second_version);
        let is_first = self
            .0
            .starts_with(Path::new("/sys/fs/cgroup").join(limit.controller));
        let limits = if is_first {
            &limit.first_version
        } else {
            second
        };
        let write = |(file, value): &(&str, String)| fs::write(self.0.join(file), value);
        limits.iter().try_for_each(write)
    }

    /// From now on a process and what it starts is under the limit.
    pub(crate) fn take(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("root may move processes");
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
