//! `cargo xtask bench stress`: the stress kernels beside the reference tools, in turn, so that both see the same machine.
//!
//! For each pattern: reference, kernel, reference, kernel, …; each pair gives a ratio of medians, and the median of the ratios is what
//! counts. A shared machine moves both sides of a pair alike, so ratios say something where figures do not; the spread of the ratios is
//! printed, so that a reader sees how much. References come from Debian (`libopenblas-dev`, `fio`, `iperf3`) or are compiled
//! here (the triad of STREAM); one that is missing is said, and its line is left out.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::ports::wait_for_listener;
use crate::workspace;

const SECONDS: u32 = 2;
const ARRAY_BYTES: u64 = 128 << 20;
const FILE_BYTES: u64 = 512 << 20;

struct Options {
    pairs: usize,
    /// Patterns whose names begin with these words.
    only: Vec<String>,
    /// Measured instead of a fresh release build.
    kernel: Option<PathBuf>,
    directory: PathBuf,
}

/// One line of the table.
struct Pattern {
    name: &'static str,
    /// The share of the reference that is to be reached.
    goal: f64,
    ours: fn(&Bench) -> Result<f64>,
    theirs: fn(&Bench) -> Result<f64>,
}

struct Bench {
    kernel: PathBuf,
    scratch: tempfile::TempDir,
    directory: PathBuf,
}

const PATTERNS: [Pattern; 8] = [
    Pattern {
        name: "gemm f32 (OpenBLAS)",
        goal: 0.95,
        ours: |bench| bench.compute("f32"),
        theirs: |bench| bench.openblas("f32"),
    },
    Pattern {
        name: "gemm f64 (OpenBLAS)",
        goal: 0.95,
        ours: |bench| bench.compute("f64"),
        theirs: |bench| bench.openblas("f64"),
    },
    Pattern {
        name: "triad (STREAM in C)",
        goal: 0.95,
        ours: Bench::triad,
        theirs: Bench::triad_in_c,
    },
    Pattern {
        name: "TCP stream (iperf3)",
        goal: 0.95,
        ours: Bench::network,
        theirs: Bench::iperf,
    },
    Pattern {
        name: "sequential write (fio)",
        goal: 0.97,
        ours: |bench| bench.storage("sequential_write"),
        theirs: |bench| bench.fio("write", "1M", 4),
    },
    Pattern {
        name: "sequential read (fio)",
        goal: 0.97,
        ours: |bench| bench.storage("sequential_read"),
        theirs: |bench| bench.fio("read", "1M", 4),
    },
    Pattern {
        name: "random read (fio)",
        goal: 0.97,
        ours: |bench| bench.storage("random_read"),
        theirs: |bench| bench.fio("randread", "4k", 16),
    },
    Pattern {
        name: "random write (fio)",
        goal: 0.97,
        ours: |bench| bench.storage("random_write"),
        theirs: |bench| bench.fio("randwrite", "4k", 16),
    },
];

pub(super) fn main(arguments: &[String]) -> Result<ExitCode> {
    let options = parse(arguments)?;
    let kernel = match options.kernel {
        Some(kernel) => kernel,
        None => build()?,
    };
    let bench = Bench {
        kernel,
        scratch: tempfile::tempdir()?,
        directory: options.directory,
    };
    println!("{}", super::machine::Machine::here()?);
    println!(
        "{:<24} {:>10} {:>10} {:>7} {:>15} {:>12}",
        "pattern", "this", "reference", "ratio", "ratios between", "goal"
    );
    let wanted = |pattern: &&Pattern| {
        let names = &options.only;
        names.is_empty() || names.iter().any(|name| pattern.name.starts_with(name))
    };
    for pattern in PATTERNS.iter().filter(wanted) {
        match measure(&bench, pattern, options.pairs) {
            Ok(line) => println!("{line}"),
            Err(error) => println!("{:<24} not measured: {error:#}", pattern.name),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn parse(arguments: &[String]) -> Result<Options> {
    let mut options = Options {
        pairs: 5,
        only: Vec::new(),
        kernel: None,
        directory: workspace::target_directory(),
    };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--pairs" => options.pairs = value.parse().context("--pairs")?,
            "--only" => options.only.push(value.clone()),
            "--kernel" => options.kernel = Some(value.into()),
            "--directory" => options.directory = value.into(),
            other => bail!("unknown argument `{other}`"),
        }
    }
    ensure!(options.pairs > 0, "--pairs: at least one");
    Ok(options)
}

fn build() -> Result<PathBuf> {
    let status = Command::new("cargo")
        .args([
            "build",
            "--release",
            "-p",
            "supernode-probe",
            "--example",
            "stress_kernel",
        ])
        .status()?;
    ensure!(status.success(), "the kernels cannot be built");
    Ok(workspace::target_directory().join("release/examples/stress_kernel"))
}

fn measure(bench: &Bench, pattern: &Pattern, pairs: usize) -> Result<String> {
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..pairs {
        let reference = (pattern.theirs)(bench)?;
        let kernel = (pattern.ours)(bench)?;
        ratios.push(kernel / reference);
        ours.push(kernel);
        theirs.push(reference);
    }
    let ratio = median(&mut ratios)?;
    Ok(format!(
        "{:<24} {:>10.1} {:>10.1} {ratio:>7.2} {:>7.2} {:>7.2} {:>7.2} {}",
        pattern.name,
        median(&mut ours)?,
        median(&mut theirs)?,
        ratios[0],
        ratios[ratios.len() - 1],
        pattern.goal,
        if ratio >= pattern.goal {
            "met"
        } else {
            "MISSED"
        }
    ))
}

/// Sorts, and gives the middle one.
fn median(values: &mut [f64]) -> Result<f64> {
    values.sort_by(f64::total_cmp);
    values
        .get(values.len() / 2)
        .copied()
        .context("no figure was measured")
}

impl Bench {
    /// Runs a kernel; the median of a metric, of one core or the host. Cores are added up.
    fn kernel(&self, kernel: &Value, metric: &str) -> Result<f64> {
        let mut child = self.start(kernel)?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("it was asked for")?;
        let mut by_part = std::collections::BTreeMap::<String, Vec<f64>>::new();
        for line in BufReader::new(output).lines() {
            let event: Value = serde_json::from_str(&line?)?;
            if let Some(why) = event.pointer("/end/could_not_run") {
                bail!("{why}");
            }
            let sample = &event["sample"];
            if sample["metric"] == metric
                && let Some(value) = sample["value"].as_f64()
            {
                by_part
                    .entry(sample["part"].to_string())
                    .or_default()
                    .push(value);
            }
        }
        drop(input);
        child.wait()?;
        // A metric of the host has its cores beside it.
        if let Some(host) = by_part.get_mut("\"host\"") {
            return median(host);
        }
        by_part.values_mut().map(|values| median(values)).sum()
    }

    fn start(&self, kernel: &Value) -> Result<Child> {
        let mut child = Command::new(&self.kernel)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{}", self.kernel.display()))?;
        let order = json!({"kernel": kernel, "limit_seconds": 300});
        let input = child.stdin.as_mut().context("it was asked for")?;
        writeln!(input, "{order}")?;
        Ok(child)
    }

    fn compute(&self, precision: &str) -> Result<f64> {
        let kernel = json!({"compute": {"precision": precision, "seconds": SECONDS}});
        self.kernel(&kernel, &format!("gemm_{precision}"))
    }

    fn triad(&self) -> Result<f64> {
        let kernel = json!({"stream": {"seconds": SECONDS, "array_bytes": ARRAY_BYTES}});
        self.kernel(&kernel, "stream_triad")
    }

    fn storage(&self, metric: &str) -> Result<f64> {
        let kernel = json!({"storage": {
            "directory": self.directory, "bytes": FILE_BYTES, "seconds": SECONDS,
            "sequential_depth": 4, "random_depth": 16,
        }});
        self.kernel(&kernel, metric)
    }

    fn network(&self) -> Result<f64> {
        let key = "00";
        let mut listener =
            self.start(&json!({"listen": {"address": "127.0.0.1:0", "key": key, "seconds": 60}}))?;
        let output = listener.stdout.take().context("it was asked for")?;
        let mut first = String::new();
        BufReader::new(output).read_line(&mut first)?;
        let said: Value = serde_json::from_str(&first)?;
        let kernel = json!({"ask": {
            "address": said["listening"], "peer": "self", "key": key, "streams": 1,
            "stream_seconds": SECONDS, "datagram_seconds": 0, "datagrams_per_second": 1,
        }});
        let rate = self.kernel(&kernel, "network_send");
        drop(listener.stdin.take());
        listener.wait()?;
        rate
    }

    /// A process for each core, as the kernel has a thread for each: its own threads would wait for each other, long on a shared
    /// machine. It brings its operands into order for each product; the kernel's lie in order.
    fn openblas(&self, precision: &str) -> Result<f64> {
        let program = self.compiled("gemm", include_str!("stress/gemm.c"), &["-lopenblas"])?;
        let cores = std::thread::available_parallelism()?.get();
        let children = (0..cores)
            .map(|core| {
                let mut command = Command::new(&program);
                command.env("OPENBLAS_NUM_THREADS", "1");
                // A processor newer than the library is taken for a very old one.
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx512f") {
                    command.env("OPENBLAS_CORETYPE", "SKYLAKEX");
                }
                command
                    .args([precision, "1152", &SECONDS.to_string(), &core.to_string()])
                    .stdout(Stdio::piped())
                    .spawn()
            })
            .collect::<std::io::Result<Vec<_>>>()?;
        children
            .into_iter()
            .map(|child| figures(&child.wait_with_output()?))
            .sum()
    }

    fn triad_in_c(&self) -> Result<f64> {
        let program = self.compiled("triad", include_str!("stress/triad.c"), &["-fopenmp"])?;
        let sizes = [ARRAY_BYTES.to_string(), SECONDS.to_string()];
        figures(&Command::new(program).args(sizes).output()?)
    }

    /// Compiles a reference once.
    fn compiled(&self, name: &str, source: &str, more: &[&str]) -> Result<PathBuf> {
        let program = self.scratch.path().join(name);
        if !program.exists() {
            let file = self.scratch.path().join(format!("{name}.c"));
            fs::write(&file, source)?;
            let status = Command::new("cc")
                .args(["-O3", "-o"])
                .args([&program, &file])
                .args(more)
                .stderr(Stdio::null())
                .status()
                .context("cc")?;
            ensure!(
                status.success(),
                "{name}.c cannot be compiled; is its library installed?"
            );
        }
        Ok(program)
    }

    fn iperf(_: &Self) -> Result<f64> {
        let port = super::ports::free_ports(1)?.to_string();
        let mut server = Command::new("iperf3")
            .args(["-s", "-1", "-p", &port])
            .stdout(Stdio::null())
            .spawn()
            .context("iperf3")?;
        wait_for_listener(&port)?;
        let output = Command::new("iperf3")
            .args([
                "-c",
                "127.0.0.1",
                "-p",
                &port,
                "-t",
                &SECONDS.to_string(),
                "-J",
            ])
            .output()?;
        // It ends after its one client; a failure of the client ends it here.
        let _ = server.kill();
        server.wait()?;
        let said: Value = serde_json::from_slice(&output.stdout)?;
        said.pointer("/end/sum_received/bits_per_second")
            .and_then(Value::as_f64)
            .map(|bits| bits / 1e9)
            .with_context(|| format!("iperf3: {}", said["error"]))
    }

    fn fio(&self, pattern: &str, block: &str, depth: u32) -> Result<f64> {
        let file = self.directory.join("fio-reference");
        let output = Command::new("fio")
            .args([
                "--name=a",
                "--ioengine=io_uring",
                "--direct=1",
                "--output-format=json",
            ])
            // The kernel writes its file once as well: what is written again has its place already.
            .args((pattern != "write").then_some("--time_based"))
            .arg(format!("--filename={}", file.display()))
            .arg(format!("--size={FILE_BYTES}"))
            .arg(format!("--rw={pattern}"))
            .arg(format!("--bs={block}"))
            .arg(format!("--iodepth={depth}"))
            .arg(format!("--runtime={SECONDS}"))
            .output()
            .context("fio")?;
        let _ = fs::remove_file(&file);
        let text = String::from_utf8_lossy(&output.stdout);
        let start = text.find('{').context("fio printed no JSON")?;
        let said: Value = serde_json::from_str(&text[start..])?;
        let side = if pattern.ends_with("read") {
            "read"
        } else {
            "write"
        };
        let side = said
            .pointer(&format!("/jobs/0/{side}"))
            .context("fio printed no job")?;
        let (name, unit) = if block == "1M" {
            ("bw_bytes", 1e6)
        } else {
            ("iops", 1.0)
        };
        let value = side[name].as_f64().context("fio printed no figure")?;
        Ok(value / unit)
    }
}

/// The median of the numbers that a program printed.
fn figures(output: &Output) -> Result<f64> {
    ensure!(output.status.success(), "the reference failed");
    let text = std::str::from_utf8(&output.stdout)?;
    let mut values: Vec<f64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    median(&mut values)
}
