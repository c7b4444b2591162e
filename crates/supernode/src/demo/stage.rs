//! What the story happens on: a directory, a `supernode dev` in it, a client, and a clock for the timings.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use supernode_api::node::{NodeList, NodeListQuery, NodeView};
use supernode_api::operation::{OperationShow, OperationView};
use supernode_api::system::SystemShow;
use supernode_api::{Nothing, Watch};
use supernode_client::Client;
use tokio::time::Instant;

use super::disk::NODE_DISK_GIB;
use super::link::LINK_MEGABITS_PER_SECOND;
use crate::dev::network::{LINK_FILE, Link, Network};

/// How long a single wait of the demo may take.
const PATIENCE: Duration = Duration::from_secs(45);

/// The stage.
pub(crate) struct Stage {
    directory: PathBuf,
    keep: bool,
    dev: Option<Child>,
    client: Option<Client>,
    begun: Instant,
    step: u32,
    /// Why nodes have no disks of their own here.
    no_node_disks: Option<String>,
    /// Why nodes have no networks of their own here.
    no_node_links: Option<String>,
}

impl Stage {
    /// An empty directory that the unprivileged user of jobs can reach, with a copy of this program in it.
    pub(crate) fn build(keep: bool) -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join(format!("supernode-demo-{}", std::process::id()));
        fs::create_dir(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
        let program = directory.join("supernode");
        fs::copy(std::env::current_exe()?, &program)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(Self {
            directory,
            keep,
            dev: None,
            client: None,
            begun: Instant::now(),
            step: 0,
            no_node_disks: None,
            no_node_links: None,
        })
    }

    /// This program, where every user can run it.
    pub(crate) fn program(&self) -> String {
        self.directory.join("supernode").display().to_string()
    }

    /// Seconds since the beginning.
    pub(crate) fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// The client of the running server.
    pub(crate) fn client(&self) -> anyhow::Result<&Client> {
        self.client
            .as_ref()
            .context("the server has not been started")
    }

    /// All nodes.
    pub(crate) async fn nodes(&self) -> anyhow::Result<Vec<NodeView>> {
        let query = NodeListQuery::default();
        Ok(self.client()?.get::<NodeList>(&[], &query).await?.items)
    }

    /// Why nodes have no disks of their own on this machine, if they have none.
    pub(crate) fn no_node_disks(&self) -> Option<&str> {
        self.no_node_disks.as_deref()
    }

    /// Why nodes have no networks of their own on this machine, if they have none.
    pub(crate) fn no_node_links(&self) -> Option<&str> {
        self.no_node_links.as_deref()
    }

    /// Changes what a node can send.
    pub(crate) fn limit_link(&self, node: &str, megabits_per_second: u32) -> anyhow::Result<()> {
        let file = self.directory.join("data/nodes").join(node).join(LINK_FILE);
        let link: Link = serde_json::from_slice(&fs::read(&file)?)?;
        let slower = Link {
            megabits_per_second,
            ..link
        };
        Ok(fs::write(file, serde_json::to_vec(&slower)?)?)
    }

    /// Waits for the end of an operation.
    pub(crate) async fn ended(&self, mut view: OperationView) -> anyhow::Result<OperationView> {
        let id = view.operation.id.to_string();
        while !view.operation.state.ended() {
            let watch = Watch {
                after_generation: Some(view.operation.generation),
                wait_milliseconds: Some(10_000),
            };
            view = self.client()?.get::<OperationShow>(&[&id], &watch).await?;
        }
        Ok(view)
    }

    /// Announces a step.
    pub(crate) fn step(&mut self, what: &str) {
        self.step += 1;
        println!("\n{:2}. {what}", self.step);
    }

    /// Starts `supernode dev` with four nodes and waits until it serves.
    pub(crate) async fn start(&mut self) -> anyhow::Result<()> {
        let port = free_ports()?;
        let data = self.directory.join("data");
        let log = fs::File::create(self.directory.join("dev.log"))?;
        let mut command = Command::new(self.program());
        command
            .args([
                "dev",
                "--nodes",
                "4",
                "--lost-after",
                "10s",
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--data",
            ])
            .arg(&data);
        match crate::dev::disks::try_out(&self.directory) {
            Ok(()) => drop(command.args(["--node-disk", &format!("{NODE_DISK_GIB}GiB")])),
            Err(error) => self.no_node_disks = Some(format!("{error:#}")),
        }
        match Network::try_out() {
            Ok(()) => drop(command.args(["--node-link", &LINK_MEGABITS_PER_SECOND.to_string()])),
            Err(error) => self.no_node_links = Some(format!("{error:#}")),
        }
        command
            .env("SUPERNODE_CONFIG", self.directory.join("config.toml"))
            .env_remove("SUPERNODE_DATABASE")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // SAFETY: between fork and exec only one system call is made, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).map_err(std::io::Error::from)
            });
        }
        self.dev = Some(command.spawn()?);
        let config = self.directory.join("config.toml");
        self.until("supernode dev to be up", || async {
            config.exists().then_some(())
        })
        .await?;
        let context =
            crate::dev::admin_context(&data).context("the administrator's file is missing")?;
        self.client = Some(Client::new(&context)?);
        Ok(())
    }

    /// Waits until `condition` answers something, but not for ever.
    pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        condition: impl Fn() -> F,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = condition().await {
                return Ok(value);
            }
            ensure!(
                Instant::now() < deadline,
                "waited {} s for {what}",
                PATIENCE.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// `kill -9` of the server or of a node's agent; waits until another process has taken its place.
    pub(crate) async fn kill(&self, name: &str) -> anyhow::Result<()> {
        let file = self.directory.join("data/pids").join(name);
        let before = read_pid(&file).with_context(|| format!("{name} has no process id"))?;
        kill(Pid::from_raw(before), Signal::SIGKILL)
            .with_context(|| format!("kill -9 {before}"))?;
        self.until(&format!("{name} to be started again"), || async {
            read_pid(&file).filter(|pid| *pid != before)
        })
        .await?;
        Ok(())
    }

    /// Waits until the server answers again.
    pub(crate) async fn answers(&self) -> anyhow::Result<()> {
        let client = self.client()?;
        self.until("the server to answer", || async {
            client.get::<SystemShow>(&[], &Nothing {}).await.ok()
        })
        .await?;
        Ok(())
    }

    /// Stops everything; nothing may be left.
    pub(crate) async fn close(&mut self) -> anyhow::Result<()> {
        let Some(mut dev) = self.dev.take() else {
            return Ok(());
        };
        kill(Pid::from_raw(i32::try_from(dev.id())?), Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while dev.try_wait()?.is_none() {
            if Instant::now() > deadline {
                dev.kill()?;
                bail!("supernode dev did not stop within {} s", PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Leaves the directory in place when the stage goes, and says where it is.
    pub(crate) fn keep(&mut self) -> &Path {
        self.keep = true;
        &self.directory
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(dev) = &mut self.dev {
            let _ = kill(
                Pid::from_raw(i32::try_from(dev.id()).unwrap_or(i32::MAX)),
                Signal::SIGTERM,
            );
            let _ = dev.wait();
        }
        if !self.keep {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// Tells what was seen, with the time since `begun`.
pub(crate) fn saw(begun: Instant, what: &str) {
    println!(
        "    {:>7}  {what}",
        format!("{} ms", begun.elapsed().as_millis())
    );
}

fn read_pid(file: &Path) -> Option<i32> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// A port that is free together with the next one.
fn free_ports() -> anyhow::Result<u16> {
    for _ in 0..100 {
        let first = std::net::TcpListener::bind("127.0.0.1:0")?;
        let port = first.local_addr()?.port();
        if port < u16::MAX && std::net::TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no two free ports next to each other")
}
