//! Files below one directory, and never outside it.
//!
//! The agent runs as root next to programs of other users, so a path that it was given, or that such a program could have
//! prepared, must not lead it elsewhere. A [`Directory`] holds its directory open and walks every relative path one part at a
//! time without following symbolic links: the guarantee of `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`, on every kernel
//! (accelerator hosts with Linux 4.19 are common, `openat2` came with 5.6). Replacing a file is always write aside, then rename,
//! so a reader and a crash see the old or the new content and nothing between.
//!
//! It refuses absolute paths, `.` and `..`, symbolic links anywhere below the directory, and reading anything but regular files
//! (a FIFO would make the reader wait for ever).

mod error;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

pub use error::{FileError, one_line};

/// Whether a written file must survive a loss of power at the moment that the call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Survives the end of any process; a loss of power may take it.
    Process,
    /// Flushed to the disk, and the name in its directory too.
    Power,
}

/// Who owns a file and what may be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permissions {
    /// Permission bits, for example `0o644`.
    pub mode: u32,
    /// User and group; `None` keeps those of the writing process.
    pub owner: Option<(u32, u32)>,
}

impl Permissions {
    /// These bits and the owner of the writing process.
    pub fn mode(mode: u32) -> Self {
        Self { mode, owner: None }
    }
}

/// A directory held open; everything below it is reached through it.
#[derive(Debug)]
pub struct Directory {
    handle: OwnedFd,
    path: PathBuf,
}

const WALK: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Directory {
    /// Opens a directory that the caller trusts (from a command line, not from a request); links in `path` itself are followed.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| system(path, "open the directory", errno))?;
        Ok(Self {
            handle,
            path: path.to_owned(),
        })
    }

    /// Opens a trusted directory and creates it, with the directories above it, where it is missing.
    pub fn open_or_create(path: &Path, mode: u32) -> Result<Self, FileError> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .map_err(|source| FileError::System {
                path: path.to_owned(),
                step: "create the directory",
                source,
            })?;
        Self::open(path)
    }

    /// The path that it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A directory below this one; `None` if it is not there.
    pub fn subdirectory(&self, relative: &str) -> Result<Option<Self>, FileError> {
        let mut current: Option<Self> = None;
        for part in self.parts(relative)? {
            let here = current.as_ref().unwrap_or(self);
            match here.step(part) {
                Ok(next) => current = Some(next),
                Err(error) if error.errno() == Some(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(current)
    }

    /// A directory below this one, with every missing part created; also tells which parts were missing, outermost first.
    pub fn create_subdirectory(
        &self,
        relative: &str,
        mode: u32,
    ) -> Result<(Self, Vec<String>), FileError> {
        let mut current = Self {
            handle: self.duplicate()?,
            path: self.path.clone(),
        };
        let mut created = Vec::new();
        let mut so_far = String::new();
        for part in self.parts(relative)? {
            if !so_far.is_empty() {
                so_far.push('/');
            }
            so_far.push_str(part);
            match rustix::fs::mkdirat(&current.handle, part, Mode::from_raw_mode(mode)) {
                Ok(()) => created.push(so_far.clone()),
                Err(Errno::EXIST) => {}
                Err(errno) => {
                    return Err(system(
                        &current.path.join(part),
                        "create the directory",
                        errno,
                    ));
                }
            }
            current = current.step(part)?;
        }
        Ok((current, created))
    }

    /// The content of a regular file; `None` if there is none.
    pub fn read(&self, relative: &str, limit_bytes: u64) -> Result<Option<Vec<u8>>, FileError> {
        let Some(file) = self.open_file(relative)? else {
            return Ok(None);
        };
        let mut content = Vec::new();
        let path = self.path.join(relative);
        file.take(limit_bytes + 1)
            .read_to_end(&mut content)
            .map_err(|source| FileError::System {
                path: path.clone(),
                step: "read",
                source,
            })?;
        if content.len() as u64 > limit_bytes {
            return Err(FileError::TooLarge {
                path,
                limit: limit_bytes,
            });
        }
        Ok(Some(content))
    }

    /// Opens a regular file for reading; `None` if there is none.
    pub fn open_file(&self, relative: &str) -> Result<Option<File>, FileError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        self.open_as(relative, flags, Mode::empty())
    }

    /// Writes into an existing file in place: for files that cannot be replaced, as those below `/proc/sys`.
    pub fn overwrite(&self, relative: &str, content: &[u8]) -> Result<(), FileError> {
        let path = self.path.join(relative);
        let flags =
            OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = self
            .open_as(relative, flags, Mode::empty())?
            .ok_or_else(|| system(&path, "open for writing", Errno::NOENT))?;
        file.write_all(content).map_err(|source| FileError::System {
            path,
            step: "write",
            source,
        })
    }

    /// Replaces or creates a file as one step. A leftover of an interrupted call is overwritten by the next. One writer per file at a
    /// time; the second of two at once gets an error.
    pub fn write_atomic(
        &self,
        relative: &str,
        content: &[u8],
        permissions: Permissions,
        durability: Durability,
    ) -> Result<(), FileError> {
        let (parent, name) = self.parent(relative)?;
        let path = self.path.join(relative);
        let aside = aside_name(name);
        remove_if_there(parent.as_fd(), &aside)
            .map_err(|errno| system(&path, "remove an unfinished copy", errno))?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(&parent, aside.as_str(), flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| system(&path, "create", errno))?;
        if let Some((user, group)) = permissions.owner {
            rustix::fs::fchown(
                &handle,
                Some(Uid::from_raw(user)),
                Some(Gid::from_raw(group)),
            )
            .map_err(|errno| system(&path, "give to its owner", errno))?;
        }
        rustix::fs::fchmod(&handle, Mode::from_raw_mode(permissions.mode))
            .map_err(|errno| system(&path, "set the permissions", errno))?;
        let mut file = File::from(handle);
        file.write_all(content)
            .map_err(|source| FileError::System {
                path: path.clone(),
                step: "write",
                source,
            })?;
        if durability == Durability::Power {
            file.sync_all().map_err(|source| FileError::System {
                path: path.clone(),
                step: "flush",
                source,
            })?;
        }
        rustix::fs::renameat(&parent, aside.as_str(), &parent, name)
            .map_err(|errno| system(&path, "replace", errno))?;
        if durability == Durability::Power {
            rustix::fs::fsync(&parent)
                .map_err(|errno| system(&path, "flush the directory", errno))?;
        }
        Ok(())
    }

    /// Creates a file that must not exist yet, with all of its content at once; false if it exists.
    pub fn create_new(&self, relative: &str, content: &[u8], mode: u32) -> Result<bool, FileError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let (parent, name) = self.parent(relative)?;
        let path = self.path.join(relative);
        // A name of its own for every try, because several processes may try at once.
        let aside = format!(
            ".{name}.{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(&parent, aside.as_str(), flags, Mode::from_raw_mode(mode))
            .map_err(|errno| system(&path, "create", errno))?;
        let written = File::from(handle).write_all(content);
        let linked = match written {
            Ok(()) => rustix::fs::linkat(&parent, aside.as_str(), &parent, name, AtFlags::empty()),
            Err(_) => Ok(()),
        };
        remove_if_there(parent.as_fd(), &aside)
            .map_err(|errno| system(&path, "remove an unfinished copy", errno))?;
        written.map_err(|source| FileError::System {
            path: path.clone(),
            step: "write",
            source,
        })?;
        match linked {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(system(&path, "create", errno)),
        }
    }

    /// What the path names, without following it: type, mode, owner and size; `None` if nothing.
    pub fn status(&self, relative: &str) -> Result<Option<rustix::fs::Stat>, FileError> {
        let (parent, name) = match self.parent(relative) {
            Ok(found) => found,
            Err(error) if error.errno() == Some(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(status) => Ok(Some(status)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(system(&self.path.join(relative), "look at", errno)),
        }
    }

    /// Removes a file, and what an interrupted [`Directory::write_atomic`] left of it; it need not be there.
    pub fn remove_file(&self, relative: &str) -> Result<(), FileError> {
        let path = self.path.join(relative);
        let (parent, name) = match self.parent(relative) {
            Ok(found) => found,
            Err(error) if error.errno() == Some(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error),
        };
        for name in [name, &aside_name(name)] {
            remove_if_there(parent.as_fd(), name)
                .map_err(|errno| system(&path, "remove", errno))?;
        }
        Ok(())
    }

    /// Removes what an interrupted [`Directory::write_atomic`] of this file left.
    pub fn remove_unfinished(&self, relative: &str) -> Result<(), FileError> {
        let (parent, name) = match self.parent(relative) {
            Ok(found) => found,
            Err(error) if error.errno() == Some(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error),
        };
        remove_if_there(parent.as_fd(), &aside_name(name)).map_err(|errno| {
            system(
                &self.path.join(relative),
                "remove an unfinished copy",
                errno,
            )
        })
    }

    /// Removes a directory if it is there and empty; false if something is in it.
    pub fn remove_empty_directory(&self, relative: &str) -> Result<bool, FileError> {
        let (parent, name) = match self.parent(relative) {
            Ok(found) => found,
            Err(error) if error.errno() == Some(Errno::NOENT) => return Ok(true),
            Err(error) => return Err(error),
        };
        match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(errno) => Err(system(
                &self.path.join(relative),
                "remove the directory",
                errno,
            )),
        }
    }

    /// The names in this directory that are text, sorted, without those that begin with a dot.
    pub fn names(&self) -> Result<Vec<String>, FileError> {
        let entries = rustix::fs::Dir::read_from(&self.handle)
            .map_err(|errno| system(&self.path, "list", errno))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|errno| system(&self.path, "list", errno))?;
            if let Ok(name) = entry.file_name().to_str()
                && !name.starts_with('.')
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn duplicate(&self) -> Result<OwnedFd, FileError> {
        self.handle.try_clone().map_err(|source| FileError::System {
            path: self.path.clone(),
            step: "hold open",
            source,
        })
    }

    fn parts<'a>(&self, relative: &'a str) -> Result<Vec<&'a str>, FileError> {
        let parts: Vec<&str> = relative.split('/').collect();
        if parts
            .iter()
            .any(|part| part.is_empty() || *part == "." || *part == ".." || part.contains('\0'))
        {
            return Err(FileError::Escapes {
                path: self.path.join(relative.trim_start_matches('/')),
            });
        }
        Ok(parts)
    }

    fn step(&self, part: &str) -> Result<Self, FileError> {
        let path = self.path.join(part);
        match rustix::fs::openat(&self.handle, part, WALK, Mode::empty()) {
            Ok(handle) => Ok(Self { handle, path }),
            Err(errno) => Err(self.explain(part, &path, "open the directory", errno)),
        }
    }

    /// The open directory that a path's last part is in, and that last part.
    fn parent<'a>(&self, relative: &'a str) -> Result<(OwnedFd, &'a str), FileError> {
        let mut parts = self.parts(relative)?;
        let name = parts.pop().expect("splitting gives at least one part");
        let mut current: Option<Self> = None;
        for part in parts {
            current = Some(current.as_ref().unwrap_or(self).step(part)?);
        }
        match current {
            Some(directory) => Ok((directory.handle, name)),
            None => Ok((self.duplicate()?, name)),
        }
    }

    fn open_as(
        &self,
        relative: &str,
        flags: OFlags,
        mode: Mode,
    ) -> Result<Option<File>, FileError> {
        let path = self.path.join(relative);
        let (parent, name) = match self.parent(relative) {
            Ok(found) => found,
            Err(error) if error.errno() == Some(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        let handle = match rustix::fs::openat(&parent, name, flags, mode) {
            Ok(handle) => handle,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => {
                return Err(FileError::SymbolicLink {
                    path: path.clone(),
                    link: path,
                });
            }
            Err(errno) => return Err(system(&path, "open", errno)),
        };
        let status = rustix::fs::fstat(&handle).map_err(|errno| system(&path, "look at", errno))?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(FileError::NotRegular { path });
        }
        Ok(Some(File::from(handle)))
    }

    /// Tells "is a link" from other reasons why a part could not be opened as a directory.
    fn explain(&self, part: &str, path: &Path, step: &'static str, errno: Errno) -> FileError {
        let linked = rustix::fs::statat(&self.handle, part, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Symlink);
        if linked {
            FileError::SymbolicLink {
                path: path.to_owned(),
                link: path.to_owned(),
            }
        } else {
            system(path, step, errno)
        }
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

fn aside_name(name: &str) -> String {
    format!(".{name}.supernode-new")
}

fn remove_if_there(parent: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, OsStr::from_bytes(name.as_bytes()), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn system(path: &Path, step: &'static str, errno: Errno) -> FileError {
    FileError::System {
        path: path.to_owned(),
        step,
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn directory() -> (tempfile::TempDir, Directory) {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let directory = Directory::open(temporary.path()).expect("it opens");
        (temporary, directory)
    }

    #[test]
    fn paths_that_leave_the_directory_are_refused() {
        let (_temporary, directory) = directory();
        for path in ["/etc/passwd", "../x", "a/../../x", "a//b", "./a", "", "a/"] {
            assert!(
                matches!(directory.read(path, 10), Err(FileError::Escapes { .. })),
                "{path}"
            );
            let written =
                directory.write_atomic(path, b"x", Permissions::mode(0o600), Durability::Process);
            assert!(matches!(written, Err(FileError::Escapes { .. })), "{path}");
        }
    }

    #[test]
    fn links_are_refused_at_the_end_and_on_the_way() {
        let (temporary, directory) = directory();
        let outside = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(outside.path().join("secret"), "secret").expect("it is written");
        symlink(outside.path(), temporary.path().join("way")).expect("a link");
        symlink(outside.path().join("secret"), temporary.path().join("end")).expect("a link");
        assert!(matches!(
            directory.read("way/secret", 100),
            Err(FileError::SymbolicLink { .. })
        ));
        assert!(matches!(
            directory.read("end", 100),
            Err(FileError::SymbolicLink { .. })
        ));
        assert!(matches!(
            directory.overwrite("end", b"x"),
            Err(FileError::SymbolicLink { .. })
        ));
        assert!(
            directory
                .write_atomic(
                    "way/secret",
                    b"x",
                    Permissions::mode(0o600),
                    Durability::Process
                )
                .is_err()
        );
        directory
            .write_atomic(
                "end",
                b"mine",
                Permissions::mode(0o600),
                Durability::Process,
            )
            .expect("a rename replaces the link itself");
        assert_eq!(
            std::fs::read_to_string(outside.path().join("secret")).expect("it is there"),
            "secret"
        );
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let (temporary, directory) = directory();
        let fifo = temporary.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .expect("a fifo");
        assert!(matches!(
            directory.read("fifo", 10),
            Err(FileError::NotRegular { .. })
        ));
        std::fs::write(temporary.path().join("large"), [0; 11]).expect("it is written");
        assert!(matches!(
            directory.read("large", 10),
            Err(FileError::TooLarge { .. })
        ));
        assert!(
            directory
                .read("absent/file", 10)
                .expect("no error")
                .is_none()
        );
    }

    #[test]
    fn replacing_keeps_no_leftovers_and_sets_the_mode() {
        let (temporary, directory) = directory();
        std::fs::write(temporary.path().join(".a.supernode-new"), "torn").expect("a leftover");
        directory
            .write_atomic("a", b"1", Permissions::mode(0o640), Durability::Power)
            .expect("it is written");
        let status = directory
            .status("a")
            .expect("no error")
            .expect("it is there");
        assert_eq!(status.st_mode & 0o777, 0o640);
        assert_eq!(
            std::fs::read_dir(temporary.path())
                .expect("it lists")
                .count(),
            1
        );
        assert!(!directory.create_new("a", b"2", 0o600).expect("no error"));
        assert_eq!(
            directory
                .read("a", 10)
                .expect("no error")
                .expect("it is there"),
            b"1"
        );
    }
}
