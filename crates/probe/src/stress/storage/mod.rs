//! Storage: sequential and random reading and writing past the page cache, with the latency tail, and every byte verified.
//!
//! The file has no name (`O_TMPFILE`), so nothing is left behind whatever kills us. It is written first: reading holes would measure
//! nothing. Its size is bounded by what is asked and by a hundredth of the free space, and the test refuses where less than a tenth
//! of the file system is free: a full disk is slow by itself, and ours must not fill it.

mod content;
mod disk;
mod engine;
mod order;

use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use self::content::{BLOCK, Depth};
use self::disk::Disk;
pub use self::engine::Engine;
use self::engine::{Job, Operation};
use self::order::Shuffled;
use super::context::Context;
use super::histogram::Histogram;
use super::number::{real, split_mix};
use super::sample::{Event, Metric, Part, Refusal, Wrong};
use crate::files::Files;

/// What to do to a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// A directory on it.
    pub directory: PathBuf,
    /// Bytes of the test file, at most a hundredth of the free space.
    pub bytes: u64,
    /// For how long each of the four patterns runs at most.
    pub seconds: u32,
    /// Operations of 1 MiB under way in the sequential patterns.
    pub sequential_depth: u32,
    /// Operations of 4 KiB under way in the random patterns.
    pub random_depth: u32,
    /// What moves the bytes; the best there is when absent.
    #[serde(default)]
    pub engine: Option<Engine>,
}

/// Bytes of one sequential operation.
const EXTENT: usize = 1 << 20;
const BLOCKS_PER_EXTENT: u64 = (EXTENT / BLOCK) as u64;
/// A file smaller than this says nothing.
const FEWEST_EXTENTS: u64 = 16;
/// A sample covers at least so much time.
const INTERVAL: Duration = Duration::from_millis(100);
/// A disk that is wrong this often has been heard.
const MOST_WRONG: u32 = 8;
/// More operations under way than this would test the memory.
const MOST_DEPTH: u32 = 256;

pub(crate) fn run(context: &Context<'_>, settings: &Storage) -> Result<(), Refusal> {
    let extents = extents(&settings.directory, settings.bytes)?;
    let file = open(&settings.directory, extents * EXTENT as u64)?;
    let engine = settings.engine.unwrap_or_else(|| {
        let (engine, why) = Engine::best();
        if let Some(why) = why {
            context.remark(format!("io_uring cannot be used ({why}); threads are"));
        }
        engine
    });
    let files = Files::below(Path::new("/"));
    let metadata = file.metadata().ok();
    let mut test = Test {
        context: *context,
        settings,
        disk: metadata.and_then(|metadata| Disk::beneath(files, metadata.dev())),
        file,
        engine,
        part: Part::Directory(settings.directory.display().to_string()),
        generations: (0..extents * BLOCKS_PER_EXTENT)
            .map(|_| AtomicU32::new(0))
            .collect(),
        wrong: AtomicU32::new(0),
    };
    test.sequential_write()?;
    test.sequential_read()?;
    test.random_read()?;
    test.random_write()?;
    test.flush()?;
    test.verify()
}

/// How many extents the file may have.
fn extents(directory: &Path, wanted: u64) -> Result<u64, Refusal> {
    let space = rustix::fs::statvfs(directory)
        .map_err(|error| Refusal::because(&format!("{}", directory.display()), error))?;
    allowed_extents(
        space.f_blocks.saturating_mul(space.f_frsize),
        space.f_bavail.saturating_mul(space.f_frsize),
        wanted,
    )
    .map_err(|why| Refusal::CouldNotRun(format!("{}: {why}", directory.display())))
}

fn allowed_extents(size: u64, free: u64, wanted: u64) -> Result<u64, String> {
    if free < size / 10 {
        return Err(format!(
            "less than a tenth of the file system is free ({free} of {size} bytes)"
        ));
    }
    let extents = wanted.min(free / 100) / EXTENT as u64;
    if extents < FEWEST_EXTENTS {
        return Err(format!(
            "the test file would have {extents} MiB (a hundredth of the free space at most), which says nothing"
        ));
    }
    Ok(extents)
}

/// A file without a name, past the page cache, with its place on the disk: where a file grows, file systems write one piece after another.
fn open(directory: &Path, bytes: u64) -> Result<File, Refusal> {
    let refusal =
        |what: &str, error| Refusal::because(&format!("{}: {what}", directory.display()), error);
    let flags = OFlags::DIRECT | OFlags::TMPFILE;
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(i32::try_from(flags.bits()).expect("open flags are small"))
        .mode(0o600)
        .open(directory)
        .map_err(|error| refusal("no unnamed file with direct access can be made here", error))?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        // Some file systems give no place in advance.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(file),
        Err(error) => Err(refusal("the test file gets no place", error.into())),
    }
}

struct Test<'a> {
    context: Context<'a>,
    settings: &'a Storage,
    file: File,
    /// What the file lies on, where that is known.
    disk: Option<Disk>,
    engine: Engine,
    part: Part,
    /// How often each block was written; the length is what has been written at all.
    generations: Vec<AtomicU32>,
    wrong: AtomicU32,
}

/// What one pattern has moved, and in what time.
#[derive(Debug, Clone, Copy)]
struct Count {
    reads: u64,
    writes: u64,
    /// Of one read or write.
    bytes: u64,
    seconds: f64,
}

/// What a pattern is called in the samples.
struct Names {
    rate: Metric,
    latency: Option<Metric>,
    /// From operations per second to the unit of the rate.
    factor: f64,
}

impl Test<'_> {
    /// Writes the file once, or as much of it as the time allows; the rest of the test stays within that.
    fn sequential_write(&mut self) -> Result<(), Refusal> {
        let extents = self.blocks() / BLOCKS_PER_EXTENT;
        let mut issued = 0;
        let start = self.context.moment();
        let limit = f64::from(self.settings.seconds);
        let context = self.context;
        let mut next = || {
            let over = context.seconds_since(start) >= limit && issued >= FEWEST_EXTENTS;
            (issued < extents && !over).then(|| {
                issued += 1;
                Operation::Write((issued - 1) * EXTENT as u64)
            })
        };
        for generation in &self.generations {
            generation.store(1, Ordering::Relaxed);
        }
        let names = Names::sequential(Metric::SequentialWrite);
        self.pattern(&names, EXTENT, self.settings.sequential_depth, &mut next)?;
        let written = usize::try_from(issued * BLOCKS_PER_EXTENT).unwrap_or(usize::MAX);
        self.generations.truncate(written);
        self.flush()
    }

    fn sequential_read(&self) -> Result<(), Refusal> {
        let extents = self.blocks() / BLOCKS_PER_EXTENT;
        let mut going = self.until();
        let mut issued = 0;
        // Round and round until the time is over.
        let mut next = || {
            going().then(|| {
                issued += 1;
                Operation::Read((issued - 1) % extents * EXTENT as u64)
            })
        };
        let names = Names::sequential(Metric::SequentialRead);
        self.pattern(&names, EXTENT, self.settings.sequential_depth, &mut next)
    }

    fn random_read(&self) -> Result<(), Refusal> {
        let blocks = self.blocks();
        let mut going = self.until();
        let mut state = blocks;
        let mut next =
            || going().then(|| Operation::Read(split_mix(&mut state) % blocks * BLOCK as u64));
        let names = Names::random(Metric::RandomRead, Metric::RandomReadLatency);
        self.pattern(&names, BLOCK, self.settings.random_depth, &mut next)
    }

    /// Every block once at most, so that no block is under way twice and what must be read back is certain.
    fn random_write(&self) -> Result<(), Refusal> {
        let mut going = self.until();
        let mut order = Shuffled::new(self.blocks(), 0);
        let mut next = || {
            let block = going().then(|| order.next()).flatten()?;
            self.generation(block).fetch_add(1, Ordering::Relaxed);
            Some(Operation::Write(block * BLOCK as u64))
        };
        let names = Names::random(Metric::RandomWrite, Metric::RandomWriteLatency);
        self.pattern(&names, BLOCK, self.settings.random_depth, &mut next)
    }

    fn flush(&self) -> Result<(), Refusal> {
        let moment = self.context.moment();
        self.file
            .sync_data()
            .map_err(|error| Refusal::because("the test file cannot be flushed", error))?;
        let taken = self.context.seconds_since(moment) * 1e6;
        self.context
            .sample(Metric::FlushLatency, self.part.clone(), taken);
        Ok(())
    }

    /// Reads everything once more and looks at every byte. Not timed.
    fn verify(&self) -> Result<(), Refusal> {
        let mut extents = 0..self.blocks() / BLOCKS_PER_EXTENT;
        let mut next = || Some(Operation::Read(extents.next()? * EXTENT as u64));
        let done = |operation: Operation, bytes: &[u8], _: Duration| {
            self.check(operation, bytes, Depth::Whole);
        };
        self.job(EXTENT, self.settings.sequential_depth, &mut next, &done)
    }

    /// Runs one pattern: a rate for each interval, and all latencies at the end; and whether it had the disk to itself.
    fn pattern(
        &self,
        names: &Names,
        length: usize,
        depth: u32,
        next: &mut (dyn FnMut() -> Option<Operation> + Send),
    ) -> Result<(), Refusal> {
        let latencies = Mutex::new(Histogram::default());
        let begun = Mutex::new(self.context.moment());
        let finished = AtomicU64::new(0);
        let (reads, writes) = (AtomicU64::new(0), AtomicU64::new(0));
        let done = |operation: Operation, bytes: &[u8], taken: Duration| {
            self.check(operation, bytes, Depth::Ends);
            match operation {
                Operation::Read(_) => &reads,
                Operation::Write(_) => &writes,
            }
            .fetch_add(1, Ordering::Relaxed);
            if names.latency.is_some() {
                let mut latencies = latencies.lock().expect("nobody panics with it");
                latencies.add(taken.as_secs_f64() * 1e6);
            }
            finished.fetch_add(1, Ordering::Relaxed);
            let mut begun = begun.lock().expect("nobody panics with it");
            let seconds = self.context.seconds_since(*begun);
            if seconds >= INTERVAL.as_secs_f64() {
                let operations = real(finished.swap(0, Ordering::Relaxed));
                *begun = self.context.moment();
                let rate = operations / seconds * names.factor;
                self.context.sample(names.rate, self.part.clone(), rate);
            }
        };
        let start = self.context.moment();
        let before = self.moved_bytes();
        self.job(length, depth, next, &done)?;
        self.account(
            before,
            Count {
                reads: reads.into_inner(),
                writes: writes.into_inner(),
                bytes: length as u64,
                seconds: self.context.seconds_since(start),
            },
        );
        if let Some(metric) = names.latency {
            self.context.say(Event::Distribution {
                metric,
                part: self.part.clone(),
                histogram: latencies.into_inner().expect("nobody panics with it"),
            });
        }
        Ok(())
    }

    fn moved_bytes(&self) -> Option<u64> {
        self.disk.as_ref().and_then(Disk::moved_bytes)
    }

    /// Says which share of what the disk has moved was ours, and whether a limit held us back.
    fn account(&self, before: Option<u64>, count: Count) {
        let Some(disk) = &self.disk else { return };
        let moved = before.zip(disk.moved_bytes());
        if let Some(moved) = moved.and_then(|(before, after)| after.checked_sub(before)) {
            let own = (count.reads + count.writes) * count.bytes;
            let share = real(own) / real(own.max(moved).max(1));
            self.context
                .sample(Metric::DiskShare, self.part.clone(), share);
        }
        if let Some(limit) = disk.limit(Files::below(Path::new("/")), count) {
            self.context.say(Event::Limited(limit));
        }
    }

    fn job(
        &self,
        length: usize,
        depth: u32,
        next: &mut (dyn FnMut() -> Option<Operation> + Send),
        done: &(dyn Fn(Operation, &[u8], Duration) + Sync),
    ) -> Result<(), Refusal> {
        let prepare = |operation: Operation, bytes: &mut [u8]| {
            for (block, bytes) in blocks_of(operation).zip(bytes.chunks_exact_mut(BLOCK)) {
                content::fill(bytes, block, self.generation(block).load(Ordering::Relaxed));
            }
        };
        let mut job = Job {
            file: &self.file,
            length,
            depth: depth.clamp(1, MOST_DEPTH),
            next,
            prepare: &prepare,
            done,
        };
        self.engine.run(&self.context, &mut job).map_err(|error| {
            // An error of the medium is a result, not a reason not to have run.
            if !is_refusal(&error) {
                self.context.wrong(Wrong {
                    part: self.part.clone(),
                    what: "a read or write".into(),
                    expected: "done".into(),
                    got: error.to_string(),
                });
            }
            Refusal::because("a read or write failed", error)
        })?;
        self.context.check()
    }

    fn check(&self, operation: Operation, bytes: &[u8], depth: Depth) {
        if let Operation::Write(_) = operation {
            return;
        }
        for (block, bytes) in blocks_of(operation).zip(bytes.chunks_exact(BLOCK)) {
            let generation = self.generation(block).load(Ordering::Relaxed);
            let Some(found) = content::check(bytes, block, generation, depth) else {
                continue;
            };
            if self.wrong.fetch_add(1, Ordering::Relaxed) < MOST_WRONG {
                self.context.wrong(Wrong {
                    part: self.part.clone(),
                    what: format!(
                        "word {} of block {block}, written {generation} times",
                        found.word
                    ),
                    expected: format!("{:#018x}", found.expected),
                    got: format!("{:#018x}", found.got),
                });
            }
        }
    }

    fn blocks(&self) -> u64 {
        self.generations.len() as u64
    }

    fn generation(&self, block: u64) -> &AtomicU32 {
        &self.generations[usize::try_from(block).expect("blocks of the file are in memory")]
    }

    /// Whether the time of a pattern that begins now is not over yet.
    fn until(&self) -> impl FnMut() -> bool + Send + use<'_> {
        let start = self.context.moment();
        let limit = f64::from(self.settings.seconds);
        move || self.context.seconds_since(start) < limit
    }
}

impl Names {
    fn sequential(rate: Metric) -> Self {
        Self {
            rate,
            latency: None,
            factor: real(EXTENT as u64) / 1e6,
        }
    }

    fn random(rate: Metric, latency: Metric) -> Self {
        Self {
            rate,
            latency: Some(latency),
            factor: 1.0,
        }
    }
}

/// Whether an error says that the file system will not, rather than that the disk cannot.
fn is_refusal(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let refusals = [
        Errno::INVAL,
        Errno::OPNOTSUPP,
        Errno::NOSPC,
        Errno::DQUOT,
        Errno::FBIG,
        Errno::NOMEM,
        Errno::PERM,
    ];
    Errno::from_io_error(error).is_some_and(|error| refusals.contains(&error))
}

/// The blocks that an operation covers, and beyond.
fn blocks_of(operation: Operation) -> impl Iterator<Item = u64> {
    let (Operation::Read(offset) | Operation::Write(offset)) = operation;
    offset / BLOCK as u64..
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_left_alone() {
        const GIB: u64 = 1 << 30;
        assert!(allowed_extents(100 * GIB, 9 * GIB, GIB).is_err());
        assert_eq!(allowed_extents(100 * GIB, 50 * GIB, GIB), Ok(512));
        assert_eq!(allowed_extents(1000 * GIB, 500 * GIB, GIB), Ok(1024));
        assert!(
            allowed_extents(GIB, GIB, GIB).is_err(),
            "too small to say anything"
        );
    }
}
