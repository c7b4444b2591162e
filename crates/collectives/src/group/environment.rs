//! Joining a group from environment variables: what `supernode run` gives to its jobs, and `supernode collective` to its ranks.
//!
//! | variable | meaning |
//! |---|---|
//! | `RANK`, `WORLD_SIZE` | who this is, and how many there are |
//! | `SUPERNODE_COLLECTIVE_ROOT` | `host:port` on which rank 0 listens for the others |
//! | `SUPERNODE_COLLECTIVE_KEY` | 64 hexadecimal digits that only this attempt knows |
//! | `SUPERNODE_COLLECTIVE_GROUP` | a name for the group; any text |
//! | `SUPERNODE_COLLECTIVE_EPOCH` | rises with every attempt; 0 if not set |
//! | `SUPERNODE_COLLECTIVE_ADDRESSES` | this rank's own addresses, one for each lane, with commas; the one that leads to the root if not set |
//! | `SUPERNODE_COLLECTIVE_SHARED_MEMORY` | `0`: sockets also between ranks of one host |
//! | `SUPERNODE_COLLECTIVE_RETRY_TIMEOUT_SECONDS` | how long a rank from which nothing is heard is waited for, 1 to 7200; 300 if not set |
//! | `SUPERNODE_COLLECTIVE_MAX_RETRIES` | how often an operator whose bytes were lost may be executed again, 0 to 10; 3 if not set |
//!
//! It refuses a key of another length, and listens on the named addresses and nowhere else.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use aws_lc_rs::digest;
use thiserror::Error;

use super::rendezvous::{Card, RendezvousError, Roster};
use super::{Group, Inbox, LIMITS, Membership};
use crate::handshake::Secret;
use crate::node::Timing;
use crate::operator::Rank;
use crate::system;

/// `host:port` of rank 0.
pub const ROOT: &str = "SUPERNODE_COLLECTIVE_ROOT";
/// The key of the attempt.
pub const KEY: &str = "SUPERNODE_COLLECTIVE_KEY";
/// The name of the group.
pub const GROUP: &str = "SUPERNODE_COLLECTIVE_GROUP";
/// The number of the attempt.
pub const EPOCH: &str = "SUPERNODE_COLLECTIVE_EPOCH";
/// This rank's addresses.
pub const ADDRESSES: &str = "SUPERNODE_COLLECTIVE_ADDRESSES";
/// Whether ranks of one host share memory.
pub const SHARED_MEMORY: &str = "SUPERNODE_COLLECTIVE_SHARED_MEMORY";

/// How long a silent rank is waited for.
pub const RETRY_TIMEOUT: &str = "SUPERNODE_COLLECTIVE_RETRY_TIMEOUT_SECONDS";
/// How often an operator may be executed again.
pub const MAX_RETRIES: &str = "SUPERNODE_COLLECTIVE_MAX_RETRIES";

/// What the variables say.
#[derive(Debug)]
pub struct Environment {
    rank: Rank,
    world: usize,
    root: String,
    secret: Secret,
    addresses: Vec<IpAddr>,
    shares_memory: bool,
    max_retries: u64,
    timing: Timing,
}

/// Why the variables are of no use.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnvironmentError {
    /// One is missing.
    #[error("the variable {0} is not set; start the program with `supernode run`, or set it")]
    Missing(&'static str),
    /// One makes no sense. Its value is not repeated: it may be the key.
    #[error("the variable {name} is not {wanted}")]
    Invalid {
        /// Which.
        name: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
}

/// Why a process did not become a member.
#[derive(Debug, Error)]
pub enum JoinError {
    /// The root's name leads nowhere.
    #[error("the address {address} of rank 0 cannot be found")]
    Root {
        /// As it was given.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// A lane's address is not on this host.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The ranks did not find each other.
    #[error(transparent)]
    Rendezvous(#[from] RendezvousError),
    /// Sockets, memory or threads are missing.
    #[error("the group cannot be set up")]
    Setup(#[source] io::Error),
}

impl Environment {
    /// Reads the variables with `lookup`.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, EnvironmentError> {
        let text = |name| lookup(name).ok_or(EnvironmentError::Missing(name));
        let number = |name| {
            text(name)?
                .parse::<usize>()
                .map_err(|_| EnvironmentError::Invalid {
                    name,
                    wanted: "a number",
                })
        };
        let (rank, world) = (number("RANK")?, number("WORLD_SIZE")?);
        if rank >= world {
            return Err(EnvironmentError::Invalid {
                name: "RANK",
                wanted: "smaller than WORLD_SIZE",
            });
        }
        let key = key(&text(KEY)?).ok_or(EnvironmentError::Invalid {
            name: KEY,
            wanted: "64 hexadecimal digits",
        })?;
        let epoch = lookup(EPOCH).map_or(Ok(0), |text| {
            text.parse().map_err(|_| EnvironmentError::Invalid {
                name: EPOCH,
                wanted: "a number",
            })
        })?;
        let name = digest::digest(&digest::SHA256, text(GROUP)?.as_bytes());
        let group = *name.as_ref().first_chunk().expect("a digest is longer");
        let mut timing = Timing::usual();
        if let Some(text) = lookup(RETRY_TIMEOUT) {
            let seconds = text
                .parse()
                .ok()
                .filter(|seconds| (1..=7200).contains(seconds));
            timing.silent = Duration::from_secs(seconds.ok_or(EnvironmentError::Invalid {
                name: RETRY_TIMEOUT,
                wanted: "a number of seconds from 1 to 7200",
            })?);
        }
        let max_retries = lookup(MAX_RETRIES).map_or(Ok(super::MAX_RETRIES), |text| {
            let number = text.parse().ok().filter(|number| *number <= 10);
            number.ok_or(EnvironmentError::Invalid {
                name: MAX_RETRIES,
                wanted: "a number from 0 to 10",
            })
        })?;
        let addresses = lookup(ADDRESSES).unwrap_or_default();
        let addresses = addresses
            .split(',')
            .filter(|address| !address.is_empty())
            .map(str::parse);
        Ok(Self {
            rank,
            world,
            root: text(ROOT)?,
            secret: Secret::new(&key, group, epoch),
            addresses: addresses.collect::<Result<_, _>>().map_err(|_| {
                EnvironmentError::Invalid {
                    name: ADDRESSES,
                    wanted: "a list of IP addresses",
                }
            })?,
            shares_memory: lookup(SHARED_MEMORY).as_deref() != Some("0"),
            max_retries,
            timing,
        })
    }

    /// Becomes a member, and waits at most so long for the others.
    pub fn join(self, wait: Duration) -> Result<Group, JoinError> {
        let Self {
            rank,
            world,
            root,
            secret,
            mut addresses,
            shares_memory,
            max_retries,
            timing,
        } = self;
        let root = find(&root)?;
        // Before the lanes take any port.
        let meeting = if rank == 0 { Some(listen(root)?) } else { None };
        if addresses.is_empty() {
            addresses.push(leading_to(root).map_err(JoinError::Setup)?);
        }
        let listeners = addresses
            .iter()
            .map(|address| listen(SocketAddr::new(*address, 0)))
            .collect::<Result<Vec<TcpListener>, _>>()?;
        let inbox = if shares_memory {
            Some(Inbox::new(world).map_err(JoinError::Setup)?)
        } else {
            None
        };
        let card = Card {
            lanes: listeners
                .iter()
                .map(TcpListener::local_addr)
                .collect::<io::Result<_>>()
                .map_err(JoinError::Setup)?,
            location: inbox.as_ref().and_then(Inbox::location),
        };
        let roster = match meeting {
            Some(meeting) => Roster::collect(&meeting, &secret, card, world, wait)?,
            None => Roster::ask(root, addresses[0], &secret, rank, &card, world, wait)?,
        };
        Group::join(Membership {
            rank,
            secret,
            listeners,
            roster,
            inbox,
            limits: LIMITS,
            max_retries,
            timing,
        })
        .map_err(JoinError::Setup)
    }
}

/// An address on which rank 0 can listen in a moment, for who starts all ranks on one host. Its port is below those that the kernel gives
/// out by itself, so that nobody gets it by accident meanwhile.
pub fn unused_root(host: IpAddr) -> io::Result<SocketAddr> {
    const PORTS: u16 = 10_000;
    let first = u16::from_le_bytes(system::random()) % PORTS;
    let mut ports = (0..PORTS).map(|offset| 10_000 + (first + offset) % PORTS);
    ports
        .find_map(|port| TcpListener::bind((host, port)).ok()?.local_addr().ok())
        .ok_or_else(|| io::ErrorKind::AddrInUse.into())
}

fn listen(address: SocketAddr) -> Result<TcpListener, JoinError> {
    TcpListener::bind(address).map_err(|source| JoinError::Listen { address, source })
}

fn find(root: &str) -> Result<SocketAddr, JoinError> {
    let error = |source| JoinError::Root {
        address: root.to_owned(),
        source,
    };
    let mut found = root.to_socket_addrs().map_err(error)?;
    found
        .next()
        .ok_or_else(|| error(io::ErrorKind::NotFound.into()))
}

/// The address of this host that packets to `root` would come from. Nothing is sent.
fn leading_to(root: SocketAddr) -> io::Result<IpAddr> {
    let any = if root.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(root)?;
    Ok(socket.local_addr()?.ip())
}

fn key(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(changes: &[(&str, Option<&str>)]) -> Result<Environment, EnvironmentError> {
        let key = "0f".repeat(32);
        let usual = [
            ("RANK", "1"),
            ("WORLD_SIZE", "2"),
            (ROOT, "127.0.0.1:9"),
            (KEY, &key),
            (GROUP, "attempt-1"),
            (ADDRESSES, "10.0.0.1,fd00::1"),
        ];
        Environment::read(|name| {
            let other = changes.iter().find(|(other, _)| *other == name);
            let usual = usual.iter().find(|(usual, _)| *usual == name);
            match other {
                Some((_, value)) => value.map(str::to_owned),
                None => usual.map(|(_, value)| (*value).to_owned()),
            }
        })
    }

    #[test]
    fn variables_are_read_and_the_key_is_never_shown() {
        let environment = read(&[]).expect("nothing is wrong");
        assert_eq!((environment.rank, environment.world), (1, 2));
        assert_eq!(environment.addresses.len(), 2);
        assert!(!format!("{environment:?}").contains("0f0f"));
        assert_eq!(environment.timing.silent, Duration::from_mins(5));
        let patient = read(&[(RETRY_TIMEOUT, Some("900"))]).expect("nothing is wrong");
        assert_eq!(patient.timing.silent, Duration::from_mins(15));
        for (changes, expected) in [
            (
                [(KEY, Some("00112233"))],
                "the variable SUPERNODE_COLLECTIVE_KEY is not 64 hexadecimal digits",
            ),
            (
                [("RANK", Some("2"))],
                "the variable RANK is not smaller than WORLD_SIZE",
            ),
            (
                [(ADDRESSES, Some("eth0"))],
                "the variable SUPERNODE_COLLECTIVE_ADDRESSES is not a list of IP addresses",
            ),
            (
                [(MAX_RETRIES, Some("11"))],
                "the variable SUPERNODE_COLLECTIVE_MAX_RETRIES is not a number from 0 to 10",
            ),
            (
                [(RETRY_TIMEOUT, Some("0"))],
                "the variable SUPERNODE_COLLECTIVE_RETRY_TIMEOUT_SECONDS is not a number of seconds from 1 to 7200",
            ),
        ] {
            assert_eq!(
                read(&changes).expect_err("it is wrong").to_string(),
                expected
            );
        }
        assert_eq!(
            read(&[(GROUP, None)]).expect_err("it is missing"),
            EnvironmentError::Missing(GROUP)
        );
    }
}
