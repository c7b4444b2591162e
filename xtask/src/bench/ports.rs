//! Ports for daemons that have to know theirs before they start.

use std::net::TcpListener;

use anyhow::{Context, Result};

/// The first of `count` consecutive free ports, below the range that the kernel gives to outgoing connections.
pub(super) fn free_ports(count: u32) -> Result<u16> {
    let count = u16::try_from(count)?;
    let offset = u16::try_from(std::process::id() % 40).expect("below 40") * 200;
    (0..40)
        .map(|step| 21_000 + (offset + step * 200) % 8_000)
        .find(|first| {
            (0..count).all(|index| TcpListener::bind(("127.0.0.1", first + index)).is_ok())
        })
        .context("no free range of ports between 21000 and 29000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_below_the_ephemeral_range() {
        let first = free_ports(3).expect("some are free");
        assert!((21_000..29_000).contains(&first));
        let taken = TcpListener::bind(("127.0.0.1", first + 1));
        if taken.is_ok() {
            assert_ne!(free_ports(3).expect("others are free"), first);
        }
    }
}
