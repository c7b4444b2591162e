//! The `local` provisioner: agents as processes on this host.
//!
//! Making a node is making its directory with an `agent.json`; `supernode dev` keeps one agent process running per directory. Taking it
//! away is writing a file `removed`. The server itself starts no process, so its own end disturbs none.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use super::{JoinParameters, ProvisionAnswer};

/// File with the agent's parameters.
pub const AGENT_FILE: &str = "agent.json";
/// File that says that the agent is no longer wanted.
pub const REMOVED_FILE: &str = "removed";

/// File that is the system disk of a local node, where it has one of its own.
pub const DISK_FILE: &str = "disk.img";

/// Makes the directory of a node; making it again only replaces its parameters.
pub fn create(directory: &Path, node_name: &str, join: &JoinParameters) -> ProvisionAnswer {
    let node = directory.join(node_name);
    let parameters = serde_json::json!({ "name": node_name, "join": join });
    match fs::create_dir_all(&node)
        .and_then(|()| sync_directory(Some(directory)))
        .and_then(|()| write_private(&node.join(AGENT_FILE), parameters.to_string().as_bytes()))
    {
        Ok(()) => ProvisionAnswer::Done,
        Err(error) => ProvisionAnswer::Retry(format!("{}: {error}", node.display())),
    }
}

/// Says that the agent of a node is no longer wanted.
pub fn delete(directory: &Path, node_name: &str) -> ProvisionAnswer {
    let node = directory.join(node_name);
    if !node.exists() {
        return ProvisionAnswer::Done;
    }
    match write_private(&node.join(REMOVED_FILE), b"") {
        Ok(()) => ProvisionAnswer::Done,
        Err(error) => ProvisionAnswer::Retry(format!("{}: {error}", node.display())),
    }
}

/// Makes the file behind the system disk of a node longer; its agent makes the loop device follow. Never shorter.
pub fn grow_disk(directory: &Path, node_name: &str, size_bytes: u64) -> ProvisionAnswer {
    let image = directory.join(node_name).join(DISK_FILE);
    let grow = || {
        let file = fs::OpenOptions::new().write(true).open(&image)?;
        let present = file.metadata()?.len();
        if present < size_bytes {
            file.set_len(size_bytes)?;
            file.sync_all()?;
        }
        Ok::<_, io::Error>(present)
    };
    match grow() {
        Ok(present) if present > size_bytes => ProvisionAnswer::Refused(format!(
            "{} has {present} bytes already: a disk never shrinks",
            image.display()
        )),
        Ok(_) => ProvisionAnswer::Done,
        Err(error) if error.kind() == io::ErrorKind::NotFound => ProvisionAnswer::Refused(
            "this local node has no disk of its own; start `supernode dev` with --node-disk".into(),
        ),
        Err(error) => ProvisionAnswer::Retry(format!("{}: {error}", image.display())),
    }
}

/// Replaces a file as a whole; only this user may read it.
fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = path.with_extension("tmp");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_directory(path.parent())
}

/// What was made in a directory survives a loss of power.
fn sync_directory(directory: Option<&Path>) -> io::Result<()> {
    directory.map_or(Ok(()), |directory| fs::File::open(directory)?.sync_all())
}
