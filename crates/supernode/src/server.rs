//! `supernode server`: the control plane of one machine or many.

use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use supernode_control::provisioner::{JoinParameters, Provisioner};
use supernode_control::service::{self, LoopMetrics};
use supernode_control::{Control, Settings, Store, delivery};
use supernode_http::agents::{Agents, SHUTDOWN_GRACE};
use supernode_http::routes::{self, TokenAuthenticator, new_secret};
use supernode_http::{
    AgentEdge, AgentOptions, Authority, Edge, EdgeOptions, Failure, Listener, ListenerOptions,
    MetricsAccess, ServerTls,
};
use supernode_store::DatabaseUrl;
use supernode_types::channel::Courier;
use supernode_types::entropy::SystemEntropy;
use supernode_types::operation::Admission;
use supernode_types::time::{SystemClock, parse_duration};
use supernode_types::{Clock, Entropy};
use tokio_util::sync::CancellationToken;

use crate::logging::{self, LogFormat};

/// File with what an administrator's client needs: server, token, authority.
pub(crate) const ADMIN_FILE: &str = "admin.json";

/// What `supernode server` takes
#[derive(Debug, clap::Args)]
pub(crate) struct ServerArguments {
    /// Directory for the certificate authority, the first admin token and the default database
    #[arg(long, default_value = "/var/lib/supernode/server")]
    pub(crate) data: PathBuf,
    /// Address of the API
    #[arg(long, default_value = "127.0.0.1:7700")]
    pub(crate) listen: SocketAddr,
    /// Address that agents connect to; the API's address with the next port when absent
    #[arg(long)]
    pub(crate) agent_listen: Option<SocketAddr>,
    /// Host names and addresses that clients and agents reach this server at; they go into its certificate
    #[arg(long = "name", value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// sqlite:PATH or postgres://…; an SQLite file in the data directory when absent
    #[arg(long, env = "SUPERNODE_DATABASE")]
    pub(crate) database: Option<String>,
    /// How nodes come and go
    #[arg(long, value_enum, default_value = "pool")]
    pub(crate) provisioner: ProvisionerKind,
    /// Directory of local nodes, for the provisioner `local`
    #[arg(long)]
    pub(crate) nodes_directory: Option<PathBuf>,
    /// Program and arguments of the provisioner `exec`; repeat for each word
    #[arg(
        long = "provisioner-command",
        value_name = "WORD",
        allow_hyphen_values = true
    )]
    pub(crate) provisioner_command: Vec<String>,
    /// How long one call of the provisioner `exec` may take
    #[arg(long, default_value = "5m", value_parser = parse_duration)]
    pub(crate) provisioner_time_limit: Duration,
    /// Silence after which a node is lost; its ranks stop themselves before
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    pub(crate) lost_after: Duration,
    /// How often agents say that they are there
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub(crate) sync_interval: Duration,
    /// How long a node's certificate is valid; agents renew it in time
    #[arg(long, default_value = "24h", value_parser = parse_duration)]
    pub(crate) certificate_lifetime: Duration,
    #[command(flatten)]
    pub(crate) admission: AdmissionArguments,
    /// Serve /metrics without a token
    #[arg(long)]
    pub(crate) open_metrics: bool,
    /// Check the database's schema and versions, change nothing, and exit
    #[arg(long)]
    pub(crate) check: bool,
    /// How log lines look
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,
}

/// What nodes have to pass before they join a super node that grows
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct AdmissionArguments {
    /// The test of nodes before they join a super node that grows
    #[arg(long, value_enum, default_value = "quick")]
    pub(crate) admission: AdmissionTest,
    /// How long each kernel of that test runs; the test's own times when absent
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=60))]
    pub(crate) admission_kernel_seconds: Option<u32>,
}

/// How much of a node is tested before it joins
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AdmissionTest {
    /// Nothing
    None,
    /// Everything, for two minutes at most
    Quick,
}

impl AdmissionArguments {
    fn admission(&self) -> Admission {
        match self.admission {
            AdmissionTest::None => Admission::None,
            AdmissionTest::Quick => Admission::Quick {
                kernel_seconds: self.admission_kernel_seconds,
            },
        }
    }
}

/// How nodes come and go
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ProvisionerKind {
    /// Only spares that somebody enrolled
    Pool,
    /// Agents on this host, supervised by `supernode dev`
    Local,
    /// A command of yours
    Exec,
}

/// Runs the server until a signal ends it.
pub(crate) fn run(arguments: &ServerArguments) -> anyhow::Result<ExitCode> {
    let url = database_url(arguments)?;
    if arguments.check {
        return check(&url);
    }
    logging::start(arguments.log_format);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads())
        .enable_all()
        .build()?
        .block_on(serve(arguments, &url))?;
    Ok(ExitCode::SUCCESS)
}

/// Says how the database stands; exit code 1 when something is wrong with it.
fn check(url: &DatabaseUrl) -> anyhow::Result<ExitCode> {
    let report = Store::check(url)?;
    println!(
        "database {}: schema version {}, this program has {}",
        report.database, report.schema_version, report.program_version
    );
    if report.schema_version < report.program_version {
        println!("the next start of the server upgrades it");
    }
    for problem in &report.problems {
        println!("problem: {problem}");
    }
    Ok(if report.problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Most of the work is waiting; two threads serve ten thousand agents, and more help only with many clients.
fn worker_threads() -> usize {
    std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, 8)
}

fn database_url(arguments: &ServerArguments) -> anyhow::Result<DatabaseUrl> {
    match &arguments.database {
        Some(text) => text.parse().map_err(|error| anyhow!("--database: {error}")),
        None => Ok(DatabaseUrl::sqlite_file(
            arguments.data.join("supernode.db"),
        )),
    }
}

fn settings(arguments: &ServerArguments) -> anyhow::Result<Settings> {
    let provisioner = match arguments.provisioner {
        ProvisionerKind::Pool => Provisioner::Pool,
        ProvisionerKind::Local => Provisioner::Local {
            directory: arguments
                .nodes_directory
                .clone()
                .unwrap_or_else(|| arguments.data.join("nodes")),
        },
        ProvisionerKind::Exec if arguments.provisioner_command.is_empty() => {
            bail!("--provisioner exec needs --provisioner-command")
        }
        ProvisionerKind::Exec => Provisioner::Exec {
            command: arguments.provisioner_command.clone(),
            time_limit: arguments.provisioner_time_limit,
        },
    };
    let mut settings = Settings::new(provisioner);
    if arguments.lost_after < arguments.sync_interval * 5 {
        bail!(
            "--lost-after must be at least five times --sync-interval, or a single late message would lose a node"
        );
    }
    if arguments.lost_after < Duration::from_secs(3) {
        bail!("--lost-after must be at least 3s");
    }
    settings.lost_after = arguments.lost_after;
    settings.sync_interval = arguments.sync_interval;
    settings.certificate_lifetime = arguments.certificate_lifetime;
    settings.admission = arguments.admission.admission();
    Ok(settings)
}

async fn serve(arguments: &ServerArguments, url: &DatabaseUrl) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    std::fs::create_dir_all(&arguments.data)
        .with_context(|| format!("cannot create {}", arguments.data.display()))?;
    let store = Store::open(url)?;
    let control = Control::new(
        store,
        Arc::clone(&clock),
        Arc::clone(&entropy),
        settings(arguments)?,
    );

    let authority = Arc::new(Authority::load_or_create(
        &arguments.data.join("authority"),
        clock.now(),
    )?);
    let names = server_names(arguments);
    let certificate = authority.server_certificate(&names, clock.now())?;
    let tls = Arc::new(ServerTls::new(
        &authority,
        &certificate,
        Arc::clone(&clock),
    )?);

    let agent_address = agent_listen(arguments)?;
    let api = Listener::bind(arguments.listen, ListenerOptions::api())?;
    let agents = Listener::bind(agent_address, ListenerOptions::agents())?;
    let host = names
        .first()
        .cloned()
        .unwrap_or_else(|| arguments.listen.ip().to_string());
    let api_url = format!("https://{}", host_and_port(&host, api.address().port()));
    let agent_reached_at = host_and_port(&host, agents.address().port());
    first_admin(
        &control,
        &arguments.data,
        &api_url,
        authority.certificate_pem(),
    )
    .await?;

    let shutdown = CancellationToken::new();
    let metrics = Arc::new(LoopMetrics::default());
    let courier: Arc<dyn Courier> = Arc::new(supernode_notify::Wire);
    let context = routes::Context {
        control: control.clone(),
        agent_address: agent_reached_at.clone(),
        authority: authority.certificate_pem().into(),
        courier: Arc::clone(&courier),
        database: if url.to_string().starts_with("postgres") {
            "postgres"
        } else {
            "sqlite"
        },
    };
    let edge = Edge::new(
        Arc::new(TokenAuthenticator(control.clone())),
        Arc::clone(&entropy),
        EdgeOptions::default(),
        shutdown.clone(),
    );
    let edge = with_plain_routes(
        routes::mount(edge, &context),
        &control,
        &metrics,
        arguments.open_metrics,
    );
    let agent_edge = AgentEdge::new(
        Arc::new(Agents::new(control.clone(), Arc::clone(&authority))),
        Arc::clone(&clock),
        entropy,
        AgentOptions::default(),
        shutdown.clone(),
    );

    let join = JoinParameters {
        server: agent_reached_at,
        api: api_url.clone(),
        token: String::new(),
        ca_pem: authority.certificate_pem().to_owned(),
    };
    let tasks = [
        tokio::spawn(service::run_loop(control.clone(), metrics)),
        tokio::spawn(service::run_provisioner(control.clone(), join, new_secret)),
        tokio::spawn(service::run_housekeeping(control.clone())),
        tokio::spawn(delivery::run(control, courier)),
        tokio::spawn(keep_certificate(
            Arc::clone(&authority),
            tls.clone(),
            names,
            Arc::clone(&clock),
        )),
    ];
    tracing::info!(api = %api_url, agents = %agents.address(), database = %url, "serving");
    tokio::spawn(stop_on_signal(shutdown.clone()));
    let served = tokio::try_join!(
        api.serve(
            edge.into_router(),
            tls.api(),
            shutdown.clone(),
            SHUTDOWN_GRACE
        ),
        agents.serve(
            agent_edge.into_router(),
            tls.agents(),
            shutdown.clone(),
            SHUTDOWN_GRACE
        ),
    );
    for task in tasks {
        task.abort();
    }
    served?;
    tracing::info!("ended");
    Ok(())
}

fn with_plain_routes(
    edge: Edge,
    control: &Control,
    metrics: &Arc<LoopMetrics>,
    open_metrics: bool,
) -> Edge {
    let (ready, measured, metrics) = (control.clone(), control.clone(), Arc::clone(metrics));
    let access = if open_metrics {
        MetricsAccess::Open
    } else {
        MetricsAccess::Viewer
    };
    edge.health(move || {
        let control = ready.clone();
        Box::pin(async move {
            control
                .read("readyz", supernode_control::query::last_event)
                .await
                .map(|_| ())
                .map_err(|error| error.to_string())
        })
    })
    .metrics(access, move || {
        let (control, metrics) = (measured.clone(), Arc::clone(&metrics));
        Box::pin(async move {
            supernode_control::metrics::render(&control, &metrics)
                .await
                .map_err(|error| Failure::unavailable(error.to_string()))
        })
    })
    .openapi()
}

fn server_names(arguments: &ServerArguments) -> Vec<String> {
    let mut names = arguments.names.clone();
    for address in [
        arguments.listen.ip(),
        arguments.agent_listen.unwrap_or(arguments.listen).ip(),
    ] {
        if !address.is_unspecified() {
            names.push(address.to_string());
        }
    }
    names.push("localhost".into());
    names.push("127.0.0.1".into());
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

fn agent_listen(arguments: &ServerArguments) -> anyhow::Result<SocketAddr> {
    if let Some(address) = arguments.agent_listen {
        return Ok(address);
    }
    let port = arguments
        .listen
        .port()
        .checked_add(1)
        .filter(|port| *port > 1);
    let port = port.context("--listen has no next port for agents; give --agent-listen")?;
    Ok(SocketAddr::new(arguments.listen.ip(), port))
}

fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The first admin's token: its secret is on disk before its hash is in the database, so a crash between the two loses nothing.
async fn first_admin(
    control: &Control,
    data: &Path,
    server: &str,
    authority: &str,
) -> anyhow::Result<()> {
    let path = data.join(ADMIN_FILE);
    let known: Option<serde_json::Value> = std::fs::read(&path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let secret = match known.as_ref().and_then(|known| known["token"].as_str()) {
        Some(secret) => secret.to_owned(),
        None => new_secret(&**control.entropy()).0,
    };
    let content = serde_json::json!({ "server": server, "token": secret, "ca": authority });
    if known.as_ref() != Some(&content) {
        replace_private(&path, content.to_string().as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
        tracing::info!(file = %path.display(), "wrote the administrator's access");
    }
    routes::ensure_admin(control, &secret)
        .await
        .map_err(|error| anyhow!("the first admin token cannot be stored: {error}"))
}

fn replace_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let temporary = path.with_extension("tmp");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}

/// Replaces the server's certificate before it ends, without a restart.
async fn keep_certificate(
    authority: Arc<Authority>,
    tls: Arc<ServerTls>,
    names: Vec<String>,
    clock: Arc<dyn Clock>,
) {
    loop {
        tokio::time::sleep(Duration::from_hours(24)).await;
        let renewed = authority
            .server_certificate(&names, clock.now())
            .map_err(anyhow::Error::from);
        if let Err(error) =
            renewed.and_then(|certificate| Ok(tls.replace_certificate(&certificate)?))
        {
            tracing::error!(%error, "the server's certificate cannot be renewed; trying again tomorrow");
        }
    }
}

async fn stop_on_signal(shutdown: CancellationToken) {
    crate::agent::signalled().await;
    shutdown.cancel();
}
