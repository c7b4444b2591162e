//! One server per `SQLite` file: an advisory lock on `PATH.lock`, held as long as the process lives.
//!
//! The database file itself cannot carry it (`SQLite` uses its locks for transactions). The file stays when the server
//! ends, because removing it would let two servers lock two files of the same name. The kernel releases the lock when
//! the holder dies, however it dies.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
};

use super::error::StoreError;

/// The held lock; released on drop.
#[derive(Debug)]
pub(crate) struct FileLock {
    file: File,
}

impl FileLock {
    /// Takes the lock of the database file `path` without waiting.
    pub(crate) fn take(path: &Path) -> Result<Self, StoreError> {
        let lock_path = lock_path(path);
        let unusable = |error: std::io::Error| StoreError::Open {
            database: format!("sqlite:{}", path.display()),
            reason: format!(
                "the lock file {} cannot be used ({error}): make its directory exist and writable for this user",
                lock_path.display()
            ),
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {
                // The number only serves the message that another server prints; the lock holds without it.
                let _ = file
                    .set_len(0)
                    .and_then(|()| file.rewind())
                    .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
                Ok(Self { file })
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.is_empty() {
                    holder
                } else {
                    format!(" (process {holder})")
                };
                Err(StoreError::Locked {
                    path: path.display().to_string(),
                    holder,
                })
            }
            Err(TryLockError::Error(error)) => Err(unusable(error)),
        }
    }
}

impl Drop for FileLock {
    /// Closing is not enough: a child that another thread has just forked has the file open until it becomes another program.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}
