//! The directories of local nodes, and the agent that belongs to each.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;
use supernode_api::join_token::{JoinTokenCreate, JoinTokenCreateRequest};
use supernode_client::Client;
use supernode_control::provisioner::local::{AGENT_FILE, REMOVED_FILE};
use supernode_control::provisioner::{JoinParameters, ProvisionAnswer, local};

use super::children::Program;
use super::network::Network;

/// What all local agents get.
#[derive(Debug, Clone)]
pub(crate) struct AgentDefaults {
    /// The user that jobs run as.
    pub(crate) job_user: Option<String>,
    /// Whether jobs may run as root.
    pub(crate) allow_root_jobs: bool,
    /// The size of a new node's own system disk; nodes share that of their host when absent.
    pub(crate) node_disk: Option<u64>,
}

#[derive(Deserialize)]
struct AgentFile {
    name: String,
    join: JoinParameters,
}

/// Names of the nodes that should have an agent.
pub(crate) fn wanted(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|entry| {
            entry.path().join(AGENT_FILE).exists() && !entry.path().join(REMOVED_FILE).exists()
        })
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Names of the first `count` nodes that were never made. A removed one is not made again.
pub(crate) fn missing(directory: &Path, count: u32) -> Vec<String> {
    (1..=count)
        .map(|number| format!("node-{number}"))
        .filter(|name| !directory.join(name).exists())
        .collect()
}

/// Makes the directories of `names` with a join token for all of them.
pub(crate) async fn create(
    client: &Client,
    directory: &Path,
    names: &[String],
    listen: SocketAddr,
) -> anyhow::Result<()> {
    let request = JoinTokenCreateRequest {
        uses: Some(u32::try_from(names.len())?),
        lifetime_seconds: Some(3600),
        ..JoinTokenCreateRequest::default()
    };
    let created = super::call::<JoinTokenCreate>(client, &[], &request).await?;
    let data = directory
        .parent()
        .context("the directory of nodes has a parent")?;
    let admin = super::admin_context(data).context("the server's administrator file vanished")?;
    let join = JoinParameters {
        server: format!("{}:{}", listen.ip(), listen.port() + 1),
        api: admin.server,
        token: created.secret,
        ca_pem: admin.ca,
    };
    for name in names {
        match local::create(directory, name, &join) {
            ProvisionAnswer::Done => {}
            other => anyhow::bail!("node {name} cannot be made: {other:?}"),
        }
    }
    Ok(())
}

/// The agent of a node, with its secrets in files of their own: a command line is visible to everybody.
pub(crate) fn program(
    directory: &Path,
    name: &str,
    defaults: &AgentDefaults,
    network: Option<&mut Network>,
) -> anyhow::Result<Program> {
    let node = &directory.join(name);
    let AgentFile { name, join } = serde_json::from_slice(&fs::read(node.join(AGENT_FILE))?)
        .context("agent.json cannot be read")?;
    // Jobs' unprivileged user has to reach its scratch directory below.
    fs::set_permissions(node, fs::Permissions::from_mode(0o711))?;
    if let Some(size_bytes) = defaults.node_disk {
        super::disks::mount(node, size_bytes).context("its system disk")?;
    }
    write_private(&node.join("join-token"), &join.token)?;
    write_private(&node.join("ca.pem"), &join.ca_pem)?;
    let (server, address, namespaces) = match network {
        None => (join.server, Ipv4Addr::LOCALHOST, None),
        Some(network) => {
            let (namespaces, address) = network.node(directory, &name).context("its network")?;
            (network.server(), address, Some(namespaces))
        }
    };
    let mut arguments: Vec<std::ffi::OsString> = vec!["agent".into()];
    let mut option =
        |option: &str, value: std::ffi::OsString| arguments.extend([option.into(), value]);
    option("--server", server.into());
    option("--name", name.into());
    option("--address", address.to_string().into());
    option("--data", node.join("data").into());
    option("--system-root", node.join("root").into());
    option("--ca-file", node.join("ca.pem").into());
    option("--join-token-file", node.join("join-token").into());
    if let Some(user) = &defaults.job_user {
        option("--job-user", user.into());
    }
    if defaults.allow_root_jobs {
        arguments.push("--allow-root-jobs".into());
    }
    Ok(Program {
        executable: std::env::current_exe()?,
        arguments,
        namespaces,
    })
}

fn write_private(path: &Path, content: &str) -> std::io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?
        .write_all(content.as_bytes())
}
