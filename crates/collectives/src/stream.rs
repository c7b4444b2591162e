//! One directed edge: an endless numbered stream of bytes from one rank to another.
//!
//! Bytes are numbered from the creation of the group and never start again, neither at an operator nor at a connection. The sender keeps
//! every byte until the receiver has acknowledged it: in the memory it is sent from while the operator runs, in the replay window after
//! that. The receiver only counts. On a new connection it says its count, and the sender goes on from there.
//!
//! ```text
//!            acknowledged        on the connection         not sent
//! ... forgotten ... | kept, sent ............ | kept, to send .... | end
//!                 base                      cursor                end
//! ```
//!
//! It refuses to go back behind what was acknowledged, and to acknowledge what was never sent.

use std::collections::VecDeque;

use crate::engine::OperatorId;
use crate::schedule::Space;

/// Bytes of an operator that are sent from its own memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lent {
    pub operator: OperatorId,
    pub space: Space,
    /// Byte offset in the space.
    pub start: usize,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    /// In the replay window, in order.
    Window,
    Lent(Lent),
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    len: usize,
    source: Source,
}

impl Piece {
    const fn is_in_window(&self) -> bool {
        matches!(self.source, Source::Window)
    }

    fn is_lent_by(&self, operator: OperatorId) -> bool {
        matches!(self.source, Source::Lent(lent) if lent.operator == operator)
    }
}

/// Where the next bytes to send are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    Window(&'a [u8]),
    Lent { from: Lent, len: usize },
}

/// A peer that claims what cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Impossible {
    pub claimed: u64,
    pub base: u64,
    pub end: u64,
}

/// The sending end.
#[derive(Debug, Default)]
pub(crate) struct SendStream {
    base: u64,
    cursor: u64,
    end: u64,
    pieces: VecDeque<Piece>,
    window: VecDeque<u8>,
    /// The largest offset that was ever put on a connection.
    sent: u64,
}

impl SendStream {
    /// Bytes that were not acknowledged.
    pub(crate) fn unacknowledged(&self) -> u64 {
        self.end - self.base
    }

    /// Bytes in the replay window.
    pub(crate) fn window_len(&self) -> usize {
        self.window.len()
    }

    /// The next byte to send.
    pub(crate) fn position(&self) -> u64 {
        self.cursor
    }

    /// Adds bytes that are copied.
    pub(crate) fn push_copy(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.window.extend(bytes);
        self.end += bytes.len() as u64;
        if let Some(Piece {
            len,
            source: Source::Window,
        }) = self.pieces.back_mut()
        {
            *len += bytes.len();
        } else {
            self.pieces.push_back(Piece {
                len: bytes.len(),
                source: Source::Window,
            });
        }
    }

    /// Adds bytes that stay where they are.
    pub(crate) fn push_lent(&mut self, lent: Lent, len: usize) {
        if len == 0 {
            return;
        }
        self.end += len as u64;
        if let Some(Piece {
            len: known,
            source: Source::Lent(before),
        }) = self.pieces.back_mut()
            && before.operator == lent.operator
            && before.space == lent.space
            && before.start + *known == lent.start
        {
            *known += len;
            return;
        }
        self.pieces.push_back(Piece {
            len,
            source: Source::Lent(lent),
        });
    }

    /// The peer has everything before `offset`.
    pub(crate) fn acknowledge(&mut self, offset: u64) -> Result<(), Impossible> {
        if offset <= self.base {
            return Ok(());
        }
        if offset > self.sent {
            return Err(self.impossible(offset));
        }
        let mut missing = usize::try_from(offset - self.base).expect("kept bytes fit in memory");
        self.base = offset;
        self.cursor = self.cursor.max(offset);
        while missing > 0 {
            let piece = self.pieces.front_mut().expect("kept bytes are in pieces");
            let taken = missing.min(piece.len);
            missing -= taken;
            piece.len -= taken;
            match &mut piece.source {
                Source::Window => drop(self.window.drain(..taken)),
                Source::Lent(lent) => lent.start += taken,
            }
            if piece.len == 0 {
                self.pieces.pop_front();
            }
        }
        Ok(())
    }

    /// A new connection, and how much the peer has.
    pub(crate) fn resume(&mut self, offset: u64) -> Result<(), Impossible> {
        if offset < self.base || offset > self.sent {
            return Err(self.impossible(offset));
        }
        self.acknowledge(offset)?;
        self.cursor = offset;
        Ok(())
    }

    /// The peer needs nothing any more.
    pub(crate) fn forget(&mut self) {
        *self = Self {
            base: self.end,
            cursor: self.end,
            end: self.end,
            sent: self.end,
            ..Self::default()
        };
    }

    fn impossible(&self, claimed: u64) -> Impossible {
        Impossible {
            claimed,
            base: self.base,
            end: self.sent,
        }
    }

    /// The next bytes for the connection, `skip` bytes after the first that were not sent.
    pub(crate) fn next(&self, skip: usize) -> Option<Next<'_>> {
        let mut offset =
            usize::try_from(self.cursor - self.base).expect("kept bytes fit in memory") + skip;
        let mut window = 0;
        for piece in &self.pieces {
            if offset >= piece.len {
                offset -= piece.len;
                if piece.is_in_window() {
                    window += piece.len;
                }
                continue;
            }
            return Some(match piece.source {
                Source::Window => {
                    let (front, back) = self.window.as_slices();
                    let (from, to) = (window + offset, window + piece.len);
                    Next::Window(if from < front.len() {
                        &front[from..to.min(front.len())]
                    } else {
                        &back[from - front.len()..to - front.len()]
                    })
                }
                Source::Lent(lent) => Next::Lent {
                    from: Lent {
                        start: lent.start + offset,
                        ..lent
                    },
                    len: piece.len - offset,
                },
            });
        }
        None
    }

    /// `len` bytes went onto the connection.
    pub(crate) fn sent(&mut self, len: usize) {
        self.cursor += len as u64;
        debug_assert!(self.cursor <= self.end, "only bytes that exist are sent");
        self.sent = self.sent.max(self.cursor);
    }

    /// Bytes that still lie in the memory of `operator`.
    pub(crate) fn lent_by(&self, operator: OperatorId) -> usize {
        let lent = self
            .pieces
            .iter()
            .filter(|piece| piece.is_lent_by(operator));
        lent.map(|piece| piece.len).sum()
    }

    /// Copies what lies in the memory of `operator` into the window, so that the memory can go.
    pub(crate) fn take_over<'a>(
        &mut self,
        operator: OperatorId,
        read: impl Fn(Lent, usize) -> &'a [u8],
    ) {
        let mut pieces = self.pieces.iter();
        let Some(first) = pieces.position(|piece| piece.is_lent_by(operator)) else {
            return;
        };
        // What is before it stays where it is: a long window is not copied for each operator.
        let pieces = self.pieces.split_off(first);
        let before = self.pieces.iter().filter(|piece| piece.is_in_window());
        let mut window = self
            .window
            .split_off(before.map(|piece| piece.len).sum::<usize>());
        let mut later = &*window.make_contiguous();
        for piece in pieces {
            match piece.source {
                Source::Lent(lent) if lent.operator == operator => {
                    self.window.extend(read(lent, piece.len));
                    self.add_window_piece(piece.len);
                }
                Source::Lent(_) => self.pieces.push_back(piece),
                Source::Window => {
                    let (these, rest) = later.split_at(piece.len);
                    self.window.extend(these);
                    self.add_window_piece(piece.len);
                    later = rest;
                }
            }
        }
    }

    fn add_window_piece(&mut self, len: usize) {
        match self.pieces.back_mut() {
            Some(Piece {
                len: known,
                source: Source::Window,
            }) => *known += len,
            _ => self.pieces.push_back(Piece {
                len,
                source: Source::Window,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: OperatorId = OperatorId(7);

    fn lent(start: usize) -> Lent {
        Lent {
            operator: ID,
            space: Space::Output,
            start,
        }
    }

    /// Everything that the stream would send now.
    fn rest(stream: &SendStream, memory: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(next) = stream.next(all.len()) {
            match next {
                Next::Window(bytes) => all.extend_from_slice(bytes),
                Next::Lent { from, len } => {
                    all.extend_from_slice(&memory[from.start..from.start + len]);
                }
            }
        }
        all
    }

    #[test]
    fn every_cut_resumes_at_the_right_byte() {
        let memory: Vec<u8> = (100..120).collect();
        let build = || {
            let mut stream = SendStream::default();
            stream.push_copy(&[1, 2, 3]);
            stream.push_lent(lent(2), 4);
            stream.push_lent(lent(6), 3);
            stream.push_copy(&[4, 5]);
            stream.push_lent(lent(12), 2);
            stream
        };
        let whole = rest(&build(), &memory);
        assert_eq!(
            whole,
            [1, 2, 3, 102, 103, 104, 105, 106, 107, 108, 4, 5, 112, 113]
        );
        for sent in 0..=whole.len() {
            for received in 0..=sent {
                for acknowledged in 0..=received {
                    for is_over in [false, true] {
                        let mut stream = build();
                        stream.sent(sent);
                        stream
                            .acknowledge(acknowledged as u64)
                            .expect("it was sent");
                        let mut memory = memory.clone();
                        if is_over {
                            stream.take_over(ID, |lent, len| &memory[lent.start..lent.start + len]);
                            assert_eq!(stream.lent_by(ID), 0);
                            memory.clear();
                        }
                        stream.resume(received as u64).expect("it was sent");
                        assert_eq!(rest(&stream, &memory), whole[received..]);
                    }
                }
            }
        }
    }

    #[test]
    fn claims_that_cannot_be_are_refused() {
        let mut stream = SendStream::default();
        stream.push_copy(&[1, 2, 3]);
        stream.sent(2);
        assert!(stream.acknowledge(3).is_err(), "it was not sent yet");
        stream.acknowledge(2).expect("it was sent");
        assert!(stream.resume(1).is_err(), "it was acknowledged and is gone");
        assert_eq!(stream.resume(2), Ok(()));
        assert_eq!(stream.unacknowledged(), 1);
    }
}
