//! The exact size of a file system: what it says of itself, not what it offers to programs.
//!
//! The kernel's answer to `statfs` leaves out what a file system needs for itself. ext4 says how many blocks it has in its first
//! superblock, of which the kernel keeps the one copy that a reader of the device sees. XFS leaves out its log, the size of which never
//! changes and stands in its superblock. btrfs leaves nothing out.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use crate::tools::Space;

const EXT4_OFFSET: u64 = 1024;
const EXT4_MAGIC: u16 = 0xEF53;
/// The feature that makes block counts 64 bits long.
const EXT4_64BIT: u32 = 0x80;
const XFS_MAGIC: &[u8] = b"XFSB";

/// The size in bytes of the file system of `kind` on `device`, of which the kernel tells `space`; `None` if it cannot be told.
pub fn file_system_bytes(kind: &str, device: &Path, space: Option<Space>) -> Option<u64> {
    match kind {
        "ext4" => ext4_bytes(&read(device, EXT4_OFFSET)?),
        "xfs" => Some(space?.size_bytes + xfs_log_bytes(&read(device, 0)?)?),
        "btrfs" => Some(space?.size_bytes),
        _ => None,
    }
}

pub(super) fn is_ext4(device: &Path) -> bool {
    read(device, EXT4_OFFSET).is_some_and(|block| ext4_bytes(&block).is_some())
}

fn read(device: &Path, offset: u64) -> Option<[u8; 1024]> {
    let mut file = std::fs::File::open(device).ok()?;
    let mut block = [0; 1024];
    file.seek(SeekFrom::Start(offset)).ok()?;
    file.read_exact(&mut block).ok()?;
    Some(block)
}

fn little(block: &[u8], at: usize) -> Option<u32> {
    let bytes = block.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn big(block: &[u8], at: usize) -> Option<u32> {
    let bytes = block.get(at..at + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn ext4_bytes(block: &[u8]) -> Option<u64> {
    let magic = u16::try_from(little(block, 56)? & 0xFFFF).ok()?;
    if magic != EXT4_MAGIC {
        return None;
    }
    let low = u64::from(little(block, 4)?);
    let wide = little(block, 0x60)? & EXT4_64BIT != 0;
    let high = if wide { little(block, 0x150)? } else { 0 };
    let blocks = (u64::from(high) << 32) | low;
    blocks.checked_mul(1024_u64.checked_shl(little(block, 24)?)?)
}

/// 0 if the log is on another device.
fn xfs_log_bytes(block: &[u8]) -> Option<u64> {
    if !block.starts_with(XFS_MAGIC) {
        return None;
    }
    let internal = big(block, 48)? != 0 || big(block, 52)? != 0;
    let blocks = if internal { big(block, 96)? } else { 0 };
    u64::from(blocks).checked_mul(u64::from(big(block, 4)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_from_superblocks_and_nothing_else() {
        let mut ext4 = [0; 1024];
        assert_eq!(ext4_bytes(&ext4), None);
        ext4[56..58].copy_from_slice(&EXT4_MAGIC.to_le_bytes());
        ext4[4..8].copy_from_slice(&1000_u32.to_le_bytes());
        ext4[24] = 2;
        assert_eq!(ext4_bytes(&ext4), Some(1000 * 4096));
        ext4[0x150] = 1;
        assert_eq!(ext4_bytes(&ext4), Some(1000 * 4096), "not a 64-bit one");
        ext4[0x60] = 0x80;
        assert_eq!(ext4_bytes(&ext4), Some(((1 << 32) + 1000) * 4096));
        ext4[24] = 200;
        assert_eq!(ext4_bytes(&ext4), None, "no real block is that large");

        let mut xfs = [0; 1024];
        assert_eq!(xfs_log_bytes(&xfs), None);
        xfs[..4].copy_from_slice(XFS_MAGIC);
        xfs[4..8].copy_from_slice(&4096_u32.to_be_bytes());
        xfs[96..100].copy_from_slice(&16384_u32.to_be_bytes());
        assert_eq!(xfs_log_bytes(&xfs), Some(0), "the log is elsewhere");
        xfs[55] = 5;
        assert_eq!(xfs_log_bytes(&xfs), Some(16384 * 4096));
    }
}
