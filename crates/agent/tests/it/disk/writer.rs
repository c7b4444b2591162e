//! A program that writes records with their checksums and flushes each: what it counts as written must be there, whatever happens to
//! the disk below it.

use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::support::wait_for;

const BODY_BYTES: u64 = 4096 - 8;

pub(crate) struct Writer {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

/// Record `number`: its checksum, then its body.
fn record(number: u64) -> Vec<u8> {
    let body: Vec<u8> = (0..BODY_BYTES)
        .map(|index| (number * 31 + index * 7).to_le_bytes()[0])
        .collect();
    let mut hasher = DefaultHasher::new();
    (number, &body).hash(&mut hasher);
    let mut bytes = hasher.finish().to_le_bytes().to_vec();
    bytes.extend(body);
    bytes
}

impl Writer {
    /// Writes into a file in this directory from now on.
    pub(crate) fn start(directory: &str) -> Self {
        let path = Path::new(directory).join("records");
        let (stop, written) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let thread = {
            let (path, stop, written) = (path.clone(), Arc::clone(&stop), Arc::clone(&written));
            std::thread::spawn(move || {
                let mut file = File::create(path).expect("the disk takes files");
                let mut number = 0;
                while !stop.load(Ordering::SeqCst) {
                    file.write_all(&record(number))
                        .expect("the disk takes writes");
                    file.sync_data().expect("the disk takes flushes");
                    number += 1;
                    written.store(number, Ordering::SeqCst);
                }
            })
        };
        let writer = Self {
            path,
            stop,
            written,
            thread,
        };
        wait_for("the writer to write", || {
            (writer.written.load(Ordering::SeqCst) > 0).then_some(())
        });
        writer
    }

    /// Ends it, once it has written something more, and verifies every record; answers how many there are.
    pub(crate) fn stop(self) -> u64 {
        let now = self.written.load(Ordering::SeqCst);
        wait_for("the writer to go on", || {
            (self.written.load(Ordering::SeqCst) > now).then_some(())
        });
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("every write succeeded");
        let written = self.written.load(Ordering::SeqCst);
        let mut file = File::open(&self.path).expect("it is there");
        let mut bytes = vec![0; 4096];
        for number in 0..written {
            file.read_exact(&mut bytes).expect("nothing is missing");
            assert!(
                bytes == record(number),
                "record {number} of {written} is damaged"
            );
        }
        written
    }
}
