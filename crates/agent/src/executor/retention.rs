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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use supernode_types::entropy::SeededEntropy;

    use super::*;
    use crate::executor::Executor;
    use crate::options::{AgentOptions, Retention};

    const DAY: Duration = Duration::from_hours(24);

    /// An executor with three old ranks of as many attempts, oldest first, and what is left of them after `retention` at `now`.
    fn kept(retention: Retention, now: Timestamp) -> Vec<usize> {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let data = temporary.path().join("data");
        let name = "n1".parse().expect("a name");
        let address = "127.0.0.1".to_owned();
        let mut options = AgentOptions::new(
            "host:1".into(),
            "ca.pem".into(),
            name,
            address,
            data.clone(),
        );
        options.system_root = data.join("root");
        options.retention = retention;
        let (executor, _found) = Executor::open(
            Arc::new(options),
            Arc::new(supernode_types::time::SystemClock),
        )
        .expect("it opens");
        let keys: Vec<RankKey> = (0..3)
            .map(|number| {
                let attempt = AttemptId::new(Timestamp(number * 1_000_000), &SeededEntropy::new(1));
                RankKey { attempt, rank: 0 }
            })
            .collect();
        for key in &keys {
            let rank = executor.shared.rank_path(key);
            std::fs::create_dir(&rank).expect("it is made");
            let exit = r#"{"end":{"how":"exited","code":0},"stop_why":null,"started_at_micros":1,"ended_at_micros":2,"last_lines":[]}"#;
            std::fs::write(rank.join("exit.json"), exit).expect("it is written");
            let work = executor.shared.work.create(key.attempt.as_str(), None, &[]);
            let (_, scratch) = work.expect("it is made");
            std::fs::write(scratch.join("result"), vec![0; 1000]).expect("it is written");
        }
        let removed = executor.shared.prune(&keys, now);
        let there = |key: &RankKey| executor.shared.rank_path(key).exists();
        for key in &keys {
            assert_eq!(removed.contains(key), !there(key), "{key}");
            let work = executor.shared.work_path(key.attempt.as_str());
            assert_eq!(work.exists(), there(key), "its work directory goes with it");
        }
        assert_eq!(
            executor.shared.prune(&removed, now),
            removed,
            "what is gone is gone"
        );
        (0..3).filter(|index| there(&keys[*index])).collect()
    }

    fn today() -> Timestamp {
        use supernode_types::time::{Clock, SystemClock};
        SystemClock.now()
    }

    #[test]
    fn the_newest_are_kept_within_each_limit() {
        let generous = Retention {
            age: 7 * DAY,
            ranks: 100,
            bytes: 1_000_000,
        };
        assert_eq!(kept(generous, today()), [0, 1, 2]);
        assert_eq!(
            kept(
                Retention {
                    ranks: 2,
                    ..generous
                },
                today()
            ),
            [1, 2]
        );
        let bytes = 2500;
        assert_eq!(kept(Retention { bytes, ..generous }, today()), [1, 2]);
        assert_eq!(kept(generous, today().plus(8 * DAY)), [0_usize; 0]);
    }
}
