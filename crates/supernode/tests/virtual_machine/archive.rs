//! Archives in the format that the kernel unpacks as its first file system (`newc`), and what a program needs to run elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// Files by their path, without the leading `/`. Directories above them come by themselves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Archive {
    entries: BTreeMap<String, (u32, Vec<u8>)>,
}

impl Archive {
    pub(crate) fn directory(&mut self, path: &str) {
        self.add(path, DIRECTORY, Vec::new());
    }

    /// A file that everybody may read and run.
    pub(crate) fn file(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.add(path, PROGRAM, content.into());
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.add(path, LINK, target.into());
    }

    /// A program of this host at `path`, and every library that it loads at the place where it will look for it.
    pub(crate) fn program(&mut self, path: &str, source: &Path) {
        self.file(path, fs::read(source).expect("a program can be read"));
        self.libraries(source);
    }

    /// Every library that a program loads.
    pub(crate) fn libraries(&mut self, source: &Path) {
        for library in libraries(source) {
            let place = library.to_str().expect("a plain path").to_owned();
            // `/lib` is a link to `/usr/lib` on every system of today, in the guest as well.
            let place = place.trim_start_matches('/');
            let place = if place.starts_with("lib") {
                format!("usr/{place}")
            } else {
                place.to_owned()
            };
            self.file(&place, fs::read(&library).expect("a library can be read"));
        }
    }

    /// Everything of `other`, below a directory.
    pub(crate) fn below(&mut self, directory: &str, other: &Self) {
        for (path, (mode, content)) in &other.entries {
            self.add(&format!("{directory}/{path}"), *mode, content.clone());
        }
    }

    fn add(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        if let Some((above, _)) = path.rsplit_once('/')
            && !self.entries.contains_key(above)
        {
            self.directory(above);
        }
        self.entries.insert(path.to_owned(), (mode, content));
    }

    /// The archive as bytes. Several of them, one behind the other, are one.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, (path, (mode, content))) in (1..).zip(&self.entries) {
            write_entry(&mut bytes, number, path, *mode, content);
        }
        write_entry(&mut bytes, 0, "TRAILER!!!", 0, &[]);
        bytes
    }
}

fn write_entry(bytes: &mut Vec<u8>, number: u32, path: &str, mode: u32, content: &[u8]) {
    let length = u32::try_from(content.len()).expect("files are small");
    let path_length = u32::try_from(path.len() + 1).expect("paths are short");
    // Inode, mode, owner, group, links, time, length, four device numbers, length of the path, checksum.
    let fields = [number, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, path_length, 0];
    bytes.extend_from_slice(b"070701");
    for field in fields {
        bytes.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    bytes.extend_from_slice(path.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// What the loader would load; nothing for a script or a static program.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output();
    let output = output.expect("ldd belongs to the C library");
    String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(PathBuf::from)
        .collect()
}
