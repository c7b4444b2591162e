//! Edges between processes of one host: rings of bytes in memory that both see.
//!
//! Each process owns one memory file with a ring for every peer that sends to it, and a pipe as doorbell. Peers open both through
//! `/proc/<pid>/fd`, which lets in processes of the same user and nobody else; nothing has a name in a file system. A ring is
//! the same numbered stream as a connection, except that it cannot break: what is in it counts as acknowledged, and a process stays
//! until its peers have used it.
//!
//! ```text
//! sender                                    receiver (owner of the memory)
//! copies bytes, then moves `tail`   -->     uses bytes, then moves `head`
//! rings the bell if the receiver sleeps     says that it sleeps, looks once more, then sleeps
//! ```
//!
//! A pipe and not a futex, so that one `epoll_wait` waits for rings and sockets together.
//!
//! It refuses positions that cannot be: the peer may be broken, but it cannot make this process read elsewhere.

use std::ffi::c_void;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::{read, write};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::operator::Rank;

/// Bytes that a ring holds. Fits in a core's own cache with room for the rest.
const CAPACITY: usize = 512 * 1024;
/// Bytes that become visible at once, so that both sides work at the same time.
const PUBLISHED: usize = 64 * 1024;
const PAGE: usize = 4096;
const RING: usize = PAGE + CAPACITY;
const SLEEPS: usize = 64;
const HEAD: usize = 0;
const TAIL: usize = 128;

/// A mapped memory file.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it is memory without thread-bound state; every access goes through atomics or ranges that one side owns at a time.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(file: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory that exists.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset + len <= self.len, "places are within the mapping");
        // SAFETY: the result is inside the mapping, or one past its end.
        unsafe { self.start.as_ptr().add(offset) }
    }

    fn counter(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: valid, aligned (mappings are, and all offsets are multiples of 8), and only ever used as an atomic, in all processes.
        unsafe { AtomicU64::from_ptr(self.at(offset, 8).cast()) }
    }

    fn flag(&self) -> &AtomicU32 {
        // SAFETY: as for `counter`.
        unsafe { AtomicU32::from_ptr(self.at(SLEEPS, 4).cast()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing that borrows from the mapping outlives it. Failing would leave memory mapped, which harms nobody.
        let _ = unsafe { munmap(self.start.as_ptr().cast::<c_void>(), self.len) };
    }
}

/// What a process tells others so that they can open its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The boot of the host, so that it names the host.
    pub boot: String,
    /// The namespace in which `process` counts.
    pub namespace: u64,
    /// The user.
    pub user: u32,
    /// The process.
    pub process: u32,
    /// Its descriptor of the memory.
    pub memory: i32,
    /// Its descriptor of the doorbell's writing end.
    pub bell: i32,
}

/// The memory of this process.
#[derive(Debug)]
pub struct Inbox {
    mapping: Mapping,
    memory: OwnedFd,
    bell: OwnedFd,
    bell_end: OwnedFd,
    world: usize,
}

impl Inbox {
    /// Memory with a ring for each of `world` ranks. Pages that nobody uses cost nothing.
    pub fn new(world: usize) -> io::Result<Self> {
        let memory = memfd_create("supernode-collectives", MemfdFlags::CLOEXEC)?;
        let len = PAGE + world * RING;
        ftruncate(&memory, len as u64)?;
        let mapping = Mapping::new(memory.as_fd(), len)?;
        let (bell, bell_end) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self {
            mapping,
            memory,
            bell,
            bell_end,
            world,
        })
    }

    /// How others find it. `None` where `/proc` does not say what is needed.
    pub fn location(&self) -> Option<Location> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(Location {
            boot: boot.trim().to_owned(),
            namespace: fs::metadata("/proc/self/ns/pid").ok()?.ino(),
            user: rustix::process::geteuid().as_raw(),
            process: std::process::id(),
            memory: self.memory.as_raw_fd(),
            bell: self.bell_end.as_raw_fd(),
        })
    }

    pub(super) const fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    /// Says that this process is about to sleep; look once more after it.
    pub(super) fn fall_asleep(&self) {
        self.mapping.flag().store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(super) fn wake_up(&self) {
        self.mapping.flag().store(0, Ordering::Relaxed);
        let mut rings = [0; 64];
        while matches!(read(&self.bell, &mut rings), Ok(len) if len == rings.len()) {}
    }

    /// The bytes from `rank` that lie in one piece; `None` if its counters are nonsense.
    pub(super) fn readable(&self, rank: Rank) -> Option<&[u8]> {
        assert!(rank < self.world, "a ring for every rank");
        let ring = PAGE + rank * RING;
        let head = self.mapping.counter(ring + HEAD).load(Ordering::Relaxed);
        let tail = self.mapping.counter(ring + TAIL).load(Ordering::Acquire);
        let len = usize::try_from(tail.wrapping_sub(head))
            .ok()
            .filter(|len| *len <= CAPACITY)?;
        let at = place(head);
        let len = len.min(CAPACITY - at);
        let start = self.mapping.at(ring + PAGE + at, len);
        // SAFETY: inside the mapping; the sender does not write between head and tail before this side moves head.
        Some(unsafe { std::slice::from_raw_parts(start, len) })
    }

    pub(super) fn consume(&self, rank: Rank, len: usize) {
        let head = self.mapping.counter(PAGE + rank * RING + HEAD);
        head.store(
            head.load(Ordering::Relaxed).wrapping_add(len as u64),
            Ordering::Release,
        );
    }
}

fn place(position: u64) -> usize {
    usize::try_from(position % CAPACITY as u64).expect("a remainder of a capacity is small")
}

/// The memory of a peer, to which this process sends.
#[derive(Debug)]
pub(super) struct Outbox {
    mapping: Mapping,
    bell: File,
    ring: usize,
}

impl Outbox {
    /// Opens a peer's memory, if it is on this host and of this user. `rank` is this process.
    pub(super) fn open(peer: &Location, own: &Location, rank: Rank, world: usize) -> Option<Self> {
        if peer.boot != own.boot || peer.namespace != own.namespace || peer.user != own.user {
            return None;
        }
        let path = |descriptor: i32| format!("/proc/{}/fd/{descriptor}", peer.process);
        let memory = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path(peer.memory))
            .ok()?;
        let len = PAGE + world * RING;
        if memory.metadata().ok()?.len() != len as u64 {
            return None;
        }
        let bell = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path(peer.bell))
            .ok()?;
        Some(Self {
            mapping: Mapping::new(memory.as_fd(), len).ok()?,
            bell,
            ring: PAGE + rank * RING,
        })
    }

    /// Copies as much as there is room for and says how much; `None` if the counters are nonsense.
    pub(super) fn write(&self, bytes: &[u8]) -> Option<usize> {
        let tail_counter = self.mapping.counter(self.ring + TAIL);
        let tail = tail_counter.load(Ordering::Relaxed);
        let head = self
            .mapping
            .counter(self.ring + HEAD)
            .load(Ordering::Acquire);
        let used = usize::try_from(tail.wrapping_sub(head)).ok()?;
        let room = CAPACITY.checked_sub(used)?;
        let at = place(tail);
        let len = bytes.len().min(room).min(CAPACITY - at).min(PUBLISHED);
        let target = self.mapping.at(self.ring + PAGE + at, len);
        // SAFETY: the target is inside the mapping and belongs to the sender until it moves tail; the source is other memory.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, len) };
        tail_counter.store(tail.wrapping_add(len as u64), Ordering::Release);
        Some(len)
    }

    /// Whether the peer has used everything.
    pub(super) fn is_drained(&self) -> bool {
        let at = |offset| {
            self.mapping
                .counter(self.ring + offset)
                .load(Ordering::Acquire)
        };
        at(HEAD) == at(TAIL)
    }

    /// Wakes the peer if it sleeps. Call it after everything that the peer may wait for.
    pub(super) fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.mapping.flag().load(Ordering::Relaxed) != 0 {
            // A full pipe wakes as well.
            let _ = write(&self.bell, &[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_around_the_ring_in_order() {
        let inbox = Inbox::new(2).expect("memory files exist");
        let location = inbox.location().expect("/proc says it");
        let outbox = Outbox::open(&location, &location, 1, 2).expect("it is this process");
        let (mut sent, mut received) = (0_u64, 0_u64);
        let mut random = 1_u64;
        while received < 3 * CAPACITY as u64 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(99);
            let len = usize::try_from(random >> 46).expect("18 bits");
            let bytes: Vec<u8> = (sent..sent + len as u64).map(|n| (n % 251) as u8).collect();
            sent += outbox.write(&bytes).expect("the counters are right") as u64;
            let found = inbox.readable(1).expect("the counters are right");
            let len = found
                .len()
                .min(usize::try_from(random >> 47).expect("17 bits"));
            for (n, byte) in (received..).zip(&found[..len]) {
                assert_eq!(u64::from(*byte), n % 251);
            }
            inbox.consume(1, len);
            received += len as u64;
        }
        assert!(
            inbox
                .readable(0)
                .expect("the counters are right")
                .is_empty()
        );
    }

    #[test]
    fn a_sleeper_is_woken_and_others_are_not_disturbed() {
        let inbox = Inbox::new(1).expect("memory files exist");
        let location = inbox.location().expect("/proc says it");
        let outbox = Outbox::open(&location, &location, 0, 1).expect("it is this process");
        let rings = |inbox: &Inbox| read(&inbox.bell, &mut [0; 8]).unwrap_or(0);
        outbox.ring();
        assert_eq!(rings(&inbox), 0);
        inbox.fall_asleep();
        outbox.ring();
        assert_eq!(rings(&inbox), 1);
        inbox.wake_up();
        outbox.ring();
        assert_eq!(rings(&inbox), 0);
    }

    #[test]
    fn nonsense_of_a_peer_is_refused_and_strangers_are_not_opened() {
        let inbox = Inbox::new(1).expect("memory files exist");
        let location = inbox.location().expect("/proc says it");
        inbox
            .mapping
            .counter(PAGE + TAIL)
            .store(u64::MAX / 2, Ordering::Relaxed);
        assert_eq!(inbox.readable(0), None);
        let outbox = Outbox::open(&location, &location, 0, 1).expect("it is this process");
        assert_eq!(outbox.write(&[1]), None);
        let elsewhere = Location {
            boot: "another".into(),
            ..location.clone()
        };
        assert!(Outbox::open(&elsewhere, &location, 0, 1).is_none());
        assert!(
            Outbox::open(&location, &location, 0, 2).is_none(),
            "another group's memory"
        );
    }
}
