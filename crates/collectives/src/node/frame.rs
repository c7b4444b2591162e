//! Frames on a data connection: bytes of the stream behind a header with their length and checksum.
//!
//! A receiver uses a frame only when its checksum is right, so damage on the way costs what a cut costs: a new connection, which goes on
//! behind the last good frame. TCP's own 16 bits let about one damaged segment of 65,536 pass, and see nothing of faulty memory in a switch.
//!
//! ```text
//! length of the payload: u32 | CRC-32 of the payload: u32 | CRC-32 of these 8 bytes: u32 | payload
//! ```
//!
//! The header has a checksum of its own, because nobody sends the rest of a frame that a damaged length made longer. What is sent
//! here from the memory of an operator does not change before the receiver has it; `schedule` proves that.

use std::collections::VecDeque;

use crc32fast::Hasher;

/// Bytes of a header.
pub(super) const HEADER: usize = 12;
/// Bytes of the longest payload: they wait for each other in a cache.
const LONGEST: usize = 32 * 1024;
/// Bytes that are put into frames before they are written.
const AHEAD: usize = 4 * LONGEST;
/// Bytes that a driver reads or writes at once: whole frames, so that none is read in two parts while there are enough. More would fall
/// out of the cache between kernel and process.
pub(crate) const AT_ONCE: usize = 4 * (HEADER + LONGEST);

/// The checksum of all frames and records.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// Frames that wait to be written.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    frames: VecDeque<Frame>,
    /// Bytes of payload in them that were not written.
    payload: usize,
}

#[derive(Debug)]
struct Frame {
    header: [u8; HEADER],
    header_left: usize,
    payload_left: usize,
}

impl Outgoing {
    /// Makes frames of what the stream has. `stream` gives its bytes from an offset on, behind those that were written.
    pub(super) fn prepare<'a>(&mut self, stream: impl Fn(usize) -> Option<&'a [u8]>) {
        while self.payload < AHEAD {
            let (mut hasher, mut len) = (Hasher::new(), 0);
            while len < LONGEST
                && let Some(bytes) = stream(self.payload + len)
            {
                let bytes = &bytes[..bytes.len().min(LONGEST - len)];
                hasher.update(bytes);
                len += bytes.len();
            }
            if len == 0 {
                return;
            }
            let mut header = [0; HEADER];
            let length = u32::try_from(len).expect("a frame is short");
            header[0..4].copy_from_slice(&length.to_le_bytes());
            header[4..8].copy_from_slice(&hasher.finalize().to_le_bytes());
            let own = checksum(&header[..8]);
            header[8..].copy_from_slice(&own.to_le_bytes());
            self.payload += len;
            self.frames.push_back(Frame {
                header,
                header_left: HEADER,
                payload_left: len,
            });
        }
    }

    /// The next bytes to write, `skip` bytes after the first that was not written.
    pub(super) fn next<'a>(
        &'a self,
        mut skip: usize,
        stream: impl Fn(usize) -> Option<&'a [u8]>,
    ) -> Option<&'a [u8]> {
        let mut payload = 0;
        for frame in &self.frames {
            if skip < frame.header_left {
                return Some(&frame.header[HEADER - frame.header_left + skip..]);
            }
            skip -= frame.header_left;
            if skip < frame.payload_left {
                let bytes = stream(payload + skip)?;
                return Some(&bytes[..bytes.len().min(frame.payload_left - skip)]);
            }
            skip -= frame.payload_left;
            payload += frame.payload_left;
        }
        None
    }

    /// So many bytes were written; says how many of them were payload.
    pub(super) fn written(&mut self, mut len: usize) -> usize {
        let before = self.payload;
        while let Some(frame) = self.frames.front_mut().filter(|_| len > 0) {
            let header = len.min(frame.header_left);
            let payload = (len - header).min(frame.payload_left);
            frame.header_left -= header;
            frame.payload_left -= payload;
            self.payload -= payload;
            len -= header + payload;
            if frame.payload_left == 0 {
                self.frames.pop_front();
            }
        }
        before - self.payload
    }
}

/// What is at the front of received bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Front {
    /// A frame with a payload of so many bytes.
    Whole(usize),
    /// At least so many bytes are missing.
    Missing(usize),
    /// Something else than was sent.
    Damaged,
}

/// Looks at the front of received bytes.
pub(super) fn front(bytes: &[u8]) -> Front {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Front::Missing(HEADER - bytes.len());
    };
    let number = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let len = usize::try_from(number(0)).unwrap_or(usize::MAX);
    if checksum(&header[..8]) != number(8) || len == 0 || len > LONGEST {
        return Front::Damaged;
    }
    match rest.get(..len) {
        None => Front::Missing(len - rest.len()),
        Some(payload) if checksum(payload) == number(4) => Front::Whole(len),
        Some(_) => Front::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream of two pieces, as one of an operator and its window.
    fn stream<'a>(bytes: &'a [u8]) -> impl Fn(usize) -> Option<&'a [u8]> {
        let (first, second) = bytes.split_at(bytes.len() / 3);
        move |offset| {
            let piece = match offset.checked_sub(first.len()) {
                None => &first[offset..],
                Some(offset) => second.get(offset..)?,
            };
            (!piece.is_empty()).then_some(piece)
        }
    }

    fn wire(bytes: &[u8]) -> Vec<u8> {
        let mut frames = Outgoing::default();
        frames.prepare(stream(bytes));
        let mut wire = Vec::new();
        while let Some(more) = frames.next(wire.len(), stream(bytes)) {
            wire.extend_from_slice(more);
        }
        wire
    }

    #[test]
    fn pieces_of_any_size_give_the_same_bytes() {
        let bytes: Vec<u8> = (0..80_000_u32)
            .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
            .collect();
        let whole = wire(&bytes);
        assert_eq!(whole.len(), bytes.len() + 3 * HEADER);
        let mut frames = Outgoing::default();
        frames.prepare(stream(&bytes));
        let (mut written, mut payload) = (0, 0);
        for step in (1..).map(|n| n * 37 % 5000 + 1) {
            let rest = |offset| stream(&bytes)(payload + offset);
            let Some(more) = frames.next(0, rest) else {
                break;
            };
            let len = more.len().min(step);
            assert_eq!(more[..len], whole[written..written + len]);
            payload += frames.written(len);
            written += len;
        }
        assert_eq!((written, payload), (whole.len(), bytes.len()));
    }

    #[test]
    fn every_bit_that_flips_is_seen() {
        let mut bytes = wire(b"a short payload");
        let whole = bytes.len();
        assert_eq!(front(&bytes), Front::Whole(whole - HEADER));
        for len in 0..whole {
            assert!(matches!(front(&bytes[..len]), Front::Missing(_)));
        }
        for bit in 0..8 * whole {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(front(&bytes), Front::Damaged, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
