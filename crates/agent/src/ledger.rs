//! What an agent has to remember to be the same agent after it was killed: what it was told, and what it did about it.
//!
//! One JSON file, replaced as a whole before anything in it is acted on. It holds intent and what cannot be found on the machine again;
//! how a rank stands is read from its directory. A ledger that cannot be read is put aside: an agent without one asks the server for
//! everything, and finds its running ranks by their directories.
//!
//! It survives the end of any process, and not every loss of power: that ends the boot, and with it all that the ledger protects. A
//! rank is never started in another boot than its own, and an agent that was started anew cleans or verifies the environment once
//! more by its manifest. To flush the ledger would cost every start of a rank two waits for the disk.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use supernode_types::agent::DesiredRank;
use supernode_types::disk::DiskWish;
use supernode_types::environment::{EnvironmentDesired, ItemState};
use supernode_types::job::RankEnd;
use supernode_types::stress::{StressKey, StressWish};
use supernode_types::{AttemptId, Generation};

use crate::files::{Directory, Durability, FileError, Permissions};
use crate::ranks::RankId;

/// The ledger's name in the data directory.
const FILE: &str = "ledger.json";
/// Where one that cannot be read is put.
const DAMAGED_FILE: &str = "ledger.json.damaged";
/// The most bytes that a ledger may have: the wishes of a node with many devices in a large gang are the bulk.
const LIMIT_BYTES: u64 = 64 * 1024 * 1024;

/// One rank of one attempt. As text it is the name of its directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RankKey {
    /// The attempt.
    pub attempt: AttemptId,
    /// The rank.
    pub rank: u32,
}

impl RankKey {
    /// The key of a rank directory; `None` for a directory that no agent of this protocol made.
    pub fn of(id: &RankId) -> Option<Self> {
        id.as_str().to_owned().try_into().ok()
    }

    /// The rank's directory.
    pub fn id(&self) -> RankId {
        RankId::new(self.attempt.as_str(), self.rank)
            .expect("an attempt's id has only letters, digits and `-`")
    }
}

impl fmt::Display for RankKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.attempt, self.rank)
    }
}

impl TryFrom<String> for RankKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parsed = text.rsplit_once('.').and_then(|(attempt, rank)| {
            Some(Self {
                attempt: attempt.parse().ok()?,
                rank: rank.parse().ok()?,
            })
        });
        // Only the one way of writing it, so that a key and a directory name always belong together.
        parsed
            .filter(|key| key.to_string() == text)
            .ok_or_else(|| format!("`{text}` does not name a rank of an attempt"))
    }
}

impl From<RankKey> for String {
    fn from(key: RankKey) -> Self {
        key.to_string()
    }
}

/// What the agent decided about a rank.
///
/// ```text
///  (unknown) --wish to run (core)--> Launched --seen to have ended (executor)--> Ended --a later wish list without it (core)--> Archived
///      \---- wish to stop, or another boot (core)----------------------------------^                        |
///                                                                                  ^---- listed again ------/
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RankRecord {
    /// It was started, or is about to be.
    Launched {
        /// The boot in which it was.
        boot_id: String,
    },
    /// Nothing of it runs any more, or ever will; the server has not forgotten it yet.
    Ended {
        /// How.
        end: RankEnd,
        /// The end of its output, of one that failed.
        #[serde(default)]
        last_lines: Vec<String>,
        /// The desired generation that was stored when it ended.
        generation: Generation,
    },
    /// The server has forgotten it. What is left is the knowledge that it must never start again.
    Archived {
        /// How it ended.
        end: RankEnd,
        /// Its directory is gone.
        removed: bool,
    },
}

/// The environment in the ledger.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LedgerEnvironment {
    /// What the node should have; `None` is "nothing of ours".
    pub wanted: Option<Arc<EnvironmentDesired>>,
    /// The server said "keep this one" and it is not here: it has to be asked for.
    pub missing: Option<Generation>,
    /// The generation whose application ran to its end last; 0 when clean.
    pub applied: Generation,
    /// How each item stood when it was last looked at.
    pub items: Vec<ItemState>,
}

/// Everything that an agent remembers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// Of the desired state; 0 before the first.
    pub generation: Generation,
    /// The ranks of the desired state.
    pub wishes: Vec<DesiredRank>,
    /// The environment.
    pub environment: LedgerEnvironment,
    /// What to do with the system disk.
    pub disk_expand: Option<DiskWish>,
    /// What to test.
    pub stress: Option<StressWish>,
    /// The round of a test that was begun last; none is begun twice.
    pub stress_begun: Option<StressKey>,
    /// What was decided about each rank.
    pub ranks: BTreeMap<RankKey, RankRecord>,
}

impl Ledger {
    /// Reads the ledger in a data directory; an empty one if there is none. One that is damaged is put aside, and the text says why.
    pub fn load(data_directory: &Directory) -> Result<(Self, Option<String>), FileError> {
        let Some(bytes) = data_directory.read(FILE, LIMIT_BYTES)? else {
            return Ok((Self::default(), None));
        };
        match serde_json::from_slice(&bytes) {
            Ok(ledger) => Ok((ledger, None)),
            Err(error) => {
                let permissions = Permissions::mode(0o600);
                data_directory.write_atomic(
                    DAMAGED_FILE,
                    &bytes,
                    permissions,
                    Durability::Power,
                )?;
                let path = data_directory.path().join(DAMAGED_FILE);
                Ok((
                    Self::default(),
                    Some(format!(
                        "the agent's ledger cannot be read ({error}); it was copied to {} and the server is asked for everything",
                        path.display()
                    )),
                ))
            }
        }
    }

    /// Replaces the ledger in a data directory; when this returns, it survives the end of this process.
    pub fn store(&self, data_directory: &Directory) -> Result<(), FileError> {
        let text = serde_json::to_vec(self).expect("the ledger is plain data");
        data_directory.write_atomic(FILE, &text, Permissions::mode(0o600), Durability::Process)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use supernode_types::Timestamp;
    use supernode_types::entropy::SeededEntropy;

    #[test]
    fn a_key_is_written_in_one_way_only() {
        let attempt = AttemptId::new(Timestamp(0), &SeededEntropy::new(1));
        let key = RankKey { attempt, rank: 7 };
        assert_eq!(RankKey::of(&key.id()), Some(key.clone()));
        for bad in [
            format!("{}.07", key.attempt),
            format!("{}", key.attempt),
            "x.1".into(),
            String::new(),
        ] {
            assert!(RankKey::try_from(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_ledger_is_read_back_and_a_damaged_one_is_put_aside() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let directory = Directory::open(temporary.path()).expect("it opens");
        assert_eq!(
            Ledger::load(&directory).expect("it loads"),
            (Ledger::default(), None)
        );
        let attempt = AttemptId::new(Timestamp(0), &SeededEntropy::new(1));
        let mut ledger = Ledger {
            generation: 3,
            ..Ledger::default()
        };
        let end = RankEnd::Exited { code: 0 };
        let removed = false;
        ledger.ranks.insert(
            RankKey { attempt, rank: 0 },
            RankRecord::Archived { end, removed },
        );
        ledger.store(&directory).expect("it stores");
        assert_eq!(Ledger::load(&directory).expect("it loads"), (ledger, None));
        std::fs::write(temporary.path().join(FILE), "{").expect("it writes");
        let (empty, why) = Ledger::load(&directory).expect("it loads");
        assert_eq!(empty, Ledger::default());
        assert!(why.is_some_and(|why| why.contains(DAMAGED_FILE)));
        assert!(temporary.path().join(DAMAGED_FILE).exists());
    }
}
