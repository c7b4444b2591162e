//! What the network test of a run is about, and what it found.
//!
//! ```text
//!  (own tests are over) --nodes to pair (loop)--> Testing --last pair of a round ended (loop): judged--> another round, or Judged
//! ```
//! The nodes and where they sit are written down when it begins: so what is said of it can be said again from what is stored.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{NodeId, OperationId, Timestamp};

/// The network test of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StressNetwork {
    /// The run.
    pub run: OperationId,
    /// The nodes that are paired.
    pub nodes: Vec<NodeId>,
    /// The leaf switch of each, in the same order; all absent where that of one is not known.
    pub leaves: Vec<Option<String>>,
    /// When it began.
    pub began_at: Timestamp,
    /// How far it is.
    #[serde(flatten)]
    pub state: NetworkState,
}

impl StressNetwork {
    /// Whether it was judged and had nothing against a node.
    pub fn clears(&self, node: &NodeId) -> bool {
        match &self.state {
            NetworkState::Testing { .. } => false,
            NetworkState::Judged { verdict } => {
                self.nodes.contains(node)
                    && verdict.undecided.is_none()
                    && !verdict.unjudged.contains(node)
                    && verdict.findings_on(node).next().is_none()
            }
        }
    }
}

/// How far the network test of a run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum NetworkState {
    /// Pairs are measured.
    Testing {
        /// The round, from 1.
        round: u32,
    },
    /// It is over.
    Judged {
        /// What came of it.
        verdict: NetworkVerdict,
    },
}

/// What came of a network test.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkVerdict {
    /// How many rounds it took.
    pub rounds: u32,
    /// What is wrong.
    pub findings: Vec<NetworkFinding>,
    /// Why nothing can be said, if so.
    pub undecided: Option<String>,
    /// Nodes that had no flow that may be judged.
    pub unjudged: Vec<NodeId>,
}

impl NetworkVerdict {
    /// Nothing could be said, and why.
    pub fn nothing(rounds: u32, why: impl Into<String>) -> Self {
        Self {
            rounds,
            undecided: Some(why.into()),
            ..Self::default()
        }
    }

    /// The findings that point at a node.
    pub fn findings_on<'a>(
        &'a self,
        node: &'a NodeId,
    ) -> impl Iterator<Item = &'a NetworkFinding> + 'a {
        self.findings
            .iter()
            .filter(|finding| finding.nodes.contains(node))
    }
}

/// Something that is wrong with the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkFinding {
    /// Which part.
    pub place: NetworkPlace,
    /// What is wrong with it.
    pub fault: NetworkFault,
    /// How certain that is.
    pub certainty: Certainty,
    /// What and where, in one line.
    pub words: String,
    /// How probable the explanation is, 0 to 1.
    pub confidence: f64,
    /// By how much worse its flows are than the others: 0.05 is five percent; of a lossy part, the share that is lost.
    pub worse: f64,
    /// The median of its flows, in Gbit/s; of a lossy part, the share that arrives.
    pub measured: f64,
    /// The median of the others, in the same unit.
    pub baseline: f64,
    /// How many flows it was found in.
    pub flows: u32,
    /// Which other explanations are left, each with its probability, in words.
    pub others: Vec<String>,
    /// The nodes that it points at: none for a leaf switch.
    pub nodes: Vec<NodeId>,
}

/// A part of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "place", rename_all = "snake_case")]
pub enum NetworkPlace {
    /// What a node sends: its NIC, or its cable in that direction.
    NodeOut {
        /// The node.
        node: NodeId,
    },
    /// What a node receives.
    NodeIn {
        /// The node.
        node: NodeId,
    },
    /// Both directions of a node.
    Node {
        /// The node.
        node: NodeId,
    },
    /// What lies between two nodes alone.
    Pair {
        /// One.
        one: NodeId,
        /// The other.
        other: NodeId,
    },
    /// What leaves a leaf switch.
    LeafUp {
        /// The leaf.
        leaf: String,
    },
    /// What comes into a leaf switch.
    LeafDown {
        /// The leaf.
        leaf: String,
    },
}

impl NetworkPlace {
    /// Which kind of part, in a word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NodeOut { .. } => "node_out",
            Self::NodeIn { .. } => "node_in",
            Self::Node { .. } => "node",
            Self::Pair { .. } => "pair",
            Self::LeafUp { .. } => "leaf_up",
            Self::LeafDown { .. } => "leaf_down",
        }
    }

    /// The one node that it is a part of.
    pub fn node(&self) -> Option<&NodeId> {
        match self {
            Self::NodeOut { node } | Self::NodeIn { node } | Self::Node { node } => Some(node),
            Self::Pair { .. } | Self::LeafUp { .. } | Self::LeafDown { .. } => None,
        }
    }
}

/// What is wrong with a part of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NetworkFault {
    /// It is slow.
    Slow,
    /// It loses datagrams.
    Lossy,
    /// Nothing comes through.
    Unreachable,
}

/// How certain it is that a part is the one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// Named, and named again after another round.
    Confirmed,
    /// Named once.
    Doubtful,
    /// One of several that these nodes cannot tell apart.
    Ambiguous,
}
