//! Directories that the programs of ranks use: apart from the rank directories, which belong to the agent alone.
//!
//! ```text
//!  DATA/work/NAME/            agent's, readable by all: files given to the job (rank table)
//!  DATA/work/NAME/scratch/    the user's, 0700: the default working directory
//! ```

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::id::is_plain_name;
use super::records::User;
use crate::files::{Directory, Durability, FileError, Permissions};

const SCRATCH: &str = "scratch";

/// Why a work directory could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The name is not one.
    #[error("{name:?} is not a name for a work directory; use letters, digits, `-`, `_` and `.`")]
    InvalidName {
        /// The name.
        name: String,
    },
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The system said no.
    #[error("{}: cannot {step}", path.display())]
    System {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The work directories below one data directory.
#[derive(Debug)]
pub struct Work {
    directory: Directory,
}

impl Work {
    /// Opens or creates them below `data_directory`, which other users must be able to pass through.
    pub fn open(data_directory: &Path) -> Result<Self, WorkError> {
        Ok(Self {
            directory: Directory::open_or_create(&data_directory.join("work"), 0o711)?,
        })
    }

    /// Makes the work directory `name` with `files` (name and content) in it and a scratch directory for `user`; what is there
    /// already is kept. Returns the paths of the directory and of the scratch directory in it.
    pub fn create(
        &self,
        name: &str,
        user: Option<&User>,
        files: &[(&str, &[u8])],
    ) -> Result<(PathBuf, PathBuf), WorkError> {
        check(name)?;
        let path = self.directory.path().join(name);
        let scratch = path.join(SCRATCH);
        let (directory, _) = self.directory.create_subdirectory(name, 0o755)?;
        // The mode given at creation passed the umask of the agent.
        let failed = |path: &Path, step| {
            let path = path.to_owned();
            move |source| WorkError::System { path, step, source }
        };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
            .map_err(failed(&path, "set the permissions"))?;
        for (file, content) in files {
            check(file)?;
            directory.write_atomic(file, content, Permissions::mode(0o644), Durability::Process)?;
        }
        let (_, created) = directory.create_subdirectory(SCRATCH, 0o700)?;
        if let (Some(user), false) = (user, created.is_empty()) {
            // Its parent is ours alone, so nobody can have put anything else in this place.
            chown(&scratch, Some(user.uid), Some(user.gid))
                .map_err(failed(&scratch, "give to its user"))?;
        }
        Ok((path, scratch))
    }

    /// Removes a work directory with all that the job left in it; it need not be there.
    pub fn remove(&self, name: &str) -> Result<(), WorkError> {
        check(name)?;
        let path = self.directory.path().join(name);
        // Does not follow links, also not those that a running program puts in its way.
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(WorkError::System {
                    path,
                    step: "remove",
                    source,
                })
            }
            _ => Ok(()),
        }
    }

    /// The names of the work directories that exist.
    pub fn list(&self) -> Result<Vec<String>, WorkError> {
        Ok(self.directory.names()?)
    }
}

fn check(name: &str) -> Result<(), WorkError> {
    if is_plain_name(name) && name != SCRATCH {
        Ok(())
    } else {
        Err(WorkError::InvalidName {
            name: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn a_work_directory_is_made_once_and_removed_without_following_links() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let work = Work::open(temporary.path()).expect("it opens");
        let (path, scratch) = work
            .create("attempt-1", None, &[("rank_table.json", b"{}")])
            .expect("it is made");
        assert_eq!(
            std::fs::read(path.join("rank_table.json")).expect("it is there"),
            b"{}"
        );
        assert_eq!(
            std::fs::metadata(&scratch).expect("it is there").mode() & 0o777,
            0o700
        );
        std::fs::write(scratch.join("kept"), "x").expect("it is written");
        work.create("attempt-1", None, &[]).expect("again is fine");
        assert!(scratch.join("kept").exists());

        let outside = temporary.path().join("outside");
        std::fs::create_dir(&outside).expect("it is made");
        std::fs::write(outside.join("file"), "x").expect("it is written");
        symlink(&outside, scratch.join("link")).expect("a link");
        work.remove("attempt-1").expect("it is removed");
        work.remove("attempt-1").expect("again is fine");
        assert!(outside.join("file").exists() && work.list().expect("it lists").is_empty());
        for bad in ["../x", "a/b", "", "scratch"] {
            assert!(
                matches!(
                    work.create(bad, None, &[]),
                    Err(WorkError::InvalidName { .. })
                ),
                "{bad:?}"
            );
        }
    }
}
