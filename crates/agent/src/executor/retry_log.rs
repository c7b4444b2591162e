//! Reads the output of ranks for what their library says of repeated operators.
//!
//! A new agent reads again from what is left of the output; counts are from the beginning of a rank, so nothing is counted twice where
//! nothing was cut off. Each look reads a bounded piece; a rank that writes faster is read later.

use std::collections::BTreeMap;

use supernode_probe::retry_log::RetryTally;
use supernode_types::retry_policy::{RetryLibrary, RetrySighting};

use crate::ledger::RankKey;
use crate::ranks::Ranks;

/// The most bytes of one rank that one look reads.
const PIECE_BYTES: usize = 1 << 20;

/// How far each rank's output was read.
#[derive(Debug, Default)]
pub(super) struct RetryLogs(BTreeMap<RankKey, Reading>);

#[derive(Debug)]
struct Reading {
    offset: u64,
    tally: RetryTally,
    /// Nothing will come any more.
    over: bool,
}

impl RetryLogs {
    /// Whether no output is being read.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads on in these ranks and in those whose end was not read yet; answers what is new, and forgets ranks that were read to their end.
    pub(super) fn read(
        &mut self,
        ranks: &Ranks,
        wanted: Vec<(RankKey, RetryLibrary)>,
    ) -> Vec<(RankKey, Vec<RetrySighting>)> {
        let listed: Vec<RankKey> = wanted.iter().map(|(key, _)| key.clone()).collect();
        for (key, library) in wanted {
            self.0.entry(key).or_insert_with(|| Reading {
                offset: 0,
                tally: RetryTally::new(library),
                over: false,
            });
        }
        let mut news = Vec::new();
        for (key, reading) in &mut self.0 {
            if reading.over {
                continue;
            }
            // A rank without output yet, or whose directory is gone, has nothing to say.
            let Ok(chunk) = ranks.read_log(&key.id(), reading.offset, PIECE_BYTES) else {
                reading.over = !listed.contains(key);
                continue;
            };
            reading.over = chunk.end_of_file || (chunk.bytes.is_empty() && !listed.contains(key));
            reading.offset = chunk.next_offset;
            if reading.tally.read(&chunk.bytes) {
                news.push((key.clone(), reading.tally.sightings()));
            }
        }
        self.0
            .retain(|key, reading| !reading.over || listed.contains(key));
        news
    }
}
