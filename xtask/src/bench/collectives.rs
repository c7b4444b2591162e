//! `cargo xtask bench collectives`: all-reduce beside Gloo (PyTorch) and Open MPI, in turn, so that all see the same machine.
//!
//! The fault protection of this project is on: there is no way to turn it off. Peers are measured by programs beside this file that do
//! what `supernode collective bench` does. One round is every contender once; a ratio is taken within a round, and the median of the
//! rounds counts. A peer that is missing is said, and its column is empty.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::machine::Machine;
use super::ports::{free_ports, wait_for_listener};
use super::supernode::build;
use crate::ci::python;
use crate::ci::setup::find_program;
use crate::processes::text_within;
use crate::workspace;

/// Bytes of the buffer.
const SIZES: [u64; 8] = [
    4,
    1 << 10,
    16 << 10,
    128 << 10,
    1 << 20,
    16 << 20,
    64 << 20,
    256 << 20,
];
/// One contender, all sizes.
const PATIENCE: Duration = Duration::from_mins(5);
const IPERF_SECONDS: &str = "3";
const CUTS: &str = "100";

struct Options {
    rounds: usize,
    ranks: Vec<u64>,
    /// Measured instead of a fresh release build.
    binary: Option<PathBuf>,
    largest: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    SharedMemory,
}

/// Microseconds of one run, by bytes.
type Medians = BTreeMap<u64, f64>;

struct Bench {
    binary: PathBuf,
    /// The program for Open MPI, where it is installed.
    mpi: Option<PathBuf>,
    gloo: PathBuf,
    python: Option<&'static str>,
    sizes: Vec<u64>,
    _scratch: tempfile::TempDir,
}

pub(super) fn main(arguments: &[String]) -> Result<ExitCode> {
    let options = parse(arguments)?;
    let binary = if let Some(binary) = &options.binary {
        std::path::absolute(binary)?
    } else {
        build("supernode")?;
        workspace::target_directory().join("release/supernode")
    };
    let bench = Bench::new(binary, options.largest)?;
    println!("{}", Machine::here()?);
    for ranks in &options.ranks {
        for transport in [Transport::Tcp, Transport::SharedMemory] {
            bench.compare(*ranks, transport, options.rounds)?;
        }
        bench.recover(*ranks)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn parse(arguments: &[String]) -> Result<Options> {
    let mut options = Options {
        rounds: 3,
        ranks: vec![2, 4],
        binary: None,
        largest: SIZES[SIZES.len() - 1],
    };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--rounds" => options.rounds = value.parse().context("--rounds")?,
            "--ranks" => options.ranks = vec![value.parse().context("--ranks")?],
            "--largest" => options.largest = value.parse().context("--largest, in bytes")?,
            "--binary" => options.binary = Some(value.into()),
            other => bail!("unknown argument `{other}`"),
        }
    }
    ensure!(options.rounds > 0, "--rounds: at least one");
    ensure!(
        options.largest >= SIZES[0],
        "--largest: at least {}",
        SIZES[0]
    );
    Ok(options)
}

impl Bench {
    fn new(binary: PathBuf, largest: u64) -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let gloo = scratch.path().join("gloo.py");
        fs::write(&gloo, include_str!("collectives/gloo.py"))?;
        let mpi = if let Some(compiler) = find_program("mpicc") {
            Some(compile(&compiler, scratch.path())?)
        } else {
            println!(
                "Open MPI: not measured: `mpicc` is missing (Debian: openmpi-bin libopenmpi-dev)"
            );
            None
        };
        let python = python::with("torch");
        if python.is_none() {
            println!("Gloo: not measured: no Python here has PyTorch (Debian: python3-torch)");
        }
        Ok(Self {
            binary,
            mpi,
            gloo,
            python,
            sizes: SIZES.into_iter().filter(|size| *size <= largest).collect(),
            _scratch: scratch,
        })
    }

    /// One table.
    fn compare(&self, ranks: u64, transport: Transport, rounds: usize) -> Result<()> {
        let (mut ours, mut gloo, mut mpi) = (Vec::new(), Vec::new(), Vec::new());
        let mut wire = Vec::new();
        for _ in 0..rounds {
            if transport == Transport::Tcp && ranks == 2 {
                wire.extend(iperf()?);
            }
            // Gloo has no shared memory; its sockets are what its users get between processes of a host.
            if let Some(python) = self.python {
                gloo.push(self.gloo(python, ranks)?);
            }
            if let Some(program) = &self.mpi {
                mpi.push(self.mpi(program, ranks, transport)?);
            }
            ours.push(self.ours(ranks, transport)?);
        }
        let name = match transport {
            Transport::Tcp => "TCP over loopback",
            Transport::SharedMemory => "shared memory (Gloo: TCP)",
        };
        println!("\nall-reduce of f32, {ranks} ranks, {name}, median of {rounds} rounds");
        println!(
            "{:>11} {:>11} {:>11} {:>11} {:>10} {:>9} {:>9}",
            "bytes", "this us", "Gloo us", "MPI us", "bus GB/s", "Gloo/this", "MPI/this"
        );
        for size in &self.sizes {
            let median = |runs: &[Medians]| middle(runs.iter().map(|run| run.get(size).copied()));
            let ratio = |peers: &[Medians]| {
                let pairs = peers.iter().zip(&ours);
                middle(pairs.map(|(peer, own)| Some(peer.get(size)? / own.get(size)?)))
            };
            println!(
                "{size:>11} {:>11} {:>11} {:>11} {:>10} {:>9} {:>9}",
                cell(median(&ours), 1),
                cell(median(&gloo), 1),
                cell(median(&mpi), 1),
                cell(median(&ours).map(|micros| bus(*size, ranks, micros)), 2),
                cell(ratio(&gloo), 2),
                cell(ratio(&mpi), 2),
            );
        }
        if let (Some(wire), Some(size)) = (middle(wire.into_iter().map(Some)), self.sizes.last()) {
            let micros = middle(ours.iter().map(|run| run.get(size).copied()));
            let share = micros.map(|micros| bus(*size, ranks, micros) / wire);
            println!(
                "iperf3 --bidir: {wire:.2} GB/s each way; at {size} bytes this reaches {} of it",
                cell(share, 2)
            );
        }
        Ok(())
    }

    /// Connections that are cut in the middle of an operator: the longest time from a break until the stream goes on.
    fn recover(&self, ranks: u64) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command
            .args(["collective", "drill", "--output", "json"])
            .args(["--ranks", &ranks.to_string(), "--cuts", CUTS]);
        let found: Vec<Value> = serde_json::from_str(&text_within(&mut command, PATIENCE)?)?;
        let longest = found
            .iter()
            .filter_map(|one| one["longest_recovery_microseconds"].as_f64())
            .reduce(f64::max)
            .context("`collective drill` has another form than before")?;
        println!(
            "{CUTS} cuts in the middle of an all-reduce of 16 MiB: the longest recovery took {:.1} ms",
            longest / 1e3
        );
        Ok(())
    }

    fn ours(&self, ranks: u64, transport: Transport) -> Result<Medians> {
        let sizes: Vec<String> = self.sizes.iter().map(u64::to_string).collect();
        let transport = match transport {
            Transport::Tcp => "tcp",
            Transport::SharedMemory => "shared-memory",
        };
        let mut command = Command::new(&self.binary);
        command
            .args(["collective", "bench", "--output", "json"])
            .args(["--transport", transport, "--ranks", &ranks.to_string()])
            .args(["--sizes", &sizes.join(",")]);
        let found: Vec<Value> = serde_json::from_str(&text_within(&mut command, PATIENCE)?)?;
        let figure = |one: &Value| {
            let micros = one["median_microseconds"].as_f64()?;
            Some((one["bytes"].as_u64()?, micros))
        };
        found
            .iter()
            .map(|one| figure(one).context("`collective bench` has another form than before"))
            .collect()
    }

    fn gloo(&self, python: &str, ranks: u64) -> Result<Medians> {
        let mut command = Command::new(python);
        command
            .arg(&self.gloo)
            .args([ranks.to_string(), free_ports(1)?.to_string()])
            .args(self.runs());
        lines(&text_within(&mut command, PATIENCE)?)
    }

    fn mpi(&self, program: &Path, ranks: u64, transport: Transport) -> Result<Medians> {
        let transport = match transport {
            Transport::Tcp => "tcp,self",
            Transport::SharedMemory => "vader,self",
        };
        let mut command = Command::new("mpirun");
        command
            .args([
                "--allow-run-as-root",
                "--oversubscribe",
                "--bind-to",
                "none",
            ])
            .args([
                "--mca",
                "btl",
                transport,
                "--mca",
                "btl_tcp_if_include",
                "lo",
            ])
            .args(["-n", &ranks.to_string()])
            .arg(program)
            .args(self.runs());
        lines(&text_within(&mut command, PATIENCE)?)
    }

    /// As many runs of each size as `supernode collective bench` makes.
    fn runs(&self) -> impl Iterator<Item = String> {
        let runs = |size: &u64| ((256 << 20) / size).clamp(5, 1000);
        self.sizes
            .iter()
            .map(move |size| format!("{size}:{}", runs(size)))
    }
}

fn compile(compiler: &Path, scratch: &Path) -> Result<PathBuf> {
    let (source, program) = (scratch.join("all_reduce.c"), scratch.join("all_reduce"));
    fs::write(&source, include_str!("collectives/all_reduce.c"))?;
    let mut command = Command::new(compiler);
    command.arg("-O2").arg("-o").arg(&program).arg(&source);
    text_within(&mut command, Duration::from_mins(1))?;
    Ok(program)
}

/// `BYTES MICROSECONDS` each.
fn lines(text: &str) -> Result<Medians> {
    let figure = |line: &str| {
        let (bytes, micros) = line.split_once(' ')?;
        Some((bytes.parse().ok()?, micros.parse().ok()?))
    };
    text.lines()
        .map(|line| figure(line).with_context(|| format!("a peer printed `{line}`")))
        .collect()
}

/// Gigabytes per second each way of a stream in both directions; nothing without iperf3.
fn iperf() -> Result<Option<f64>> {
    let Some(iperf) = find_program("iperf3") else {
        return Ok(None);
    };
    let port = free_ports(1)?.to_string();
    let server = Command::new(&iperf)
        .args(["-s", "-1", "-p", &port])
        .stdout(Stdio::null())
        .spawn()?;
    let _server = Ends(server);
    wait_for_listener(&port)?;
    let mut client = Command::new(&iperf);
    client.args(["-c", "127.0.0.1", "-p", &port, "--bidir", "-J"]);
    client.args(["-t", IPERF_SECONDS]);
    let said: Value = serde_json::from_str(&text_within(&mut client, Duration::from_mins(1))?)?;
    let way = |name: &str| said.pointer(name).and_then(Value::as_f64);
    let there = way("/end/sum_received/bits_per_second");
    let back = way("/end/sum_received_bidir_reverse/bits_per_second");
    let (there, back) = there.zip(back).context("iperf3 printed no sums")?;
    Ok(Some(f64::midpoint(there, back) / 8e9))
}

/// A process that ends with this value.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Gigabytes per second that the busiest link carries, as NCCL's tests define it.
#[expect(
    clippy::cast_precision_loss,
    reason = "bandwidths are shown with three digits"
)]
fn bus(bytes: u64, ranks: u64, micros: f64) -> f64 {
    let ranks = ranks as f64;
    2.0 * (ranks - 1.0) / ranks * bytes as f64 / micros / 1e3
}

/// The median of what is there.
fn middle(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let mut values: Vec<f64> = values.flatten().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_peers_are_read_and_others_named() {
        let read = lines("4 1.500\n1024 20\n").expect("valid");
        assert_eq!(read, BTreeMap::from([(4, 1.5), (1024, 20.0)]));
        let wrong = lines("4 1.5\nmpirun: no slots\n").expect_err("no figure");
        assert!(wrong.to_string().contains("no slots"), "{wrong}");
    }

    #[test]
    fn bus_bandwidth_and_medians() {
        assert!((bus(1_000_000, 2, 1000.0) - 1.0).abs() < 1e-9);
        assert!((bus(1_000_000, 4, 1000.0) - 1.5).abs() < 1e-9);
        assert_eq!(
            middle([Some(3.0), None, Some(1.0), Some(2.0)].into_iter()),
            Some(2.0)
        );
        assert_eq!(
            (middle(std::iter::empty()), cell(None, 1)),
            (None, "-".to_owned())
        );
    }
}
