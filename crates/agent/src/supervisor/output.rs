//! The output of a rank: one file that the rank appends to, kept below a size.
//!
//! The rank writes by itself (no pipe, so nothing is lost and nothing blocks when the supervisor is gone). When more than the cap is
//! there, the oldest part is taken out of the file as a hole: offsets keep their meaning and the rank's descriptor stays valid.
//! Where the file system cannot make holes the file is truncated, and `output.start` says what offset its first byte now stands for.
//! A rank that truncates its own output (`> /dev/stderr` in a shell script does) is treated the same way.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, Gid, Mode, OFlags, Uid};

use crate::files::{Directory, Durability, Permissions};
use crate::ranks::records::{OUTPUT, OUTPUT_START, OutputWindow, User};

/// At most so many lines are kept in the exit record,
const LAST_LINES: usize = 20;
/// and at most so many bytes.
const LAST_LINES_BYTES: usize = 4096;
const BLOCK_BYTES: u64 = 4096;

/// The output file, as the supervisor sees it.
#[derive(Debug)]
pub(crate) struct Output {
    file: File,
    cap_bytes: u64,
    window: OutputWindow,
    last_size: u64,
}

impl Output {
    /// Creates the output file. It belongs to the user of the rank, so that a program may open `/dev/stderr`; it is out of reach
    /// by name, because the rank directory is closed to that user.
    pub(crate) fn create(
        directory: &Directory,
        cap_bytes: u64,
        user: Option<&User>,
    ) -> std::io::Result<Self> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(directory, OUTPUT, flags, Mode::from_raw_mode(0o600))?;
        if let Some(user) = user {
            // Refused to an agent that is not root; then the rank cannot become that user either, and says so.
            let _ = rustix::fs::fchown(
                &handle,
                Some(Uid::from_raw(user.uid)),
                Some(Gid::from_raw(user.gid)),
            );
        }
        Ok(Self {
            file: File::from(handle),
            cap_bytes,
            window: OutputWindow::default(),
            last_size: 0,
        })
    }

    /// The file, for the rank to write to.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Takes out what exceeds the cap. Says whether output grows so fast that it should be called again soon.
    pub(crate) fn limit(&mut self, directory: &Directory) -> bool {
        let Ok(size) = self.file.metadata().map(|metadata| metadata.len()) else {
            return false;
        };
        if size < self.last_size {
            self.forget(directory, self.last_size);
            self.last_size = 0;
        }
        let grown = size - self.last_size;
        self.last_size = size;
        let kept_from = self.window.start - self.window.base;
        if size - kept_from.min(size) > self.cap_bytes {
            let hole_end = (size - self.cap_bytes / 4 * 3) / BLOCK_BYTES * BLOCK_BYTES;
            let window = OutputWindow {
                start: self.window.base + hole_end,
                base: self.window.base,
            };
            // Told first, cut second: a reader that sees the old window twice has read bytes that were still there.
            self.tell(directory, window);
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if rustix::fs::fallocate(&self.file, flags, kept_from, hole_end - kept_from).is_err()
                && self.file.set_len(0).is_ok()
            {
                self.forget(directory, size);
                self.last_size = 0;
            }
        }
        grown > self.cap_bytes / 8
    }

    /// The last lines of the output, for people; not more than fits an exit record.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        last_lines_of(&self.file, self.window)
    }

    fn forget(&mut self, directory: &Directory, bytes: u64) {
        let base = self.window.base + bytes;
        self.tell(directory, OutputWindow { start: base, base });
    }

    fn tell(&mut self, directory: &Directory, window: OutputWindow) {
        self.window = window;
        let text = serde_json::to_vec(&window).expect("two numbers are JSON");
        // On a full disk the old window stays; a reader then gets zero bytes for what was taken out.
        let _ = directory.write_atomic(
            OUTPUT_START,
            &text,
            Permissions::mode(0o600),
            Durability::Process,
        );
    }
}

/// The last lines of an output file, for people; not more than fits an exit record.
pub(crate) fn last_lines_of(file: &File, window: OutputWindow) -> Vec<String> {
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let first = window.start.saturating_sub(window.base).min(size);
    let from = size.saturating_sub(2 * LAST_LINES_BYTES as u64).max(first);
    let mut bytes = vec![0; usize::try_from(size - from).unwrap_or(0)];
    let read = file.read_at(&mut bytes, from).unwrap_or(0);
    bytes.truncate(read);
    last_lines(&String::from_utf8_lossy(&bytes))
}

fn last_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut bytes = 0;
    for line in text.lines().rev().take(LAST_LINES) {
        // A progress bar redraws its line; only what stood there last is of interest.
        let mut shown = line
            .trim_end_matches('\r')
            .rsplit('\r')
            .next()
            .unwrap_or_default();
        let room = LAST_LINES_BYTES - bytes;
        if shown.len() > room {
            if !lines.is_empty() {
                break;
            }
            let mut cut = shown.len() - room;
            while !shown.is_char_boundary(cut) {
                cut += 1;
            }
            shown = &shown[cut..];
        }
        bytes += shown.len();
        lines.push(shown.to_owned());
    }
    lines.reverse();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn at_most_twenty_lines_and_four_kibibytes_are_kept() {
        let text: Vec<String> = (0..100).map(|number| format!("line {number}")).collect();
        let lines = last_lines(&text.join("\n"));
        assert_eq!(
            (lines.len(), lines[0].as_str(), lines[19].as_str()),
            (20, "line 80", "line 99")
        );
        let long = "ä".repeat(5000);
        let lines = last_lines(&long);
        assert!(lines.len() == 1 && lines[0].len() <= LAST_LINES_BYTES && lines[0].ends_with('ä'));
        assert_eq!(last_lines("10%\r50%\r100%\ndone\r\n"), ["100%", "done"]);
        assert!(last_lines("").is_empty());
    }

    #[test]
    fn the_oldest_part_is_taken_out_and_offsets_stay() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let directory = Directory::open(temporary.path()).expect("it opens");
        let mut output = Output::create(&directory, 64 * 1024, None).expect("it is created");
        let block = vec![b'x'; 16 * 1024];
        for _ in 0..16 {
            (&output.file).write_all(&block).expect("it is written");
            output.limit(&directory);
        }
        let window: OutputWindow = serde_json::from_slice(
            &std::fs::read(temporary.path().join(OUTPUT_START)).expect("it is there"),
        )
        .expect("it is JSON");
        assert_eq!(window.base, 0, "this file system makes holes");
        let kept = 256 * 1024 - window.start;
        assert!((48 * 1024..=64 * 1024).contains(&kept), "{kept}");
        let metadata = output.file.metadata().expect("it is there");
        assert_eq!(metadata.len(), 256 * 1024);
        assert!(
            std::os::unix::fs::MetadataExt::blocks(&metadata) * 512 <= 80 * 1024,
            "the hole frees space"
        );
    }

    #[test]
    fn output_that_its_writer_truncated_goes_on_at_the_next_offset() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let directory = Directory::open(temporary.path()).expect("it opens");
        let mut output = Output::create(&directory, 64 * 1024, None).expect("it is created");
        (&output.file)
            .write_all(b"0123456789")
            .expect("it is written");
        output.limit(&directory);
        output.file.set_len(0).expect("it is truncated");
        (&output.file).write_all(b"abc").expect("it is written");
        output.limit(&directory);
        assert_eq!(
            output.window,
            OutputWindow {
                start: 10,
                base: 10
            }
        );
        assert_eq!(output.last_lines(), ["abc"]);
    }
}
