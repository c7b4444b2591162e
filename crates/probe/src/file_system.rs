//! Mounted file systems that hold data, from `/proc/self/mountinfo`.
//!
//! Kept: the root, whatever it is; what is on a disk; what is on the network. A source that is mounted several times (bind mounts,
//! subvolumes) is listed once, at its shortest path. Left out: everything virtual, images, and what container runtimes mount for
//! their containers, which comes and goes.

use std::collections::BTreeMap;
use std::path::Path;

use supernode_types::inventory::FileSystem;

use crate::files::Files;
use crate::tools::Tools;

const MOST_FILE_SYSTEMS: usize = 256;

const NETWORK: [&str; 16] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "lustre",
    "ceph",
    "gpfs",
    "beegfs",
    "glusterfs",
    "fuse.glusterfs",
    "fuse.juicefs",
    "fuse.ceph",
    "9p",
    "virtiofs",
    "dpc",
    "wekafs",
];

const IMAGES: [&str; 4] = ["squashfs", "iso9660", "udf", "erofs"];

const TRANSIENT: [&str; 10] = [
    "/var/lib/docker/",
    "/var/lib/containerd/",
    "/var/lib/containers/",
    "/var/lib/kubelet/",
    "/run/",
    "/snap/",
    "/proc/",
    "/sys/",
    "/dev/",
    "/etc/",
];

/// One line of mountinfo, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) place: String,
    pub(crate) kind: String,
    pub(crate) source: String,
}

pub(crate) fn discover(
    files: Files<'_>,
    tools: &dyn Tools,
    problems: &mut Vec<String>,
) -> Vec<FileSystem> {
    let mounts = parse_mounts(
        &files
            .text_of("proc/self/mountinfo", 4 << 20)
            .unwrap_or_default(),
    );
    let found: Vec<FileSystem> = select(mounts)
        .into_iter()
        .map(|mount| {
            let on_network = NETWORK.contains(&mount.kind.as_str());
            let path = files.path(mount.place.trim_start_matches('/'));
            let size_bytes = if on_network {
                None
            } else {
                tools.space(Path::new(&path)).map(|space| space.size_bytes)
            };
            FileSystem {
                mount_point: mount.place,
                source: mount.source,
                kind: mount.kind,
                size_bytes,
            }
        })
        .collect();
    if !found
        .iter()
        .any(|file_system| file_system.mount_point == "/")
    {
        problems.push("the root file system was not found in /proc/self/mountinfo".into());
    }
    found
}

fn select(mounts: Vec<Mount>) -> Vec<Mount> {
    let mut by_source: BTreeMap<String, Mount> = BTreeMap::new();
    let mut root = None;
    for mount in mounts {
        if mount.place == "/" {
            // A later mount covers an earlier one.
            root = Some(mount);
        } else if holds_data(&mount) {
            let rank = |mount: &Mount| (mount.place.len(), mount.place.clone());
            match by_source.get(&mount.source) {
                Some(known) if rank(known) <= rank(&mount) => {}
                _ => drop(by_source.insert(mount.source.clone(), mount)),
            }
        }
    }
    if let Some(root) = &root {
        by_source.remove(&root.source);
    }
    let mut selected: Vec<Mount> = root.into_iter().chain(by_source.into_values()).collect();
    selected.sort_by(|one, other| one.place.cmp(&other.place));
    selected.truncate(MOST_FILE_SYSTEMS);
    selected
}

fn holds_data(mount: &Mount) -> bool {
    let kind = mount.kind.as_str();
    let on_disk = (mount.source.starts_with("/dev/") && !mount.source.starts_with("/dev/loop"))
        || kind == "zfs";
    let transient = TRANSIENT
        .iter()
        .any(|prefix| mount.place.starts_with(prefix));
    (on_disk || NETWORK.contains(&kind)) && !IMAGES.contains(&kind) && !transient
}

/// Reads `36 35 98:0 /subtree /mount/point options [optional…] - kind source options`.
pub(crate) fn parse_mounts(text: &str) -> Vec<Mount> {
    let parse = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let place = unescape(front.split(' ').nth(4)?);
        let mut rest = back.split(' ');
        let (kind, source) = (rest.next()?.to_owned(), unescape(rest.next()?));
        place.starts_with('/').then_some(Mount {
            place,
            kind,
            source,
        })
    };
    text.lines().filter_map(parse).collect()
}

/// The kernel writes spaces, tabs, newlines and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(code) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(code);
            rest = &after[3..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOUNTS: &str = "\
22 1 0:21 / / rw - rootfs rootfs rw
27 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
28 27 0:22 / /sys rw - sysfs sysfs rw
29 27 259:1 / /boot/efi rw shared:30 - vfat /dev/nvme0n1p1 rw
30 27 259:5 / /data\\040set rw shared:31 - xfs /dev/nvme1n1 rw
31 27 259:5 /a /data\\040set/deep/bind rw shared:31 - xfs /dev/nvme1n1 rw
32 27 7:1 / /snap/core/1 ro - squashfs /dev/loop1 ro
33 27 0:50 / /mnt/train rw - nfs4 10.0.0.9:/train rw,vers=4.2
34 27 0:60 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw
35 27 259:2 /x /var/lib/kubelet/pods/1/volume rw - ext4 /dev/nvme0n1p2 rw
36 27 0:30 / /run/user/0 rw - tmpfs tmpfs rw
";

    #[test]
    fn data_is_kept_and_each_source_once() {
        let kept: Vec<_> = select(parse_mounts(MOUNTS))
            .into_iter()
            .map(|mount| (mount.place, mount.source))
            .collect();
        let expected = [
            ("/", "/dev/nvme0n1p2"),
            ("/boot/efi", "/dev/nvme0n1p1"),
            ("/data set", "/dev/nvme1n1"),
            ("/mnt/train", "10.0.0.9:/train"),
        ];
        assert_eq!(
            kept,
            expected.map(|(mount_point, source)| (mount_point.to_owned(), source.to_owned()))
        );
    }

    #[test]
    fn the_root_of_a_container_is_kept_although_it_is_an_overlay() {
        let kept = select(parse_mounts(
            "1 0 0:9 / / rw - overlay overlay rw,lowerdir=/x\n2 1 8:1 /h /etc/hosts rw - ext4 /dev/sda1 rw\n",
        ));
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].kind, "overlay");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*", cut in 0usize..900) {
            select(parse_mounts(&text));
            let cut = MOUNTS.len().min(cut);
            select(parse_mounts(&MOUNTS[..cut]));
        }
    }
}
