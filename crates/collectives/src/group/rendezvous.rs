//! How the ranks of a group find each other: rank 0 listens on one address that all know, collects everybody's card, and gives the whole
//! roster to everybody.
//!
//! ```text
//! rank r                                    rank 0
//!   hello {who, group, epoch, nonce}  -->
//!                                     <--   nonce
//!   card, mac                         -->
//!                                     <--   roster, mac      when all cards are there
//! ```
//!
//! Both sides prove that they know the group's key before anything they say is used. It is short and blocking, and happens once. A program
//! that has another way to exchange cards (the store of `torch.distributed`) uses that and needs none of this.
//!
//! It refuses ranks that are taken or do not exist, other attempts, and a wait longer than asked for.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use thiserror::Error;

use super::shared::Location;
use crate::handshake::Secret;
use crate::operator::Rank;
use crate::system;

/// Where one rank is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Card {
    /// Its listeners, one for each lane.
    pub lanes: Vec<SocketAddr>,
    /// Its shared memory.
    pub location: Option<Location>,
}

/// Where everybody is, by rank.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    /// The cards.
    pub cards: Vec<Card>,
}

/// Why ranks did not find each other.
#[derive(Debug, Error)]
pub enum RendezvousError {
    /// Not everybody came.
    #[error("after {} s these ranks have not come: {missing:?}", .waited.as_secs())]
    Missing {
        /// Who.
        missing: Vec<Rank>,
        /// For how long.
        waited: Duration,
    },
    /// Rank 0 did not answer in time.
    #[error("rank 0 at {address} gave no roster within {} s", .waited.as_secs())]
    NoRoot {
        /// Where it should be.
        address: SocketAddr,
        /// For how long.
        waited: Duration,
        /// The last reason.
        source: io::Error,
    },
    /// The listener does not work.
    #[error("cannot listen for the other ranks")]
    Listen(#[source] io::Error),
    /// A roster for a group of another size.
    #[error("rank 0 gave a roster of {found} ranks, not {wanted}")]
    Size {
        /// Cards in it.
        found: usize,
        /// Ranks of the group.
        wanted: usize,
    },
}

/// Bytes of a card, which comes from somebody who has not proven anything yet.
const LONGEST_CARD: usize = 16 * 1024;
const LONGEST_ROSTER: usize = 16 * 1024 * 1024;
const NONCE: usize = 16;
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

impl Card {
    /// As text, one fact a line.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        for lane in &self.lanes {
            writeln!(text, "lane {lane}").expect("writing to a string works");
        }
        if let Some(at) = &self.location {
            writeln!(
                text,
                "memory {} {} {} {} {} {}",
                at.boot, at.namespace, at.user, at.process, at.memory, at.bell
            )
            .expect("writing to a string works");
        }
        text
    }

    /// From text; lines that it does not know are ignored. `None` if a line that it knows is broken.
    pub fn decode(text: &str) -> Option<Self> {
        let mut card = Self::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            match words.next()? {
                "lane" => card.lanes.push(words.next()?.parse().ok()?),
                "memory" => {
                    card.location = Some(Location {
                        boot: words.next()?.to_owned(),
                        namespace: words.next()?.parse().ok()?,
                        user: words.next()?.parse().ok()?,
                        process: words.next()?.parse().ok()?,
                        memory: words.next()?.parse().ok()?,
                        bell: words.next()?.parse().ok()?,
                    });
                }
                _ => {}
            }
        }
        Some(card)
    }
}

impl Roster {
    fn encode(&self) -> String {
        let mut text = String::new();
        for card in &self.cards {
            text.push_str("rank\n");
            text.push_str(&card.encode());
        }
        text
    }

    fn decode(text: &str) -> Option<Self> {
        let cards = text.split("rank\n").skip(1).map(Card::decode);
        Some(Self {
            cards: cards.collect::<Option<_>>()?,
        })
    }

    /// Rank 0: collects the cards of `world` ranks.
    pub fn collect(
        listener: &TcpListener,
        secret: &Secret,
        own: Card,
        world: usize,
        wait: Duration,
    ) -> Result<Self, RendezvousError> {
        listener
            .set_nonblocking(true)
            .map_err(RendezvousError::Listen)?;
        let until = system::monotonic() + wait;
        let mut cards: Vec<Option<(Card, Option<Guest>)>> = (0..world).map(|_| None).collect();
        cards[0] = Some((own, None));
        while cards.iter().any(Option::is_none) {
            match listener.accept() {
                Ok((stream, _)) => {
                    // A guest that is slow or a stranger costs a moment and nothing else. One that comes again replaces itself.
                    if let Ok((rank, card, guest)) = Guest::greet(stream, secret, world) {
                        cards[rank] = Some((card, Some(guest)));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if system::monotonic() >= until {
                        let missing = (0..world).filter(|rank| cards[*rank].is_none()).collect();
                        return Err(RendezvousError::Missing {
                            missing,
                            waited: wait,
                        });
                    }
                    pause(listener);
                }
                Err(error) => return Err(RendezvousError::Listen(error)),
            }
        }
        let (cards, guests): (Vec<Card>, Vec<Option<Guest>>) = cards.into_iter().flatten().unzip();
        let roster = Self { cards };
        let text = roster.encode();
        for mut guest in guests.into_iter().flatten() {
            // Who does not read comes again, or is missed by the others.
            let _ = guest.give(secret, &text);
        }
        Ok(roster)
    }

    /// Every other rank: gives its card and gets the roster.
    pub fn ask(
        address: SocketAddr,
        from: IpAddr,
        secret: &Secret,
        rank: Rank,
        card: &Card,
        world: usize,
        wait: Duration,
    ) -> Result<Self, RendezvousError> {
        let until = system::monotonic() + wait;
        loop {
            let left = until.saturating_sub(system::monotonic());
            match ask_once(address, from, secret, rank, card, left.max(PAUSE)) {
                Ok(roster) if roster.cards.len() == world => return Ok(roster),
                Ok(roster) => {
                    return Err(RendezvousError::Size {
                        found: roster.cards.len(),
                        wanted: world,
                    });
                }
                Err(source) if left.is_zero() => {
                    return Err(RendezvousError::NoRoot {
                        address,
                        waited: wait,
                        source,
                    });
                }
                Err(_) => std::thread::park_timeout(PAUSE),
            }
        }
    }
}

fn pause(listener: &TcpListener) {
    let mut wanted = [rustix::event::PollFd::new(
        listener,
        rustix::event::PollFlags::IN,
    )];
    let patience = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: PAUSE.subsec_nanos().into(),
    };
    // Failing or not: the caller looks again.
    let _ = rustix::event::poll(&mut wanted, Some(&patience));
}

/// A rank that has given its card.
struct Guest {
    stream: TcpStream,
    hello: [u8; 8 + NONCE],
}

impl Guest {
    fn greet(
        mut stream: TcpStream,
        secret: &Secret,
        world: usize,
    ) -> io::Result<(Rank, Card, Self)> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut hello = [0; 8 + NONCE];
        stream.read_exact(&mut hello)?;
        let nonce: [u8; NONCE] = system::random();
        stream.write_all(&nonce)?;
        let text = receive(
            &mut stream,
            secret,
            b"card",
            &[&hello, &nonce],
            LONGEST_CARD,
        )?;
        let (rank, _) = hello.split_first_chunk::<8>().expect("it is longer");
        let rank = usize::try_from(u64::from_le_bytes(*rank)).ok();
        let rank = rank
            .filter(|rank| (1..world).contains(rank))
            .ok_or(io::ErrorKind::InvalidData)?;
        let card = Card::decode(&text).ok_or(io::ErrorKind::InvalidData)?;
        Ok((rank, card, Self { stream, hello }))
    }

    fn give(&mut self, secret: &Secret, roster: &str) -> io::Result<()> {
        send(&mut self.stream, secret, b"roster", &[&self.hello], roster)
    }
}

fn ask_once(
    address: SocketAddr,
    from: IpAddr,
    secret: &Secret,
    rank: Rank,
    card: &Card,
    wait: Duration,
) -> io::Result<Roster> {
    let mut stream = connect(from, address)?;
    stream.set_read_timeout(Some(PATIENCE.min(wait)))?;
    let mut hello = [0; 8 + NONCE];
    hello[..8].copy_from_slice(&(rank as u64).to_le_bytes());
    hello[8..].copy_from_slice(&system::random::<NONCE>());
    stream.write_all(&hello)?;
    let mut nonce = [0; NONCE];
    stream.read_exact(&mut nonce)?;
    send(
        &mut stream,
        secret,
        b"card",
        &[&hello, &nonce],
        &card.encode(),
    )?;
    // Now the others are waited for.
    stream.set_read_timeout(Some(wait))?;
    let text = receive(&mut stream, secret, b"roster", &[&hello], LONGEST_ROSTER)?;
    Ok(Roster::decode(&text).ok_or(io::ErrorKind::InvalidData)?)
}

/// Connects from a named address, so that the right interface is used.
fn connect(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
    let family = if to.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddr::new(from, 0))?;
    connect(&socket, &to)?;
    Ok(socket.into())
}

fn send(
    stream: &mut TcpStream,
    secret: &Secret,
    label: &[u8],
    context: &[&[u8]],
    text: &str,
) -> io::Result<()> {
    let code = secret.seal(label, context, text.as_bytes());
    let len = u32::try_from(text.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut message = len.to_le_bytes().to_vec();
    message.extend_from_slice(&code);
    message.extend_from_slice(text.as_bytes());
    stream.write_all(&message)
}

fn receive(
    stream: &mut TcpStream,
    secret: &Secret,
    label: &[u8],
    context: &[&[u8]],
    longest: usize,
) -> io::Result<String> {
    let mut head = [0; 4 + 32];
    stream.read_exact(&mut head)?;
    let (len, code) = head.split_first_chunk::<4>().expect("it is longer");
    let len = u32::from_le_bytes(*len) as usize;
    if len > longest {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = Vec::new();
    stream.take(len as u64).read_to_end(&mut text)?;
    if text.len() != len || !secret.is_sealed(label, context, &text, code) {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the other side does not know this attempt's key",
        ));
    }
    String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into())
}
