//! Child processes that cannot outlive their purpose. Every wait has a deadline, and a `Yard` ends whatever was started in it,
//! daemons included, also when this program is killed: a small reaper process holds the other end of a pipe.
//!
//! Processes are found by a marker in their environment or by the yard's directory in their command line (Linux only: reads `/proc`).
//! Nothing is ever killed by the name of its program.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

/// The hidden subcommand that the reaper process runs.
pub(crate) const REAPER_COMMAND: &str = "yard-reaper";
const MARKER_VARIABLE: &str = "XTASK_YARD";
const REAP_DEADLINE: Duration = Duration::from_secs(20);

/// Nanoseconds since 1970, as `date +%s%N` prints them.
pub(crate) fn realtime_nanoseconds() -> i128 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("the clock is after 1970");
    i128::try_from(since.as_nanos()).expect("the clock is before the year 10^22")
}

/// Asks `probe` until it has an answer; fails after `deadline` with what was waited for.
pub(crate) fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = probe()? {
            return Ok(answer);
        }
        if start.elapsed() > deadline {
            bail!("{what}: not within {} s", deadline.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs a command to its end and returns what it printed; ends it with its descendants at the deadline.
pub(crate) fn output_within(command: &mut Command, deadline: Duration) -> Result<Output> {
    let name = describe(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let stdout = read_in_background(child.stdout.take().expect("stdout is piped"));
    let stderr = read_in_background(child.stderr.take().expect("stderr is piped"));
    let status = wait_within(&mut child, &name, deadline)?;
    let join = |reader: std::thread::JoinHandle<Vec<u8>>| {
        reader.join().expect("the reader does not panic")
    };
    Ok(Output {
        status,
        stdout: join(stdout),
        stderr: join(stderr),
    })
}

/// Like `output_within`, and a failure is an error that carries what the command said.
pub(crate) fn text_within(command: &mut Command, deadline: Duration) -> Result<String> {
    let name = describe(command);
    let output = output_within(command, deadline)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits for a child; at the deadline ends it with its descendants and fails.
pub(crate) fn wait_within(
    child: &mut Child,
    name: &str,
    deadline: Duration,
) -> Result<std::process::ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() > deadline {
            kill(&with_descendants(child.id()));
            child.wait()?;
            bail!("{name}: not done after {} s, ended", deadline.as_secs());
        }
        std::thread::sleep(Duration::from_millis(
            if start.elapsed().as_millis() < 1000 {
                1
            } else {
                20
            },
        ));
    }
}

fn read_in_background(mut stream: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A broken pipe ends the text; the exit status tells the rest.
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

/// Program (without its directory) and arguments as one line to paste into a shell, long ones cut.
pub(crate) fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let words: Vec<String> = std::iter::once(program.file_name().unwrap_or_default())
        .chain(command.get_args())
        .map(|word| {
            let word = word.to_string_lossy();
            let plain =
                |character: char| character.is_alphanumeric() || "-_./=:,+@%".contains(character);
            if !word.is_empty() && word.chars().all(plain) {
                word.into_owned()
            } else {
                format!("'{word}'")
            }
        })
        .collect();
    let line = words.join(" ");
    if line.chars().count() > 200 {
        line.chars().take(200).chain("…".chars()).collect()
    } else {
        line
    }
}

/// Sends SIGKILL. A process that is gone already is what was wanted.
pub(crate) fn kill(pids: &[u32]) {
    if !pids.is_empty() {
        let _ = Command::new("kill")
            .arg("-9")
            .args(pids.iter().map(ToString::to_string))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// One running process, as `/proc` shows it.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    parent: u32,
    pub(crate) command_line: String,
    environment: String,
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let text = |name: &str| {
            let bytes = fs::read(format!("/proc/{pid}/{name}")).ok()?;
            Some(String::from_utf8_lossy(&bytes).replace('\0', "\n"))
        };
        let status = text("stat")?;
        // Behind the program's name in parentheses: state, parent, ...
        let mut fields = status.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?;
        if state == "Z" || state == "X" {
            return None;
        }
        Some(Self {
            pid,
            parent: fields.next()?.parse().ok()?,
            command_line: text("cmdline")?.trim().replace('\n', " "),
            environment: text("environ").unwrap_or_default(),
        })
    }

    /// Whether the process was started with the variable `name=value`.
    pub(crate) fn has_variable(&self, name: &str, value: &str) -> bool {
        let wanted = format!("{name}={value}");
        self.environment.lines().any(|line| line == wanted)
    }

    /// Resident memory in bytes; `None` when the process is gone.
    pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    }
}

fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Process::read)
        .collect()
}

/// The process and everything below it.
pub(crate) fn with_descendants(pid: u32) -> Vec<u32> {
    let all = processes();
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(
            all.iter()
                .filter(|process| process.parent == parent)
                .map(|process| process.pid),
        );
        next += 1;
    }
    found
}

fn members(marker: &str, directory: &Path) -> Vec<Process> {
    let directory = directory.to_string_lossy();
    let own = std::process::id();
    processes()
        .into_iter()
        .filter(|process| process.pid != own)
        .filter(|process| !process.command_line.contains(REAPER_COMMAND))
        .filter(|process| {
            process.has_variable(MARKER_VARIABLE, marker)
                || process.command_line.contains(&*directory)
        })
        .collect()
}

/// A private directory and every process that was started for it. Dropping it ends the processes and removes the directory.
pub(crate) struct Yard {
    marker: String,
    directory: PathBuf,
    reaper: Child,
    /// Held open as long as the yard lives; the reaper works when it closes.
    lifeline: Option<ChildStdin>,
}

impl Yard {
    pub(crate) fn new(purpose: &str) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix(&format!("xtask-{purpose}-"))
            .tempdir()
            .context("cannot create a temporary directory")?
            .keep();
        let marker = format!(
            "{purpose}-{}-{}",
            std::process::id(),
            realtime_nanoseconds()
        );
        // By this link and not by its path: a build in between may have put another file there.
        let mut reaper = Command::new("/proc/self/exe")
            .args([REAPER_COMMAND, &marker])
            .arg(&directory)
            .stdin(Stdio::piped())
            // Ctrl-C in the terminal must not reach it: it is what cleans up afterwards.
            .process_group(0)
            .spawn()
            .context("cannot start the reaper process")?;
        let lifeline = reaper.stdin.take();
        Ok(Self {
            marker,
            directory,
            reaper,
            lifeline,
        })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A command that belongs to this yard, with no standard input.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env(MARKER_VARIABLE, &self.marker)
            .current_dir(&self.directory)
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn members(&self) -> Vec<Process> {
        members(&self.marker, &self.directory)
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        self.lifeline = None;
        let _ = wait_within(
            &mut self.reaper,
            "cleaning up",
            REAP_DEADLINE + Duration::from_secs(5),
        );
    }
}

/// The reaper: waits until its standard input closes, which the kernel does however its parent ends, then ends the yard.
pub(crate) fn reaper_main(arguments: &[String]) -> Result<ExitCode> {
    let [marker, directory] = arguments else {
        bail!("expected MARKER DIRECTORY")
    };
    let directory = Path::new(directory);
    let mut ignored = Vec::new();
    std::io::stdin().read_to_end(&mut ignored)?;
    wait_for("ending the processes of a benchmark", REAP_DEADLINE, || {
        let pids: Vec<u32> = members(marker, directory)
            .iter()
            .flat_map(|process| with_descendants(process.pid))
            .collect();
        kill(&pids);
        Ok(pids.is_empty().then_some(()))
    })?;
    fs::remove_dir_all(directory)
        .with_context(|| format!("cannot remove {}", directory.display()))?;
    std::io::stderr().flush()?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn output_and_failure_are_told() {
        let text = text_within(Command::new("echo").arg("hello"), LONG).expect("echo works");
        assert_eq!(text, "hello\n");
        let error = text_within(Command::new("sh").args(["-c", "echo no >&2; exit 3"]), LONG)
            .expect_err("the command fails");
        assert!(
            error.to_string().ends_with("exit status: 3): no"),
            "{error}"
        );
    }

    #[test]
    fn deadline_ends_the_descendants_too() {
        let start = Instant::now();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 30 & sleep 30; true"]);
        let error = output_within(&mut command, Duration::from_millis(200)).expect_err("too slow");
        assert!(error.to_string().contains("not done after"), "{error}");
        assert!(
            start.elapsed() < LONG,
            "the reader threads end because all holders of the pipe were ended"
        );
    }

    #[test]
    fn waiting_gives_up_with_the_reason() {
        let error = wait_for("a miracle", Duration::ZERO, || Ok(None::<()>)).expect_err("never");
        assert_eq!(error.to_string(), "a miracle: not within 0 s");
    }

    #[test]
    fn commands_are_described_for_a_shell() {
        let mut command = Command::new("/opt/rust/cargo");
        command.args(["test", "two words", "a=b"]);
        assert_eq!(describe(&command), "cargo test 'two words' a=b");
    }

    #[test]
    fn marked_processes_are_found_until_they_end() {
        let marker = format!("test-{}-{}", std::process::id(), realtime_nanoseconds());
        let nowhere = Path::new("/nonexistent/yard");
        let mut child = Command::new("sleep")
            .arg("60")
            .env(MARKER_VARIABLE, &marker)
            .spawn()
            .expect("sleep starts");
        let found = wait_for("the process to show up", LONG, || {
            Ok(members(&marker, nowhere)
                .into_iter()
                .find(|process| process.command_line == "sleep 60"))
        })
        .expect("found");
        assert_eq!(found.pid, child.id());
        assert!(Process::resident_bytes(found.pid).is_some_and(|bytes| bytes > 100_000));
        kill(&[found.pid]);
        child.wait().expect("reaped");
        assert!(members(&marker, nowhere).is_empty());
    }
}
