//! The environment executor: makes a node have what its super node's environment says, reports drift, and takes it all back.
//!
//! ```text
//!  desired --> 1 back up what will be replaced --> 2 manifest (what is ours, what was there before; flushed) --> 3 write each item
//!                                                  4 take back what is no longer wanted <------------------------------/
//!                                                  5 manifest without it
//! ```
//! The manifest is written before anything is touched, every file is replaced in one step, and every step may be repeated: after a
//! crash at any point the next [`EnvironmentExecutor::apply`] or [`EnvironmentExecutor::clean`] finishes the work, and the first
//! original of a file is never overwritten by one of ours. What an operator changes by hand is reported as drift and undone by the
//! next apply; [`EnvironmentExecutor::clean`] puts back what was there before the first apply.
//!
//! Everything is below one system root: `/` on a real node, a directory of its own for an agent of a development set-up. Kernel
//! parameters belong to the whole host, so below a private root they are only written down.
//!
//! It refuses files outside the allowed places, files through which one could lock everybody out, symbolic links anywhere on the
//! way, and to go on with a manifest that it cannot read. One item that fails does not hold up the others.

mod clean;
pub mod hosts;
mod manifest;
mod sysctls;
mod text;
pub mod versions;
mod wanted;

use std::cell::Cell;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;
use supernode_types::environment::{EnvironmentDesired, ItemCondition, ItemState};
use supernode_types::inventory::Inventory;

use crate::files::{Directory, Durability, FileError, Permissions, one_line};
use manifest::{FileEntry, HostsEntry, Manifest, Original};
use wanted::{Wanted, WantedFile};

/// The most bytes of a file that is backed up or compared.
const FILE_LIMIT_BYTES: u64 = 16 * 1024 * 1024;
const HOSTS: &str = "etc/hosts";

/// What becomes of kernel parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SysctlMode {
    /// They are set, through the files of this directory (`/proc/sys`).
    Set(PathBuf),
    /// They are only recorded below the system root.
    Record,
}

/// How the executor works on this node.
#[derive(Debug, Clone)]
pub struct EnvironmentOptions {
    /// Where files of an environment may be, as absolute paths of the node.
    pub allowed_prefixes: Vec<String>,
    /// What becomes of kernel parameters.
    pub sysctls: SysctlMode,
    /// A failpoint for tests: stop as a crash would, before the change of this number.
    pub interrupt_at: Option<u64>,
}

impl EnvironmentOptions {
    /// What fits a system root: kernel parameters are set only if that is the real one.
    pub fn for_root(system_root: &Path) -> Self {
        let sysctls = if system_root == Path::new("/") {
            SysctlMode::Set(PathBuf::from("/proc/sys"))
        } else {
            SysctlMode::Record
        };
        let allowed_prefixes = ["/etc", "/opt", "/usr/local/etc"]
            .map(str::to_owned)
            .to_vec();
        Self {
            allowed_prefixes,
            sysctls,
            interrupt_at: None,
        }
    }
}

/// Why the executor could not work at all; what is wrong with one item is in its [`ItemState`].
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// The system root or the executor's own directory is not usable.
    #[error(transparent)]
    File(#[from] FileError),
    /// What we put where can no longer be told.
    #[error("{}: the record of what was changed on this node is damaged ({why}); restore it, or remove it and what it named by hand", path.display())]
    Manifest {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The failpoint was reached.
    #[error("interrupted by the failpoint")]
    Interrupted,
}

/// Applies environments below one system root.
#[derive(Debug)]
pub struct EnvironmentExecutor {
    root: Directory,
    state: Directory,
    options: EnvironmentOptions,
    changes: Cell<u64>,
}

impl EnvironmentExecutor {
    /// An executor for `system_root`, which keeps its manifest and backups in `state_directory` (only the agent may write there).
    pub fn open(
        system_root: &Path,
        state_directory: &Path,
        options: EnvironmentOptions,
    ) -> Result<Self, EnvironmentError> {
        let root = Directory::open_or_create(system_root, 0o755)?;
        let state = Directory::open_or_create(state_directory, 0o700)?;
        state.create_subdirectory(manifest::BACKUPS, 0o700)?;
        Ok(Self {
            root,
            state,
            options,
            changes: Cell::new(0),
        })
    }

    /// Makes the node so, and says how each item stands now.
    pub fn apply(
        &self,
        desired: &EnvironmentDesired,
        inventory: &Inventory,
    ) -> Result<Vec<ItemState>, EnvironmentError> {
        let before = self.load()?;
        let wanted = Wanted::of(desired, &self.options.allowed_prefixes);
        let mut manifest = before.clone();
        manifest.generation = desired.generation;
        let mut states = Vec::new();

        let mut files = Vec::new();
        for (item, file) in &wanted.files {
            match file
                .clone()
                .map_err(Refusal::Item)
                .and_then(|file| self.claim(&file, &mut manifest).map(|()| file))
            {
                Ok(file) => files.push((item, file)),
                Err(Refusal::Item(why)) => states.push(failed(item, why)),
                Err(Refusal::Interrupted) => return Err(EnvironmentError::Interrupted),
            }
        }
        if wanted.hosts.is_some() && manifest.hosts.is_none() {
            let existed = matches!(self.root.status(HOSTS), Ok(Some(_)));
            self.note_missing_directories(HOSTS, &mut manifest);
            manifest.hosts = Some(HostsEntry { existed });
        }
        self.claim_sysctls(desired, &mut manifest);
        self.save_if_changed(&before, &manifest)?;

        for (item, file) in files {
            states.push(self.put(item, &file)?);
        }
        if let Some(block) = &wanted.hosts {
            states.push(self.put_hosts(block)?);
        }
        self.put_sysctls(desired, &mut states)?;

        let claimed = manifest.clone();
        self.take_back_unwanted(&wanted, desired, &mut manifest, &mut states)?;
        self.save_if_changed(&claimed, &manifest)?;
        versions::check(&desired.required_versions, inventory, &mut states);
        states.sort_by(|left, right| left.item.cmp(&right.item));
        Ok(states)
    }

    /// Says how each item stands, and changes nothing.
    pub fn verify(&self, desired: &EnvironmentDesired, inventory: &Inventory) -> Vec<ItemState> {
        let wanted = Wanted::of(desired, &self.options.allowed_prefixes);
        let mut states = Vec::new();
        for (item, file) in &wanted.files {
            states.push(match file {
                Err(why) => failed(item, why.clone()),
                Ok(file) => match self.difference(file) {
                    Ok(None) => applied(item),
                    Ok(Some(why)) => ItemState {
                        item: item.clone(),
                        state: ItemCondition::Drifted { why },
                    },
                    Err(error) => failed(item, one_line(&error)),
                },
            });
        }
        if let Some(block) = &wanted.hosts {
            let text = self.hosts_text();
            states.push(match (block, text) {
                (Err(why), _) => failed("hosts", why.clone()),
                (_, Err(why)) => failed("hosts", why),
                (Ok(block), Ok(text))
                    if hosts::has_block(text.as_deref().unwrap_or_default(), block) =>
                {
                    applied("hosts")
                }
                (Ok(_), Ok(_)) => {
                    let why = "the members' lines in /etc/hosts are missing or were changed".into();
                    ItemState {
                        item: "hosts".into(),
                        state: ItemCondition::Drifted { why },
                    }
                }
            });
        }
        self.verify_sysctls(desired, &mut states);
        versions::check(&desired.required_versions, inventory, &mut states);
        states.sort_by(|left, right| left.item.cmp(&right.item));
        states
    }

    /// The generation that was applied last; `None` if nothing of ours is on this node.
    pub fn applied_generation(&self) -> Result<Option<i64>, EnvironmentError> {
        let manifest = self.load()?;
        Ok((manifest != Manifest::default()).then_some(manifest.generation))
    }

    /// Makes sure that the manifest says what was at the place of a file before us.
    fn claim(&self, file: &WantedFile, manifest: &mut Manifest) -> Result<(), Refusal> {
        if manifest.files.contains_key(&file.path) {
            return Ok(());
        }
        let item = |error: FileError| Refusal::Item(one_line(&error));
        let original = match self.root.status(&file.path).map_err(item)? {
            None => None,
            Some(status) => {
                if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
                    let what = if FileType::from_raw_mode(status.st_mode) == FileType::Symlink {
                        "a symbolic link"
                    } else {
                        "no file"
                    };
                    return Err(Refusal::Item(format!(
                        "/{} is {what}; remove it first",
                        file.path
                    )));
                }
                let content = self
                    .root
                    .read(&file.path, FILE_LIMIT_BYTES)
                    .map_err(item)?
                    .unwrap_or_default();
                let backup = manifest.next_backup_name();
                self.change().map_err(|_| Refusal::Interrupted)?;
                let name = manifest::backup_path(&backup);
                self.state
                    .write_atomic(&name, &content, Permissions::mode(0o600), Durability::Power)
                    .map_err(item)?;
                Some(Original {
                    backup,
                    mode: status.st_mode & 0o7777,
                    owner: (status.st_uid, status.st_gid),
                })
            }
        };
        self.note_missing_directories(&file.path, manifest);
        manifest
            .files
            .insert(file.path.clone(), FileEntry { original });
        Ok(())
    }

    /// Remembers the directories above a path that do not exist yet, to remove them in the end.
    fn note_missing_directories(&self, path: &str, manifest: &mut Manifest) {
        let mut parent = path;
        while let Some((above, _)) = parent.rsplit_once('/') {
            // A link or an error on the way is found when the file is written.
            if matches!(self.root.status(above), Ok(None)) {
                manifest.directories.insert(above.to_owned());
            }
            parent = above;
        }
    }

    fn put(&self, item: &str, file: &WantedFile) -> Result<ItemState, EnvironmentError> {
        match self.difference(file) {
            Ok(None) => return Ok(applied(item)),
            Ok(Some(_)) => {}
            Err(error) => return Ok(failed(item, one_line(&error))),
        }
        self.change()?;
        let written = self.create_parent(&file.path).and_then(|()| {
            self.root.write_atomic(
                &file.path,
                file.content.as_bytes(),
                Permissions::mode(file.mode),
                Durability::Power,
            )
        });
        Ok(match written {
            Ok(()) => applied(item),
            Err(error) => failed(item, one_line(&error)),
        })
    }

    /// What is different about a file, in words; `None` if nothing is.
    fn difference(&self, file: &WantedFile) -> Result<Option<String>, FileError> {
        let Some(status) = self.root.status(&file.path)? else {
            return Ok(Some("missing".into()));
        };
        let content = self.root.read(&file.path, FILE_LIMIT_BYTES)?;
        let mode = status.st_mode & 0o7777;
        Ok(match content {
            None => Some("missing".into()),
            Some(content) if content != file.content.as_bytes() => {
                Some("the content was changed".into())
            }
            Some(_) if mode != file.mode => Some(format!(
                "the mode is {mode:04o} instead of {:04o}",
                file.mode
            )),
            Some(_) => None,
        })
    }

    fn put_hosts(&self, block: &Result<String, String>) -> Result<ItemState, EnvironmentError> {
        let edited = match (block, self.hosts_text()) {
            (Err(why), _) => return Ok(failed("hosts", why.clone())),
            (_, Err(why)) => return Ok(failed("hosts", why)),
            (Ok(block), Ok(text)) => {
                let text = text.unwrap_or_default();
                if hosts::has_block(&text, block) {
                    return Ok(applied("hosts"));
                }
                hosts::with_block(&text, block)
            }
        };
        let text = match edited {
            Ok(text) => text,
            Err(why) => return Ok(failed("hosts", why)),
        };
        self.change()?;
        Ok(
            match self
                .create_parent(HOSTS)
                .and_then(|()| self.write_hosts(&text))
            {
                Ok(()) => applied("hosts"),
                Err(error) => failed("hosts", one_line(&error)),
            },
        )
    }

    /// The hosts file as text; `None` if there is none.
    fn hosts_text(&self) -> Result<Option<String>, String> {
        match self.root.read(HOSTS, FILE_LIMIT_BYTES) {
            Ok(Some(bytes)) => String::from_utf8(bytes)
                .map(Some)
                .map_err(|_| "/etc/hosts is not UTF-8 text; repair it by hand".into()),
            Ok(None) => Ok(None),
            Err(error) => Err(one_line(&error)),
        }
    }

    /// Replaces the hosts file; its mode and owner stay.
    fn write_hosts(&self, text: &str) -> Result<(), FileError> {
        let permissions = match self.root.status(HOSTS)? {
            Some(status) => Permissions {
                mode: status.st_mode & 0o7777,
                owner: Some((status.st_uid, status.st_gid)),
            },
            None => Permissions::mode(0o644),
        };
        match self
            .root
            .write_atomic(HOSTS, text.as_bytes(), permissions, Durability::Power)
        {
            // In a container it is a mount of its own, which can be written but not replaced.
            Err(error) if matches!(error.errno(), Some(Errno::BUSY | Errno::XDEV)) => {
                self.root.remove_unfinished(HOSTS)?;
                self.root.overwrite(HOSTS, text.as_bytes())
            }
            result => result,
        }
    }

    fn create_parent(&self, path: &str) -> Result<(), FileError> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.root.create_subdirectory(parent, 0o755).map(|_| ()),
            None => Ok(()),
        }
    }

    fn load(&self) -> Result<Manifest, EnvironmentError> {
        Manifest::load(&self.state)
    }

    fn save_if_changed(&self, before: &Manifest, now: &Manifest) -> Result<(), EnvironmentError> {
        if before != now {
            self.change()?;
            now.save(&self.state)?;
        }
        Ok(())
    }

    /// Called before every change on disk; the failpoint.
    fn change(&self) -> Result<(), EnvironmentError> {
        let count = self.changes.get();
        if self.options.interrupt_at == Some(count) {
            return Err(EnvironmentError::Interrupted);
        }
        self.changes.set(count + 1);
        Ok(())
    }
}

enum Refusal {
    Item(String),
    Interrupted,
}

fn applied(item: &str) -> ItemState {
    ItemState {
        item: item.to_owned(),
        state: ItemCondition::Applied,
    }
}

fn failed(item: &str, why: String) -> ItemState {
    ItemState {
        item: item.to_owned(),
        state: ItemCondition::Failed { why },
    }
}
