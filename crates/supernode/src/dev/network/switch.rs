//! The switch: a process without threads that makes namespaces, links them, and limits the links. It ends when its socket closes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getegid, geteuid};
use rustix::fs::{Mode, OFlags};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, configure_capability_in_ambient_set,
    set_capabilities,
};

use super::Link;
use super::messages::{Answer, receive, send};
use crate::dev::programs::run;

/// Where the nodes' server is, for them.
pub(crate) const SWITCH: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
const PREFIX: u8 = 16;
/// How much a link lets pass at once, and how long what waits for it may wait.
const BUCKET: &str = "burst 128kb latency 50ms";

/// Serves the socket on standard input; listens on `port` of the switch and hands the listener over.
pub(crate) fn main(port: u16) -> ExitCode {
    let stdin = std::io::stdin();
    match work(stdin.as_fd(), port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let why = format!("{error:#}");
            let _ = send(stdin.as_fd(), &Answer::Failed { why }, &[]);
            ExitCode::FAILURE
        }
    }
}

fn work(socket: BorrowedFd<'_>, port: u16) -> anyhow::Result<()> {
    let user = if geteuid().is_root() {
        None
    } else {
        Some(own_users().context("this user may have no namespaces of its own; root may")?)
    };
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
    let mut switch = Switch {
        home: network()?,
        nodes: BTreeMap::new(),
    };
    ip("link set lo up")?;
    ip("link add br0 type bridge")?;
    ip(&format!("address add {SWITCH}/{PREFIX} dev br0"))?;
    ip("link set br0 up")?;
    let listener = TcpListener::bind((SWITCH, port))?;
    let mut files = vec![listener.as_fd()];
    files.extend(user.as_ref().map(AsFd::as_fd));
    send(socket, &Answer::Done, &files)?;
    drop(listener);
    while let Some((link, _)) = receive::<Link>(socket)? {
        match switch.link(&link) {
            Ok(namespace) => send(socket, &Answer::Done, &[namespace.as_fd()])?,
            Err(error) => {
                let why = format!("{error:#}");
                send(socket, &Answer::Failed { why }, &[])?;
            }
        }
    }
    Ok(())
}

/// Becomes the owner of a new user namespace in which this user is itself, and lets the programs that it starts administer networks.
fn own_users() -> anyhow::Result<OwnedFd> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
    let passed_on = CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN;
    let own = capabilities(None)?;
    set_capabilities(
        None,
        CapabilitySets {
            inheritable: passed_on,
            ..own
        },
    )?;
    for capability in [CapabilitySet::NET_ADMIN, CapabilitySet::SYS_ADMIN] {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(File::open("/proc/self/ns/user")?.into())
}

/// The network namespace of this process, open also in the programs that it starts.
fn network() -> anyhow::Result<OwnedFd> {
    let path = "/proc/self/ns/net";
    Ok(rustix::fs::open(path, OFlags::RDONLY, Mode::empty())?)
}

struct Switch {
    /// The namespace of the bridge.
    home: OwnedFd,
    /// Those of the nodes.
    nodes: BTreeMap<Ipv4Addr, OwnedFd>,
}

impl Switch {
    /// Makes it so that a node has this link; answers its namespace.
    fn link(&mut self, link: &Link) -> anyhow::Result<&OwnedFd> {
        let namespace = match self.nodes.remove(&link.address) {
            Some(namespace) => namespace,
            None => self.plug(link)?,
        };
        let limited = self.within(&namespace, || limit(link));
        let namespace = self.nodes.entry(link.address).or_insert(namespace);
        limited.map(|()| &*namespace)
    }

    /// A new namespace with a link to the bridge.
    fn plug(&self, link: &Link) -> anyhow::Result<OwnedFd> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let namespace = network();
        setns(&self.home, CloneFlags::CLONE_NEWNET)?;
        let namespace = namespace?;
        let [.., high, low] = link.address.octets();
        let port = format!("port{}", u16::from_be_bytes([high, low]));
        let there = namespace.as_raw_fd();
        ip(&format!(
            "link add {port} type veth peer name eth0 netns /proc/self/fd/{there}"
        ))?;
        ip(&format!("link set {port} master br0 up"))?;
        self.within(&namespace, || {
            ip("link set lo up")?;
            ip(&format!("address add {}/{PREFIX} dev eth0", link.address))?;
            ip("link set eth0 up")
        })?;
        Ok(namespace)
    }

    fn within<T>(
        &self,
        namespace: &OwnedFd,
        what: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let done = what();
        setns(&self.home, CloneFlags::CLONE_NEWNET)?;
        done
    }
}

/// In the namespace of the node: limits what it sends.
fn limit(link: &Link) -> anyhow::Result<()> {
    ensure!(
        link.megabits_per_second > 0,
        "a link of 0 Mbit/s is no link; say at least 1"
    );
    let rate = link.megabits_per_second;
    words(
        "tc",
        &format!("qdisc replace dev eth0 root tbf rate {rate}mbit {BUCKET}"),
    )
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    words("ip", arguments)
}

fn words(program: &str, arguments: &str) -> anyhow::Result<()> {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    run(program, &arguments).map(drop)
}
