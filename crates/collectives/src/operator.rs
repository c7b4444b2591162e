//! An operator: what all ranks of a group do together, and how large its buffers are.
//!
//! Every rank describes the operator itself. What must be equal everywhere goes into a header in front of the operator's bytes
//! (`stream::header`), so that programs that do not match are named instead of mixing their bytes.

use std::fmt;

use thiserror::Error;

use crate::element::{DataType, Reduction};

/// A place in the group: 0 … ranks - 1.
pub type Rank = usize;

/// What is done. Counts are elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Everybody gets the combination of all inputs. Input and output: `count`.
    AllReduce {
        /// How to combine.
        reduction: Reduction,
    },
    /// Rank `r` gets block `r` of the combination. Input: `count` for each rank; output: `count`.
    ReduceScatter {
        /// How to combine.
        reduction: Reduction,
    },
    /// Everybody gets all inputs, in the order of ranks. Input: `count`; output: `count` for each rank.
    AllGather,
    /// Everybody gets the root's input. Input: `count` on the root; output: `count`.
    Broadcast {
        /// Whose.
        root: Rank,
    },
    /// The root gets the combination of all inputs. Input: `count`; output: `count` on the root.
    Reduce {
        /// Who gets it.
        root: Rank,
        /// How to combine.
        reduction: Reduction,
    },
    /// Block `r` of the input goes to rank `r`; blocks arrive in the order of ranks. `count` is not used.
    AllToAll {
        /// Elements for each rank.
        send: Vec<usize>,
        /// Elements from each rank.
        receive: Vec<usize>,
    },
    /// One end of a message. Input: `count`.
    Send {
        /// The other end.
        to: Rank,
    },
    /// The other end of a message. Output: `count`.
    Receive {
        /// The sender.
        from: Rank,
    },
    /// Nobody leaves before everybody came. No buffers.
    Barrier,
}

impl Kind {
    /// The number on the wire; both ends of a message have the same.
    pub const fn code(&self) -> u8 {
        match self {
            Self::AllReduce { .. } => 1,
            Self::ReduceScatter { .. } => 2,
            Self::AllGather => 3,
            Self::Broadcast { .. } => 4,
            Self::Reduce { .. } => 5,
            Self::AllToAll { .. } => 6,
            Self::Send { .. } | Self::Receive { .. } => 7,
            Self::Barrier => 8,
        }
    }

    /// The name that people use, by the number on the wire.
    pub const fn name_of(code: u8) -> &'static str {
        match code {
            1 => "all-reduce",
            2 => "reduce-scatter",
            3 => "all-gather",
            4 => "broadcast",
            5 => "reduce",
            6 => "all-to-all",
            7 => "message",
            8 => "barrier",
            _ => "unknown operator",
        }
    }

    /// Whether only two ranks take part.
    pub const fn is_message(&self) -> bool {
        matches!(self, Self::Send { .. } | Self::Receive { .. })
    }

    /// The combination, for those operators that have one.
    pub const fn reduction(&self) -> Option<Reduction> {
        match self {
            Self::AllReduce { reduction }
            | Self::ReduceScatter { reduction }
            | Self::Reduce { reduction, .. } => Some(*reduction),
            _ => None,
        }
    }

    /// The root, for those operators that have one.
    pub const fn root(&self) -> Option<Rank> {
        match self {
            Self::Broadcast { root } | Self::Reduce { root, .. } => Some(*root),
            _ => None,
        }
    }
}

/// How the bytes travel. Part of the operator: all ranks have to take the same, and the order of combinations follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Segments around a ring: least traffic, `ranks - 1` hops.
    Ring,
    /// Partners at distance 1, 2, 4, …: fewest hops, every hop carries everything.
    Doubling,
    /// A binomial tree: logarithmic hops.
    Tree,
    /// One after the other, byte by byte: least traffic on each edge.
    Chain,
    /// Everybody with everybody, or the two ends of a message.
    Direct,
}

impl Algorithm {
    /// The number on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ring => 0,
            Self::Doubling => 1,
            Self::Tree => 2,
            Self::Chain => 3,
            Self::Direct => 4,
        }
    }

    /// The algorithms that can do `kind`, the one for small sizes first.
    pub const fn of(kind: &Kind) -> &'static [Self] {
        match kind {
            Kind::AllReduce { .. } => &[Self::Doubling, Self::Ring],
            Kind::ReduceScatter { .. } => &[Self::Ring],
            Kind::AllGather => &[Self::Direct, Self::Ring],
            Kind::Broadcast { .. } | Kind::Reduce { .. } => &[Self::Tree, Self::Chain],
            Kind::AllToAll { .. } | Kind::Send { .. } | Kind::Receive { .. } => &[Self::Direct],
            Kind::Barrier => &[Self::Doubling],
        }
    }

    /// The choice for operators of `bytes` (of the smaller buffer) when nobody asks for another. A pure function of what all ranks know.
    pub fn choose(kind: &Kind, bytes: usize) -> Self {
        // Above it, traffic costs more than hops. Over sockets a hop is a process that has to be woken: an all-reduce of 16 KiB by
        // doubling takes a tenth of the time of a ring.
        let small = match kind {
            Kind::AllReduce { .. } => 128 * 1024,
            _ => 8 * 1024,
        };
        let choices = Self::of(kind);
        choices[if bytes <= small { 0 } else { choices.len() - 1 }]
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Ring => "ring",
            Self::Doubling => "doubling",
            Self::Tree => "tree",
            Self::Chain => "chain",
            Self::Direct => "direct",
        })
    }
}

/// One operator as one rank sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// What is done.
    pub kind: Kind,
    /// The type of the elements.
    pub data_type: DataType,
    /// Elements; what it counts stands at each [`Kind`].
    pub count: usize,
    /// How the bytes travel.
    pub algorithm: Algorithm,
    /// Elements of a slice for each rank. An all-reduce around the ring goes slice by slice, which decides the order of its additions.
    pub segment: usize,
}

/// Bytes of a segment. Two slices, one that is reduced and one that is gathered, fit into the cache of a core.
const SEGMENT: usize = 256 * 1024;
/// Bytes that fit there anyway and are not cut.
const UNCUT: usize = 2 * 1024 * 1024;

impl Operator {
    /// An operator with the usual algorithm for its size.
    pub fn new(kind: Kind, data_type: DataType, count: usize) -> Self {
        let bytes = count.saturating_mul(data_type.size());
        let algorithm = Algorithm::choose(&kind, bytes);
        Self {
            kind,
            data_type,
            count,
            algorithm,
            segment: if bytes > UNCUT {
                SEGMENT / data_type.size()
            } else {
                count
            },
        }
    }

    /// The same in slices of another size.
    #[must_use]
    pub const fn in_segments_of(mut self, elements: usize) -> Self {
        self.segment = elements;
        self
    }

    /// Elements of one slice, at least one.
    pub(crate) fn slice(&self, world: usize) -> usize {
        self.segment.saturating_mul(world).max(1)
    }

    /// The same by another algorithm.
    #[must_use]
    pub fn by(mut self, algorithm: Algorithm) -> Self {
        self.algorithm = algorithm;
        self
    }

    /// Elements that `rank` of `world` gives.
    pub fn input_count(&self, rank: Rank, world: usize) -> usize {
        match &self.kind {
            Kind::AllReduce { .. } | Kind::AllGather | Kind::Reduce { .. } | Kind::Send { .. } => {
                self.count
            }
            Kind::ReduceScatter { .. } => self.count.saturating_mul(world),
            Kind::Broadcast { root } if *root == rank => self.count,
            Kind::AllToAll { send, .. } => send.iter().sum(),
            Kind::Broadcast { .. } | Kind::Receive { .. } | Kind::Barrier => 0,
        }
    }

    /// Elements that `rank` of `world` gets.
    pub fn output_count(&self, rank: Rank, world: usize) -> usize {
        match &self.kind {
            Kind::AllReduce { .. }
            | Kind::ReduceScatter { .. }
            | Kind::Broadcast { .. }
            | Kind::Receive { .. } => self.count,
            Kind::AllGather => self.count.saturating_mul(world),
            Kind::Reduce { root, .. } if *root == rank => self.count,
            Kind::AllToAll { receive, .. } => receive.iter().sum(),
            Kind::Reduce { .. } | Kind::Send { .. } | Kind::Barrier => 0,
        }
    }

    /// Whether `rank` of `world` can take part.
    pub fn validate(&self, rank: Rank, world: usize) -> Result<(), OperatorRefusal> {
        let member = |rank: Rank| {
            if rank < world {
                Ok(())
            } else {
                Err(OperatorRefusal::NoSuchRank { rank, world })
            }
        };
        match &self.kind {
            Kind::Broadcast { root } | Kind::Reduce { root, .. } => member(*root)?,
            Kind::Send { to: peer } | Kind::Receive { from: peer } => {
                member(*peer)?;
                if *peer == rank {
                    return Err(OperatorRefusal::MessageToSelf { rank });
                }
            }
            Kind::AllToAll { send, receive } => {
                for counts in [send, receive] {
                    if counts.len() != world {
                        return Err(OperatorRefusal::Splits {
                            found: counts.len(),
                            world,
                        });
                    }
                }
                if send[rank] != receive[rank] {
                    return Err(OperatorRefusal::OwnSplit {
                        send: send[rank],
                        receive: receive[rank],
                    });
                }
            }
            _ => {}
        }
        if !Algorithm::of(&self.kind).contains(&self.algorithm) {
            return Err(OperatorRefusal::Algorithm {
                kind: Kind::name_of(self.kind.code()),
                algorithm: self.algorithm,
            });
        }
        let largest = [
            self.input_count(rank, world),
            self.output_count(rank, world),
        ];
        if largest.iter().any(|count| {
            count
                .checked_mul(self.data_type.size())
                .is_none_or(|bytes| isize::try_from(bytes).is_err())
        }) {
            return Err(OperatorRefusal::TooLarge);
        }
        Ok(())
    }
}

/// Why an operator cannot be started, whatever the others do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OperatorRefusal {
    /// A root or peer outside the group.
    #[error("rank {rank} is not in the group of {world}")]
    NoSuchRank {
        /// The rank that was named.
        rank: Rank,
        /// Ranks in the group.
        world: usize,
    },
    /// A message from a rank to itself.
    #[error("rank {rank} cannot send a message to itself")]
    MessageToSelf {
        /// The rank.
        rank: Rank,
    },
    /// A list of counts that has another length than the group.
    #[error("an all-to-all needs one count for each of the {world} ranks, not {found}")]
    Splits {
        /// Counts in the list.
        found: usize,
        /// Ranks in the group.
        world: usize,
    },
    /// What a rank sends to itself is not what it expects from itself.
    #[error("the rank sends {send} elements to itself and expects {receive} from itself")]
    OwnSplit {
        /// Elements to itself.
        send: usize,
        /// Elements from itself.
        receive: usize,
    },
    /// An algorithm that cannot do this.
    #[error("the algorithm {algorithm} cannot do {kind}")]
    Algorithm {
        /// What should be done.
        kind: &'static str,
        /// What cannot do it.
        algorithm: Algorithm,
    },
    /// Larger than memory can be.
    #[error("the buffers would be larger than memory can be")]
    TooLarge,
    /// A buffer that does not fit the operator.
    #[error("the {which} buffer has {found} bytes, and the operator needs {wanted}")]
    Buffer {
        /// `input` or `output`.
        which: &'static str,
        /// Bytes it has.
        found: usize,
        /// Bytes it should have.
        wanted: usize,
    },
}
