//! Many agents in one process: each enrols, opens its connection over mutual TLS, says once a second that it is there, applies
//! environments and runs ranks in name only. What an agent reports is level-triggered as a real one's.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::{SinkExt, StreamExt};
use rustls_pki_types::ServerName;
use serde_json::json;
use supernode_api::agent::{FromAgent, LogContent, LogPart, MAXIMUM_FRAME_BYTES, SYNC_PATH, Sync};
use supernode_types::agent::{Observed, ObservedRank};
use supernode_types::inventory::{Cpu, Disk, Inventory, LinkState, Nic};
use supernode_types::job::{RankEnd, RankState};
use supernode_types::{AttemptId, Generation};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::sleep_until;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::enrolment::Identities;
use crate::latency::Latency;
use crate::messages::{FromServer, WantedRank};

/// Handshakes under way at once: more would only wait for the same cores.
const HANDSHAKES_AT_ONCE: usize = 64;
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(crate) struct AgentsArguments {
    /// Host and port of the agent listener
    #[arg(long)]
    server: String,
    /// The authority's certificate, PEM
    #[arg(long)]
    ca_file: PathBuf,
    /// A join token with enough uses
    #[arg(long)]
    join_token_file: PathBuf,
    /// How many agents
    #[arg(long)]
    count: u32,
}

pub(crate) async fn run(arguments: AgentsArguments) -> Result<()> {
    allow_many_connections()?;
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let identities = Arc::new(Identities::new(
        &arguments.server,
        &read(&arguments.ca_file)?,
        &read(&arguments.join_token_file)?,
    )?);
    let begun = Instant::now();
    let names = (1..=arguments.count).map(|number| (name(number), address(number)));
    let certificates = identities.enrol(names.collect()).await?;
    crate::say(&json!({ "event": "enrolled", "seconds": begun.elapsed().as_secs_f64() }));

    let shared = Arc::new(Shared {
        server: arguments.server,
        identities,
        handshakes: Semaphore::new(HANDSHAKES_AT_ONCE),
        connected: AtomicUsize::new(0),
        acknowledged: AtomicU64::new(0),
        broken: AtomicU64::new(0),
        complained: AtomicBool::new(false),
        latency: Latency::default(),
    });
    for (number, certificate) in (1..=arguments.count).zip(certificates) {
        let agent = Agent::new(number, certificate.certificate, Arc::clone(&shared));
        tokio::spawn(agent.run());
    }
    tell(&shared).await;
    Ok(())
}

/// A line a second, until standard input closes.
async fn tell(shared: &Shared) {
    let (closed, mut closing) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut ignored = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut ignored);
        closed.send(())
    });
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = second.tick() => {
                let latency = shared.latency.take();
                crate::say(&json!({
                    "event": "second",
                    "connected": shared.connected.load(Ordering::Relaxed),
                    "acknowledged": shared.acknowledged.load(Ordering::Relaxed),
                    "broken": shared.broken.load(Ordering::Relaxed),
                    "median_milliseconds": latency.median_milliseconds,
                    "p99_milliseconds": latency.p99_milliseconds,
                    "longest_milliseconds": latency.longest_milliseconds,
                }));
            }
            _ = &mut closing => return,
        }
    }
}

/// One file descriptor for each agent, as many as this user may have.
fn allow_many_connections() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(())
}

fn name(number: u32) -> String {
    format!("sim-{number:05}")
}

fn address(number: u32) -> String {
    let [_, high, middle, low] = number.to_be_bytes();
    format!("10.{high}.{middle}.{low}")
}

/// What the agents have in common.
struct Shared {
    server: String,
    identities: Arc<Identities>,
    handshakes: Semaphore,
    connected: AtomicUsize,
    acknowledged: AtomicU64,
    /// Connections that ended although nobody wanted it.
    broken: AtomicU64,
    complained: AtomicBool,
    latency: Latency,
}

type Socket = WebSocketStream<TlsStream<TcpStream>>;

struct Agent {
    number: u32,
    certificate: String,
    shared: Arc<Shared>,
    stored_generation: Generation,
    environment_applied: Generation,
    ranks: BTreeMap<(AttemptId, u32), Rank>,
    sequence: u64,
    sent_at: Instant,
    /// Something changed that the server was not told on this connection.
    news: bool,
    inventory_told: bool,
    interval: Duration,
}

/// A rank that runs in name only.
struct Rank {
    state: RankState,
    ends_at: Option<Instant>,
}

impl Agent {
    fn new(number: u32, certificate: String, shared: Arc<Shared>) -> Self {
        Self {
            number,
            certificate,
            shared,
            stored_generation: 0,
            environment_applied: 0,
            ranks: BTreeMap::new(),
            sequence: 0,
            sent_at: Instant::now(),
            news: true,
            inventory_told: false,
            interval: Duration::from_secs(1),
        }
    }

    async fn run(mut self) {
        // A real cluster's agents do not tick together.
        let phase = Duration::from_micros(u64::from(self.number) * 618_034 % 1_000_000);
        loop {
            let failure = match self.connect().await {
                Ok(mut socket) => {
                    self.shared.connected.fetch_add(1, Ordering::Relaxed);
                    let end = self.converse(&mut socket, phase).await;
                    self.shared.connected.fetch_sub(1, Ordering::Relaxed);
                    end.err()
                }
                Err(error) => Some(error),
            };
            self.shared.broken.fetch_add(1, Ordering::Relaxed);
            if let Some(error) = failure
                && !self.shared.complained.swap(true, Ordering::Relaxed)
            {
                eprintln!(
                    "{}: {error:#} (further failures are only counted)",
                    name(self.number)
                );
            }
            tokio::time::sleep(Duration::from_millis(250) + phase).await;
        }
    }

    async fn connect(&mut self) -> Result<Socket> {
        let _turn = self.shared.handshakes.acquire().await?;
        tokio::time::timeout(PATIENCE, self.open())
            .await
            .context("no connection in time")?
    }

    async fn open(&self) -> Result<Socket> {
        let server = &self.shared.server;
        let host = server
            .rsplit_once(':')
            .map_or(server.as_str(), |(host, _)| host);
        let stream = TcpStream::connect(server).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        let config = self.shared.identities.tls(&self.certificate)?;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from(host.to_owned())?, stream)
            .await
            .context("TLS")?;
        let limits = WebSocketConfig::default()
            .read_buffer_size(4096)
            .write_buffer_size(0)
            .max_message_size(Some(MAXIMUM_FRAME_BYTES))
            .max_frame_size(Some(MAXIMUM_FRAME_BYTES));
        let (socket, _) = tokio_tungstenite::client_async_with_config(
            format!("wss://{server}{SYNC_PATH}"),
            stream,
            Some(limits),
        )
        .await
        .context("WebSocket")?;
        Ok(socket)
    }

    async fn converse(&mut self, socket: &mut Socket, phase: Duration) -> Result<()> {
        self.sequence = 0;
        self.inventory_told = false;
        self.news = true;
        self.sync(socket).await?;
        let mut tick = Instant::now() + phase;
        loop {
            if self.news {
                self.sync(socket).await?;
            }
            let rank_ends = self.ranks.values().filter_map(|rank| rank.ends_at).min();
            tokio::select! {
                frame = socket.next() => match frame {
                    Some(Ok(Message::Text(text))) => {
                        let message = serde_json::from_str(&text).context("a message cannot be read")?;
                        self.receive(socket, message).await?;
                    }
                    Some(Ok(Message::Close(frame))) => bail!("closed by the server: {frame:?}"),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error).context("the connection broke"),
                    None => bail!("the connection ended"),
                },
                () = sleep_until(tick.into()) => {
                    tick += self.interval;
                    self.sync(socket).await?;
                }
                () = sleep_until(rank_ends.unwrap_or(tick).into()), if rank_ends.is_some() => self.end_ranks(),
            }
        }
    }

    async fn receive(&mut self, socket: &mut Socket, message: FromServer) -> Result<()> {
        match message.kind.as_str() {
            "acknowledge" => {
                self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                if message.sequence == self.sequence {
                    self.shared.latency.add(self.sent_at.elapsed());
                }
                self.interval = Duration::from_millis(message.interval_milliseconds.max(10));
            }
            "desired" if message.generation > self.stored_generation => {
                self.stored_generation = message.generation;
                self.environment_applied = message.environment.generation;
                self.follow(message.ranks);
                self.news = true;
            }
            "read_log" => {
                let content = LogContent {
                    offset: 0,
                    next_offset: 0,
                    content: String::new(),
                    end: true,
                };
                let part = LogPart {
                    request: message.request,
                    result: Ok(content),
                };
                self.send(socket, &FromAgent::Log(part)).await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Starts, stops and forgets ranks.
    fn follow(&mut self, wanted: Vec<WantedRank>) {
        let mut known = std::mem::take(&mut self.ranks);
        for rank in wanted {
            let key = (rank.attempt, rank.rank);
            let former = known.remove(&key);
            let now = match (former, rank.wish.wish.as_str()) {
                (Some(former), "run") => former,
                (None, "run") => start(&rank.wish.arguments),
                (Some(former), _) if former.state.ended() => former,
                (_, _) => Rank {
                    state: ended(RankEnd::Stopped { code: 143 }),
                    ends_at: None,
                },
            };
            self.ranks.insert(key, now);
        }
    }

    fn end_ranks(&mut self) {
        let now = Instant::now();
        for rank in self.ranks.values_mut() {
            if rank.ends_at.is_some_and(|ends_at| ends_at <= now) {
                rank.ends_at = None;
                rank.state = ended(RankEnd::Exited { code: 0 });
                self.news = true;
            }
        }
    }

    async fn sync(&mut self, socket: &mut Socket) -> Result<()> {
        let observed = std::mem::take(&mut self.news).then(|| self.observed());
        self.inventory_told = true;
        self.sequence += 1;
        self.sent_at = Instant::now();
        let sync = Sync {
            sequence: self.sequence,
            stored_generation: self.stored_generation,
            observed,
        };
        self.send(socket, &FromAgent::Sync(Box::new(sync))).await
    }

    async fn send(&self, socket: &mut Socket, message: &FromAgent) -> Result<()> {
        let text = serde_json::to_string(message)?;
        tokio::time::timeout(PATIENCE, socket.send(Message::Text(text.into())))
            .await
            .context("the server does not read")?
            .context("cannot send")
    }

    fn observed(&self) -> Observed {
        Observed {
            boot_id: boot_id(self.number),
            agent_version: env!("CARGO_PKG_VERSION").into(),
            capabilities: Vec::new(),
            address: address(self.number),
            environment_applied: self.environment_applied,
            environment_items: Vec::new(),
            ranks: self
                .ranks
                .iter()
                .map(|((attempt, rank), known)| ObservedRank {
                    attempt: attempt.clone(),
                    rank: *rank,
                    state: known.state.clone(),
                })
                .collect(),
            disk_expand: None,
            stress: None,
            disk_usage: None,
            retries: Vec::new(),
            inventory: (!self.inventory_told).then(|| inventory(self.number)),
        }
    }
}

/// `sleep N` runs so long; anything else is over at once.
fn start(arguments: &[String]) -> Rank {
    let is_sleep = arguments
        .first()
        .is_some_and(|program| program.ends_with("sleep"));
    let seconds = arguments
        .get(1)
        .and_then(|argument| argument.parse::<f64>().ok());
    let ends_at = match seconds {
        Some(seconds) if is_sleep => Duration::try_from_secs_f64(seconds)
            .ok()
            .and_then(|duration| Instant::now().checked_add(duration)),
        _ if is_sleep => None,
        _ => {
            return Rank {
                state: ended(RankEnd::Exited { code: 0 }),
                ends_at: None,
            };
        }
    };
    Rank {
        state: RankState::Running,
        ends_at,
    }
}

fn ended(end: RankEnd) -> RankState {
    RankState::Ended {
        end,
        last_lines: Vec::new(),
    }
}

fn boot_id(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// A plain server, as long as a real one's inventory.
fn inventory(number: u32) -> Inventory {
    let nic = |index: u32| Nic {
        name: format!("ens{index}f0np0"),
        mac: format!(
            "02:00:{:02x}:{:02x}:00:{index:02x}",
            number / 256 % 256,
            number % 256
        ),
        speed_mbps: Some(200_000),
        state: LinkState::Up,
        driver: "mlx5_core".into(),
        pci_address: Some(format!("0000:{index:02x}:00.0")),
        rdma_devices: vec![format!("mlx5_{index}")],
    };
    let disk = |index: u32| Disk {
        name: format!("nvme{index}n1"),
        model: "simulated".into(),
        size_bytes: 3_840_755_982_336,
        rotational: false,
        serial: Some(format!("S{number:05}{index}")),
    };
    Inventory {
        host_name: name(number),
        kernel: "6.8.0-simulated".into(),
        os: "Simulated Linux 1".into(),
        machine_id: format!("{number:032x}"),
        boot_id: boot_id(number),
        cpu: Cpu {
            model: "Simulated CPU".into(),
            vendor: "Simulated".into(),
            architecture: "x86_64".into(),
            sockets: 2,
            cores: 128,
            threads: 256,
            numa_nodes: 8,
        },
        memory_bytes: 1 << 40,
        disks: (0..4).map(disk).collect(),
        nics: (1..=8).map(nic).collect(),
        ..Inventory::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_run_in_name_only() {
        let words =
            |words: &[&str]| start(&words.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert!(words(&["/bin/true"]).state.ended());
        let forever = words(&["/bin/sleep", "infinity"]);
        assert!(!forever.state.ended() && forever.ends_at.is_none());
        let short = words(&["sleep", "0.5"]);
        assert!(!short.state.ended());
        assert!(
            short
                .ends_at
                .is_some_and(|at| at <= Instant::now() + Duration::from_secs(1))
        );
    }

    #[test]
    fn every_agent_has_a_name_and_an_address_of_its_own() {
        assert_eq!(
            (name(7), address(7)),
            ("sim-00007".into(), "10.0.0.7".into())
        );
        assert_eq!(address(10_000), "10.0.39.16");
        assert!(inventory(7) != inventory(8));
    }
}
