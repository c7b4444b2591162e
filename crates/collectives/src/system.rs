//! The two things that a real group takes from the machine besides sockets and memory: time and chance.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since some fixed moment of this boot; never jumps.
pub(crate) fn monotonic() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// Random bytes of the kernel.
pub(crate) fn random<const LEN: usize>() -> [u8; LEN] {
    let mut bytes = [0; LEN];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .expect("/dev/urandom is readable on every Linux host");
    bytes
}
