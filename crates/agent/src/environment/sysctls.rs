//! Kernel parameters: set through `/proc/sys` on a real node, only written down below a private root.

use std::path::Path;

use supernode_types::environment::{EnvironmentDesired, ItemCondition, ItemState};

use super::manifest::Manifest;
use super::{EnvironmentError, EnvironmentExecutor, SysctlMode, applied, failed};
use crate::files::{Directory, one_line};

const LIMIT_BYTES: u64 = 64 * 1024;

impl EnvironmentExecutor {
    /// Notes the value that each parameter has before we set it for the first time.
    pub(super) fn claim_sysctls(&self, desired: &EnvironmentDesired, manifest: &mut Manifest) {
        let SysctlMode::Set(directory) = &self.options.sysctls else {
            return;
        };
        for key in desired
            .sysctls
            .keys()
            .filter(|key| !manifest.sysctls.contains_key(*key))
            .cloned()
            .collect::<Vec<_>>()
        {
            // What cannot be read cannot be set either, and says so then.
            if let Ok(value) = read(directory, &key) {
                manifest.sysctls.insert(key, value);
            }
        }
    }

    pub(super) fn put_sysctls(
        &self,
        desired: &EnvironmentDesired,
        states: &mut Vec<ItemState>,
    ) -> Result<(), EnvironmentError> {
        for (key, value) in &desired.sysctls {
            let item = item(key);
            let SysctlMode::Set(directory) = &self.options.sysctls else {
                states.push(recorded(item));
                continue;
            };
            states.push(match read(directory, key) {
                Err(state) => ItemState { item, state },
                Ok(found) if same(&found, value) => applied(&item),
                Ok(_) => {
                    self.change()?;
                    match set(directory, key, value).and_then(|()| read(directory, key)) {
                        Ok(found) if same(&found, value) => applied(&item),
                        Ok(found) => failed(
                            &item,
                            format!("the kernel made {} of {value}", found.trim()),
                        ),
                        Err(state) => ItemState { item, state },
                    }
                }
            });
        }
        Ok(())
    }

    pub(super) fn verify_sysctls(&self, desired: &EnvironmentDesired, states: &mut Vec<ItemState>) {
        for (key, value) in &desired.sysctls {
            let item = item(key);
            let SysctlMode::Set(directory) = &self.options.sysctls else {
                states.push(recorded(item));
                continue;
            };
            states.push(match read(directory, key) {
                Err(state) => ItemState { item, state },
                Ok(found) if same(&found, value) => applied(&item),
                Ok(found) => ItemState {
                    item,
                    state: ItemCondition::Drifted {
                        why: format!("it is {} instead of {value}", found.trim()),
                    },
                },
            });
        }
    }

    /// Gives the parameters that are not in `keep` the value that they had before us.
    pub(super) fn take_back_sysctls(
        &self,
        keep: impl Fn(&str) -> bool,
        manifest: &mut Manifest,
        states: &mut Vec<ItemState>,
    ) -> Result<(), EnvironmentError> {
        let SysctlMode::Set(directory) = &self.options.sysctls else {
            return Ok(());
        };
        for (key, before) in manifest.sysctls.clone() {
            if keep(&key) {
                continue;
            }
            let differs = read(directory, &key).is_ok_and(|found| !same(&found, &before));
            if differs {
                self.change()?;
                if let Err(state) = set(directory, &key, &before) {
                    states.push(ItemState {
                        item: item(&key),
                        state,
                    });
                    continue;
                }
            }
            manifest.sysctls.remove(&key);
        }
        Ok(())
    }
}

fn item(key: &str) -> String {
    format!("sysctl {key}")
}

fn recorded(item: String) -> ItemState {
    ItemState {
        item,
        state: ItemCondition::Unsupported {
            why: "recorded, not applied under a private root".into(),
        },
    }
}

/// The file of a parameter; its name is checked here, whoever wrote it.
fn path(key: &str) -> Result<String, ItemCondition> {
    let plain = !key.is_empty()
        && key.split('.').all(|part| !part.is_empty())
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if plain {
        Ok(key.replace('.', "/"))
    } else {
        Err(ItemCondition::Failed {
            why: "not the name of a kernel parameter; write it as net.core.somaxconn".into(),
        })
    }
}

fn open(directory: &Path) -> Result<Directory, ItemCondition> {
    Directory::open(directory).map_err(|error| ItemCondition::Failed {
        why: one_line(&error),
    })
}

fn read(directory: &Path, key: &str) -> Result<String, ItemCondition> {
    match open(directory)?.read(&path(key)?, LIMIT_BYTES) {
        Ok(Some(bytes)) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Ok(None) => Err(ItemCondition::Failed {
            why: "this kernel has no such parameter".into(),
        }),
        Err(error) => Err(ItemCondition::Failed {
            why: one_line(&error),
        }),
    }
}

fn set(directory: &Path, key: &str, value: &str) -> Result<(), ItemCondition> {
    if value.contains(['\0', '\n']) && value.trim_end_matches('\n').contains(['\0', '\n']) {
        return Err(ItemCondition::Failed {
            why: "the value has a line break or a zero byte".into(),
        });
    }
    let line = format!("{}\n", value.trim_end_matches('\n'));
    open(directory)?
        .overwrite(&path(key)?, line.as_bytes())
        .map_err(|error| ItemCondition::Failed {
            why: one_line(&error),
        })
}

/// The kernel answers with tabs where people write blanks.
fn same(left: &str, right: &str) -> bool {
    left.split_whitespace().eq(right.split_whitespace())
}
