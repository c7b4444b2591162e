//! A server and agents that are network namespaces apart: each node has a link of its own, which a test can slow down or cut. Needs root, `ip`
//! and `tc`; what is missing is said, and skipped.
//!
//! The server is in the namespace of the switch, and so is the command line. All links have the same limit, far below what the processors could
//! move, so that it is the links that are measured. Agents and server run with a high priority: what else the machine does must not matter.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::harness::{binary, until};

/// What every link carries in the direction from its node.
const LINK: &str = "300mbit";
const SERVER: &str = "10.79.0.1";
const PORT: &str = "7700";

fn run(program: &str, arguments: &str) -> Output {
    let words = arguments.split(' ');
    let output = Command::new(program).args(words).output();
    output.unwrap_or_else(|error| panic!("{program} cannot be run: {error}"))
}

fn must(program: &str, arguments: &str) {
    let output = run(program, arguments);
    assert!(output.status.success(), "{program} {arguments}: {output:?}");
}

/// A switch and the namespaces behind it; gone when dropped.
struct Net {
    prefix: String,
    nodes: usize,
}

impl Net {
    /// `None`, said aloud, where namespaces cannot be made.
    fn new(nodes: usize) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: network namespaces need root");
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("snk{}x{number}x", std::process::id());
        let net = Self { prefix, nodes };
        let switch = net.name(0);
        let first = run("ip", &format!("netns add {switch}"));
        if !first.status.success() {
            println!("SKIPPED: no network namespaces here: {first:?}");
            return None;
        }
        must("ip", &format!("-n {switch} link set lo up"));
        must("ip", &format!("-n {switch} link add br0 type bridge"));
        must("ip", &format!("-n {switch} addr add {SERVER}/24 dev br0"));
        must("ip", &format!("-n {switch} link set br0 up"));
        for node in 1..=nodes {
            let name = net.name(node);
            must("ip", &format!("netns add {name}"));
            must("ip", &format!("-n {name} link set lo up"));
            must(
                "ip",
                &format!("-n {name} link add eth0 type veth peer name port{node} netns {switch}"),
            );
            must("ip", &format!("-n {switch} link set port{node} master br0"));
            must("ip", &format!("-n {switch} link set port{node} up"));
            let address = address(node);
            must("ip", &format!("-n {name} addr add {address}/24 dev eth0"));
            must("ip", &format!("-n {name} link set eth0 up"));
        }
        Some(net)
    }

    /// The namespace of a node, counted from 1; 0 is the switch.
    fn name(&self, node: usize) -> String {
        format!("{}{node}", self.prefix)
    }

    /// A command in the namespace of a node.
    fn inside(&self, node: usize) -> Command {
        let mut command = Command::new("nice");
        command
            .args(["-n", "-15", "nsenter"])
            .arg(format!("--net=/run/netns/{}", self.name(node)));
        command
    }

    /// What a node can send from now on. Whether the machine has the means.
    fn limit(&self, node: usize, rate: &str) -> bool {
        let name = self.name(node);
        let arguments = format!(
            "netns exec {name} tc qdisc replace dev eth0 root tbf rate {rate} burst 128kb latency 50ms"
        );
        let output = run("ip", &arguments);
        if !output.status.success() {
            println!("SKIPPED: links cannot be limited here: {output:?}");
        }
        output.status.success()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for node in 0..=self.nodes {
            // What was never made cannot be deleted.
            let _ = run("ip", &format!("netns del {}", self.name(node)));
        }
    }
}

fn address(node: usize) -> String {
    format!("10.79.0.{}", node + 10)
}

/// The name of a node, counted from 1.
pub(crate) fn node_name(node: usize) -> String {
    format!("node-{node}")
}

/// A server with an agent in each of some namespaces.
pub(crate) struct Cluster {
    directory: tempfile::TempDir,
    children: Vec<Child>,
    net: Net,
}

impl Cluster {
    /// With so many nodes, all of them ready; `None` where that cannot be.
    pub(crate) fn start(nodes: usize) -> Option<Self> {
        let net = Net::new(nodes)?;
        if !(1..=nodes).all(|node| net.limit(node, LINK)) {
            return None;
        }
        let mut cluster = Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
            children: Vec::new(),
            net,
        };
        let data = cluster.path().join("server").display().to_string();
        let listen = format!("{SERVER}:{PORT}");
        cluster.spawn(
            0,
            "server",
            &[
                "server", "--data", &data, "--listen", &listen, "--name", SERVER,
            ],
        );
        until(
            "the server to answer",
            || {
                cluster
                    .run(&["node", "list"])
                    .status
                    .success()
                    .then_some(())
            },
            || cluster.logs(),
        );
        let created = cluster.json(&["join-token", "create", "--uses", &nodes.to_string()]);
        let secret = created["secret"].as_str().expect("a secret").to_owned();
        let (token_file, ca_file) = (cluster.path().join("token"), cluster.path().join("ca.pem"));
        fs::write(&token_file, secret).expect("own directory");
        fs::write(&ca_file, cluster.admin("ca")).expect("own directory");
        for node in 1..=nodes {
            let data = cluster.path().join(format!("data-{node}"));
            let root = cluster.path().join(format!("root-{node}"));
            fs::create_dir_all(&root).expect("own directory");
            let words = [
                "agent",
                "--server",
                &format!("{SERVER}:7701"),
                "--name",
                &node_name(node),
                "--address",
                &address(node),
                "--data",
                &data.display().to_string(),
                "--system-root",
                &root.display().to_string(),
                "--ca-file",
                &ca_file.display().to_string(),
                "--join-token-file",
                &token_file.display().to_string(),
            ];
            cluster.spawn(node, &node_name(node), &words);
        }
        let declare = ["spec", "declare", "std", "--from-node", "node-1"];
        cluster.until("an inventory", || {
            cluster.run(&declare).status.success().then_some(())
        });
        cluster.until("the nodes to be ready", || {
            let shown = cluster.json(&["node", "list"]);
            let all = shown.as_array().expect("a list");
            let ready = all
                .iter()
                .filter(|node| node["condition"]["state"] == "ready");
            (ready.count() == nodes).then_some(())
        });
        Some(cluster)
    }

    fn spawn(&mut self, node: usize, name: &str, words: &[&str]) {
        let log = fs::File::create(self.path().join(format!("{name}.log"))).expect("own directory");
        let mut command = self.net.inside(node);
        command.arg(binary()).args(words).stdin(Stdio::null());
        command
            .env_remove("SUPERNODE_DATABASE")
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        // SAFETY: between fork and exec only one system call is made, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)
                    .map_err(std::io::Error::from)
            });
        }
        self.children
            .push(command.spawn().expect("the binary starts"));
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What the server wrote for its administrator.
    fn admin(&self, field: &str) -> String {
        let text = fs::read_to_string(self.path().join("server/admin.json")).unwrap_or_default();
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        value[field].as_str().unwrap_or_default().to_owned()
    }

    /// Changes what a node can send.
    pub(crate) fn limit(&self, node: usize, rate: &str) {
        assert!(self.net.limit(node, rate), "it worked before");
    }

    /// Runs a command of the command line.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        let ca_file = self.path().join("admin-ca.pem");
        fs::write(&ca_file, self.admin("ca")).expect("own directory");
        let output = self
            .net
            .inside(0)
            .arg(binary())
            .args(words)
            .env("SUPERNODE_CONFIG", self.path().join("config.toml"))
            .env("SUPERNODE_SERVER", self.admin("server"))
            .env("SUPERNODE_TOKEN", self.admin("token"))
            .env("SUPERNODE_CA_FILE", ca_file)
            .stdin(Stdio::null())
            .output();
        output.expect("the binary starts")
    }

    /// Runs a command that must succeed; answers its standard output.
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(
            output.status.success(),
            "supernode {words:?}: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.logs()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A command's JSON output.
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let text = self.ok(&[words, &["--output", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"))
    }

    /// Waits until `condition` answers something.
    pub(crate) fn until<T>(&self, what: &str, condition: impl FnMut() -> Option<T>) -> T {
        until(what, condition, || self.logs())
    }

    /// Everything that the server and the agents have logged.
    pub(crate) fn logs(&self) -> String {
        let entries = fs::read_dir(self.path()).expect("own directory").flatten();
        let logs = entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "log"));
        logs.map(|log| fs::read_to_string(log.path()).unwrap_or_default())
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in &mut self.children {
            let pid = i32::try_from(child.id()).expect("a process id");
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGTERM,
            );
            let _ = child.wait();
        }
    }
}
