//! Why something could not be done with a rank, each with what to do about it.

use super::RankId;
use crate::files::FileError;

/// Why something could not be done with a rank.
#[derive(Debug, thiserror::Error)]
pub enum RanksError {
    /// The launch cannot be carried out as it is.
    #[error("rank {id}: {why}")]
    InvalidLaunch {
        /// The rank.
        id: RankId,
        /// What is wrong with it.
        why: String,
    },
    /// The id stands for something else already.
    #[error("rank {id}: was launched before with other arguments; use a new attempt")]
    Conflict {
        /// The rank.
        id: RankId,
    },
    /// The number is no signal.
    #[error("rank {id}: {signal} is not the number of a signal")]
    InvalidSignal {
        /// The rank.
        id: RankId,
        /// The number.
        signal: i32,
    },
    /// The supervisor could not be started, or refused.
    #[error("rank {id}: its supervisor did not start: {why}")]
    Supervisor {
        /// The rank.
        id: RankId,
        /// What it said.
        why: String,
    },
    /// A process of a rank that lost its supervisor does not die.
    #[error(
        "rank {id}: lost its supervisor, and processes {pids:?} of it cannot be killed; they may hang in a driver"
    )]
    Strays {
        /// The rank.
        id: RankId,
        /// The processes.
        pids: Vec<i32>,
    },
    /// Only what has ended can be removed.
    #[error("rank {id}: still runs; stop it first")]
    Running {
        /// The rank.
        id: RankId,
    },
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Changes cannot be watched.
    #[error("cannot watch the rank directories")]
    Watch {
        /// What the system said.
        source: std::io::Error,
    },
}
