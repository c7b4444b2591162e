//! The control groups that this process is in.

use crate::files::Files;

/// Where a controller keeps the files of our group, as paths without the leading slash: of version 1, and of version 2 where it is
/// the one that has it.
pub(crate) fn directories(files: Files<'_>, controller: &str) -> Vec<String> {
    let groups = files.text("proc/self/cgroup").unwrap_or_default();
    let directory = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next()?, parts.next()?);
        // Outside of what this process can see.
        if group.contains("..") {
            return None;
        }
        let has_it = controllers.is_empty() || controllers.split(',').any(|one| one == controller);
        has_it.then(|| format!("sys/fs/cgroup/{controllers}{group}"))
    };
    groups.lines().filter_map(directory).collect()
}
