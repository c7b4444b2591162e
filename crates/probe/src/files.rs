//! Reading small text files and links below a root directory: `/` in life, a written-down machine in tests.
//!
//! Every read is bounded, every failure is "not there": the kernel answers `EINVAL` for the speed of a cable that is not plugged
//! in, and a file that only root may read is as unknown to us as one that does not exist.

use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Longest text that is read from one file.
const MOST_BYTES: u64 = 64 * 1024;

/// The files of one machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Files<'a> {
    root: &'a Path,
}

impl<'a> Files<'a> {
    pub(crate) fn below(root: &'a Path) -> Self {
        Self { root }
    }

    /// Where a path of the machine is, `path` without its leading slash.
    pub(crate) fn path(self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub(crate) fn exists(self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The first 64 KiB of a file, as text.
    pub(crate) fn text(self, path: &str) -> Option<String> {
        self.text_of(path, MOST_BYTES)
    }

    /// The first `most_bytes` of a file, as text.
    pub(crate) fn text_of(self, path: &str, most_bytes: u64) -> Option<String> {
        let mut bytes = Vec::new();
        std::fs::File::open(self.path(path))
            .ok()?
            .take(most_bytes)
            .read_to_end(&mut bytes)
            .ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The text of a file without the space around it; `None` if nothing is left.
    pub(crate) fn word(self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let word = text.trim_matches(|letter: char| letter.is_whitespace() || letter == '\0');
        if word.is_empty() {
            None
        } else {
            Some(word.to_owned())
        }
    }

    /// A decimal number.
    pub(crate) fn number<T: std::str::FromStr>(self, path: &str) -> Option<T> {
        self.word(path)?.parse().ok()
    }

    /// A hexadecimal number as sysfs writes it, with `0x`.
    pub(crate) fn hexadecimal(self, path: &str) -> Option<u32> {
        u32::from_str_radix(self.word(path)?.trim_start_matches("0x"), 16).ok()
    }

    /// The names in a directory, sorted; none if it is not there.
    pub(crate) fn names(self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(path))
            .into_iter()
            .flatten()
            .flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names
    }

    /// The last component of what a link points to, for example the driver of a device.
    pub(crate) fn link_name(self, path: &str) -> Option<String> {
        let target = std::fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// The PCI address of a device directory: the innermost one on its real path (a virtio device hangs below one).
    pub(crate) fn pci_address(self, path: &str) -> Option<String> {
        let real = std::fs::canonicalize(self.path(path)).ok()?;
        real.components()
            .rev()
            .map(|part| part.as_os_str().to_string_lossy())
            .find(|name| is_pci_address(name))
            .map(Into::into)
    }
}

fn is_pci_address(name: &str) -> bool {
    name.matches(':').count() == 2
        && name.contains('.')
        && crate::ascend::normalise_bus_address(name).as_deref() == Some(name)
}

/// Writes a file of a machine that is written down for a test.
#[cfg(test)]
pub(crate) fn write(root: &Path, path: &str, text: &str) {
    let file = root.join(path);
    std::fs::create_dir_all(file.parent().expect("has one")).expect("own directory");
    std::fs::write(file, text).expect("own directory");
}
