//! `supernode collective check`: every operator, algorithm, type and reduction on a real group, against the oracle, bit for bit.
//!
//! Every rank makes the inputs of all ranks from one seed, so that nothing but the operators themselves is trusted.

use crate::element::{DataType, Reduction, f32_to_bf16, f32_to_f16};
use crate::group::{CollectiveError, Group};
use crate::operator::{Algorithm, Kind, Operator, Rank};
use crate::oracle;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Operators that were run.
    pub operators: usize,
    /// Those whose result had other bits than the oracle's, described.
    pub wrong: Vec<String>,
}

/// Sizes: none, one, fewer than ranks, not divisible, more than a packet.
const COUNTS: [usize; 5] = [0, 1, 3, 1021, 70_003];

/// Runs everything. All ranks call it with the same seed.
pub fn run(group: &Group, seed: u64) -> Result<Verdict, CollectiveError> {
    let mut verdict = Verdict {
        operators: 0,
        wrong: Vec::new(),
    };
    let (rank, world) = (group.rank(), group.world());
    let mut numbers = Numbers(seed);
    for data_type in DataType::ALL {
        for count in COUNTS {
            for operators in operators(world, data_type, count) {
                let inputs: Vec<Vec<u8>> = operators
                    .iter()
                    .enumerate()
                    .map(|(rank, operator)| {
                        numbers.take(data_type, operator.input_count(rank, world))
                    })
                    .collect();
                let wanted = oracle::output(&operators, &inputs, rank);
                let mut output = vec![0xa5; wanted.len()];
                let operator = &operators[rank];
                group.run_apart(operator.clone(), &inputs[rank], &mut output)?;
                verdict.operators += 1;
                if output != wanted {
                    verdict.wrong.push(format!(
                        "{} of {count} {data_type} by {}",
                        Kind::name_of(operator.kind.code()),
                        operator.algorithm
                    ));
                }
            }
        }
    }
    Ok(verdict)
}

/// All operators of one type and size, each as every rank calls it. Messages go around: rank `r` sends to `r + 1`, one pair at a time.
fn operators(world: usize, data_type: DataType, count: usize) -> Vec<Vec<Operator>> {
    let mut kinds = vec![Kind::AllGather, Kind::Barrier];
    for reduction in Reduction::ALL {
        kinds.push(Kind::AllReduce { reduction });
        kinds.push(Kind::ReduceScatter { reduction });
        let root = world / 2;
        kinds.push(Kind::Reduce { root, reduction });
    }
    for root in [0, world - 1] {
        kinds.push(Kind::Broadcast { root });
    }
    let mut all = Vec::new();
    for kind in kinds {
        for algorithm in Algorithm::of(&kind) {
            let operator = Operator::new(kind.clone(), data_type, count).by(*algorithm);
            all.push(vec![operator; world]);
        }
    }
    // Different counts between every two ranks, some of them none.
    let between = |from: Rank, to: Rank| count * ((from + 2 * to) % 3) / 2;
    let exchange = |rank: Rank| Kind::AllToAll {
        send: (0..world).map(|to| between(rank, to)).collect(),
        receive: (0..world).map(|from| between(from, rank)).collect(),
    };
    all.push(
        (0..world)
            .map(|rank| Operator::new(exchange(rank), data_type, 0))
            .collect(),
    );
    all
}

struct Numbers(u64);

impl Numbers {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word ^ (word >> 27)
    }

    /// Numbers of different sizes, so that another order of additions would show.
    fn take(&mut self, data_type: DataType, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count * data_type.size());
        for _ in 0..count {
            let word = self.next();
            #[expect(clippy::cast_precision_loss, reason = "any number will do")]
            let float = ((word >> 40) as f32 - 8_388_608.0) / f32::from(1_u16 << (word % 16));
            match data_type {
                DataType::F32 => bytes.extend(float.to_ne_bytes()),
                DataType::F64 => bytes.extend((f64::from(float) / 3.0).to_ne_bytes()),
                DataType::F16 => bytes.extend(f32_to_f16(float / 4096.0).to_ne_bytes()),
                DataType::Bf16 => bytes.extend(f32_to_bf16(float).to_ne_bytes()),
                DataType::I32 | DataType::I64 | DataType::U8 => {
                    bytes.extend(&word.to_ne_bytes()[..data_type.size()]);
                }
            }
        }
        bytes
    }
}
