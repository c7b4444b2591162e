//! The header in front of an operator's bytes on an edge: what the sender runs, so that a receiver that runs something else says so.
//!
//! It is part of the numbered stream, so it is resumed like every other byte. It is no protection against damage; it names mistakes of programs.

use std::fmt;

use crate::element::{DataType, Reduction};
use crate::operator::{Kind, Operator, Rank};

/// Bytes of a header.
pub(crate) const LEN: usize = 48;

const MAGIC: u32 = u32::from_le_bytes(*b"SNop");
const NONE: u32 = u32::MAX;

/// What both ends have to agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    world: u32,
    /// Which collective of the group, or which message of the edge.
    sequence: u64,
    kind: u8,
    data_type: u8,
    reduction: u8,
    algorithm: u8,
    root: u32,
    /// Elements by the operator's own count; 0 where ranks may differ.
    count: u64,
    /// Elements of a segment; 0 where nothing is cut.
    segment: u64,
    /// Bytes that follow on this edge.
    payload: u64,
}

impl Header {
    pub(crate) fn new(operator: &Operator, world: usize, sequence: u64, payload: usize) -> Self {
        let small = |rank: Rank| u32::try_from(rank).expect("ranks are counted in 32 bits");
        let is_uneven = matches!(operator.kind, Kind::AllToAll { .. });
        let is_cut = operator.slice(world) < operator.count;
        Self {
            world: small(world),
            sequence,
            kind: operator.kind.code(),
            data_type: operator.data_type.code(),
            reduction: operator.kind.reduction().map_or(u8::MAX, Reduction::code),
            algorithm: operator.algorithm.code(),
            root: operator.kind.root().map_or(NONE, small),
            count: if is_uneven { 0 } else { operator.count as u64 },
            segment: if is_cut { operator.segment as u64 } else { 0 },
            payload: payload as u64,
        }
    }

    pub(crate) fn encode(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.world.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..20].copy_from_slice(&[self.kind, self.data_type, self.reduction, self.algorithm]);
        bytes[20..24].copy_from_slice(&self.root.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.count.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.segment.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.payload.to_le_bytes());
        bytes
    }

    /// `None` if it is no header at all.
    pub(crate) fn decode(bytes: &[u8; LEN]) -> Option<Self> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let long = |at: usize| u64::from(word(at)) | (u64::from(word(at + 4)) << 32);
        (word(0) == MAGIC).then(|| Self {
            world: word(4),
            sequence: long(8),
            kind: bytes[16],
            data_type: bytes[17],
            reduction: bytes[18],
            algorithm: bytes[19],
            root: word(20),
            count: long(24),
            segment: long(32),
            payload: long(40),
        })
    }
}

impl fmt::Display for Header {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", Kind::name_of(self.kind), self.sequence)?;
        match DataType::from_code(self.data_type) {
            Some(data_type) if Kind::name_of(self.kind) == "all-to-all" => {
                write!(formatter, " of {data_type}")?;
            }
            Some(data_type) => write!(formatter, " of {} {data_type}", self.count)?,
            None => write!(formatter, " of an unknown type")?,
        }
        if let Some(reduction) = Reduction::from_code(self.reduction) {
            write!(formatter, ", {reduction}")?;
        }
        if self.root != NONE {
            write!(formatter, ", root {}", self.root)?;
        }
        if self.segment != 0 {
            write!(formatter, ", in segments of {}", self.segment)?;
        }
        write!(
            formatter,
            ", {} bytes here, {} ranks",
            self.payload, self.world
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_wire_and_read_well() {
        let reduction = Reduction::Avg;
        let operator = Operator::new(Kind::Reduce { root: 2, reduction }, DataType::Bf16, 70);
        let header = Header::new(&operator, 4, 9, 140);
        assert_eq!(Header::decode(&header.encode()), Some(header));
        assert_eq!(
            header.to_string(),
            "reduce 9 of 70 bf16, avg, root 2, 140 bytes here, 4 ranks"
        );
        let cut = Operator::new(Kind::AllReduce { reduction }, DataType::U8, 70).in_segments_of(8);
        let header = Header::new(&cut, 4, 9, 140);
        assert_eq!(Header::decode(&header.encode()), Some(header));
        assert_eq!(
            header.to_string(),
            "all-reduce 9 of 70 u8, avg, in segments of 8, 140 bytes here, 4 ranks"
        );
        assert_eq!(Header::decode(&[7; LEN]), None);
    }
}
