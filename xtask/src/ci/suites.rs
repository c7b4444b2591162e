//! All tests. What computes for minutes runs beside what mostly waits, and gives way to it, so that the processors always have something to
//! do; otherwise one suite after the other, as `cargo test` does it. A suite that fails does not keep the others from running.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{Outcome, cargo_step, minutes, python};
use crate::processes::{output_within, text_within, wait_within};

/// Suites that compute all the time, in the order in which they run.
const BUSY: &[(&str, &str)] = &[("sim", "it"), ("supernode", "virtual_machine")];
/// For building what the step `build` has not built yet.
const BUILD_LIMIT: Duration = minutes(30);
/// For one suite.
const SUITE_LIMIT: Duration = minutes(20);

/// One program of tests.
#[derive(Debug, PartialEq, Eq)]
struct Suite {
    /// The directory of its crate, where it runs.
    directory: PathBuf,
    target: String,
    program: PathBuf,
}

impl Suite {
    fn folder(&self) -> &str {
        let name = self.directory.file_name();
        name.and_then(|name| name.to_str()).unwrap_or_default()
    }

    fn name(&self) -> String {
        format!("{}/{}", self.folder(), self.target)
    }

    /// Runs it with so many tests at a time for each processor, unless the caller's environment says how many. Tests of real processes wait for
    /// half of their time.
    fn command(&self, threads_per_processor: usize) -> Command {
        let mut command = Command::new(&self.program);
        command
            .current_dir(&self.directory)
            .env("CARGO_MANIFEST_DIR", &self.directory)
            .env("RUST_BACKTRACE", "1");
        if std::env::var_os("RUST_TEST_THREADS").is_none() {
            let processors = thread::available_parallelism().map_or(1, usize::from);
            let threads = threads_per_processor * processors;
            command.env("RUST_TEST_THREADS", threads.to_string());
        }
        command
    }

    fn busy_position(&self) -> Option<usize> {
        let own = (self.folder(), &*self.target);
        BUSY.iter().position(|busy| *busy == own)
    }
}

pub(super) fn run() -> Result<Outcome> {
    // Without documentation's tests: there are none, as `tidy` sees to.
    let mut command = cargo_step(&["test", "--workspace", "--tests", "--no-run"]);
    command.arg("--message-format=json-render-diagnostics");
    let (mut busy, waiting): (Vec<Suite>, Vec<Suite>) =
        suites(&text_within(&mut command, BUILD_LIMIT)?)?
            .into_iter()
            .partition(|suite| suite.busy_position().is_some());
    busy.sort_by_key(Suite::busy_position);
    let named = |suite: &Suite, threads| (suite.name(), suite.command(threads));
    let mut beside: Vec<_> = busy.iter().map(|suite| named(suite, 1)).collect();
    // Nobody waits for these in real time, as machines' guests do.
    beside.splice(1..1, python::suites()?);
    let failed = Mutex::new(Vec::new());
    let note = |name: String, ended: Result<bool>| {
        let why = match ended {
            Ok(true) => return,
            Ok(false) => name,
            Err(error) => format!("{name} ({error:#})"),
        };
        failed
            .lock()
            .expect("no holder of this lock panics")
            .push(why);
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for (name, command) in beside {
                let ended = run_beside(&name, &command);
                note(name, ended);
            }
        });
        for (name, command) in waiting.iter().map(|suite| named(suite, 2)) {
            let ended = run_aloud(&name, command);
            note(name, ended);
        }
    });
    let failed = failed.into_inner().expect("no holder of this lock panics");
    if failed.is_empty() {
        Ok(Outcome::Passed)
    } else {
        bail!("these suites failed: {}", failed.join(", "))
    }
}

/// Runs one, and shows what it prints while it does.
fn run_aloud(name: &str, mut command: Command) -> Result<bool> {
    println!("    {name}");
    let mut child = command.stdin(Stdio::null()).spawn()?;
    Ok(wait_within(&mut child, name, SUITE_LIMIT)?.success())
}

/// Runs one that gives way to all others, and shows what it has printed at its end.
fn run_beside(name: &str, command: &Command) -> Result<bool> {
    let start = Instant::now();
    let output = output_within(&mut giving_way(command), SUITE_LIMIT)?;
    println!(
        "    {name} ran for {:.0} s beside others\n{}{}",
        start.elapsed().as_secs_f64(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.status.success())
}

/// The same command at a low priority.
fn giving_way(command: &Command) -> Command {
    let mut calm = Command::new("nice");
    calm.arg("-n10")
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            calm.env(name, value);
        }
    }
    if let Some(directory) = command.get_current_dir() {
        calm.current_dir(directory);
    }
    calm
}

/// One line of Cargo, of which there are many kinds.
#[derive(Deserialize)]
struct Artifact {
    executable: Option<PathBuf>,
    manifest_path: PathBuf,
    profile: Profile,
    target: Target,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Reads what Cargo has built, in the order of names.
fn suites(lines: &str) -> Result<Vec<Suite>> {
    let mut found = Vec::new();
    for line in lines.lines() {
        // The other kinds of lines have no such fields.
        let Ok(artifact) = serde_json::from_str::<Artifact>(line) else {
            continue;
        };
        let Some(program) = artifact.executable.filter(|_| artifact.profile.test) else {
            continue;
        };
        let directory = artifact.manifest_path.parent();
        found.push(Suite {
            directory: directory
                .context("a manifest is in a directory")?
                .to_owned(),
            target: artifact.target.name,
            program,
        });
    }
    if found.is_empty() {
        bail!("cargo has built no tests");
    }
    found.sort_by_key(Suite::name);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_tests_are_found_among_the_lines_of_cargo() {
        let artifact = |folder: &str, target: &str, test: bool, program: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/a/crates/{folder}/Cargo.toml","target":{{"name":"{target}","kind":["test"]}},"profile":{{"test":{test}}},"executable":{program}}}"#
            )
        };
        let lines = [
            artifact("supernode", "virtual_machine", true, "\"/t/vm-1\""),
            artifact("supernode", "supernode", false, "\"/t/supernode\""),
            artifact("sim", "it", true, "\"/t/it-1\""),
            artifact("sim", "supernode_sim", true, "null"),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ];
        let found = suites(&lines.join("\n")).expect("there are some");
        let names: Vec<String> = found.iter().map(Suite::name).collect();
        assert_eq!(names, ["sim/it", "supernode/virtual_machine"]);
        assert_eq!(found[0].program, PathBuf::from("/t/it-1"));
        assert_eq!(found[1].busy_position(), Some(1));
        assert!(suites(&lines[4]).is_err());
    }

    /// A busy suite that got another name would be one of those that wait.
    #[test]
    fn the_busy_suites_exist() {
        let root = crate::workspace::root();
        for (folder, target) in BUSY {
            let tests = root.join("crates").join(folder).join("tests").join(target);
            assert!(tests.join("main.rs").exists(), "{}", tests.display());
        }
    }
}
