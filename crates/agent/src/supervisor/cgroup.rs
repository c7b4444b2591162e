//! A control group for one rank, where the machine lets us make one (cgroup v2, writable).
//!
//! It adds two things to the walk over the process tree: `cgroup.kill` reaches a program that forks faster than the walk, and a
//! process that lost its supervisor is found even if it emptied its environment. Nothing depends on it: without one, the walk and
//! the environment marker do the work. No controller is enabled and no limit is set here.

use std::fs;
use std::path::{Path, PathBuf};

/// Makes a control group named `name` below that of the calling process. `None` where that is not possible.
pub fn create(name: &str) -> Option<PathBuf> {
    let group = own_group()?.join(name);
    match fs::create_dir(&group) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(_) => return None,
    }
    let writable = fs::OpenOptions::new()
        .write(true)
        .open(group.join("cgroup.procs"))
        .is_ok();
    if writable {
        Some(group)
    } else {
        remove(&group);
        None
    }
}

/// Moves the calling process into the group.
pub fn enter(group: &Path) -> std::io::Result<()> {
    fs::write(group.join("cgroup.procs"), "0")
}

/// Kills everything in the group, where the kernel can do that (5.14).
pub fn kill(group: &Path) {
    // Older kernels have no such file, and the group may be gone: the walk over the tree kills too.
    let _ = fs::write(group.join("cgroup.kill"), "1");
}

/// The processes in the group.
pub fn processes(group: &Path) -> Vec<i32> {
    fs::read_to_string(group.join("cgroup.procs"))
        .map(|text| text.lines().filter_map(|line| line.parse().ok()).collect())
        .unwrap_or_default()
}

/// Removes an empty group; one that is not empty stays.
pub fn remove(group: &Path) {
    // The kernel refuses while anything is in it; whoever finds it empty later removes it.
    let _ = fs::remove_dir(group);
}

/// The directory of the calling process' own group in the cgroup v2 hierarchy.
fn own_group() -> Option<PathBuf> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    // In a container the path may lead out of what is mounted; then there is nothing that is ours to use.
    let own = membership
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .filter(|path| !path.contains(".."))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find_map(mount_point_of_cgroup2)?;
    Some(Path::new(&mount).join(own.trim_start_matches('/')))
}

fn mount_point_of_cgroup2(line: &str) -> Option<String> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ');
    (after.split(' ').next() == Some("cgroup2"))
        .then(|| fields.nth(4).map(str::to_owned))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_point_is_read_from_mountinfo() {
        let line = "42 32 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        assert_eq!(
            mount_point_of_cgroup2(line).as_deref(),
            Some("/sys/fs/cgroup/unified")
        );
        assert_eq!(
            mount_point_of_cgroup2("33 32 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"),
            None
        );
    }
}
