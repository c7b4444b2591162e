//! Ports for daemons that have to know theirs before they start.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

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

/// Waits until somebody listens, without connecting: that would be the one client.
pub(super) fn wait_for_listener(port: &str) -> Result<()> {
    let wanted = format!(":{:04X} ", port.parse::<u16>()?);
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let listens = ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
            let text = fs::read_to_string(Path::new(table)).unwrap_or_default();
            text.lines()
                .any(|line| line.contains(&wanted) && line.contains(" 0A "))
        });
        if listens {
            return Ok(());
        }
        sleep(Duration::from_millis(20));
    }
    bail!("nobody listens on port {port}")
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
