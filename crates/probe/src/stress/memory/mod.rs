//! Memory: its bandwidth, and whether it keeps what was written.

mod pattern;
mod stream;

pub use pattern::Pattern;
pub(crate) use pattern::run as run_pattern;
pub use stream::Stream;
pub(crate) use stream::run as run_stream;

use std::path::Path;

use super::sample::Refusal;
use crate::files::Files;

/// A test may take this share of the memory that is available.
const MOST_SHARE: u64 = 4;

/// The bytes that a test may use: what it asks for, a quarter of what is available at most.
fn bounded(wanted: u64) -> Result<u64, Refusal> {
    let text = Files::below(Path::new("/"))
        .text("proc/meminfo")
        .unwrap_or_default();
    let available = crate::system::memory_bytes(&text, "MemAvailable").ok_or_else(|| {
        Refusal::CouldNotRun("the available memory cannot be read from /proc/meminfo".into())
    })?;
    Ok(wanted.min(available / MOST_SHARE))
}
