//! What the machine says by itself: counters and readings, taken before, during and after a test, without any load.
//!
//! Names are paths (`nic/eth0/rx_errors`, `edac/mc0/ue_count`), so that new hardware brings new names and no new types. A counter
//! only grows; how much it grew is the evidence. A reading is what it is at the moment. What cannot be read is not there.

mod read;

use std::path::Path;

pub use supernode_verdict::change::{Change, Counters};

use crate::files::Files;

/// Reads the machine whose files are below `root`; milliseconds.
pub fn counters(root: &Path) -> Counters {
    read::everything(Files::below(root))
}
