//! The lease file: until when the ranks of this node may run without a new word from the control plane.
//!
//! ```text
//!  agent --after each acknowledged sync: deadline (in place)--> DATA/lease --read at least 4 times a second--> every supervisor
//! ```
//! The file holds one number, 8 bytes, little-endian: nanoseconds of `CLOCK_BOOTTIME`, which no clock correction moves and which
//! goes on while a machine sleeps. [`NO_DEADLINE`] means that no fence is wanted. A missing or short file means "expired": without
//! a lease nothing runs. A file that cannot be read for another reason leaves the last known deadline in force.
//!
//! The number means nothing after a restart of the host, so the agent writes the file before it launches the first rank of a boot.
//!
//! A lease that has run out stays so, whatever is written later: an agent that was stopped for a while comes back to a server that may
//! have given its devices away, and its new lease is not that of the ranks that it knew. So a supervisor begins with the deadline under
//! which its launch was decided, and never goes on over a gap.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// No fence.
pub const NO_DEADLINE: i64 = i64::MAX;

/// Nanoseconds of `CLOCK_BOOTTIME` now.
pub fn boottime_nanoseconds() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec)
}

/// The agent's end: writes deadlines.
#[derive(Debug, Clone)]
pub struct LeaseFile {
    path: PathBuf,
}

impl LeaseFile {
    /// The lease file at `path`; it need not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ranks may run until `CLOCK_BOOTTIME` shows this.
    ///
    /// A file that is there is written in place, eight bytes at once: replacing it would cost a new file every second, and file systems
    /// write a replaced file to the disk. The first one is written aside, because a reader takes a short file for the end.
    pub fn write(&self, deadline_nanoseconds: i64) -> io::Result<()> {
        let bytes = deadline_nanoseconds.to_le_bytes();
        if let Ok(file) = std::fs::OpenOptions::new().write(true).open(&self.path)
            && file.metadata().is_ok_and(|status| status.len() == 8)
        {
            return file.write_all_at(&bytes, 0);
        }
        let aside = self.path.with_extension("new");
        std::fs::write(&aside, bytes)?;
        std::fs::rename(&aside, &self.path)
    }

    /// The deadline as a supervisor would read it now; `None` if there is none to run under.
    pub fn read(&self) -> io::Result<Option<i64>> {
        match std::fs::read(&self.path) {
            Ok(bytes) => Ok(bytes
                .first_chunk::<8>()
                .map(|bytes| i64::from_le_bytes(*bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The supervisor's end: remembers the last deadline that it could read.
#[derive(Debug)]
pub struct Lease {
    file: LeaseFile,
    last_known: i64,
    /// Whether the file was ever read.
    read: bool,
}

impl Lease {
    /// The lease of a rank whose launch was decided under the deadline `granted`. A file that cannot be read at first counts as expired.
    pub fn open(path: PathBuf, granted: i64) -> Self {
        Self {
            file: LeaseFile::new(path),
            last_known: granted,
            read: false,
        }
    }

    /// Reads the lease again and says how many nanoseconds are left; 0 is expired, for good.
    pub fn left_nanoseconds(&mut self) -> i64 {
        if self.last_known > boottime_nanoseconds() {
            self.renew();
        }
        if self.last_known == NO_DEADLINE {
            return NO_DEADLINE;
        }
        self.last_known
            .saturating_sub(boottime_nanoseconds())
            .max(0)
    }

    fn renew(&mut self) {
        match self.file.read() {
            Ok(found) => self.last_known = found.unwrap_or(i64::MIN),
            Err(_) if !self.read => self.last_known = i64::MIN,
            Err(_) => {}
        }
        self.read = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_short_lease_is_expired_and_a_written_one_counts_down() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = LeaseFile::new(directory.path().join("lease"));
        let open = || Lease::open(file.path().to_owned(), NO_DEADLINE);
        assert_eq!(open().left_nanoseconds(), 0);
        file.write(boottime_nanoseconds() + 5_000_000_000)
            .expect("it is written");
        let mut lease = open();
        let left = lease.left_nanoseconds();
        assert!(left > 4_000_000_000 && left <= 5_000_000_000, "{left}");
        file.write(NO_DEADLINE).expect("it is written");
        assert_eq!(lease.left_nanoseconds(), NO_DEADLINE);
        std::fs::write(file.path(), [1, 2, 3]).expect("it is written");
        assert_eq!(lease.left_nanoseconds(), 0);
    }

    #[test]
    fn an_unreadable_lease_leaves_the_last_deadline_in_force() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = LeaseFile::new(directory.path().join("lease"));
        file.write(boottime_nanoseconds() + 60_000_000_000)
            .expect("it is written");
        let mut lease = Lease::open(file.path().to_owned(), NO_DEADLINE);
        assert!(lease.left_nanoseconds() > 50_000_000_000);
        std::fs::remove_file(file.path()).expect("it is removed");
        std::fs::create_dir(file.path()).expect("a directory cannot be read as a file");
        assert!(lease.left_nanoseconds() > 50_000_000_000);
    }

    #[test]
    fn a_lease_that_has_run_out_stays_so_whatever_is_written_later() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = LeaseFile::new(directory.path().join("lease"));
        file.write(boottime_nanoseconds() + 60_000_000_000)
            .expect("it is written");
        let path = file.path().to_owned();
        let mut decided_before = Lease::open(path.clone(), boottime_nanoseconds());
        assert_eq!(decided_before.left_nanoseconds(), 0);
        let mut overslept = Lease::open(path, NO_DEADLINE);
        file.write(boottime_nanoseconds()).expect("it is written");
        assert_eq!(overslept.left_nanoseconds(), 0);
        file.write(boottime_nanoseconds() + 60_000_000_000)
            .expect("it is written");
        assert_eq!(overslept.left_nanoseconds(), 0);
    }
}
