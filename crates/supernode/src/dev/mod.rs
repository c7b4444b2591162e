//! `supernode dev`: a server and local agents as child processes, until Ctrl-C; starting again resumes.
//!
//! The directory is the truth: `nodes/<name>/agent.json` asks for an agent, `nodes/<name>/removed` says that it is no longer wanted, so
//! the server's `local` provisioner makes nodes without starting processes. Children end with this process, also when it is killed;
//! ranks of jobs do not: they belong to their supervisors and end by the fence if nobody comes back.

mod children;
pub(crate) mod disks;
pub(crate) mod network;
mod nodes;
mod programs;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use supernode_api::Page;
use supernode_api::node::{NodeList, NodeListQuery, NodeView};
use supernode_api::spec::{SpecCreate, SpecDeclare, SpecList, SpecView};
use supernode_api::system::SystemShow;
use supernode_api::{Nothing, Operation};
use supernode_client::{CallOptions, Client, Context};
use supernode_types::node::NodeCondition;
use supernode_types::time::parse_duration;
use tokio::time::Instant;

use self::children::{Children, Program};
use self::network::Network;
use crate::server::ADMIN_FILE;

/// What `supernode dev` takes
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DevArguments {
    /// How many local nodes to begin with
    #[arg(long, default_value_t = 4)]
    pub(crate) nodes: u32,
    /// Where state is kept; starting again with it resumes
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// Address of the API; agents use the next port
    #[arg(long, default_value = "127.0.0.1:7700")]
    pub(crate) listen: SocketAddr,
    /// Silence after which a node is lost
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) lost_after: Duration,
    /// Test nodes before they join a super node that grows, each kernel for so long; they share this machine, so it says little of them
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=60))]
    pub(crate) admission_kernel_seconds: Option<u32>,
    /// sqlite:PATH or postgres://…; an SQLite file in the data directory when absent
    #[arg(long, env = "SUPERNODE_DATABASE")]
    pub(crate) database: Option<String>,
    /// The user that jobs run as when this runs as root
    #[arg(long)]
    pub(crate) job_user: Option<String>,
    /// Let admins submit jobs that run as root
    #[arg(long)]
    pub(crate) allow_root_jobs: bool,
    /// Give every node a system disk of its own of this size, a file with a file system; needs root
    #[arg(long, value_name = "SIZE", value_parser = supernode_types::disk::parse_size)]
    pub(crate) node_disk: Option<u64>,
    /// Give every node a network of its own, behind a link that sends so many megabits per second; needs root, or a kernel that lets users
    /// have namespaces
    #[arg(long, value_name = "MBIT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) node_link: Option<u32>,
    /// The name of the context that is written for the command line
    #[arg(long, default_value = "dev")]
    pub(crate) context_name: String,
}

/// Runs until a signal ends it.
pub(crate) fn run(arguments: &DevArguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work(arguments))?;
    Ok(ExitCode::SUCCESS)
}

/// Where `dev` keeps its state when nobody says: a place that jobs' unprivileged user can reach.
fn default_data() -> anyhow::Result<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Ok("/var/lib/supernode/dev".into());
    }
    let home = std::env::var_os("HOME").context("HOME is not set; give --data")?;
    let base = std::env::var_os("XDG_DATA_HOME")
        .map_or_else(|| PathBuf::from(home).join(".local/share"), PathBuf::from);
    Ok(base.join("supernode/dev"))
}

async fn work(arguments: &DevArguments) -> anyhow::Result<()> {
    let begun = Instant::now();
    let data = match &arguments.data {
        Some(data) => std::path::absolute(data)?,
        None => default_data()?,
    };
    for directory in ["server", "nodes", "logs", "pids"] {
        fs::create_dir_all(data.join(directory))
            .with_context(|| format!("cannot create {}", data.join(directory).display()))?;
    }
    let lock = fs::File::create(data.join("dev.lock"))?;
    let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
        bail!(
            "another `supernode dev` uses {}; stop it or give another --data",
            data.display()
        );
    };
    let resumed = data.join("server").join(ADMIN_FILE).exists();
    let mut children = Children::new(&data);
    children.want("server", server(arguments, &data)?);
    let signalled = crate::agent::signalled();
    tokio::pin!(signalled);
    let start = tokio::select! {
        started = start(arguments, &data, &mut children) => started,
        () = &mut signalled => Err(anyhow::anyhow!("interrupted")),
    };
    match start {
        Ok(context) => {
            let path = supernode_cli::context::save(&arguments.context_name, &context, true)?;
            let what = if resumed { "resumed" } else { "started" };
            println!(
                "supernode dev {what} in {:.1} s",
                begun.elapsed().as_secs_f64()
            );
            println!("  API      {}", context.server);
            println!("  data     {}", data.display());
            println!(
                "  context  `{}` in {}",
                arguments.context_name,
                path.display()
            );
            println!("  try      supernode node list");
            println!("           supernode super-node create train --nodes 2 --wait");
            println!("Ctrl-C stops it; starting it again resumes.");
            children.supervise(&mut signalled).await;
        }
        Err(error) => {
            children.stop().await;
            release_disks(&data);
            return Err(error);
        }
    }
    children.stop().await;
    release_disks(&data);
    println!("stopped; `supernode dev --data {}` resumes", data.display());
    Ok(())
}

/// Nothing of `dev` stays mounted.
fn release_disks(data: &Path) {
    let Ok(entries) = fs::read_dir(data.join("nodes")) else {
        return;
    };
    for node in entries.filter_map(Result::ok) {
        if let Err(error) = disks::unmount(&node.path()) {
            eprintln!(
                "the disk of {} stays mounted: {error:#}",
                node.path().display()
            );
        }
    }
}

/// Where this host reaches the server.
fn server_host(listen: SocketAddr) -> IpAddr {
    match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        _ => Ipv4Addr::LOCALHOST.into(),
    }
}

fn server(arguments: &DevArguments, data: &Path) -> anyhow::Result<Program> {
    let mut words: Vec<std::ffi::OsString> = vec!["server".into()];
    let mut option = |name: &str, value: std::ffi::OsString| words.extend([name.into(), value]);
    option("--data", data.join("server").into());
    option("--listen", arguments.listen.to_string().into());
    if arguments.node_link.is_some() {
        // The first name is for the command line.
        option("--name", server_host(arguments.listen).to_string().into());
        option("--name", network::SWITCH.to_string().into());
    }
    option("--provisioner", "local".into());
    option("--nodes-directory", data.join("nodes").into());
    option(
        "--lost-after",
        format!("{}ms", arguments.lost_after.as_millis()).into(),
    );
    let sync_interval = (arguments.lost_after / 8).min(Duration::from_secs(1));
    option(
        "--sync-interval",
        format!("{}ms", sync_interval.as_millis()).into(),
    );
    match arguments.admission_kernel_seconds {
        Some(seconds) => option("--admission-kernel-seconds", seconds.to_string().into()),
        None => option("--admission", "none".into()),
    }
    if let Some(database) = &arguments.database {
        option("--database", database.into());
    }
    Ok(Program {
        executable: std::env::current_exe()?,
        arguments: words,
        namespaces: None,
    })
}

/// Brings everything up: the server answers, the nodes are there, a spec is declared. Answers the administrator's context.
async fn start(
    arguments: &DevArguments,
    data: &Path,
    children: &mut Children,
) -> anyhow::Result<Context> {
    let defaults = nodes::AgentDefaults {
        job_user: arguments.job_user.clone(),
        allow_root_jobs: arguments.allow_root_jobs,
        node_disk: arguments.node_disk,
    };
    let network = arguments.node_link.map(|link| {
        let server = SocketAddr::new(server_host(arguments.listen), arguments.listen.port() + 1);
        Network::start(link, server).context("nodes cannot have networks of their own here")
    });
    children.agents(defaults, network.transpose()?);
    let (context, client) = children
        .until("the server to answer", Duration::from_secs(30), || {
            connect(data, arguments.listen)
        })
        .await?;
    let missing = nodes::missing(&data.join("nodes"), arguments.nodes);
    if !missing.is_empty() {
        nodes::create(&client, &data.join("nodes"), &missing, arguments.listen).await?;
    }
    let wanted = nodes::wanted(&data.join("nodes")).len();
    children
        .until("the nodes to connect", Duration::from_mins(1), || {
            connected(&client, wanted)
        })
        .await?;
    children
        .until(
            "a node to report what it has",
            Duration::from_mins(1),
            || async { declare_spec(&client).await.ok() },
        )
        .await?;
    children
        .until("the nodes to be ready", Duration::from_mins(1), || {
            ready(&client, wanted)
        })
        .await?;
    Ok(context)
}

/// The administrator's context and a client, once the server answers.
async fn connect(data: &Path, listen: SocketAddr) -> Option<(Context, Client)> {
    let context = admin_context(data)?;
    // A file from a former run can name another port until the server has rewritten it.
    if !context.server.ends_with(&format!(":{}", listen.port())) {
        return None;
    }
    let client = Client::new(&context).ok()?.with_patience(Duration::ZERO);
    client.get::<SystemShow>(&[], &Nothing {}).await.ok()?;
    Some((context.clone(), Client::new(&context).ok()?))
}

/// What the server wrote for its administrator.
pub(crate) fn admin_context(data: &Path) -> Option<Context> {
    let bytes = fs::read(data.join("server").join(ADMIN_FILE)).ok()?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    let field = |name: &str| value[name].as_str().map(str::to_owned);
    Some(Context {
        server: field("server")?,
        ca: field("ca")?,
        token: field("token")?,
    })
}

async fn list_nodes(client: &Client) -> Option<Vec<NodeView>> {
    let query = NodeListQuery {
        limit: Some(1000),
        ..NodeListQuery::default()
    };
    let page: Page<NodeView> = client.get::<NodeList>(&[], &query).await.ok()?;
    Some(page.items)
}

async fn connected(client: &Client, wanted: usize) -> Option<()> {
    let nodes = list_nodes(client).await?;
    let reported = nodes
        .iter()
        .filter(|view| view.last_contact_at.is_some() && !view.node.agent_version.is_empty())
        .count();
    (reported >= wanted).then_some(())
}

async fn ready(client: &Client, wanted: usize) -> Option<()> {
    let nodes = list_nodes(client).await?;
    let usable = |view: &&NodeView| {
        view.last_contact_at.is_some()
            && matches!(
                view.node.condition,
                NodeCondition::Ready | NodeCondition::Degraded { .. }
            )
    };
    (nodes.iter().filter(usable).count() >= wanted).then_some(())
}

/// Local nodes are all alike: the first one says what a node of this machine has.
async fn declare_spec(client: &Client) -> anyhow::Result<()> {
    let specs: Page<SpecView> = client.get::<SpecList>(&[], &Nothing {}).await?;
    if !specs.items.is_empty() {
        return Ok(());
    }
    let nodes = list_nodes(client)
        .await
        .context("the nodes cannot be listed")?;
    let first = nodes
        .first()
        .context("there is no node to learn the spec from")?;
    let body = SpecCreate {
        name: "local".parse().expect("a constant name"),
        definition: None,
        learn_from: Some(first.node.name.to_string()),
        maximum_nodes: None,
        maximum_disk_gib: None,
    };
    call::<SpecDeclare>(client, &[], &body).await?;
    Ok(())
}

/// A call that changes something.
pub(crate) async fn call<O: Operation>(
    client: &Client,
    path: &[&str],
    body: &O::Request,
) -> anyhow::Result<O::Response> {
    Ok(client
        .call::<O>(path, &O::Query::default(), body, &CallOptions::default())
        .await?)
}
