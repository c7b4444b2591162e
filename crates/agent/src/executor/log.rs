//! A part of a rank's output as the protocol carries it: text, and never more than fits into a frame.

use supernode_api::agent::{LogContent, LogPart, ReadLog};

use crate::files::one_line;
use crate::ledger::{RankKey, RankRecord};
use crate::ranks::{LogChunk, Ranks};

/// The most bytes of one answer. As JSON a byte may become six.
const LARGEST_BYTES: u32 = 256 * 1024;
/// The fewest, so that there is always room for a whole character.
const SMALLEST_BYTES: u32 = 16;

pub(super) fn read(ranks: &Ranks, ask: &ReadLog, record: Option<&RankRecord>) -> LogPart {
    LogPart {
        request: ask.request,
        result: content(ranks, ask, record),
    }
}

fn content(
    ranks: &Ranks,
    ask: &ReadLog,
    record: Option<&RankRecord>,
) -> Result<LogContent, String> {
    let key = RankKey {
        attempt: ask.attempt.clone(),
        rank: ask.rank,
    };
    let gone = |why: &str| {
        Err(format!(
            "the output of rank {} of {} is not on this node: {why}",
            ask.rank, ask.attempt
        ))
    };
    match record {
        Some(RankRecord::Archived { removed: true, .. }) => {
            return gone("it was removed after its retention");
        }
        None if ranks
            .launched(&key.id())
            .is_ok_and(|launched| launched.is_none()) =>
        {
            return gone("the rank never ran here, or was removed long ago");
        }
        _ => {}
    }
    let limit = ask.limit.clamp(SMALLEST_BYTES, LARGEST_BYTES);
    let chunk = ranks
        .read_log(
            &key.id(),
            ask.offset,
            usize::try_from(limit).unwrap_or(usize::MAX),
        )
        .map_err(|error| one_line(&error))?;
    // One that ended without ever having had a directory has no file that could say so.
    let over =
        chunk.bytes.is_empty() && !matches!(record, None | Some(RankRecord::Launched { .. }));
    let nothing = over
        && ranks
            .launched(&key.id())
            .is_ok_and(|launched| launched.is_none());
    Ok(text(chunk, nothing))
}

/// Bytes to text. A character that is not whole yet is left for the next part.
fn text(chunk: LogChunk, nothing_more: bool) -> LogContent {
    let LogChunk {
        offset,
        mut bytes,
        next_offset,
        end_of_file,
        ..
    } = chunk;
    let end = end_of_file || nothing_more;
    let cut = if end { 0 } else { unfinished(&bytes) };
    bytes.truncate(bytes.len() - cut);
    LogContent {
        offset,
        next_offset: next_offset - cut as u64,
        content: String::from_utf8_lossy(&bytes).into_owned(),
        end,
    }
}

/// How many bytes at the end begin a character that is not whole.
fn unfinished(bytes: &[u8]) -> usize {
    let tail = bytes.iter().rev().take(3);
    for (position, byte) in (1..).zip(tail) {
        let length = match byte {
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            0x80..=0xBF => continue,
            _ => return 0,
        };
        return if position < length { position } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(bytes: &[u8], end_of_file: bool) -> LogContent {
        let next_offset = 10 + bytes.len() as u64;
        text(
            LogChunk {
                offset: 10,
                bytes: bytes.to_vec(),
                next_offset,
                start: 0,
                end_of_file,
            },
            false,
        )
    }

    #[test]
    fn a_character_is_never_torn() {
        let whole = "aé€😀";
        for cut in 0..=whole.len() {
            let first = part(&whole.as_bytes()[..cut], false);
            assert!(
                whole.starts_with(&first.content) && !first.content.contains('\u{FFFD}'),
                "{cut}: {first:?}"
            );
            let read = usize::try_from(first.next_offset - 10).expect("small");
            let second = part(&whole.as_bytes()[read..], true);
            assert_eq!(format!("{}{}", first.content, second.content), whole);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_and_hold_nothing_up() {
        let all = part(b"\xff\x80\x80\x80\x80", false);
        assert_eq!(
            (
                all.next_offset,
                all.content.chars().all(|letter| letter == '\u{FFFD}')
            ),
            (15, true)
        );
        assert_eq!(part(b"ab\xe2\x82", true).content, "ab\u{FFFD}");
    }
}
