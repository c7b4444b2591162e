//! A real server on this host whose provisioner grows disks of virtual machines, and the command line against it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a single wait may take; generous, because everything is emulated and the machine is shared.
const PATIENCE: Duration = Duration::from_mins(3);
/// This host, as guests see it.
const HOST: &str = "10.0.2.2";
const PROVISIONER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../examples/provisioner/qemu_disk.py"
);

#[derive(Debug)]
pub(crate) struct Server {
    directory: PathBuf,
    port: u16,
    child: Child,
}

impl Server {
    /// Keeps everything in `directory`, where the control sockets of the machines are, too.
    pub(crate) fn start(directory: &Path) -> Self {
        let port = free_ports();
        let log = fs::File::create(directory.join("server.log")).expect("own directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_supernode"));
        command
            .args([
                "server",
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--name",
                "127.0.0.1",
                "--name",
                HOST,
                "--data",
            ])
            .arg(directory.join("server"))
            .args(["--provisioner", "exec", "--provisioner-command", "python3"])
            .args(["--provisioner-command", PROVISIONER])
            .env("SUPERNODE_QMP_DIRECTORY", directory)
            .env_remove("SUPERNODE_DATABASE")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        // SAFETY: between fork and exec only one system call is made, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)
                    .map_err(std::io::Error::from)
            });
        }
        let server = Self {
            directory: directory.to_path_buf(),
            port,
            child: command.spawn().expect("the binary starts"),
        };
        let access = server.until("the server to have keys", || server.access());
        let ca = access["ca"].as_str().expect("a text");
        fs::write(server.ca(), ca).expect("own directory");
        server.until("the server to be up", || {
            server.run(&["node", "list"]).status.success().then_some(())
        });
        let made = server.json(&["join-token", "create", "--uses", "100"]);
        let token = made["secret"].as_str().unwrap_or_else(|| panic!("{made}"));
        fs::write(server.token(), token).expect("own directory");
        server
    }

    /// Its agent port, as guests see it.
    pub(crate) fn address(&self) -> String {
        format!("{HOST}:{}", self.port + 1)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    pub(crate) fn token(&self) -> PathBuf {
        self.directory.join("join-token")
    }

    fn access(&self) -> Option<Value> {
        let text = fs::read(self.directory.join("server/admin.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let access = self.access().expect("it is up");
        let field = |name: &str| access[name].as_str().expect("a text").to_owned();
        Command::new(env!("CARGO_BIN_EXE_supernode"))
            .args(arguments)
            .env("SUPERNODE_SERVER", field("server"))
            .env("SUPERNODE_TOKEN", field("token"))
            .env("SUPERNODE_CA_FILE", self.ca())
            .env("SUPERNODE_CONFIG", self.directory.join("config.toml"))
            .stdin(Stdio::null())
            .output()
            .expect("the binary starts")
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
            self.log()
        );
        out.into_owned()
    }

    /// A command's JSON output.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["--output", "json"]].concat());
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{arguments:?} printed no JSON ({error}): {text}"))
    }

    /// Waits until `condition` answers something.
    #[expect(clippy::disallowed_methods, reason = "a test waits in real time")]
    pub(crate) fn until<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(value) = condition() {
                return value;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "waited {} s for {what}\n{}",
                PATIENCE.as_secs(),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.directory.join("server.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
