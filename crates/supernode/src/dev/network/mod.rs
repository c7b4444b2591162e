//! Networks of local nodes: a network namespace each, all on one switch, each behind a link of limited speed.
//!
//! So nodes on a laptop are as far apart as servers are: each has an address of its own and a link that can be made slow, which a stress
//! test then finds. A file beside the agent's says how fast a link is, and is followed while `supernode dev` runs. Root is not needed
//! where the kernel lets users have namespaces of their own. The host sees nothing of it, and all of it ends with `supernode dev`:
//! a namespace lives as long as somebody holds it. So ranks of jobs that outlive `dev` have no network any more.

mod messages;
mod switch;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, setns};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};

use self::messages::{Answer, receive, send};
pub(crate) use self::switch::{SWITCH, main as switch_main};

/// The hidden command that is the switch.
pub(crate) const COMMAND: &str = "dev-switch";
/// Says in the directory of a node what its link is.
pub(crate) const LINK_FILE: &str = "link.json";
/// Addresses below are for the switch.
const FIRST_HOST: u16 = 11;
/// A relay that cannot take a connection waits so long.
const PAUSE: Duration = Duration::from_millis(100);

/// The link of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Link {
    /// The node's address, which stays.
    pub(crate) address: Ipv4Addr,
    /// What the node can send; what it receives is limited by who sends.
    pub(crate) megabits_per_second: u32,
}

/// What a process has to enter to be in the network of a node.
#[derive(Debug)]
pub(crate) struct Namespaces {
    /// The owner of the network, where that is not the host.
    user: Option<Arc<OwnedFd>>,
    network: OwnedFd,
}

impl Namespaces {
    /// Enters them, for a process without threads: one that was just forked.
    pub(crate) fn enter(&self) -> io::Result<()> {
        if let Some(user) = &self.user {
            setns(user, CloneFlags::CLONE_NEWUSER)?;
        }
        Ok(setns(&self.network, CloneFlags::CLONE_NEWNET)?)
    }
}

#[derive(Debug)]
struct Plugged {
    namespaces: Arc<Namespaces>,
    address: Ipv4Addr,
    /// The link file as it was last read.
    seen: String,
}

/// The switch, and the nodes on it.
#[derive(Debug)]
pub(crate) struct Network {
    socket: OwnedFd,
    switch: Child,
    user: Option<Arc<OwnedFd>>,
    port: u16,
    megabits_per_second: u32,
    nodes: BTreeMap<String, Plugged>,
}

impl Network {
    /// A network without nodes, whose links begin with this speed. Connections of nodes to `port` of the switch reach `server`.
    pub(crate) fn start(megabits_per_second: u32, server: SocketAddr) -> anyhow::Result<Self> {
        let (network, listener) = Self::open(megabits_per_second, server.port())?;
        listener.set_nonblocking(true)?;
        tokio::spawn(relay(TcpListener::from_std(listener)?, server));
        Ok(network)
    }

    fn open(megabits_per_second: u32, port: u16) -> anyhow::Result<(Self, std::net::TcpListener)> {
        let (socket, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let switch = Command::new(std::env::current_exe()?)
            .args([COMMAND, &port.to_string()])
            .stdin(other)
            // Ctrl-C in the terminal is not for it.
            .process_group(0)
            .spawn()?;
        let mut network = Self {
            socket,
            switch,
            user: None,
            port,
            megabits_per_second,
            nodes: BTreeMap::new(),
        };
        let mut files = network.answer()?.into_iter();
        let listener = files.next().context("the switch gave no listener")?;
        network.user = files.next().map(Arc::new);
        Ok((network, listener.into()))
    }

    /// Whether this machine lets nodes have networks of their own: one is made, and goes.
    pub(crate) fn try_out() -> anyhow::Result<()> {
        let (mut network, _listener) = Self::open(100, 0)?;
        let link = Link {
            address: address(FIRST_HOST),
            megabits_per_second: 100,
        };
        network.plug("trial", &link, String::new())?;
        Ok(())
    }

    /// Where nodes reach their server.
    pub(crate) fn server(&self) -> String {
        format!("{SWITCH}:{}", self.port)
    }

    /// The namespaces of a node, made when it has none, and its address.
    pub(crate) fn node(
        &mut self,
        directory: &Path,
        name: &str,
    ) -> anyhow::Result<(Arc<Namespaces>, Ipv4Addr)> {
        if !self.nodes.contains_key(name) {
            let (link, seen) = self.read_or_make(&directory.join(name).join(LINK_FILE))?;
            self.plug(name, &link, seen)?;
        }
        let node = &self.nodes[name];
        Ok((Arc::clone(&node.namespaces), node.address))
    }

    fn read_or_make(&self, file: &Path) -> anyhow::Result<(Link, String)> {
        match fs::read_to_string(file) {
            Ok(text) => {
                let link = serde_json::from_str(&text)
                    .with_context(|| format!("{} cannot be read", file.display()))?;
                Ok((link, text))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let link = Link {
                    address: free_address(file)?,
                    megabits_per_second: self.megabits_per_second,
                };
                let text = serde_json::to_string(&link)?;
                fs::write(file, &text)?;
                Ok((link, text))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn plug(&mut self, name: &str, link: &Link, seen: String) -> anyhow::Result<()> {
        let mut files = self.ask(link)?.into_iter();
        let network = files.next().context("the switch gave no namespace")?;
        let namespaces = Arc::new(Namespaces {
            user: self.user.clone(),
            network,
        });
        let plugged = Plugged {
            namespaces,
            address: link.address,
            seen,
        };
        self.nodes.insert(name.to_owned(), plugged);
        Ok(())
    }

    /// Makes links as fast as their files say now.
    pub(crate) fn follow(&mut self, directory: &Path) {
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for name in names {
            let file = directory.join(&name).join(LINK_FILE);
            let text = fs::read_to_string(&file).unwrap_or_default();
            let Some(node) = self.nodes.get_mut(&name).filter(|node| node.seen != text) else {
                continue;
            };
            node.seen.clone_from(&text);
            let address = node.address;
            if let Err(error) = self.limit(address, &text) {
                eprintln!("the link of {name} stays as it was: {error:#}");
            }
        }
    }

    fn limit(&mut self, address: Ipv4Addr, text: &str) -> anyhow::Result<()> {
        let link: Link = serde_json::from_str(text).context(LINK_FILE)?;
        if link.address != address {
            bail!("its address is {address} while it runs");
        }
        self.ask(&link).map(drop)
    }

    fn ask(&mut self, link: &Link) -> anyhow::Result<Vec<OwnedFd>> {
        send(&self.socket, link, &[])?;
        self.answer()
    }

    fn answer(&mut self) -> anyhow::Result<Vec<OwnedFd>> {
        match receive(&self.socket)? {
            Some((Answer::Done, files)) => Ok(files),
            Some((Answer::Failed { why }, _)) => bail!(why),
            None => bail!("the switch has ended ({})", self.switch.wait()?),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // It ends by itself when its socket closes; this is sooner.
        let _ = self.switch.kill();
        let _ = self.switch.wait();
    }
}

/// An address that no node has, a removed one neither.
fn free_address(file: &Path) -> anyhow::Result<Ipv4Addr> {
    let nodes = file.ancestors().nth(2).context("a node has a directory")?;
    let taken: Vec<Ipv4Addr> = fs::read_dir(nodes)?
        .flatten()
        .filter_map(|node| fs::read_to_string(node.path().join(LINK_FILE)).ok())
        .filter_map(|text| serde_json::from_str::<Link>(&text).ok())
        .map(|link| link.address)
        .collect();
    (FIRST_HOST..u16::MAX)
        .map(address)
        .find(|address| !taken.contains(address))
        .context("no address is free")
}

/// The address of a host on the switch.
fn address(host: u16) -> Ipv4Addr {
    let [high, low] = host.to_be_bytes();
    let [first, second, ..] = SWITCH.octets();
    Ipv4Addr::new(first, second, high, low)
}

/// Nodes reach the server through the switch, and nothing else of the host.
async fn relay(listener: TcpListener, server: SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((mut near, _)) => drop(tokio::spawn(async move {
                let mut far = TcpStream::connect(server).await?;
                near.set_nodelay(true)?;
                far.set_nodelay(true)?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            })),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
