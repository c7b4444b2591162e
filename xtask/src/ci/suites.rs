//! All tests. First suites that mostly wait, with what computes and needs no real time beside them; then the others alone, one after the
//! other, as `cargo test` does it: they measure this machine, or emulate others. A suite that fails does not keep the others from running.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{BUILD_LIMIT, Outcome, build_command, minutes, python};
use crate::processes::{output_within, text_within, wait_within};

/// The suite that computes all the time. The unit tests of the examples do, too.
const COMPUTING: &str = "sim/it";
/// Suites that wait for processes, sockets and disks more than for processors.
const WAITING: &[&str] = &[
    "agent/it",
    "cli/it",
    "client/it",
    "control/it",
    "http/it",
    "store/it",
];
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
    /// The folder of its crate and its own name.
    fn name(&self) -> String {
        let folder = self.directory.file_name().unwrap_or_default();
        format!("{}/{}", folder.display(), self.target)
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
}

pub(super) fn run() -> Result<Outcome> {
    // Without documentation's tests: there are none, as `tidy` sees to.
    let mut command = build_command();
    command.arg("--message-format=json-render-diagnostics");
    let all = suites(&text_within(&mut command, BUILD_LIMIT)?)?;
    let (computing, others): (Vec<_>, Vec<_>) =
        all.iter().partition(|suite| suite.name() == COMPUTING);
    let (waiting, alone): (Vec<_>, Vec<_>) = others
        .into_iter()
        .partition(|suite| WAITING.contains(&&*suite.name()));
    let computing = computing
        .into_iter()
        .map(|suite| (suite.name(), suite.command(1)));
    let beside: Vec<_> = computing.chain(python::suites()?).collect();
    let failed = Mutex::new(Vec::new());
    let note = |name: &str, ended: Result<bool>| {
        let why = match ended {
            Ok(true) => return,
            Ok(false) => name.to_owned(),
            Err(error) => format!("{name} ({error:#})"),
        };
        let mut failed = failed.lock().expect("no holder of this lock panics");
        failed.push(why);
    };
    thread::scope(|scope| {
        for (name, command) in &beside {
            scope.spawn(|| note(name, run_beside(name, command)));
        }
        for suite in waiting {
            note(&suite.name(), run_aloud(suite));
        }
    });
    for suite in alone {
        note(&suite.name(), run_aloud(suite));
    }
    let failed = failed.into_inner().expect("no holder of this lock panics");
    if failed.is_empty() {
        Ok(Outcome::Passed)
    } else {
        bail!("these suites failed: {}", failed.join(", "))
    }
}

/// Runs one, and shows what it prints while it does.
fn run_aloud(suite: &Suite) -> Result<bool> {
    println!("    {}", suite.name());
    let mut child = suite.command(2).stdin(Stdio::null()).spawn()?;
    Ok(wait_within(&mut child, &suite.name(), SUITE_LIMIT)?.success())
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
        assert!(suites(&lines[4]).is_err());
    }

    /// A suite that got another name would run alone, and nobody would notice.
    #[test]
    fn the_suites_that_are_named_exist() {
        let crates = crate::workspace::root().join("crates");
        for name in WAITING.iter().chain([&COMPUTING]) {
            let (folder, target) = name.split_once('/').expect("a folder and a name");
            let tests = crates.join(folder).join("tests").join(target);
            assert!(tests.join("main.rs").exists(), "{}", tests.display());
        }
    }
}
