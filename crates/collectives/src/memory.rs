//! The memory of an operator: input, output and scratch.
//!
//! Memory of the caller is either given away until the operator ends (`Vec<u8>`) or lent by address. Lending is the only unsafe thing
//! in here: who lends promises that the memory stays where it is and that nobody else touches it until the operator has ended.
//!
//! It refuses to be cloned: one operator owns one memory.

use crate::operator::{Operator, OperatorRefusal, Rank};
use crate::schedule::{Move, Space, Span};

/// A piece of memory that an operator may use until it ends.
#[derive(Debug)]
pub struct Buffer(Held);

#[derive(Debug)]
enum Held {
    Owned(Vec<u8>),
    Lent { start: *mut u8, len: usize },
}

// SAFETY: a lent buffer is like an exclusive reference, by the promise of `Buffer::lend`.
unsafe impl Send for Buffer {}

impl Buffer {
    /// Memory that is given away.
    pub fn owned(bytes: Vec<u8>) -> Self {
        Self(Held::Owned(bytes))
    }

    /// Memory of the caller.
    ///
    /// # Safety
    ///
    /// Until the operator has ended, `start .. start + len` stays valid, initialized memory that nobody else reads or writes. A buffer
    /// that is only an input may be read by others, and need not be writable.
    pub unsafe fn lend(start: *mut u8, len: usize) -> Self {
        if len == 0 {
            return Self(Held::Owned(Vec::new()));
        }
        Self(Held::Lent { start, len })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        match &self.0 {
            Held::Owned(bytes) => bytes.len(),
            Held::Lent { len, .. } => *len,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Held::Owned(bytes) => bytes,
            // SAFETY: valid and initialized by the promise of `lend`; nobody writes while `self` is borrowed.
            Held::Lent { start, len } => unsafe { std::slice::from_raw_parts(*start, *len) },
        }
    }

    /// The bytes of an output.
    fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Held::Owned(bytes) => bytes,
            // SAFETY: as above, and exclusive because `self` is borrowed exclusively.
            Held::Lent { start, len } => unsafe { std::slice::from_raw_parts_mut(*start, *len) },
        }
    }

    /// The memory that was given away; what was lent is copied.
    pub fn into_vec(self) -> Vec<u8> {
        match self.0 {
            Held::Owned(bytes) => bytes,
            Held::Lent { .. } => self.bytes().to_vec(),
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        let range = |buffer: &Self| {
            let start = buffer.bytes().as_ptr() as usize;
            (start, start + buffer.len())
        };
        let ((a, a_end), (b, b_end)) = (range(self), range(other));
        a < b_end && b < a_end
    }
}

/// The input of an operator.
#[derive(Debug)]
pub enum Input {
    /// Memory of its own.
    Apart(Buffer),
    /// The memory of the output.
    InPlace,
}

/// The three memories of one operator.
#[derive(Debug)]
pub struct Memory {
    input: Input,
    output: Buffer,
    scratch: Vec<u8>,
}

impl Memory {
    /// Checks that the buffers fit. An all-to-all, a reduce-scatter or an all-gather in place gets a copy of its input, because its
    /// schedule is not made for one memory.
    pub fn new(
        input: Input,
        output: Buffer,
        operator: &Operator,
        rank: Rank,
        world: usize,
    ) -> Result<Self, OperatorRefusal> {
        let size = operator.data_type.size();
        let fits = |which, found, count| {
            let wanted = count * size;
            if found == wanted {
                Ok(())
            } else {
                Err(OperatorRefusal::Buffer {
                    which,
                    found,
                    wanted,
                })
            }
        };
        let (input_count, output_count) = (
            operator.input_count(rank, world),
            operator.output_count(rank, world),
        );
        fits("output", output.len(), output_count)?;
        let input = match input {
            Input::Apart(buffer) if buffer.overlaps(&output) => {
                fits("input", buffer.len(), input_count)?;
                Input::Apart(Buffer::owned(buffer.bytes().to_vec()))
            }
            Input::Apart(buffer) => {
                fits("input", buffer.len(), input_count)?;
                Input::Apart(buffer)
            }
            Input::InPlace if input_count == 0 => Input::Apart(Buffer::owned(Vec::new())),
            Input::InPlace => {
                fits("input", output.len(), input_count)?;
                if matches!(operator.kind, crate::operator::Kind::AllToAll { .. }) {
                    Input::Apart(Buffer::owned(output.bytes().to_vec()))
                } else {
                    Input::InPlace
                }
            }
        };
        Ok(Self {
            input,
            output,
            scratch: Vec::new(),
        })
    }

    /// Whether results arrive where the input is.
    pub(crate) const fn is_in_place(&self) -> bool {
        matches!(self.input, Input::InPlace)
    }

    /// The input, as long as nothing has arrived in its place.
    pub(crate) fn input(&self) -> &[u8] {
        match &self.input {
            Input::Apart(buffer) => buffer.bytes(),
            Input::InPlace => self.output.bytes(),
        }
    }

    /// Brings back an input that results have arrived in the place of.
    pub(crate) fn restore(&mut self, input: &[u8]) {
        debug_assert!(self.is_in_place(), "other inputs are never written");
        self.output.bytes_mut().copy_from_slice(input);
    }

    /// Makes `len` bytes of scratch memory, all zero.
    pub(crate) fn make_scratch(&mut self, len: usize) {
        self.scratch = vec![0; len];
    }

    /// The bytes of a span.
    pub(crate) fn read(&self, span: Span, size: usize) -> &[u8] {
        let bytes = match (span.space, &self.input) {
            (Space::Input, Input::Apart(buffer)) => buffer.bytes(),
            (Space::Input, Input::InPlace) | (Space::Output, _) => self.output.bytes(),
            (Space::Scratch, _) => &self.scratch,
        };
        &bytes[span.start * size..(span.start + span.len) * size]
    }

    /// The bytes of a span that is written; never the input.
    pub(crate) fn write(&mut self, span: Span, size: usize) -> &mut [u8] {
        let bytes = match span.space {
            Space::Input => unreachable!("no schedule writes to the input"),
            Space::Output => self.output.bytes_mut(),
            Space::Scratch => &mut self.scratch,
        };
        &mut bytes[span.start * size..(span.start + span.len) * size]
    }

    /// A copy between two spaces; nothing where they are one memory.
    pub(crate) fn copy(&mut self, copy: Move, size: usize) {
        let Move { from, to } = copy;
        let source = from.start * size..(from.start + from.len) * size;
        let target = to.start * size..(to.start + to.len) * size;
        match (from.space, to.space, &self.input) {
            (Space::Input, Space::Output, Input::InPlace) => {}
            (Space::Input, Space::Output, Input::Apart(input)) => {
                self.output.bytes_mut()[target].copy_from_slice(&input.bytes()[source]);
            }
            (Space::Input, Space::Scratch, Input::Apart(input)) => {
                self.scratch[target].copy_from_slice(&input.bytes()[source]);
            }
            (Space::Input, Space::Scratch, Input::InPlace) => {
                self.scratch[target].copy_from_slice(&self.output.bytes()[source]);
            }
            (Space::Scratch, Space::Output, _) => {
                self.output.bytes_mut()[target].copy_from_slice(&self.scratch[source]);
            }
            _ => unreachable!("no schedule copies this way"),
        }
    }

    /// Whether an operator on `other` has to wait for one on this memory.
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let inputs = |memory: &Self| match &memory.input {
            Input::Apart(buffer) => memory.output.overlaps(buffer),
            Input::InPlace => false,
        };
        debug_assert!(!inputs(self), "overlapping inputs were copied");
        let touches = |output: &Buffer, memory: &Self| {
            output.overlaps(&memory.output)
                || matches!(&memory.input, Input::Apart(input) if output.overlaps(input))
        };
        touches(&self.output, other) || touches(&other.output, self)
    }

    /// Output, after the end.
    pub fn into_output(self) -> Buffer {
        self.output
    }
}
