//! Taking back: what is no longer wanted, and everything.

use supernode_types::environment::{EnvironmentDesired, ItemState};

use super::manifest::{FileEntry, Manifest, backup_path};
use super::wanted::Wanted;
use super::{
    EnvironmentError, EnvironmentExecutor, FILE_LIMIT_BYTES, HOSTS, applied, failed, hosts,
};
use crate::files::{Durability, FileError, Permissions, one_line};

impl EnvironmentExecutor {
    /// Removes all that was put on this node and puts back what was there before. Says how each item ended: applied means "as
    /// before us". Items that could not be put back stay in the manifest, and the next call tries again.
    pub fn clean(&self) -> Result<Vec<ItemState>, EnvironmentError> {
        let before = self.load()?;
        let mut manifest = before.clone();
        let mut states = Vec::new();
        for path in before.files.keys() {
            states.push(self.take_back_file(path, &mut manifest)?);
        }
        if before.hosts.is_some() {
            states.push(self.take_back_hosts(&mut manifest)?);
        }
        let problems = states.len();
        self.take_back_sysctls(|_| false, &mut manifest, &mut states)?;
        let restored = before
            .sysctls
            .keys()
            .filter(|key| !manifest.sysctls.contains_key(*key));
        let restored: Vec<ItemState> = restored
            .map(|key| applied(&format!("sysctl {key}")))
            .collect();
        states.splice(problems..problems, restored);
        self.remove_directories(&mut manifest)?;
        let nothing_left =
            manifest.files.is_empty() && manifest.hosts.is_none() && manifest.sysctls.is_empty();
        if nothing_left {
            self.change()?;
            Manifest::remove(&self.state)?;
        } else {
            self.save_if_changed(&before, &manifest)?;
        }
        Ok(states)
    }

    /// Takes back what the manifest has and the environment no longer names.
    pub(super) fn take_back_unwanted(
        &self,
        wanted: &Wanted,
        desired: &EnvironmentDesired,
        manifest: &mut Manifest,
        states: &mut Vec<ItemState>,
    ) -> Result<(), EnvironmentError> {
        let unwanted: Vec<String> = manifest
            .files
            .keys()
            .filter(|path| !wanted.named.contains(*path))
            .cloned()
            .collect();
        for path in unwanted {
            let state = self.take_back_file(&path, manifest)?;
            if manifest.files.contains_key(&path) {
                states.push(state);
            }
        }
        if wanted.hosts.is_none() && manifest.hosts.is_some() {
            let state = self.take_back_hosts(manifest)?;
            if manifest.hosts.is_some() {
                states.push(state);
            }
        }
        self.take_back_sysctls(|key| desired.sysctls.contains_key(key), manifest, states)?;
        self.remove_directories(manifest)
    }

    fn take_back_file(
        &self,
        path: &str,
        manifest: &mut Manifest,
    ) -> Result<ItemState, EnvironmentError> {
        let item = format!("file /{path}");
        let Some(entry) = manifest.files.get(path).cloned() else {
            return Ok(applied(&item));
        };
        self.change()?;
        Ok(match self.restore(path, &entry) {
            Ok(()) => {
                manifest.files.remove(path);
                applied(&item)
            }
            Err(why) => failed(&item, why),
        })
    }

    fn restore(&self, path: &str, entry: &FileEntry) -> Result<(), String> {
        let Some(original) = &entry.original else {
            return self
                .root
                .remove_file(path)
                .map_err(|error| one_line(&error));
        };
        let content = self
            .state
            .read(&backup_path(&original.backup), FILE_LIMIT_BYTES)
            .map_err(|error| one_line(&error))?
            .ok_or_else(|| {
                format!(
                    "its original, {}, is gone from the agent's directory",
                    original.backup
                )
            })?;
        let unchanged = self
            .same_as(path, &content, original.mode, original.owner)
            .unwrap_or(false);
        if unchanged {
            return self
                .root
                .remove_unfinished(path)
                .map_err(|error| one_line(&error));
        }
        let permissions = Permissions {
            mode: original.mode,
            owner: Some(original.owner),
        };
        self.create_parent(path)
            .and_then(|()| {
                self.root
                    .write_atomic(path, &content, permissions, Durability::Power)
            })
            .map_err(|error| one_line(&error))
    }

    fn same_as(
        &self,
        path: &str,
        content: &[u8],
        mode: u32,
        owner: (u32, u32),
    ) -> Result<bool, FileError> {
        let Some(status) = self.root.status(path)? else {
            return Ok(false);
        };
        let same_file = self
            .root
            .read(path, FILE_LIMIT_BYTES)?
            .is_some_and(|found| found == content);
        Ok(same_file && status.st_mode & 0o7777 == mode && (status.st_uid, status.st_gid) == owner)
    }

    fn take_back_hosts(&self, manifest: &mut Manifest) -> Result<ItemState, EnvironmentError> {
        let existed = manifest.hosts.as_ref().is_some_and(|entry| entry.existed);
        let taken = match self.hosts_text() {
            Err(why) => Err(why),
            Ok(None) => Ok(()),
            Ok(Some(text)) => match hosts::without_block(&text) {
                Err(why) => Err(why),
                Ok(rest) => {
                    self.change()?;
                    let done = if rest.is_empty() && !existed {
                        self.root.remove_file(HOSTS)
                    } else if rest == text {
                        self.root.remove_unfinished(HOSTS)
                    } else {
                        self.write_hosts(&rest)
                    };
                    done.map_err(|error| one_line(&error))
                }
            },
        };
        Ok(match taken {
            Ok(()) => {
                manifest.hosts = None;
                applied("hosts")
            }
            Err(why) => failed("hosts", why),
        })
    }

    /// Removes the directories that we made, if nothing of ours needs them and nobody else put something there.
    fn remove_directories(&self, manifest: &mut Manifest) -> Result<(), EnvironmentError> {
        // Deepest first: what is below a directory sorts behind it.
        for directory in manifest.directories.clone().into_iter().rev() {
            let below = format!("{directory}/");
            let needed = manifest.files.keys().any(|path| path.starts_with(&below))
                || (manifest.hosts.is_some() && HOSTS.starts_with(&below));
            if needed {
                continue;
            }
            self.change()?;
            // Not empty or not removable means that it is somebody else's now.
            let _ = self.root.remove_empty_directory(&directory);
            manifest.directories.remove(&directory);
        }
        Ok(())
    }
}
