//! What the tests share: waiting for conditions, and a data directory with ranks in it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use supernode_agent::ranks::{Launch, RankExit, RankId, RankObservation, Ranks, SupervisorCommand};
use supernode_agent::supervisor::lease::NO_DEADLINE;
use supernode_types::time::{Clock, SystemClock};

/// Time on a clock that never jumps.
pub(crate) fn now() -> Duration {
    SystemClock.monotonic()
}

/// Waits until `condition` gives something; panics after a minute.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = now() + Duration::from_mins(1);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(now() < deadline, "waited a minute for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The example program that stands in for the agent's binary.
pub(crate) fn supervisor_program() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let target = test
        .parent()
        .and_then(Path::parent)
        .expect("tests are in target/PROFILE/deps");
    let program = target.join("examples/rank_supervisor");
    assert!(
        program.exists(),
        "{} is missing: run the tests of the whole package, which builds its examples",
        program.display()
    );
    program
}

/// A data directory of an agent, and the agent's ranks in it.
pub(crate) struct Node {
    pub(crate) ranks: Ranks,
    pub(crate) temporary: tempfile::TempDir,
}

impl Node {
    pub(crate) fn new() -> Self {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        // So that another user can reach the scratch directory.
        std::fs::set_permissions(temporary.path(), std::fs::Permissions::from_mode(0o755))
            .expect("it is ours");
        let ranks = Self::open(temporary.path());
        ranks
            .lease()
            .write(NO_DEADLINE)
            .expect("the lease is written");
        std::fs::create_dir(temporary.path().join("scratch")).expect("it is made");
        Self { ranks, temporary }
    }

    /// Another agent on the same directory, as after a restart.
    pub(crate) fn reopened(&self) -> Ranks {
        Self::open(self.temporary.path())
    }

    fn open(data: &Path) -> Ranks {
        let command = SupervisorCommand {
            program: supervisor_program(),
            arguments: Vec::new(),
        };
        Ranks::open(data, command).expect("the data directory opens")
    }

    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.temporary.path().join("scratch").join(name)
    }

    pub(crate) fn data(&self) -> &Path {
        self.temporary.path()
    }

    /// A launch of a shell script, which runs in the scratch directory.
    pub(crate) fn script(&self, script: &str) -> Launch {
        self.command(&["/bin/sh", "-c", script])
    }

    pub(crate) fn command(&self, argv: &[&str]) -> Launch {
        Launch {
            attempt: "attempt-1".into(),
            rank: 0,
            argv: argv.iter().map(|&argument| argument.to_owned()).collect(),
            env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
            workdir: self.temporary.path().join("scratch").display().to_string(),
            user: None,
            log_cap_bytes: 1024 * 1024,
            tag: String::new(),
        }
    }

    pub(crate) fn start(&self, launch: &Launch) -> RankId {
        let id = RankId::new(&launch.attempt, launch.rank).expect("it is plain");
        self.ranks.launch(&id, launch).expect("it launches");
        id
    }

    /// Waits until the rank has ended.
    pub(crate) fn end(&self, id: &RankId) -> RankExit {
        wait_for("the end of a rank", || {
            match self.ranks.observe(id).expect("it can be observed") {
                RankObservation::Ended(exit) => Some(exit),
                _ => None,
            }
        })
    }

    /// Launches and waits.
    pub(crate) fn run(&self, launch: &Launch) -> RankExit {
        let id = self.start(launch);
        self.end(&id)
    }

    /// Waits for a process id that the rank writes into a file of its scratch directory.
    pub(crate) fn pid_in(&self, name: &str) -> i32 {
        wait_for(name, || {
            std::fs::read_to_string(self.scratch(name))
                .ok()?
                .strip_suffix('\n')?
                .parse()
                .ok()
        })
    }

    pub(crate) fn supervisor_pid(&self, id: &RankId) -> i32 {
        let path = self
            .data()
            .join("ranks")
            .join(id.as_str())
            .join("started.json");
        wait_for("the supervisor's process id", || {
            let record: serde_json::Value =
                serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
            record["rank"].as_i64()?;
            i32::try_from(record["supervisor"].as_i64()?).ok()
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A failed test must not leave programs behind.
        for id in self.ranks.list().unwrap_or_default() {
            let _ = self.ranks.stop(&id, 9, Duration::ZERO, "the test is over");
        }
    }
}

/// Whether the process exists and is not a zombie.
pub(crate) fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !matches!(
            stat.rsplit(") ")
                .next()
                .and_then(|rest| rest.chars().next()),
            Some('Z' | 'X') | None
        )
    })
}

pub(crate) fn kill(pid: i32, signal: i32) {
    let status = std::process::Command::new("kill")
        .arg(format!("-{signal}"))
        .arg(pid.to_string())
        .status();
    assert!(
        status.expect("kill runs").success(),
        "{pid} could be signalled"
    );
}
