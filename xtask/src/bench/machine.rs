//! The machine that was measured on. Load is read before and after: a shared machine explains a bad figure.

use std::fmt;
use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    cores: usize,
    cpu: String,
    memory_gib: f64,
    kernel: String,
    load_before: String,
    load_after: Option<String>,
}

impl Machine {
    pub(crate) fn here() -> Result<Self> {
        let cpu_info = fs::read_to_string("/proc/cpuinfo").context("benchmarks need Linux")?;
        let memory_info = fs::read_to_string("/proc/meminfo")?;
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            cpu: value(&cpu_info, "model name")
                .unwrap_or("unknown")
                .to_owned(),
            memory_gib: value(&memory_info, "MemTotal")
                .and_then(kibibytes)
                .unwrap_or_default()
                / 1024.0
                / 1024.0,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            load_before: load()?,
            load_after: None,
        })
    }

    /// To be called when everything was measured.
    pub(crate) fn measured(&mut self) -> Result<()> {
        self.load_after = Some(load()?);
        Ok(())
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "machine: {} cores ({}), {:.0} GiB, Linux {}, load average {} before",
            self.cores, self.cpu, self.memory_gib, self.kernel, self.load_before
        )?;
        match &self.load_after {
            Some(load) => write!(formatter, ", {load} after"),
            None => Ok(()),
        }
    }
}

fn load() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text
        .split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" "))
}

/// The value of a `name : value` line.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then_some(value.trim())
    })
}

fn kibibytes(text: &str) -> Option<f64> {
    text.strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_proc_files() {
        assert_eq!(
            value("a\t: x\nmodel name\t: EPYC: 9\n", "model name"),
            Some("EPYC: 9")
        );
        assert_eq!(kibibytes("2048 kB"), Some(2048.0));
        let mut machine = Machine::here().expect("Linux");
        assert!(!machine.to_string().contains("after"));
        machine.measured().expect("Linux");
        assert!(machine.to_string().ends_with("after"));
    }
}
