//! A control group with a limit, for processes under test. Needs root and a controller that can be used; what is missing is said, and
//! skipped.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Gone when dropped, after all that was in it.
pub(crate) struct ControlGroup(PathBuf);

/// A limit in the words of both versions: files of the group and what is written there.
pub(crate) struct Limit {
    /// The controller, which is a hierarchy of its own in version 1.
    pub(crate) controller: &'static str,
    pub(crate) first_version: Vec<(&'static str, String)>,
    pub(crate) second_version: (&'static str, String),
}

impl ControlGroup {
    pub(crate) fn new(limit: Limit) -> Option<Self> {
        let name = format!("supernode-test-{}", std::process::id());
        let all = Path::new("/sys/fs/cgroup");
        let first = all.join(limit.controller);
        let (path, files) = if first.is_dir() {
            (first.join(name), limit.first_version)
        } else {
            let path = all.join(format!("{name}-{}", limit.controller));
            (path, vec![limit.second_version])
        };
        let made = fs::create_dir(&path).and_then(|()| write(&path, &files));
        if let Err(error) = made {
            println!("SKIPPED: no control group can be limited here: {error}");
            let _ = fs::remove_dir(&path);
            return None;
        }
        Some(Self(path))
    }

    /// Takes a process in, and what it will start.
    pub(crate) fn take(&self, pid: u32) {
        write(&self.0, &[("cgroup.procs", pid.to_string())]).expect("root may move processes");
    }
}

fn write(group: &Path, files: &[(&str, String)]) -> io::Result<()> {
    files
        .iter()
        .try_for_each(|(file, value)| fs::write(group.join(file), value))
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
