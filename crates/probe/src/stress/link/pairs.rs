//! Which processors stand for which: the groups that share a last cache, and the NUMA nodes.

use std::collections::BTreeMap;

use crate::files::Files;

/// Up to here every pair is measured.
const FEW_CORES: usize = 8;

/// Memory of one NUMA node, read from another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MemoryPair {
    /// Where the memory is.
    pub(super) from: u32,
    /// Where the reader is.
    pub(super) to: u32,
    /// A processor of the one.
    pub(super) owner: u32,
    /// A processor of the other, not the same one.
    pub(super) reader: u32,
}

/// The ordered pairs of processors to measure.
pub(super) fn core_pairs(files: Files<'_>, cores: &[u32]) -> Vec<(u32, u32)> {
    if cores.len() <= FEW_CORES {
        return all_pairs(cores);
    }
    let mut groups: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for core in cores {
        groups
            .entry(last_cache(files, *core))
            .or_default()
            .push(*core);
    }
    let first: Vec<u32> = groups.values().map(|group| group[0]).collect();
    let mut pairs = all_pairs(&first);
    for group in groups.values().filter(|group| group.len() > 1) {
        // Once around: each core hands to the next, so each is in two pairs.
        let next = group.iter().cycle().skip(1);
        pairs.extend(group.iter().copied().zip(next.copied()));
    }
    pairs
}

/// The ordered pairs of NUMA nodes that have processors of ours; none where there is one node.
pub(super) fn memory_pairs(files: Files<'_>, cores: &[u32]) -> Vec<MemoryPair> {
    let base = "sys/devices/system/node";
    let mut nodes: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for name in files.names(base) {
        let number = name.strip_prefix("node").and_then(|text| text.parse().ok());
        let list = files.word(&format!("{base}/{name}/cpulist"));
        if let (Some(number), Some(list)) = (number, list) {
            let mut of_node = cpu_list(&list);
            of_node.retain(|core| cores.contains(core));
            if !of_node.is_empty() {
                nodes.insert(number, of_node);
            }
        }
    }
    if nodes.len() < 2 {
        return Vec::new();
    }
    let mut pairs = Vec::new();
    for (from, owners) in &nodes {
        for (to, readers) in &nodes {
            let reader = readers.iter().find(|reader| **reader != owners[0]);
            if let Some(reader) = reader {
                pairs.push(MemoryPair {
                    from: *from,
                    to: *to,
                    owner: owners[0],
                    reader: *reader,
                });
            }
        }
    }
    pairs
}

fn all_pairs(cores: &[u32]) -> Vec<(u32, u32)> {
    cores
        .iter()
        .flat_map(|from| {
            cores
                .iter()
                .filter(move |to| *to != from)
                .map(move |to| (*from, *to))
        })
        .collect()
}

/// What names the last cache of a processor: the list of those that share it.
fn last_cache(files: Files<'_>, core: u32) -> String {
    let base = format!("sys/devices/system/cpu/cpu{core}/cache");
    files
        .names(&base)
        .into_iter()
        .filter_map(|name| {
            let level: u32 = files.number(&format!("{base}/{name}/level"))?;
            Some((
                level,
                files.word(&format!("{base}/{name}/shared_cpu_list"))?,
            ))
        })
        .max()
        .map(|(_, shared)| shared)
        .unwrap_or_default()
}

/// Reads `0-3,8,10-11`. What is not a list has no processors.
pub(crate) fn cpu_list(text: &str) -> Vec<u32> {
    /// No machine has more.
    const MOST: u32 = 65_536;
    let range = |piece: &str| -> Option<std::ops::RangeInclusive<u32>> {
        let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
        let last: u32 = last.trim().parse().ok()?;
        (last < MOST).then_some(first.trim().parse().ok()?..=last)
    };
    text.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::files::write;

    #[test]
    fn lists_of_processors() {
        assert_eq!(cpu_list("0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(cpu_list(""), [0_u32; 0]);
        assert_eq!(cpu_list("4-2,x"), [0_u32; 0]);
    }

    #[test]
    fn few_cores_are_all_paired() {
        let machine = tempfile::tempdir().expect("a directory");
        let files = Files::below(machine.path());
        assert_eq!(core_pairs(files, &[0, 2]), [(0, 2), (2, 0)]);
        assert_eq!(memory_pairs(files, &[0, 2]), []);
    }

    #[test]
    fn of_many_cores_one_stands_for_those_that_share_a_cache() {
        let machine = tempfile::tempdir().expect("a directory");
        for core in 0..16 {
            let shared = if core < 8 { "0-7" } else { "8-15" };
            let cache = format!("sys/devices/system/cpu/cpu{core}/cache/index3");
            write(machine.path(), &format!("{cache}/level"), "3\n");
            write(machine.path(), &format!("{cache}/shared_cpu_list"), shared);
        }
        write(
            machine.path(),
            "sys/devices/system/node/node0/cpulist",
            "0-7\n",
        );
        write(
            machine.path(),
            "sys/devices/system/node/node1/cpulist",
            "8-15\n",
        );
        let cores: Vec<u32> = (0..16).collect();
        let files = Files::below(machine.path());
        let pairs = core_pairs(files, &cores);
        assert!(pairs.contains(&(0, 8)) && pairs.contains(&(8, 0)));
        assert_eq!(pairs.len(), 2 + 8 + 8);
        for core in cores.iter().copied() {
            assert!(pairs.iter().any(|(from, to)| *from == core || *to == core));
        }
        let memory = memory_pairs(files, &cores);
        assert_eq!(memory.len(), 4);
        assert_eq!(
            memory[1],
            MemoryPair {
                from: 0,
                to: 1,
                owner: 0,
                reader: 8
            }
        );
        assert_ne!(memory[0].owner, memory[0].reader);
    }

    proptest! {
        #[test]
        fn no_list_makes_it_panic_or_explode(text in "[0-9,\\- ]{0,40}") {
            prop_assert!(cpu_list(&text).len() <= 65_536 * 20);
        }
    }
}
