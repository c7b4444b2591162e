//! Keeps a number of reads or writes of one size under way, and tells how long each took: through `io_uring`, or with threads where
//! the kernel does not give one (containers often forbid it).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;
use std::time::Duration;

use io_uring::{IoUring, opcode, types};
use serde::{Deserialize, Serialize};

use crate::stress::aligned::Aligned;
use crate::stress::context::Context;
use crate::stress::processor::counting_waits;

/// What moves the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// One thread and the kernel's queue.
    Ring,
    /// As many threads as operations under way.
    Threads,
}

impl Engine {
    /// `io_uring` if the kernel gives one, else threads and why.
    pub(super) fn best() -> (Self, Option<io::Error>) {
        match IoUring::new(8) {
            Ok(_) => (Self::Ring, None),
            Err(error) => (Self::Threads, Some(error)),
        }
    }
}

/// One read or write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Reads from this byte on.
    Read(u64),
    /// Writes from this byte on.
    Write(u64),
}

/// A stream of operations of one size.
pub(super) struct Job<'a> {
    pub(super) file: &'a File,
    /// Bytes of one operation.
    pub(super) length: usize,
    /// Operations under way at a time.
    pub(super) depth: u32,
    /// The next operation; nothing ends the job.
    pub(super) next: &'a mut (dyn FnMut() -> Option<Operation> + Send),
    /// Fills the buffer of a write.
    pub(super) prepare: &'a (dyn Fn(Operation, &mut [u8]) + Sync),
    /// Takes a finished operation with its buffer and its time.
    pub(super) done: &'a (dyn Fn(Operation, &[u8], Duration) + Sync),
}

impl Engine {
    /// Runs a job to its end, and says how much its threads had to wait for a processor. Whatever happens, nothing is under way any more
    /// when it returns.
    pub(super) fn run(self, context: &Context<'_>, job: &mut Job<'_>) -> io::Result<()> {
        match self {
            Self::Ring => counting_waits(context, || ring(context, job)),
            Self::Threads => threads(context, job),
        }
    }
}

/// An operation under way, in the slot that owns its buffer.
struct Slot {
    buffer: Aligned<u8>,
    operation: Option<(Operation, Duration)>,
}

fn ring(context: &Context<'_>, job: &mut Job<'_>) -> io::Result<()> {
    let mut slots: Vec<Slot> = (0..job.depth)
        .map(|_| Slot {
            buffer: Aligned::new(job.length),
            operation: None,
        })
        .collect();
    let mut queue = Queue::new(job.file, &mut slots)?;
    let mut free: Vec<usize> = (0..slots.len()).collect();
    let mut failure = None;
    let mut exhausted = false;
    loop {
        while failure.is_none() && !exhausted && !context.stopped() {
            let Some(position) = free.pop() else { break };
            let Some(operation) = (job.next)() else {
                free.push(position);
                exhausted = true;
                break;
            };
            let slot = &mut slots[position];
            if let Operation::Write(_) = operation {
                (job.prepare)(operation, &mut slot.buffer);
            }
            let entry = queue.entry(operation, position, &mut slot.buffer);
            slot.operation = Some((operation, context.moment()));
            // SAFETY: the buffer belongs to the slot, which is neither touched nor freed before its completion was taken: this
            // function does not return while a slot has an operation. The file outlives the job.
            unsafe { queue.ring.submission().push(&entry) }
                .expect("the queue has a place for each slot");
        }
        if free.len() == slots.len() {
            return failure.map_or(Ok(()), Err);
        }
        match queue.ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The kernel has the buffers; nothing else is sound but to keep them for ever.
            Err(error) => {
                std::mem::forget(slots);
                return Err(error);
            }
        }
        // One at a time: a whole batch that is looked at together leaves the disk idle, and is under way together ever after.
        let Some(entry) = queue.ring.completion().next() else {
            continue;
        };
        let position = usize::try_from(entry.user_data()).expect("the number of a slot");
        let slot = &mut slots[position];
        let (operation, started) = slot.operation.take().expect("it was under way");
        let taken = context.moment().saturating_sub(started);
        free.push(position);
        match finished(entry.result(), job.length) {
            Ok(()) => (job.done)(operation, &mut slot.buffer, taken),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
}

/// The kernel's queue for one file. What it does for each operation costs as much as the operation where a disk is fast, so it is told
/// once what it can be told once.
struct Queue {
    ring: IoUring,
    /// Whether the kernel keeps the pages of the buffers; it may be allowed too little memory for that.
    keeps_buffers: bool,
}

impl Queue {
    fn new(file: &File, slots: &mut [Slot]) -> io::Result<Self> {
        let entries = u32::try_from(slots.len().next_power_of_two()).expect("a few hundred slots");
        let ring = IoUring::builder()
            // Completions are worked off when this thread asks for them, where the kernel knows that (Linux 6.1).
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(entries)
            .or_else(|_| IoUring::new(entries))?;
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        let buffers: Vec<libc::iovec> = slots
            .iter_mut()
            .map(|Slot { buffer, .. }| libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            })
            .collect();
        // SAFETY: the kernel holds the pages themselves until the ring is closed, and moves bytes only for an entry.
        let keeps_buffers = unsafe { ring.submitter().register_buffers(&buffers) }.is_ok();
        Ok(Self {
            ring,
            keeps_buffers,
        })
    }

    /// The entry for an operation with the buffer of the slot at this position.
    fn entry(
        &self,
        operation: Operation,
        position: usize,
        buffer: &mut [u8],
    ) -> io_uring::squeue::Entry {
        let file = types::Fixed(0);
        let length = u32::try_from(buffer.len()).expect("operations are a few MiB at most");
        let index = u16::try_from(position).expect("a few hundred slots");
        let address = buffer.as_mut_ptr();
        match (operation, self.keeps_buffers) {
            (Operation::Read(offset), true) => opcode::ReadFixed::new(file, address, length, index)
                .offset(offset)
                .build(),
            (Operation::Write(offset), true) => {
                opcode::WriteFixed::new(file, address, length, index)
                    .offset(offset)
                    .build()
            }
            (Operation::Read(offset), false) => opcode::Read::new(file, address, length)
                .offset(offset)
                .build(),
            (Operation::Write(offset), false) => opcode::Write::new(file, address, length)
                .offset(offset)
                .build(),
        }
        .user_data(position as u64)
    }
}

fn finished(result: i32, length: usize) -> io::Result<()> {
    match usize::try_from(result) {
        Ok(moved) if moved == length => Ok(()),
        Ok(moved) => Err(io::Error::other(format!(
            "{moved} bytes were moved instead of {length}"
        ))),
        Err(_) => Err(io::Error::from_raw_os_error(-result)),
    }
}

fn threads(context: &Context<'_>, job: &mut Job<'_>) -> io::Result<()> {
    let next = Mutex::new(&mut *job.next);
    let failure = Mutex::new(None);
    let (file, length) = (job.file, job.length);
    let (prepare, done) = (job.prepare, job.done);
    let work = || {
        let mut buffer = Aligned::new(length);
        while !context.stopped() && failure.lock().expect("nobody panics with it").is_none() {
            let operation = next.lock().expect("nobody panics with it")();
            let Some(operation) = operation else { return };
            if let Operation::Write(_) = operation {
                prepare(operation, &mut buffer);
            }
            let started = context.moment();
            let moved = match operation {
                Operation::Read(offset) => file.read_exact_at(&mut buffer, offset),
                Operation::Write(offset) => file.write_all_at(&buffer, offset),
            };
            let taken = context.moment().saturating_sub(started);
            match moved {
                Ok(()) => done(operation, &mut buffer, taken),
                Err(error) => {
                    failure
                        .lock()
                        .expect("nobody panics with it")
                        .get_or_insert(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..job.depth {
            scope.spawn(|| counting_waits(context, work));
        }
    });
    failure
        .into_inner()
        .expect("nobody panics with it")
        .map_or(Ok(()), Err)
}
