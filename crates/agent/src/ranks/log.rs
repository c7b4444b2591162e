//! Reading the output of a rank while it is being written and cut.

use std::os::unix::fs::FileExt;

use super::records::{EXIT, OUTPUT, OUTPUT_START, OutputWindow, RECORD_LIMIT_BYTES};
use crate::files::{Directory, FileError};

/// The most bytes that one call returns.
pub const LARGEST_CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// How often a read is repeated when the output was cut during it.
const TRIES: u32 = 4;

/// A piece of a rank's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// The offset of the first of `bytes`: the wanted one, or `start` where that is gone.
    pub offset: u64,
    /// The bytes; fewer than the limit means that there are no more for now.
    pub bytes: Vec<u8>,
    /// Where to go on.
    pub next_offset: u64,
    /// The offset of the oldest byte that is still kept.
    pub start: u64,
    /// Nothing will ever come after `next_offset`: the rank has ended and all of its output was read.
    pub end_of_file: bool,
}

pub(super) fn read(
    directory: &Directory,
    offset: u64,
    limit_bytes: usize,
) -> Result<LogChunk, FileError> {
    let limit = limit_bytes.min(LARGEST_CHUNK_BYTES);
    let mut tries = 0;
    loop {
        tries += 1;
        // Looked at first: what is read after the end is all there will be.
        let ended = directory.status(EXIT)?.is_some();
        let before = window(directory)?;
        let Some(file) = directory.open_file(OUTPUT)? else {
            return Ok(LogChunk {
                offset,
                bytes: Vec::new(),
                next_offset: offset,
                start: 0,
                end_of_file: ended,
            });
        };
        let failed = |source| FileError::System {
            path: directory.path().join(OUTPUT),
            step: "read",
            source,
        };
        let end = before.base + file.metadata().map_err(failed)?.len();
        // Past the end means that the rank has just cut its own output; the offset becomes right with the next bytes.
        let from = offset.max(before.start);
        let mut bytes = vec![
            0;
            usize::try_from(end.saturating_sub(from))
                .unwrap_or(usize::MAX)
                .min(limit)
        ];
        let mut filled = 0;
        while filled < bytes.len() {
            let read = file
                .read_at(&mut bytes[filled..], from - before.base + filled as u64)
                .map_err(failed)?;
            if read == 0 {
                break;
            }
            filled += read;
        }
        bytes.truncate(filled);
        if window(directory)? == before || tries == TRIES {
            let next_offset = from + filled as u64;
            return Ok(LogChunk {
                offset: from,
                bytes,
                next_offset,
                start: before.start,
                end_of_file: ended && next_offset >= end,
            });
        }
    }
}

/// Which part of the output is kept; all of it, where nothing is said.
pub(super) fn window(directory: &Directory) -> Result<OutputWindow, FileError> {
    let bytes = directory.read(OUTPUT_START, RECORD_LIMIT_BYTES)?;
    let window: OutputWindow = bytes
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    Ok(OutputWindow {
        start: window.start.max(window.base),
        base: window.base,
    })
}
