//! Why a group stopped, with the rank that is to blame.
//!
//! A broken connection is not in here: it is repaired. A failure is final for its group; the first one is kept, told to the others, and given
//! to every operator after it.

use std::time::Duration;

use thiserror::Error;

use crate::operator::Rank;

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
