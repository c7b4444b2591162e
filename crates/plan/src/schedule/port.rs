//! The port that rank 0 may listen on. Agents may share one address (all of a laptop do), so ports are counted by address. The search
//! begins at a place that depends on the job and its attempt, so that a port of a gang that just ended is rarely taken again while
//! the kernel still remembers its connections.

use std::collections::{HashMap, HashSet};

use supernode_types::job::Job;

use crate::Snapshot;

/// The ports in use, by address.
pub(super) struct Ports<'a> {
    used: HashMap<&'a str, HashSet<u16>>,
    range: (u16, u16),
}

impl<'a> Ports<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, range: (u16, u16)) -> Self {
        let mut used: HashMap<&str, HashSet<u16>> = HashMap::new();
        for (attempt, port) in &snapshot.master_ports {
            let first = snapshot.ranks.get(attempt).and_then(|ranks| ranks.first());
            if let Some(node) = first.and_then(|rank| snapshot.nodes.get(&rank.node)) {
                used.entry(&node.address).or_default().insert(*port);
            }
        }
        Self { used, range }
    }

    /// Takes a port for rank 0 of `job` on `address`; `None` when all are in use.
    pub(super) fn take(&mut self, address: &'a str, job: &Job) -> Option<u16> {
        let (first, last) = self.range;
        let size = u64::from(last.checked_sub(first)?) + 1;
        let used = self.used.entry(address).or_default();
        let start = hash(job.id.as_str()).wrapping_add(u64::from(job.attempts)) % size;
        let port = (0..size)
            .map(|step| first + u16::try_from((start + step) % size).expect("a port range fits"))
            .find(|port| !used.contains(port))?;
        used.insert(port);
        Some(port)
    }
}

/// FNV-1a: the same everywhere and for ever, unlike the hashers of the standard library.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
