//! What is kept of ranks that the server has forgotten: the newest, within the limits of age, number and bytes.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use supernode_types::AttemptId;
use supernode_types::time::Timestamp;

use super::Shared;
use crate::files::one_line;
use crate::ledger::{Ledger, RankKey};

/// The most files that are counted in one directory; one with more counts as infinitely large.
const LARGEST_COUNT: usize = 100_000;

impl Shared {
    /// Removes what is beyond the limits; answers which of `archived` have no directory any more.
    pub(super) fn prune(&self, archived: &[RankKey], now: Timestamp) -> Vec<RankKey> {
        let limits = self.options.retention;
        // Keys sort by the time at which the attempt was made.
        let mut newest_first: Vec<&RankKey> = archived.iter().collect();
        newest_first.sort_unstable_by(|left, right| right.cmp(left));
        let (mut ranks, mut bytes) = (0_usize, 0_u64);
        let mut counted: BTreeSet<&AttemptId> = BTreeSet::new();
        let mut removed = Vec::new();
        for key in newest_first {
            let path = self.rank_path(key);
            if let Some(age) = age(&path, now) {
                ranks += 1;
                bytes = bytes.saturating_add(size(&path));
                if counted.insert(&key.attempt) {
                    bytes = bytes.saturating_add(size(&self.work_path(key.attempt.as_str())));
                }
                if ranks <= limits.ranks && bytes <= limits.bytes && age <= limits.age {
                    continue;
                }
                if let Err(error) = self.ranks.remove(&key.id()) {
                    tracing::warn!(rank = %key, error = one_line(&error), "the output of an old rank cannot be removed");
                    continue;
                }
            }
            removed.push(key.clone());
        }
        let attempts: BTreeSet<&AttemptId> = removed.iter().map(|key| &key.attempt).collect();
        for attempt in attempts {
            self.remove_work_without_ranks(attempt.as_str());
        }
        removed
    }

    /// Removes work directories that belong to nothing: of ranks that the ledger does not know and that have no directory.
    pub(super) fn remove_orphaned_work(&self, ledger: &Ledger) {
        let known: BTreeSet<&str> = ledger
            .ranks
            .keys()
            .map(|key| key.attempt.as_str())
            .collect();
        for name in self.work.list().unwrap_or_default() {
            if !known.contains(name.as_str()) {
                self.remove_work_without_ranks(&name);
            }
        }
    }

    fn remove_work_without_ranks(&self, attempt: &str) {
        let ranks = self.ranks.list().unwrap_or_default();
        let used = ranks
            .iter()
            .filter_map(RankKey::of)
            .any(|key| key.attempt.as_str() == attempt);
        if used {
            return;
        }
        if let Err(error) = self.work.remove(attempt) {
            tracing::warn!(
                attempt,
                error = one_line(&error),
                "the scratch directory of an old attempt cannot be removed"
            );
        }
    }
}

/// How long ago something happened in a directory; `None` if it is not there.
fn age(path: &Path, now: Timestamp) -> Option<Duration> {
    use std::os::unix::fs::MetadataExt;
    let status = std::fs::metadata(path).ok()?;
    Some(now.since(Timestamp(status.mtime().saturating_mul(1_000_000))))
}

/// The bytes in a directory and below it; links are not followed.
fn size(path: &Path) -> u64 {
    let mut bytes = 0_u64;
    let mut files = 0;
    let mut directories = vec![path.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            files += 1;
            if files > LARGEST_COUNT {
                return u64::MAX;
            }
            let Ok(status) = entry.metadata() else {
                continue;
            };
            if status.is_dir() {
                directories.push(entry.path());
            } else {
                bytes = bytes.saturating_add(status.len());
            }
        }
    }
    bytes
}
