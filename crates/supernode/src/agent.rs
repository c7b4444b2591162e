//! `supernode agent`: what runs on every node.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use supernode_agent::options::{AgentOptions, JoinToken};
use supernode_types::Name;
use supernode_types::entropy::SystemEntropy;
use supernode_types::node::Position;
use supernode_types::time::SystemClock;

use crate::logging::{self, LogFormat};

/// What `supernode agent` takes
#[derive(Debug, clap::Args)]
pub(crate) struct AgentArguments {
    /// Address of the server's agent port, host:port
    #[arg(long)]
    server: String,
    /// The certificate of the server's authority, PEM; nothing else is trusted
    #[arg(long)]
    ca_file: PathBuf,
    /// The secret of a join token; visible in the process list, so prefer the file
    #[arg(
        long,
        env = "SUPERNODE_JOIN_TOKEN",
        hide_env_values = true,
        conflicts_with = "join_token_file"
    )]
    join_token: Option<String>,
    /// A file with the secret of a join token; read only to enrol
    #[arg(long)]
    join_token_file: Option<PathBuf>,
    /// The node's name; the host's name when absent
    #[arg(long)]
    name: Option<String>,
    /// The IP address that other nodes reach this one at; the one that this host reaches the server from when absent
    #[arg(long)]
    address: Option<String>,
    /// key=value; can be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// The HCCS or NVLink domain, where the hardware does not tell
    #[arg(long)]
    hyperplane: Option<String>,
    /// The rack
    #[arg(long)]
    rack: Option<String>,
    /// The leaf switch
    #[arg(long)]
    leaf: Option<String>,
    /// Where the agent keeps everything
    #[arg(long, default_value = "/var/lib/supernode/agent")]
    data: PathBuf,
    /// Below which the environment is applied
    #[arg(long, default_value = "/")]
    system_root: PathBuf,
    /// The mount point, or the device, of the node's system disk; the one of the system root when absent
    #[arg(long, value_name = "PATH")]
    system_disk: Option<PathBuf>,
    /// The program that restarts this machine for `disk expand --allow-restart`; without it, only with the system root / and then
    /// /sbin/reboot
    #[arg(long, value_name = "PROGRAM")]
    restart_program: Option<PathBuf>,
    /// A directory on a disk that stress tests may test; may be given several times; the data directory when absent
    #[arg(long = "stress-directory", value_name = "DIR")]
    stress_directories: Vec<PathBuf>,
    /// The user that jobs run as when the agent is root; nobody when absent
    #[arg(long)]
    job_user: Option<String>,
    /// Let admins submit jobs that run as root
    #[arg(long)]
    allow_root_jobs: bool,
    /// How log lines look
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

/// Runs the agent until a signal ends it. Ranks of jobs go on: they belong to their supervisors.
pub(crate) fn run(arguments: AgentArguments) -> anyhow::Result<ExitCode> {
    logging::start(arguments.log_format);
    let options = options(arguments)?;
    supernode_agent::service::run_to_end(
        options,
        Arc::new(SystemClock),
        Arc::new(SystemEntropy),
        signalled(),
    )?;
    Ok(ExitCode::SUCCESS)
}

fn options(arguments: AgentArguments) -> anyhow::Result<AgentOptions> {
    let host = nix::unistd::gethostname()?.to_string_lossy().to_lowercase();
    let name: Name = arguments.name.unwrap_or(host).parse().context("--name")?;
    let address = match arguments.address {
        Some(address) => address,
        None => own_address(&arguments.server)
            .context("this host's address cannot be found out; give --address")?,
    };
    let mut options = AgentOptions::new(
        arguments.server,
        arguments.ca_file,
        name,
        address,
        std::path::absolute(arguments.data)?,
    );
    options.join_token = match (arguments.join_token, arguments.join_token_file) {
        (Some(secret), _) => JoinToken::Secret(secret),
        (None, Some(file)) => JoinToken::File(file),
        (None, None) => JoinToken::None,
    };
    options.labels = labels(&arguments.labels)?;
    options.position = Position {
        hyperplane: arguments.hyperplane,
        rack: arguments.rack,
        leaf: arguments.leaf,
    };
    options.system_root = std::path::absolute(arguments.system_root)?;
    options.system_disk = arguments.system_disk;
    // One of several agents on a host must not restart it.
    options.restart_program = arguments
        .restart_program
        .or_else(|| (options.system_root == Path::new("/")).then(|| PathBuf::from("/sbin/reboot")));
    options.stress.directories = arguments.stress_directories;
    options.job_user = arguments.job_user;
    options.allow_root_jobs = arguments.allow_root_jobs;
    Ok(options)
}

/// The address that packets to the server leave from; nothing is sent.
fn own_address(server: &str) -> std::io::Result<String> {
    let server = server
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| std::io::Error::other("the server's name has no address"))?;
    let any: SocketAddr = if server.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    Ok(socket.local_addr()?.ip().to_string())
}

fn labels(words: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let pair = |word: &String| {
        let (key, value) = word
            .split_once('=')
            .with_context(|| format!("--label {word}: write KEY=VALUE"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    words.iter().map(pair).collect()
}

/// Waits for SIGINT or SIGTERM.
pub(crate) async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).expect("a signal handler can be installed");
    let mut terminate = signal(SignalKind::terminate()).expect("a signal handler can be installed");
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
