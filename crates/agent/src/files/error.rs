//! Why a file operation was refused or failed.

use std::path::PathBuf;

use rustix::io::Errno;

/// Why a file operation was refused or failed. Every variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The path is not a plain relative one.
    #[error("{}: not a plain path below its directory; write it without `..`, `.` and empty parts", path.display())]
    Escapes {
        /// The path as given.
        path: PathBuf,
    },
    /// Something on the way is a symbolic link.
    #[error("{}: {} is a symbolic link, and links are not followed; name the real place", path.display(), link.display())]
    SymbolicLink {
        /// The whole path.
        path: PathBuf,
        /// The part of it that is a link.
        link: PathBuf,
    },
    /// There is something else than a regular file.
    #[error("{}: not a regular file; remove what is there", path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
    },
    /// The file is larger than the reader accepts.
    #[error("{}: larger than {limit} bytes", path.display())]
    TooLarge {
        /// The path.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// The operating system said no.
    #[error("{}: cannot {step}", path.display())]
    System {
        /// The path.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl FileError {
    /// The error of the system below this one, if that was the cause.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::System { source, .. } => source.raw_os_error().map(Errno::from_raw_os_error),
            _ => None,
        }
    }
}

/// An error and its causes on one line, for places that keep a reason as text.
pub fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        line.push_str(": ");
        line.push_str(&inner.to_string());
        cause = inner.source();
    }
    line
}
