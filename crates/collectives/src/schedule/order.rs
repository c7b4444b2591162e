//! The order in which contributions are combined: the definition that schedules are checked against and that the oracle computes.
//!
//! Floating-point results depend on the order, so it is part of what an operator means. It follows from the operator and the
//! number of ranks alone. A broken connection, a slow rank or another lane cannot change it.

use crate::operator::{Algorithm, Kind, Operator, Rank};

/// An expression over ranks; combining is commutative, so left and right do not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fold {
    /// What one rank gave.
    One(Rank),
    /// Two values combined.
    Two(Box<Self>, Box<Self>),
}

impl Fold {
    fn then(self, other: Self) -> Self {
        Self::Two(Box::new(self), Box::new(other))
    }
}

/// Where `len` elements of an output come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The first element in the output.
    pub output: usize,
    /// The first element in the input of every rank that the fold names.
    pub input: usize,
    /// How many.
    pub len: usize,
    /// How they are combined.
    pub fold: Fold,
}

/// Where the output of `rank` comes from, given the operator as each rank of the group describes it. Empty for a rank without output.
pub fn origins(operators: &[Operator], rank: Rank) -> Vec<Origin> {
    let world = operators.len();
    let operator = &operators[rank];
    let count = operator.count;
    let whole = |fold| {
        vec![Origin {
            output: 0,
            input: 0,
            len: count,
            fold,
        }]
    };
    match &operator.kind {
        Kind::AllReduce { .. } if operator.algorithm == Algorithm::Ring => {
            let slices = super::ring::slices(count, operator.slice(world));
            let part = |slice, index| {
                let part = super::ring::part_of(slice, world, index);
                Origin {
                    output: part.start,
                    input: part.start,
                    len: part.len,
                    fold: around(index, world),
                }
            };
            slices
                .flat_map(|slice| (0..world).map(move |index| part(slice, index)))
                .collect()
        }
        Kind::AllReduce { .. } => whole(pairwise(world)),
        Kind::ReduceScatter { .. } => vec![Origin {
            output: 0,
            input: rank * count,
            len: count,
            fold: around(rank, world),
        }],
        Kind::AllGather => (0..world)
            .map(|from| Origin {
                output: from * count,
                input: 0,
                len: count,
                fold: Fold::One(from),
            })
            .collect(),
        Kind::Broadcast { root } => whole(Fold::One(*root)),
        Kind::Reduce { root, .. } if *root == rank => whole(match operator.algorithm {
            Algorithm::Chain => chain(*root, world),
            _ => tree(0, *root, world),
        }),
        Kind::AllToAll { receive, .. } => (0..world)
            .map(|from| {
                let Kind::AllToAll { send, .. } = &operators[from].kind else {
                    unreachable!("all ranks run the same kind")
                };
                Origin {
                    output: receive[..from].iter().sum(),
                    input: send[..rank].iter().sum(),
                    len: receive[from],
                    fold: Fold::One(from),
                }
            })
            .collect(),
        Kind::Receive { from } => whole(Fold::One(*from)),
        Kind::Reduce { .. } | Kind::Send { .. } | Kind::Barrier => Vec::new(),
    }
}

/// Segment `index` starts at the rank after it and goes around.
fn around(index: usize, world: usize) -> Fold {
    (2..=world)
        .map(|hop| Fold::One((index + hop) % world))
        .fold(Fold::One((index + 1) % world), Fold::then)
}

/// Neighbours first, then neighbouring pairs; ranks beyond the largest power of two join their partner before.
fn pairwise(world: usize) -> Fold {
    let core = 1 << world.ilog2();
    let mut values: Vec<Fold> = (0..core)
        .map(|rank| {
            let own = Fold::One(rank);
            if rank + core < world {
                own.then(Fold::One(rank + core))
            } else {
                own
            }
        })
        .collect();
    while values.len() > 1 {
        let mut pairs = values.into_iter();
        values = std::iter::from_fn(|| Some(pairs.next()?.then(pairs.next()?))).collect();
    }
    values.remove(0)
}

/// From the far end to the root.
fn chain(root: Rank, world: usize) -> Fold {
    let at = |place: usize| Fold::One((place + root) % world);
    (0..world - 1)
        .rev()
        .fold(at(world - 1), |value, place| at(place).then(value))
}

/// A place of the binomial tree, then its children with rising places.
fn tree(place: usize, root: Rank, world: usize) -> Fold {
    let mut value = Fold::One((place + root) % world);
    let mut bit = 1;
    while (place == 0 || bit < place & place.wrapping_neg()) && place + bit < world {
        value = value.then(tree(place + bit, root, world));
        bit *= 2;
    }
    value
}
