//! A `supernode server` in a private directory, started again whenever it ends, and its command line.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::supervised::Supervised;
use crate::bench::ports::free_ports;
use crate::processes::{Yard, text_within, wait_for};

pub(super) const CLIENT: Duration = Duration::from_mins(1);
pub(super) const READY: Duration = Duration::from_mins(2);

pub(super) struct Server {
    process: Supervised,
    binary: PathBuf,
    first_port: u16,
    token: String,
    /// Last: its drop ends what the fields above started.
    yard: Arc<Yard>,
}

impl Server {
    /// Starts one with an empty database and waits until it answers.
    pub(super) fn start(purpose: &str, binary: &Path, options: &[&str]) -> Result<Self> {
        let yard = Arc::new(Yard::new(purpose)?);
        // Ranks run as another user: they must reach their working directory.
        for directory in ["", "server", "nodes", "log"] {
            let directory = yard.directory().join(directory);
            fs::create_dir_all(&directory)?;
            fs::set_permissions(&directory, Permissions::from_mode(0o755))?;
        }
        let first_port = free_ports(2)?;
        let make = {
            let (yard, binary) = (Arc::downgrade(&yard), binary.to_owned());
            let options: Vec<String> = options.iter().map(ToString::to_string).collect();
            move || {
                let yard = yard.upgrade().context("the directory is gone")?;
                let log = File::options()
                    .create(true)
                    .append(true)
                    .open(yard.directory().join("log/server.log"))?;
                let mut command = yard.command(&binary);
                command
                    .arg("server")
                    .arg("--data")
                    .arg(yard.directory().join("server"))
                    .args(["--listen", &format!("127.0.0.1:{first_port}")])
                    .args(["--agent-listen", &format!("127.0.0.1:{}", first_port + 1)])
                    .args(&options)
                    .env_remove("SUPERNODE_DATABASE")
                    .stdout(log.try_clone()?)
                    .stderr(log);
                Ok(command)
            }
        };
        let process = Supervised::start(make)?;
        let mut server = Self {
            process,
            binary: binary.to_owned(),
            first_port,
            token: String::new(),
            yard,
        };
        server.wait_for_admin().with_context(|| server.log_tail())?;
        Ok(server)
    }

    fn wait_for_admin(&mut self) -> Result<()> {
        let file = self.directory().join("server/admin.json");
        self.token = wait_for("the administrator's file", READY, || {
            let admin: Option<Value> = fs::read(&file)
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok());
            Ok(admin.and_then(|admin| Some(admin["token"].as_str()?.to_owned())))
        })?;
        self.json(&["node", "list"])?;
        Ok(())
    }

    pub(super) fn directory(&self) -> &Path {
        self.yard.directory()
    }

    pub(super) fn yard(&self) -> &Yard {
        &self.yard
    }

    /// Where agents connect to.
    pub(super) fn agent_address(&self) -> String {
        format!("127.0.0.1:{}", self.first_port + 1)
    }

    pub(super) fn ca_file(&self) -> PathBuf {
        self.directory().join("server/authority/ca.pem")
    }

    pub(super) fn process(&self) -> &Supervised {
        &self.process
    }

    /// A program that talks to this server as its administrator.
    pub(super) fn client(&self, program: &Path) -> Command {
        let mut command = self.yard.command(program);
        command
            .env(
                "SUPERNODE_SERVER",
                format!("https://127.0.0.1:{}", self.first_port),
            )
            .env("SUPERNODE_TOKEN", &self.token)
            .env("SUPERNODE_CA_FILE", self.ca_file())
            .env("SUPERNODE_CONFIG", self.directory().join("config.toml"));
        command
    }

    /// The product's command line.
    pub(super) fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = self.client(&self.binary);
        command.args(arguments);
        command
    }

    /// What a command answers as JSON.
    pub(super) fn json(&self, arguments: &[&str]) -> Result<Value> {
        // Before the arguments: what follows `--` belongs to a job.
        let text = text_within(self.cli(&["--output", "json"]).args(arguments), CLIENT)?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} printed: {text}", arguments.join(" ")))
    }

    /// Runs a command for its effect.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<()> {
        text_within(&mut self.cli(arguments), READY).map(drop)
    }

    /// A file with a new join token.
    pub(super) fn join_token(&self, uses: u32) -> Result<PathBuf> {
        let uses = uses.to_string();
        let created = self.json(&["join-token", "create", "--uses", &uses])?;
        let secret = created["secret"].as_str().context("no secret")?;
        let path = self.directory().join("join-token");
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        std::io::Write::write_all(&mut file, secret.as_bytes())?;
        Ok(path)
    }

    /// Starts an agent, or starts it again.
    pub(super) fn start_agent(&self, name: &str, join_token: &Path) -> Result<Child> {
        let node = self.directory().join("nodes").join(name);
        fs::create_dir_all(&node)?;
        fs::set_permissions(&node, Permissions::from_mode(0o711))?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory().join(format!("log/{name}.log")))?;
        self.yard
            .command(&self.binary)
            .args(["agent", "--server", &self.agent_address()])
            .args(["--name", name, "--address", "127.0.0.1"])
            .arg("--data")
            .arg(node.join("data"))
            .arg("--system-root")
            .arg(node.join("root"))
            .arg("--ca-file")
            .arg(self.ca_file())
            .arg("--join-token-file")
            .arg(join_token)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start an agent")
    }

    /// Waits until so many nodes have reported what they are.
    pub(super) fn wait_for_inventories(&self, count: usize) -> Result<()> {
        wait_for("the agents to report", READY, || {
            let nodes = self.json(&["node", "list"])?;
            let reported = count_nodes(&nodes, |node| node["agent_version"] != "");
            Ok((reported >= count).then_some(()))
        })
        .with_context(|| self.log_tail())
    }

    /// Waits until so many nodes are ready and connected.
    pub(super) fn wait_for_ready_nodes(&self, count: usize) -> Result<()> {
        wait_for("nodes to be ready", READY, || {
            let nodes = self.json(&["node", "list"])?;
            let ready = count_nodes(&nodes, |node| {
                node["condition"]["state"] == "ready" && !node["last_contact_at"].is_null()
            });
            Ok((ready == count).then_some(()))
        })
        .with_context(|| self.log_tail())
    }

    /// Jobs that have not ended.
    pub(super) fn active_jobs(&self) -> Result<Vec<String>> {
        let jobs = self.json(&["job", "list", "--state", "active"])?;
        let jobs = jobs.as_array().context("a list was expected")?;
        jobs.iter()
            .map(|job| Ok(job["id"].as_str().context("a job has an id")?.to_owned()))
            .collect()
    }

    pub(super) fn wait_until_idle(&self) -> Result<()> {
        wait_for("the end of all jobs", READY, || {
            Ok(self.active_jobs()?.is_empty().then_some(()))
        })
        .with_context(|| self.log_tail())
    }

    pub(super) fn cancel_everything(&self) -> Result<()> {
        for job in self.active_jobs()? {
            // One that ended in between needs no cancelling.
            let _ = self.run(&["job", "cancel", &job]);
        }
        self.wait_until_idle()
    }

    /// A job with its ranks, once `wanted` is true of it.
    pub(super) fn wait_for_job(
        &self,
        id: &str,
        deadline: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = Value::Null;
        wait_for("a job", deadline, || {
            last = self.json(&["job", "show", id])?;
            Ok(wanted(&last).then(|| last.clone()))
        })
        .with_context(|| format!("job {id} is {}", last["state"]))
    }

    /// The server's last words, for an error message.
    pub(super) fn log_tail(&self) -> String {
        let path = self.directory().join("log/server.log");
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!(
            "the server's log ends with: {}",
            lines[lines.len().saturating_sub(5)..].join(" | ")
        )
    }
}

/// How many nodes of a list are as wanted.
fn count_nodes(nodes: &Value, wanted: impl Fn(&&Value) -> bool) -> usize {
    nodes
        .as_array()
        .map_or(0, |nodes| nodes.iter().filter(wanted).count())
}

/// The id in a submitted job or an accepted operation.
pub(super) fn id_of(value: &Value) -> Result<String> {
    match value["id"].as_str() {
        Some(id) => Ok(id.to_owned()),
        None => bail!("an id was expected in {value}"),
    }
}
