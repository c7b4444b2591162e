//! Tier 2: what a group does about a stream that cannot be resumed. A pure function of what all ranks say.
//!
//! Broken connections and damaged frames never come here: the sender still has the bytes, and sends them again. When it has them no
//! longer, the only way to get them back is to execute the operator again. Each rank stops its streams and says in a [`RetryInfo`] how far it is; everybody
//! who has all of them comes to the same [`Verdict`]. There is no coordinator that could get lost.
//!
//! ```text
//!                    a stream is lost, or an info came (node)        all infos are here   (node)
//! RUNNING --------------------------------------------------> WAIT_CHECK_INFO --> CHECK_OP (decide)
//!    ^                                                                               |  |  |
//!    +----- RESUME: nothing was lost after all, streams go on -----------------------+  |  |
//!    +----- CAN_RETRY: new streams, operators from N on begin again --------------------+  |
//!                                                       RETRY_FAIL: a reason and a rank <--+
//! ```
//!
//! The words are those of HCCL's operator retry where it has the same state. What differs: ranks may be in different operators. One that has ended
//! an operator takes part with a copy of its input, into memory that nobody sees: what it gave to its caller stays as it is.
//!
//! It refuses to execute again what it cannot execute with the same input.

use std::fmt;

use crate::failure::Failure;
use crate::operator::Rank;

/// Where a rank is. The words are HCCL's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Streams flow, or are resumed.
    Running,
    /// Streams stand still; infos of others are missing.
    WaitCheckInfo,
    /// The group has stopped.
    RetryFail,
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Running => "RUNNING",
            Self::WaitCheckInfo => "WAIT_CHECK_INFO",
            Self::RetryFail => "RETRY_FAIL",
        })
    }
}

/// A directed edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// The sender.
    pub from: Rank,
    /// The receiver.
    pub to: Rank,
}

/// A stream whose sender no longer has all that the receiver may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lost {
    /// The stream.
    pub edge: Edge,
    /// Bytes before this one are gone.
    pub before: u64,
}

/// Why a rank cannot execute an operator again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// It works in place, and results have arrived where the input was.
    Overwritten,
    /// It has ended, its memory is the caller's again, and no copy was kept.
    NotKept,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Overwritten => {
                "works in place, has overwritten its input, and it was too large for a copy"
            }
            Self::NotKept => "has ended it and no longer has a copy of its input",
        })
    }
}

/// How often the operators at one place were executed again, and which place that is: it moves with every progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repeated {
    /// The first collective that was executed again.
    pub operator: u64,
    /// Messages that had arrived anywhere in the group.
    pub messages: u64,
    /// How often.
    pub times: u64,
}

/// What a rank says to all others. Its streams stand still from then on until the verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryInfo {
    /// A stream to another rank of which it lost bytes.
    pub lost: Option<Lost>,
    /// Re-executions of one operator that it allows.
    pub max_retries: u64,
    /// The first collective that has not ended on this rank.
    pub open: u64,
    /// It can execute this collective and all after it again.
    pub repeatable: u64,
    /// Why not those before.
    pub obstacle: Obstacle,
    /// Its last re-execution.
    pub repeated: Repeated,
    /// By rank.
    pub peers: Vec<PeerInfo>,
}

/// What a rank says about its edges to and from another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerInfo {
    /// The first message from it that has not ended.
    pub open: u64,
    /// It can send this message to it, and all after it, again.
    pub repeatable: u64,
    /// Bytes of the present stream to it that went out.
    pub sent: u64,
    /// Bytes of the present stream from it that are here.
    pub received: u64,
}

/// What the group does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver has what the sender has lost: streams go on where they stand.
    Resume(Repeated),
    /// New streams; every operator that is not over everywhere begins again.
    Repeat(Repeated),
    /// It cannot go on, and this is why.
    Fail(Failure),
}

/// The verdict. `infos` are those of one round, by rank; all ranks have the same ones and get the same answer.
pub fn decide(infos: &[RetryInfo]) -> Verdict {
    let first = infos.iter().map(|info| info.open).min().unwrap_or(0);
    let peers = infos.iter().flat_map(|info| &info.peers);
    let messages = peers.fold(0_u64, |sum, peer| sum.wrapping_add(peer.open));
    let same = infos
        .iter()
        .map(|info| info.repeated)
        .filter(|one| (one.operator, one.messages) == (first, messages));
    let times = same.map(|one| one.times).max().unwrap_or(0);
    let repeated = Repeated {
        operator: first,
        messages,
        times: times.saturating_add(1),
    };
    let Some(first_lost) = infos.iter().filter_map(|info| info.lost).min() else {
        return Verdict::Resume(repeated);
    };
    let allowed = infos.iter().map(|info| info.max_retries).min().unwrap_or(0);
    if times >= allowed {
        return Verdict::Fail(Failure::RetriesExhausted {
            edge: first_lost.edge,
            operator: first,
            times,
        });
    }
    let is_missing = |lost: &Lost| infos[lost.edge.to].peers[lost.edge.from].received < lost.before;
    let missing = infos.iter().filter_map(|info| info.lost).filter(is_missing);
    let Some(Lost { edge, .. }) = missing.min() else {
        return Verdict::Resume(repeated);
    };
    match obstacle(infos, edge, first) {
        Some(failure) => Verdict::Fail(failure),
        None => Verdict::Repeat(repeated),
    }
}

/// Who cannot execute again what has to be: collectives from `first` on, and messages that have not ended where they go.
fn obstacle(infos: &[RetryInfo], edge: Edge, first: u64) -> Option<Failure> {
    let refusal = |rank, operator, obstacle| {
        Some(Failure::NotRepeatable {
            edge,
            rank,
            operator,
            obstacle,
        })
    };
    for (rank, info) in infos.iter().enumerate() {
        if info.repeatable > first {
            return refusal(rank, format!("collective {first}"), info.obstacle);
        }
    }
    for (to, receiver) in infos.iter().enumerate() {
        for (from, peer) in receiver.peers.iter().enumerate() {
            if from != to && infos[from].peers[to].repeatable > peer.open {
                let message = format!("message {} from rank {from} to rank {to}", peer.open);
                return refusal(from, message, Obstacle::NotKept);
            }
        }
    }
    None
}

impl RetryInfo {
    /// Numbers before those of the peers.
    const NUMBERS: usize = 10;

    /// Bytes of the info of a rank among `world`.
    pub(crate) const fn len(world: usize) -> usize {
        8 * (Self::NUMBERS + 4 * world)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let none = u64::MAX;
        let rank = |rank: Rank| u64::try_from(rank).unwrap_or(none);
        let [from, to, before] = self.lost.map_or([none; 3], |Lost { edge, before }| {
            [rank(edge.from), rank(edge.to), before]
        });
        let mut numbers = vec![
            from,
            to,
            before,
            self.max_retries,
            self.open,
            self.repeatable,
            u64::from(self.obstacle == Obstacle::NotKept),
            self.repeated.operator,
            self.repeated.messages,
            self.repeated.times,
        ];
        for peer in &self.peers {
            numbers.extend([peer.open, peer.repeatable, peer.sent, peer.received]);
        }
        numbers.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    /// `None` if it is not the info of a rank among `world`.
    pub(crate) fn decode(bytes: &[u8], world: usize) -> Option<Self> {
        if bytes.len() != Self::len(world) {
            return None;
        }
        let (numbers, _) = bytes.as_chunks::<8>();
        let numbers: Vec<u64> = numbers.iter().map(|one| u64::from_le_bytes(*one)).collect();
        let (own, peers) = numbers.split_at(Self::NUMBERS);
        let rank = |number: u64| usize::try_from(number).ok().filter(|rank| *rank < world);
        let lost = match (own[0], own[1]) {
            (u64::MAX, u64::MAX) => None,
            (from, to) => Some(Lost {
                edge: Edge {
                    from: rank(from)?,
                    to: rank(to)?,
                },
                before: own[2],
            }),
        };
        let peers = peers.as_chunks::<4>().0.iter();
        Some(Self {
            lost,
            max_retries: own[3],
            open: own[4],
            repeatable: own[5],
            obstacle: if own[6] == 0 {
                Obstacle::Overwritten
            } else {
                Obstacle::NotKept
            },
            repeated: Repeated {
                operator: own[7],
                messages: own[8],
                times: own[9],
            },
            peers: peers
                .map(|[open, repeatable, sent, received]| PeerInfo {
                    open: *open,
                    repeatable: *repeatable,
                    sent: *sent,
                    received: *received,
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What happened to one operator on one rank.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Fate {
        /// Given to the caller, and a copy of the input was kept or not.
        Ended { kept: bool },
        /// Not ended, and its input is as it was or not.
        Open { intact: bool },
    }

    fn fate() -> impl Strategy<Value = Fate> {
        prop_oneof![
            any::<bool>().prop_map(|kept| Fate::Ended { kept }),
            any::<bool>().prop_map(|intact| Fate::Open { intact }),
        ]
    }

    const fn is_repeatable(fate: Fate) -> bool {
        matches!(
            fate,
            Fate::Ended { kept: true } | Fate::Open { intact: true }
        )
    }

    fn first_after(fates: &[Fate], is: impl Fn(Fate) -> bool) -> u64 {
        let last = fates.iter().rposition(|fate| is(*fate));
        last.map_or(0, |last| last as u64 + 1)
    }

    fn first_open(fates: &[Fate]) -> u64 {
        let open = |fate: &Fate| matches!(fate, Fate::Open { .. });
        fates.iter().position(open).unwrap_or(fates.len()) as u64
    }

    /// A group of ranks with the fates of their collectives and of the messages on each edge.
    #[derive(Debug, Clone)]
    struct Group {
        collectives: Vec<Vec<Fate>>,
        /// Received, by receiver and sender.
        received: Vec<Vec<Vec<Fate>>>,
        /// Sent, by sender and receiver.
        sent: Vec<Vec<Vec<Fate>>>,
        lost: Vec<Option<Lost>>,
        repeated: Vec<Repeated>,
    }

    impl Group {
        fn world(&self) -> usize {
            self.collectives.len()
        }

        fn infos(&self) -> Vec<RetryInfo> {
            let info = |rank: Rank| RetryInfo {
                lost: self.lost[rank],
                max_retries: 3,
                open: first_open(&self.collectives[rank]),
                repeatable: first_after(&self.collectives[rank], |fate| !is_repeatable(fate)),
                obstacle: Obstacle::NotKept,
                repeated: self.repeated[rank],
                peers: (0..self.world())
                    .map(|peer| PeerInfo {
                        open: first_open(&self.received[rank][peer]),
                        repeatable: first_after(&self.sent[rank][peer], |fate| {
                            !is_repeatable(fate)
                        }),
                        sent: 9,
                        received: 5,
                    })
                    .collect(),
            };
            (0..self.world()).map(info).collect()
        }
    }

    fn group() -> impl Strategy<Value = Group> {
        (1_usize..6).prop_flat_map(|world| {
            let fates = |most| proptest::collection::vec(fate(), 0..most);
            let square = move || {
                let row = proptest::collection::vec(fates(3), world);
                proptest::collection::vec(row, world)
            };
            let lost = (0..world, 0..world, 4..8_u64).prop_map(|(from, to, before)| Lost {
                edge: Edge { from, to },
                before,
            });
            let repeated =
                (0..4_u64, 0..4_u64, 0..5_u64).prop_map(|(operator, messages, times)| Repeated {
                    operator,
                    messages,
                    times,
                });
            (
                proptest::collection::vec(fates(5), world),
                square(),
                square(),
                proptest::collection::vec(proptest::option::of(lost), world),
                proptest::collection::vec(repeated, world),
            )
                .prop_map(|(collectives, received, sent, lost, repeated)| Group {
                    collectives,
                    received,
                    sent,
                    lost,
                    repeated,
                })
        })
    }

    proptest! {
        /// Whatever the infos say on the wire, every rank reads the same and decides the same.
        #[test]
        fn all_ranks_decide_the_same(group in group()) {
            let infos = group.infos();
            let verdict = decide(&infos);
            for _ in 0..group.world() {
                let read: Option<Vec<RetryInfo>> = infos
                    .iter()
                    .map(|info| RetryInfo::decode(&info.encode(), group.world()))
                    .collect();
                prop_assert_eq!(&read, &Some(infos.clone()));
                prop_assert_eq!(&decide(&read.unwrap_or_default()), &verdict);
            }
        }

        /// What is executed again has the same input everywhere, and it is everything that some rank waits for.
        #[test]
        fn only_what_has_its_input_is_executed_again(group in group()) {
            let Verdict::Repeat(Repeated { operator, .. }) = decide(&group.infos()) else {
                return Ok(());
            };
            let from = usize::try_from(operator).expect("few operators");
            for fates in &group.collectives {
                for fate in fates.iter().skip(from) {
                    prop_assert!(is_repeatable(*fate), "{:?} from {}", fates, from);
                }
                for fate in fates.iter().take(from) {
                    prop_assert!(matches!(fate, Fate::Ended { .. }), "{:?} is forgotten", fates);
                }
            }
            for (receiver, row) in group.received.iter().enumerate() {
                for (sender, fates) in row.iter().enumerate().filter(|(sender, _)| *sender != receiver) {
                    let open = usize::try_from(first_open(fates)).expect("few messages");
                    for fate in group.sent[sender][receiver].iter().skip(open) {
                        prop_assert!(is_repeatable(*fate));
                    }
                }
            }
        }

        /// It fails only for a reason that is there, and names a rank that is to blame for it.
        #[test]
        fn a_refusal_is_true(group in group()) {
            let is_missing = group.lost.iter().flatten().any(|lost| lost.before > 5);
            match decide(&group.infos()) {
                Verdict::Resume(_) => prop_assert!(!is_missing),
                Verdict::Repeat(_) => prop_assert!(is_missing),
                Verdict::Fail(Failure::NotRepeatable { rank, .. }) => {
                    let mut own = group.collectives[rank].iter().chain(group.sent[rank].iter().flatten());
                    prop_assert!(own.any(|fate| !is_repeatable(*fate)));
                }
                Verdict::Fail(Failure::RetriesExhausted { times, .. }) => prop_assert!(times >= 3),
                Verdict::Fail(other) => prop_assert!(false, "{}", other),
            }
        }

        /// A group that loses its streams again and again ends, with or without progress in between.
        #[test]
        fn it_never_loops(
            group in group(),
            progress in proptest::collection::vec((0..5_usize, 0..3_usize), 0..40),
        ) {
            let mut group = group;
            let mut progress = progress.into_iter();
            let mut without_progress = 0;
            loop {
                match decide(&group.infos()) {
                    Verdict::Fail(_) => break,
                    Verdict::Resume(_) if group.lost.iter().all(Option::is_none) => break,
                    Verdict::Resume(repeated) | Verdict::Repeat(repeated) => {
                        group.repeated.fill(repeated);
                    }
                }
                without_progress += 1;
                prop_assert!(without_progress <= 3, "an operator is executed again for ever");
                let Some((rank, many)) = progress.next() else { continue };
                let before = group.infos().iter().map(|info| info.open).min();
                let rank = rank % group.world();
                let open = group.collectives[rank]
                    .iter_mut()
                    .filter(|fate| matches!(fate, Fate::Open { .. }));
                for fate in open.take(many) {
                    *fate = Fate::Ended { kept: true };
                }
                if group.infos().iter().map(|info| info.open).min() > before {
                    without_progress = 0;
                }
            }
        }
    }

    #[test]
    fn a_refusal_names_the_stream_the_operator_and_the_rank() {
        let info = |lost, open, repeatable| RetryInfo {
            lost,
            max_retries: 3,
            open,
            repeatable,
            obstacle: Obstacle::Overwritten,
            repeated: Repeated::default(),
            peers: vec![PeerInfo::default(); 2],
        };
        let lost = |before| {
            let edge = Edge { from: 1, to: 0 };
            Some(Lost { edge, before })
        };
        let verdict = decide(&[info(lost(9), 7, 7), info(None, 8, 8)]);
        let Verdict::Fail(failure) = verdict else {
            panic!("rank 1 cannot execute collective 7 again")
        };
        assert_eq!(
            failure.to_string(),
            "bytes of the stream from rank 1 to rank 0 are lost and collective 7 cannot be executed again: rank 1 works in place, has overwritten its input, and it was too large for a copy"
        );
        let repeated = Repeated {
            operator: 7,
            messages: 0,
            times: 1,
        };
        let decide = |lost| decide(&[info(lost, 7, 7), info(None, 8, 0)]);
        assert_eq!(decide(None), Verdict::Resume(repeated));
        assert_eq!(decide(lost(0)), Verdict::Resume(repeated));
        assert_eq!(decide(lost(9)), Verdict::Repeat(repeated));
    }
}
