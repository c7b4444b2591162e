//! What the tests of a whole agent share: one in a thread or in a process of its own, and wishes for it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use supernode_agent::options::{AgentOptions, JoinToken};
use supernode_agent::ranks::SupervisorCommand;
use supernode_agent::ranks::records::boot_id;
use supernode_agent::service::{self, AgentError};
use supernode_types::agent::{DesiredRank, RankLaunch, RankPlace, RankWish};
use supernode_types::entropy::SystemEntropy;
use supernode_types::job::{RankEnd, RankState};
use supernode_types::time::{Clock, SystemClock};
use supernode_types::{AttemptId, JobId};
use tokio::sync::oneshot;

use crate::server::{Authority, Server, TOKEN};
use crate::support::{kill, supervisor_program, wait_for};

/// The data directory of an agent, and the file with the authority that it trusts.
pub(crate) struct Place {
    temporary: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new(authority: &Authority) -> Self {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        // So that the user that jobs run as can reach its scratch directory.
        std::fs::set_permissions(temporary.path(), std::fs::Permissions::from_mode(0o755))
            .expect("it is ours");
        let place = Self { temporary };
        place.trust(authority);
        place
    }

    pub(crate) fn trust(&self, authority: &Authority) {
        std::fs::write(self.ca_file(), &authority.pem).expect("it is written");
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.temporary.path().join("ca.pem")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.temporary.path().join("data")
    }

    pub(crate) fn options(&self, server: &Server) -> AgentOptions {
        let name = "n1".parse().expect("a name");
        let mut options = AgentOptions::new(
            server.address.to_string(),
            self.ca_file(),
            name,
            "127.0.0.1".into(),
            self.data(),
        );
        options.join_token = JoinToken::Secret(TOKEN.into());
        options.system_root = self.data().join("root");
        options.supervisor = SupervisorCommand {
            program: supervisor_program(),
            arguments: Vec::new(),
        };
        options
    }

    /// An agent as a process of its own.
    pub(crate) fn process(&self, server: &Server) -> Process {
        // A measurement may want one that was built in another way.
        let built = || supervisor_program().with_file_name("agent");
        let program = std::env::var_os("AGENT_PROGRAM").map_or_else(built, PathBuf::from);
        let [server, ca_file, data] = [
            server.address.to_string(),
            self.ca_file().display().to_string(),
            self.data().display().to_string(),
        ];
        let child = Command::new(program)
            .args([&server, &ca_file, TOKEN, "n1", &data])
            .stdin(Stdio::null())
            .spawn();
        Process(child.expect("the example is built"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Without a lease, nothing of a failed test goes on.
        let _ = std::fs::remove_file(self.data().join("lease"));
    }
}

pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("process ids are small")
    }

    pub(crate) fn kill(mut self) {
        kill(self.pid(), 9);
        self.0.wait().expect("it has ended");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An agent in a thread of this process.
pub(crate) struct Agent {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<Result<(), AgentError>>>,
}

impl Agent {
    pub(crate) fn start(options: AgentOptions) -> Self {
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move { drop(stopped.await) };
        let run = move || {
            service::run_to_end(
                options,
                Arc::new(SystemClock),
                Arc::new(SystemEntropy),
                shutdown,
            )
        };
        Self {
            stop: Some(stop),
            thread: Some(std::thread::spawn(run)),
        }
    }

    /// Waits until it has ended by itself.
    pub(crate) fn outcome(mut self) -> Result<(), AgentError> {
        wait_for("the end of the agent", || {
            self.thread
                .as_ref()
                .expect("it was started")
                .is_finished()
                .then_some(())
        });
        self.thread
            .take()
            .expect("it was started")
            .join()
            .expect("it does not panic")
    }

    pub(crate) fn end(mut self) -> Result<(), AgentError> {
        drop(self.stop.take());
        self.outcome()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(crate) fn attempt() -> AttemptId {
    AttemptId::new(SystemClock.now(), &SystemEntropy)
}

pub(crate) fn wish(attempt: &AttemptId, wish: RankWish) -> DesiredRank {
    let job = JobId::new(SystemClock.now(), &SystemEntropy);
    DesiredRank {
        attempt: attempt.clone(),
        job,
        rank: 0,
        boot_id: boot_id(),
        wish,
    }
}

pub(crate) fn launch(arguments: &[&str]) -> RankLaunch {
    RankLaunch {
        arguments: arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect(),
        environment: BTreeMap::from([
            ("GREETING".into(), "hello".into()),
            ("RANK".into(), "never this".into()),
        ]),
        workdir: None,
        run_as_root: false,
        place: RankPlace {
            local_rank: 0,
            local_world_size: 1,
            node_rank: 3,
            nodes: 4,
            world_size: 4,
            master_address: "10.0.0.7".into(),
            master_port: 20_017,
            device: 0,
            devices: vec![0],
            restart_count: 0,
        },
        group_key: None,
        retry_log: None,
        rank_table: None,
    }
}

pub(crate) fn run(attempt: &AttemptId, arguments: &[&str]) -> DesiredRank {
    wish(attempt, RankWish::Run(Box::new(launch(arguments))))
}

pub(crate) fn end(state: &RankState) -> Option<RankEnd> {
    match state {
        RankState::Ended { end, .. } => Some(end.clone()),
        RankState::Assigned | RankState::Running => None,
    }
}

pub(crate) fn running(state: &RankState) -> Option<()> {
    (*state == RankState::Running).then_some(())
}

pub(crate) fn scratch(data: &Path, attempt: &AttemptId) -> PathBuf {
    data.join("work").join(attempt.as_str()).join("scratch")
}
