//! What stands in the blocks of the test file: words that follow from where the block is and how often it was written.
//!
//! So a block that is stale, torn, flipped or in the wrong place is told apart from a right one without keeping a copy of anything.

/// Bytes of one block: the unit of random access and of verification.
pub(super) const BLOCK: usize = 4096;
const WORDS: usize = BLOCK / 8;
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

/// How much of a block is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Its first and last word: cheap enough for a timed read.
    Ends,
    /// All of it.
    Whole,
}

/// A word that is not what it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Difference {
    /// Its number in the block.
    pub(super) word: usize,
    pub(super) expected: u64,
    pub(super) got: u64,
}

fn first_word(block: u64, generation: u32) -> u64 {
    let mut state = block.wrapping_mul(STRIDE) ^ (u64::from(generation) << 40);
    crate::stress::number::split_mix(&mut state)
}

fn word(first: u64, position: usize) -> u64 {
    first.wrapping_add(STRIDE.wrapping_mul(position as u64))
}

/// Fills a block.
pub(super) fn fill(bytes: &mut [u8], block: u64, generation: u32) {
    let first = first_word(block, generation);
    for (position, bytes) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *bytes = word(first, position).to_le_bytes();
    }
}

/// The first word of a block that is wrong.
pub(super) fn check(bytes: &[u8], block: u64, generation: u32, depth: Depth) -> Option<Difference> {
    let first = first_word(block, generation);
    let words = bytes.as_chunks::<8>().0;
    let differs = |position: usize| {
        let (expected, got) = (word(first, position), u64::from_le_bytes(words[position]));
        (expected != got).then_some(Difference {
            word: position,
            expected,
            got,
        })
    };
    match depth {
        Depth::Ends => differs(0).or_else(|| differs(WORDS - 1)),
        Depth::Whole => (0..WORDS).find_map(differs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_wrong_block_is_found() {
        let mut block = vec![0; BLOCK];
        fill(&mut block, 7, 3);
        assert_eq!(check(&block, 7, 3, Depth::Whole), None);
        for depth in [Depth::Ends, Depth::Whole] {
            assert!(check(&block, 8, 3, depth).is_some(), "in the wrong place");
            assert!(check(&block, 7, 2, depth).is_some(), "stale");
            assert!(check(&[0; BLOCK], 7, 3, depth).is_some(), "never written");
        }
        let mut torn = block.clone();
        fill(&mut block, 7, 4);
        torn[BLOCK / 2..].copy_from_slice(&block[BLOCK / 2..]);
        let found = check(&torn, 7, 3, Depth::Ends).expect("torn");
        assert_eq!(found.word, WORDS - 1);
        let mut flipped = block.clone();
        flipped[100] ^= 1;
        let found = check(&flipped, 7, 4, Depth::Whole).expect("flipped");
        assert_eq!((found.word, found.expected ^ found.got), (12, 1 << 32));
    }
}
