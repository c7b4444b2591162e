//! A `supernode dev` in a directory of its own, and the command line against it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a single wait may take; generous, because the machine is shared.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long a command may run. Those that wait for something wait for several minutes themselves.
const LONGEST: Duration = Duration::from_mins(6);

/// A running `supernode dev`.
pub(crate) struct Dev {
    directory: tempfile::TempDir,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    child: Option<Child>,
}

impl Dev {
    /// Starts one with `nodes` nodes and a short time until a silent node is lost.
    pub(crate) fn start(nodes: u32) -> Self {
        Self::start_with(nodes, &[])
    }

    /// [`Dev::start`] with more options.
    pub(crate) fn start_with(nodes: u32, more: &[&str]) -> Self {
        Self::start_in(nodes, more, &[])
    }

    /// [`Dev::start`] with everything that it keeps below a directory.
    pub(crate) fn start_below(directory: &Path, nodes: u32) -> Self {
        let directory = tempfile::tempdir_in(directory);
        Self::start_at(directory.expect("it is there"), nodes, &[], &[])
    }

    /// [`Dev::start_with`] with a link of its own for each node, which sends so many megabits per second; `None`, said aloud, where that cannot be.
    /// All that this thread starts gets a high priority where it may: what else the machine does must not matter to what is measured.
    pub(crate) fn start_linked(nodes: u32, megabits_per_second: u32) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: only root may break the links of others");
            return None;
        }
        come_first();
        let link = megabits_per_second.to_string();
        Some(Self::start_with(nodes, &["--node-link", &link]))
    }

    /// Changes what a node can send.
    pub(crate) fn limit_link(&self, node: &str, megabits_per_second: u32) {
        let file = self.path().join("data/nodes").join(node).join("link.json");
        let text = fs::read(&file).expect("a node has a link");
        let mut link: Value = serde_json::from_slice(&text).expect("dev writes it");
        link["megabits_per_second"] = megabits_per_second.into();
        fs::write(&file, link.to_string()).expect("own directory");
    }

    /// [`Dev::start_with`] in an environment that differs in these variables.
    pub(crate) fn start_in(nodes: u32, more: &[&str], variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self::start_at(directory, nodes, more, variables)
    }

    fn start_at(
        directory: tempfile::TempDir,
        nodes: u32,
        more: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        // Jobs run as an unprivileged user when the tests run as root.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))
            .expect("own directory");
        let mut arguments: Vec<String> = [
            "dev",
            "--nodes",
            &nodes.to_string(),
            "--lost-after",
            "4s",
            "--listen",
        ]
        .map(str::to_owned)
        .into();
        arguments.push(format!("127.0.0.1:{}", free_ports()));
        arguments.extend([
            "--data".to_owned(),
            directory.path().join("data").display().to_string(),
        ]);
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        let mut dev = Self {
            directory,
            arguments,
            variables: variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            child: None,
        };
        dev.resume();
        dev
    }

    /// Starts it (again) and waits until it serves.
    pub(crate) fn resume(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join("dev.log"))
            .expect("own directory");
        let config = self.config();
        let _ = fs::remove_file(&config);
        let mut command = Command::new(binary());
        command
            .args(&self.arguments)
            .env("SUPERNODE_CONFIG", &config)
            .env_remove("SUPERNODE_DATABASE")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .process_group(0);
        // SAFETY: between fork and exec only one system call is made, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)
                    .map_err(std::io::Error::from)
            });
        }
        self.child = Some(command.spawn().expect("the binary starts"));
        let log = self.directory.path().join("dev.log");
        until(
            "supernode dev to be up",
            || config.exists().then_some(()),
            || fs::read_to_string(&log).unwrap_or_default(),
        );
    }

    /// Stops it as Ctrl-C does.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal(child.id(), "INT");
            let status = child.wait().expect("a child can be waited for");
            assert!(status.success(), "supernode dev ended with {status}");
        }
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    /// Where the tests may put files.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Runs a command of the command line.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        output(&mut self.command(arguments))
    }

    /// A command of the command line, to be started by the caller.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .env("SUPERNODE_CONFIG", self.config())
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command that must succeed; answers its standard output.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, error) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success(),
            "supernode {arguments:?} ended with {}\n{out}\n{error}\n{}",
            output.status,
            self.logs()
        );
        out.into_owned()
    }

    /// Runs a command that must fail with `code`; answers its standard error.
    pub(crate) fn refused(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            output.status.code(),
            Some(code),
            "supernode {arguments:?}\n{}\n{error}",
            String::from_utf8_lossy(&output.stdout)
        );
        error
    }

    /// [`Dev::refused`] as whoever has this token.
    pub(crate) fn refused_as(&self, token: &str, code: i32, arguments: &[&str]) -> String {
        let mut command = self.command(arguments);
        let (server, _, ca) = self.access();
        let ca_file = self.path().join("as-ca.pem");
        fs::write(&ca_file, ca).expect("own directory");
        command
            .env("SUPERNODE_SERVER", server)
            .env("SUPERNODE_TOKEN", token)
            .env("SUPERNODE_CA_FILE", ca_file);
        let refused = output(&mut command);
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(code), "{arguments:?}: {error}");
        error
    }

    /// Everything that the server and the agents have logged.
    pub(crate) fn all_logs(&self) -> String {
        let logs = fs::read_dir(self.path().join("data/logs")).expect("dev keeps logs");
        logs.flatten()
            .map(|log| fs::read_to_string(log.path()).unwrap_or_default())
            .collect()
    }

    /// A command's JSON output.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut words = arguments.to_vec();
        words.extend(["--output", "json"]);
        let text = self.ok(&words);
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{arguments:?} printed no JSON ({error}): {text}"))
    }

    /// The process id of the server or of a node's agent.
    pub(crate) fn pid(&self, name: &str) -> u32 {
        let text = fs::read_to_string(self.directory.path().join("data/pids").join(name))
            .expect("dev writes process ids");
        text.trim().parse().expect("a process id")
    }

    /// Sends a signal to the server or to a node's agent.
    pub(crate) fn signal(&self, name: &str, name_of_signal: &str) {
        signal(self.pid(name), name_of_signal);
    }

    /// Waits until `condition` answers something.
    pub(crate) fn until<T>(&self, what: &str, condition: impl FnMut() -> Option<T>) -> T {
        until(what, condition, || self.logs())
    }

    /// What is useful to see when something went wrong.
    pub(crate) fn logs(&self) -> String {
        let Ok(entries) = fs::read_dir(self.directory.path().join("data/logs")) else {
            return String::new();
        };
        let tail = |path: PathBuf| {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!(
                "--- {}\n{}",
                path.display(),
                lines[lines.len().saturating_sub(15)..].join("\n")
            )
        };
        entries
            .filter_map(Result::ok)
            .map(|entry| tail(entry.path()))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Server, token and authority of the administrator.
    pub(crate) fn access(&self) -> (String, String, String) {
        let text = fs::read_to_string(self.directory.path().join("data/server/admin.json"))
            .expect("the server writes it");
        let value: Value = serde_json::from_str(&text).expect("it is JSON");
        let field = |name: &str| value[name].as_str().expect("a text").to_owned();
        (field("server"), field("token"), field("ca"))
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            signal(child.id(), "TERM");
            let _ = child.wait();
        }
    }
}

/// All that this thread starts from now on gets a high priority where it may.
pub(crate) fn come_first() {
    let _ = rustix::process::setpriority_process(None, -15);
}

/// The binary under test.
pub(crate) fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_supernode")
}

/// Runs a command to its end. One that hangs fails its test, with what it printed, instead of keeping all tests waiting.
pub(crate) fn output(command: &mut Command) -> Output {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("the program starts");
    let group = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    let (ended, end) = mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        let hangs = end.recv_timeout(LONGEST) == Err(mpsc::RecvTimeoutError::Timeout);
        if hangs {
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        }
        hangs
    });
    let output = child.wait_with_output().expect("a child can be waited for");
    drop(ended);
    let hung = watch.join().expect("nothing in it panics");
    assert!(
        !hung,
        "{command:?} was not done after {} s: {output:?}",
        LONGEST.as_secs()
    );
    output
}

pub(crate) fn signal(pid: u32, name: &str) {
    let signal: nix::sys::signal::Signal = format!("SIG{name}").parse().expect("a signal's name");
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a process id")),
        signal,
    );
}

/// Waits until `condition` answers something; `context` says what is useful to see when it does not.
#[expect(clippy::disallowed_methods, reason = "a test waits in real time")]
pub(crate) fn until<T>(
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
    context: impl Fn() -> String,
) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "waited {} s for {what}\n{}",
            PATIENCE.as_secs(),
            context()
        );
        thread::sleep(Duration::from_millis(25));
    }
}

/// A port that is free together with the next one.
fn free_ports() -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = first.local_addr().expect("it is bound").port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}
