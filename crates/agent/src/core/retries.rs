//! What the output of ranks says of repeated operators, until the server has surely heard it.
//!
//! It is said with every report for as long as the ledger knows the rank, so a report that is lost loses nothing.

use std::collections::BTreeMap;

use supernode_types::agent::{ObservedRetries, RankWish};
use supernode_types::retry_policy::{RetryLibrary, RetrySighting};

use crate::ledger::{Ledger, RankKey, RankRecord};

/// Of so many ranks it is remembered.
const MAXIMUM_RANKS: usize = 256;

/// The retries' part of the core.
#[derive(Debug, Clone, Default)]
pub(super) struct RetriesCore(BTreeMap<RankKey, Vec<RetrySighting>>);

impl RetriesCore {
    /// A rank's output was read.
    pub(super) fn seen(&mut self, key: RankKey, sightings: Vec<RetrySighting>, ledger: &Ledger) {
        self.0.retain(|key, _| ledger.ranks.contains_key(key));
        if self.0.len() < MAXIMUM_RANKS || self.0.contains_key(&key) {
            self.0.insert(key, sightings);
        }
    }

    pub(super) fn observed(&self) -> Vec<ObservedRetries> {
        self.0
            .iter()
            .map(|(key, sightings)| ObservedRetries {
                attempt: key.attempt.clone(),
                rank: key.rank,
                sightings: sightings.clone(),
            })
            .collect()
    }
}

/// The ranks whose output is to be read, and for whose words.
pub(super) fn wanted(ledger: &Ledger) -> Vec<(RankKey, RetryLibrary)> {
    let wishes = ledger.wishes.iter();
    let found = wishes.filter_map(|wish| {
        let RankWish::Run(launch) = &wish.wish else {
            return None;
        };
        let key = RankKey {
            attempt: wish.attempt.clone(),
            rank: wish.rank,
        };
        let library = launch.retry_log?;
        let known = matches!(
            ledger.ranks.get(&key),
            Some(RankRecord::Launched { .. } | RankRecord::Ended { .. })
        );
        (known && library != RetryLibrary::Collectives).then_some((key, library))
    });
    found.collect()
}
