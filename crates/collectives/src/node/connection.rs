//! One connection as the node sees it: how far its handshake is, what it carries, what waits to be written.
//!
//! ```text
//! dialed:    Connecting --connected--> Greeted --challenge--> Proven --welcome--> Open
//! accepted:  Expecting --hello--> Challenged --proof--> Open
//! ```
//!
//! Any of them ends by being forgotten; a connection is never repaired, only replaced.

use std::time::Duration;

use super::frame;
use crate::handshake::{Acceptor, Channel, Dialer};
use crate::operator::Rank;

/// The name of a connection between a node and its driver. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

#[derive(Debug)]
pub(super) enum Phase {
    Connecting,
    Greeted(Dialer),
    Proven(Dialer),
    Expecting,
    Challenged(Acceptor),
    /// The refusal is on its way; the dialer closes.
    Refused,
    Open,
}

/// Which end of what this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Dialed {
        peer: Rank,
        channel: Channel,
    },
    /// Known once the handshake is over.
    Accepted(Option<(Rank, Channel)>),
}

#[derive(Debug)]
pub(super) struct Connection {
    pub side: Side,
    pub lane: usize,
    pub phase: Phase,
    /// Until when the handshake has to be over.
    pub deadline: Duration,
    /// Bytes that were read and not used yet.
    pub inbound: Vec<u8>,
    /// Bytes at their front that are the rest of a frame whose checksum was right.
    pub verified: usize,
    /// Bytes to write before anything else.
    pub outbound: Vec<u8>,
    /// What a data connection writes after that.
    pub frames: frame::Outgoing,
    /// Bytes that the peer's kernel had acknowledged, and since when that has not changed although some are missing.
    pub stuck: Option<(u64, Duration)>,
    /// When the last ping went out that was not answered.
    pub ping: Option<Duration>,
    /// When the next ping is due.
    pub ping_at: Duration,
}

impl Connection {
    pub(super) fn new(side: Side, lane: usize, phase: Phase, deadline: Duration) -> Self {
        Self {
            side,
            lane,
            phase,
            deadline,
            inbound: Vec::new(),
            verified: 0,
            outbound: Vec::new(),
            frames: frame::Outgoing::default(),
            stuck: None,
            ping: None,
            ping_at: Duration::ZERO,
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// The peer and what is carried, once that is certain.
    pub(super) const fn purpose(&self) -> Option<(Rank, Channel)> {
        match self.side {
            Side::Dialed { peer, channel } => Some((peer, channel)),
            Side::Accepted(purpose) => purpose,
        }
    }

    /// The rank whose stream it carries, if this is the end that writes it.
    pub(super) const fn stream_to(&self) -> Option<Rank> {
        match self.side {
            Side::Dialed {
                peer,
                channel: Channel::Data,
            } if self.is_open() => Some(peer),
            _ => None,
        }
    }

    /// Takes a whole message from the front of what was read.
    pub(super) fn take<const LEN: usize>(&mut self) -> Option<[u8; LEN]> {
        let message = *self.inbound.first_chunk::<LEN>()?;
        self.inbound.drain(..LEN);
        Some(message)
    }
}

/// A message on a control channel, and on the way back of a data channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    /// Everything before this byte is here.
    Acknowledge(u64),
    Ping,
    Pong,
    /// The sender needs nothing any more and goes.
    Leave,
    /// The sender stops the group; so many bytes of text and their checksum follow.
    Stop(u64),
    /// How far the sender is, for this round of negotiation; a `RetryInfo` and its checksum follow.
    Retry(u64),
}

pub(super) const RECORD: usize = 16;
/// Longest text after [`Record::Stop`].
pub(super) const LONGEST_TEXT: usize = 1024;

impl Record {
    pub(super) fn encode(self) -> [u8; RECORD] {
        let (tag, value) = match self {
            Self::Acknowledge(offset) => (1, offset),
            Self::Ping => (2, 0),
            Self::Pong => (3, 0),
            Self::Leave => (4, 0),
            Self::Stop(len) => (5, len),
            Self::Retry(round) => (6, round),
        };
        let mut bytes = [0; RECORD];
        bytes[0] = tag;
        bytes[8..].copy_from_slice(&u64::to_le_bytes(value));
        // Last, while its own place is zero.
        let code = frame::checksum(&bytes);
        bytes[4..8].copy_from_slice(&code.to_le_bytes());
        bytes
    }

    /// `None` if it is damaged.
    pub(super) fn decode(bytes: &[u8; RECORD]) -> Option<Self> {
        let mut plain = *bytes;
        plain[4..8].fill(0);
        if frame::checksum(&plain).to_le_bytes() != bytes[4..8] {
            return None;
        }
        let (_, value) = bytes.split_last_chunk::<8>()?;
        let value = u64::from_le_bytes(*value);
        match bytes[0] {
            1 => Some(Self::Acknowledge(value)),
            2 => Some(Self::Ping),
            3 => Some(Self::Pong),
            4 => Some(Self::Leave),
            5 => Some(Self::Stop(value)),
            6 => Some(Self::Retry(value)),
            _ => None,
        }
    }
}
