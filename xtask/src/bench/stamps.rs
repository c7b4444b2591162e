//! What both contenders' figures are made of: time stamps that ranks print themselves, and the memory of processes.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::processes::Process;

/// Seconds from `start` to the newest of exactly `count` complete stamps; `None` while some are missing.
pub(super) fn last_stamp_after(start: i128, text: &str, count: u32) -> Result<Option<f64>> {
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    let stamps: Vec<i128> = complete
        .lines()
        .map(|line| {
            line.trim()
                .parse()
                .with_context(|| format!("`{line}` is no time stamp"))
        })
        .collect::<Result<_>>()?;
    if stamps.len() < count as usize {
        return Ok(None);
    }
    let last = stamps
        .into_iter()
        .max()
        .context("no stamps were asked for")?;
    Ok(Some(seconds_between(start, last)))
}

pub(super) fn seconds_between(start: i128, end: i128) -> f64 {
    Duration::from_nanos(u64::try_from(end - start).unwrap_or_default()).as_secs_f64()
}

/// Resident bytes of a process that must be there.
pub(super) fn resident(pid: u32) -> Result<f64> {
    let bytes = Process::resident_bytes(pid).with_context(|| format!("process {pid} is gone"))?;
    Ok(f64::from(u32::try_from(bytes / 1024)?) * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_of_all_stamps_counts() {
        let seconds = last_stamp_after(1_000_000_000, "3000000000\n2000000000\n", 2);
        assert!(
            seconds
                .expect("stamps")
                .is_some_and(|seconds| (seconds - 2.0).abs() < 1e-9)
        );
        assert_eq!(last_stamp_after(0, "3\n", 2).expect("stamps"), None);
        assert_eq!(
            last_stamp_after(0, "3\n40", 2).expect("the last one is not written yet"),
            None
        );
        assert!(last_stamp_after(0, "srun: error\n", 1).is_err());
    }
}
