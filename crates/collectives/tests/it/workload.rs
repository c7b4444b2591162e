//! Random operators with random inputs, and what they have to give.

use supernode_collectives::element::{DataType, Reduction, f32_to_bf16, f32_to_f16};
use supernode_collectives::memory::{Buffer, Input, Memory};
use supernode_collectives::operator::{Algorithm, Kind, Operator, Rank};
use supernode_collectives::oracle;

use crate::random::Random;

/// One operator of a group: what each rank calls, what it gives, what it has to get. `None`: the rank takes no part.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) calls: Vec<Option<Call>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) operator: Operator,
    pub(crate) input: Vec<u8>,
    pub(crate) in_place: bool,
    pub(crate) wanted: Vec<u8>,
}

impl Call {
    /// Fresh memory for this call.
    pub(crate) fn memory(&self, rank: Rank, world: usize) -> Memory {
        let len = self.operator.output_count(rank, world) * self.operator.data_type.size();
        let (input, output) = if self.in_place {
            (Input::InPlace, self.input.clone())
        } else {
            let input = Buffer::owned(self.input.clone());
            // Whatever was in the output before must not matter.
            (Input::Apart(input), vec![0xa5; len])
        };
        Memory::new(input, Buffer::owned(output), &self.operator, rank, world)
            .expect("the buffers were made for the operator")
    }
}

impl Work {
    /// The same operator on all ranks.
    pub(crate) fn everywhere(operator: &Operator, world: usize, random: &mut Random) -> Self {
        Self::new(&vec![operator.clone(); world], random)
    }

    fn new(operators: &[Operator], random: &mut Random) -> Self {
        let world = operators.len();
        let inputs: Vec<Vec<u8>> = operators
            .iter()
            .enumerate()
            .map(|(rank, operator)| {
                elements(
                    operator.data_type,
                    operator.input_count(rank, world),
                    random,
                )
            })
            .collect();
        let calls = operators.iter().enumerate().map(|(rank, operator)| {
            let (input, output) = (
                operator.input_count(rank, world),
                operator.output_count(rank, world),
            );
            Some(Call {
                operator: operator.clone(),
                input: inputs[rank].clone(),
                in_place: input == output && input > 0 && random.once_in(2),
                wanted: oracle::output(operators, &inputs, rank),
            })
        });
        Self {
            calls: calls.collect(),
        }
    }

    /// Any operator.
    pub(crate) fn random(world: usize, largest: usize, random: &mut Random) -> Self {
        let data_type = *random.pick(&DataType::ALL);
        let reduction = *random.pick(&Reduction::ALL);
        let root = random.below(world);
        let count = match random.below(4) {
            0 => random.below(4),
            1 => random.below(2 * world + 1),
            _ => random.below(largest),
        };
        let kind = match random.below(10) {
            0..=2 => Kind::AllReduce { reduction },
            3 => Kind::ReduceScatter { reduction },
            4 => Kind::AllGather,
            5 => Kind::Broadcast { root },
            6 => Kind::Reduce { root, reduction },
            7 => return Self::all_to_all(world, data_type, largest, random),
            8 if world > 1 => return Self::message(world, data_type, count, random),
            _ => Kind::Barrier,
        };
        let algorithm = *random.pick(Algorithm::of(&kind));
        let mut operator = Operator::new(kind, data_type, count).by(algorithm);
        if random.once_in(2) {
            operator = operator.in_segments_of(1 + random.below(count / world + 1));
        }
        Self::everywhere(&operator, world, random)
    }

    fn all_to_all(world: usize, data_type: DataType, largest: usize, random: &mut Random) -> Self {
        let counts: Vec<Vec<usize>> = (0..world)
            .map(|_| {
                (0..world)
                    .map(|_| random.below(largest / world + 1))
                    .collect()
            })
            .collect();
        let operators = (0..world).map(|rank| {
            let kind = Kind::AllToAll {
                send: counts[rank].clone(),
                receive: counts.iter().map(|row| row[rank]).collect(),
            };
            Operator::new(kind, data_type, 0)
        });
        Self::new(&operators.collect::<Vec<_>>(), random)
    }

    fn message(world: usize, data_type: DataType, count: usize, random: &mut Random) -> Self {
        let from = random.below(world);
        let to = (from + 1 + random.below(world - 1)) % world;
        let input = elements(data_type, count, random);
        let call = |kind, input: &[u8], wanted: &[u8]| {
            Some(Call {
                operator: Operator::new(kind, data_type, count),
                input: input.to_vec(),
                in_place: false,
                wanted: wanted.to_vec(),
            })
        };
        let mut calls = vec![None; world];
        calls[from] = call(Kind::Send { to }, &input, &[]);
        calls[to] = call(Kind::Receive { from }, &[], &input);
        Self { calls }
    }
}

/// Numbers of very different sizes, so that the order of additions shows; no NaN, because its bits are not specified.
pub(crate) fn elements(data_type: DataType, count: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count * data_type.size());
    for _ in 0..count {
        let word = random.next();
        #[expect(clippy::cast_precision_loss, reason = "any number will do")]
        let float = ((word >> 40) as f32 - 8_388_608.0) * 2f32.powi((word % 30) as i32 - 38);
        match data_type {
            DataType::F32 => bytes.extend(float.to_ne_bytes()),
            DataType::F64 => bytes.extend((f64::from(float) * 1.000_000_1).to_ne_bytes()),
            DataType::F16 => bytes.extend(f32_to_f16(float).to_ne_bytes()),
            DataType::Bf16 => bytes.extend(f32_to_bf16(float).to_ne_bytes()),
            DataType::I32 | DataType::I64 | DataType::U8 => {
                bytes.extend(&word.to_ne_bytes()[..data_type.size()]);
            }
        }
    }
    bytes
}
