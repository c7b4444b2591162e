//! Why a group stopped, with the rank that is to blame.
//!
//! A broken connection is not in here: it is repaired. A failure is final for its group; the first one is kept, told to the others, and given
//! to every operator after it.

use std::time::Duration;

use thiserror::Error;

use crate::operator::Rank;
use crate::recovery::{Edge, Obstacle};

/// Why a group stopped.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// The programs of two ranks do not match.
    #[error(
        "rank {rank} expects {expected} and rank {peer} runs {found}: all ranks have to call the same operators in the same order"
    )]
    Mismatch {
        /// Who found it.
        rank: Rank,
        /// Who runs something else.
        peer: Rank,
        /// What `rank` runs.
        expected: String,
        /// What `peer` runs.
        found: String,
    },
    /// The process of a rank is gone: its addresses refuse connections.
    #[error("rank {rank} is gone: its process refuses connections since {} ms", .since.as_millis())]
    RankGone {
        /// Who.
        rank: Rank,
        /// For how long nothing was heard.
        since: Duration,
    },
    /// Nothing comes from a rank on any lane.
    #[error("rank {rank} cannot be reached on any lane since {} ms", .since.as_millis())]
    RankSilent {
        /// Who.
        rank: Rank,
        /// For how long nothing was heard.
        since: Duration,
    },
    /// A rank left the group while others still needed it.
    #[error("rank {rank} left the group before the operator ended")]
    RankLeft {
        /// Who.
        rank: Rank,
    },
    /// The peer no longer has, or never had, what the stream needs next.
    #[error("the stream from rank {from} to rank {to} cannot be resumed: {why}")]
    StreamLost {
        /// The sender.
        from: Rank,
        /// The receiver.
        to: Rank,
        /// What does not fit.
        why: String,
    },
    /// Bytes are lost, and what made them cannot be executed again.
    #[error(
        "bytes of the stream from rank {} to rank {} are lost and {operator} cannot be executed again: rank {rank} {obstacle}",
        .edge.from, .edge.to
    )]
    NotRepeatable {
        /// The stream.
        edge: Edge,
        /// Who cannot.
        rank: Rank,
        /// What.
        operator: String,
        /// Why not.
        obstacle: Obstacle,
    },
    /// The same operator was executed again as often as allowed.
    #[error(
        "bytes of the stream from rank {} to rank {} are lost, and collective {operator} was executed again {times} times already",
        .edge.from, .edge.to
    )]
    RetriesExhausted {
        /// The stream.
        edge: Edge,
        /// The first collective that was not over.
        operator: u64,
        /// How often.
        times: u64,
    },
    /// A rank did not say how far it is.
    #[error("rank {rank} did not answer within {} s how far it is", .after.as_secs())]
    RetryTimeout {
        /// Who.
        rank: Rank,
        /// How long it was waited for.
        after: Duration,
    },
    /// What arrives from a rank is damaged, on whatever lane it is sent.
    #[error(
        "what rank {to} gets from rank {from} is damaged, {times} times in a row: look for faulty memory or network hardware between them"
    )]
    Damaged {
        /// The sender.
        from: Rank,
        /// The receiver.
        to: Rank,
        /// How often in a row.
        times: u64,
    },
    /// This process belongs to an older attempt than its peers.
    #[error(
        "rank {peer} runs a newer attempt of this group; this process is left over from an older one"
    )]
    Stale {
        /// Who said so.
        peer: Rank,
    },
    /// The program of a rank asked for it.
    #[error("the program of rank {rank} stopped the group: {why}")]
    Aborted {
        /// Whose.
        rank: Rank,
        /// In its words.
        why: String,
    },
    /// Another rank stopped the group and said why.
    #[error("rank {by} stopped the group: {why}")]
    Told {
        /// Who.
        by: Rank,
        /// In its words.
        why: String,
    },
    /// This process closed the group.
    #[error("the group is closed")]
    Closed,
}
