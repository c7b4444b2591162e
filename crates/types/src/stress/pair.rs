//! Two nodes that measure the network between them.
//!
//! ```text
//!  Waiting --both free (loop): leases on both, one key--> Running --the listener says its port (agent)--> the asker is told (control)
//!     ^                                                      |  the asker reports (agent), or it is cut short (loop)
//!     \-------- came to nothing once (loop) -----------------+--> Ended, the leases are given back
//! ```
//! The listener waits on an address of its own, the asker measures both directions and is the only one that reports. Their key is made
//! for one try; it is no part of this record, so nobody who may read the record reads it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::job::GroupKey;
use crate::{NodeId, OperationId, Timestamp};

/// One pair of one round of a run's network test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StressPair {
    /// The run.
    pub run: OperationId,
    /// Counts the pairs of the run from 1.
    pub number: u32,
    /// The round of the network test, from 1. In one round a node is in one pair at most.
    pub round: u32,
    /// Who asks.
    pub asker: NodeId,
    /// Who listens.
    pub listener: NodeId,
    /// How often it was begun.
    pub tries: u32,
    /// How far it is.
    #[serde(flatten)]
    pub state: PairState,
}

impl StressPair {
    /// Nothing more will come of it.
    pub fn ended(&self) -> bool {
        matches!(self.state, PairState::Ended { .. })
    }

    /// The part of one of its nodes.
    pub fn place_of(&self, node: &NodeId) -> Option<PairPlace> {
        if *node == self.asker {
            Some(PairPlace::Asker)
        } else {
            (*node == self.listener).then_some(PairPlace::Listener)
        }
    }
}

/// How far a pair is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PairState {
    /// Not begun, or to be begun again.
    Waiting {
        /// What the try before came to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// Both nodes are leased to it.
    Running {
        /// Since when.
        began_at: Timestamp,
        /// The port that the listener waits on, as soon as it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
        /// What its agents said came of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        said: Option<PairOutcome>,
    },
    /// It is over.
    Ended {
        /// What came of it.
        #[serde(flatten)]
        outcome: PairOutcome,
        /// When.
        ended_at: Timestamp,
    },
}

impl PairState {
    /// The word for this state, as the database says it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Waiting { .. } => "waiting",
            Self::Running { .. } => "running",
            Self::Ended { .. } => "ended",
        }
    }
}

/// What came of a pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum PairOutcome {
    /// Both directions were measured.
    Measured(PairNumbers),
    /// Measured beside something that makes the numbers worthless.
    Disturbed {
        /// What.
        why: String,
    },
    /// The listener waited, and the asker could not talk with it.
    Unreachable {
        /// What the asker's system said.
        why: String,
    },
    /// Cut short.
    Incomplete {
        /// Why.
        why: String,
    },
    /// Never begun.
    Skipped {
        /// Why.
        why: String,
    },
}

impl PairOutcome {
    /// The word for this outcome.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Measured(_) => "measured",
            Self::Disturbed { .. } => "disturbed",
            Self::Unreachable { .. } => "unreachable",
            Self::Incomplete { .. } => "incomplete",
            Self::Skipped { .. } => "skipped",
        }
    }

    /// The one-line detail, if there is one.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Measured(_) => None,
            Self::Disturbed { why }
            | Self::Unreachable { why }
            | Self::Incomplete { why }
            | Self::Skipped { why } => Some(why),
        }
    }
}

/// What was measured between an asker and a listener.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PairNumbers {
    /// The median bandwidth from the asker to the listener, in Gbit/s.
    pub out_gbps: f64,
    /// The median bandwidth from the listener to the asker, in Gbit/s.
    pub back_gbps: f64,
    /// The share of datagrams that did not reach the listener, 0 to 1.
    pub out_loss: f64,
    /// The share of answers that did not reach the asker, 0 to 1.
    pub back_loss: f64,
    /// The median round trip, in microseconds.
    pub round_trip_microseconds: Option<f64>,
    /// What 19 of 20 round trips are faster than, in microseconds.
    pub slow_round_trip_microseconds: Option<f64>,
}

/// The part of a node in a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PairPlace {
    /// It measures and reports.
    Asker,
    /// It waits and answers.
    Listener,
}

/// The pair that a node is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PairTask {
    /// The number of the pair.
    pub number: u32,
    /// Its part in it.
    pub place: PairPlace,
}

/// What an agent is told of a pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairWish {
    /// The number of the pair.
    pub number: u32,
    /// What both have, and nobody else.
    pub key: GroupKey,
    /// What to do.
    pub side: PairSide,
}

/// What one of the two does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "side", rename_all = "snake_case")]
pub enum PairSide {
    /// Wait for the partner on a free port, and say which.
    Listen {
        /// The node's own address, by which the others reach it.
        address: String,
    },
    /// Measure both directions to a partner that waits.
    Ask {
        /// The partner's name.
        peer: String,
        /// The partner's address.
        address: String,
        /// The port that it waits on.
        port: u16,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;

    #[test]
    fn a_pair_reads_back_in_each_state_and_a_wish_does_not_tell_its_key() {
        let entropy = SeededEntropy::new(1);
        let node = || NodeId::new(Timestamp(0), &entropy);
        let numbers = PairNumbers {
            out_gbps: 10.0,
            back_gbps: 9.0,
            out_loss: 0.0,
            back_loss: 0.5,
            round_trip_microseconds: Some(80.0),
            slow_round_trip_microseconds: None,
        };
        let states = [
            PairState::Waiting { after: None },
            PairState::Running {
                began_at: Timestamp(0),
                port: Some(7),
                said: Some(PairOutcome::Measured(numbers)),
            },
            PairState::Ended {
                outcome: PairOutcome::Measured(numbers),
                ended_at: Timestamp(0),
            },
            PairState::Ended {
                outcome: PairOutcome::Unreachable { why: "x".into() },
                ended_at: Timestamp(0),
            },
        ];
        for state in states {
            let pair = StressPair {
                run: OperationId::new(Timestamp(0), &entropy),
                number: 1,
                round: 1,
                asker: node(),
                listener: node(),
                tries: 1,
                state,
            };
            let text = serde_json::to_string(&pair).expect("plain data");
            assert_eq!(serde_json::from_str::<StressPair>(&text).ok(), Some(pair));
        }
        let key = GroupKey::new(&entropy);
        let wish = PairWish {
            number: 1,
            key: key.clone(),
            side: PairSide::Listen {
                address: "10.0.0.1".into(),
            },
        };
        assert!(!format!("{wish:?}").contains(key.expose()));
    }
}
