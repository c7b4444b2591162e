//! A `PostgreSQL` server of our own: in a temporary directory, on a Unix socket, from the distribution's package.
//!
//! A shell stands between us and the server and reads from a pipe whose other end only this process has. So the server
//! stops, and its directory goes, also when this process is killed or keeps the value in a `static`. Refuses nothing
//! silently: without the package, or when the server does not start, the error says which package or shows its log.

use std::{
    env, fs, io,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use tempfile::TempDir;

use crate::db::DatabaseUrl;

/// How long a server may take to answer after it was started.
const START_TRIES: u32 = 1500;
const START_PAUSE: Duration = Duration::from_millis(20);

/// Runs the server until our end of the pipe is closed.
const GUARD: &str = r#"directory=$1; shift
"$@" >"$directory/log" 2>&1 </dev/null & server=$!
read -r _
kill -QUIT "$server"; wait "$server"
rm -rf "$directory""#;

/// A running private server; stopped on drop.
#[derive(Debug)]
pub struct PrivatePostgres {
    guard: Child,
    directory: TempDir,
    port: u16,
    databases: AtomicU32,
}

/// Why there is no private server.
#[derive(Debug, thiserror::Error)]
pub enum PrivatePostgresError {
    /// The programs are not installed.
    #[error(
        "PostgreSQL is not installed (no initdb in PATH or /usr/lib/postgresql/*/bin): apt-get install postgresql"
    )]
    NotInstalled,
    /// Files or processes could not be made.
    #[error("a private PostgreSQL server cannot be prepared: {0}")]
    Prepare(#[from] io::Error),
    /// `initdb` failed.
    #[error("initdb failed: {0}")]
    Initialize(String),
    /// The server did not answer.
    #[error("the private PostgreSQL server did not start; its log: {0}")]
    Start(String),
    /// A statement of an administrator failed.
    #[error("the private PostgreSQL server refused a statement: {0}")]
    Statement(String),
}

impl PrivatePostgres {
    /// Starts a server. Takes a second or two.
    pub fn start() -> Result<Self, PrivatePostgresError> {
        Self::start_with(&[])
    }

    /// Starts a server with further settings, such as `("listen_addresses", "127.0.0.1")`. A setting that begins with
    /// `file:` writes a file into the data directory instead: `("file:server.key", "…")`.
    pub fn start_with(settings: &[(&str, &str)]) -> Result<Self, PrivatePostgresError> {
        let programs = programs().ok_or(PrivatePostgresError::NotInstalled)?;
        let user = unprivileged_user();
        let directory = tempfile::Builder::new().prefix("pg-").tempdir()?;
        if let Some((uid, gid)) = user {
            chown(directory.path(), Some(uid), Some(gid))?;
        }
        let data = directory.path().join("data");
        let command = |program: &Path| {
            let mut command = Command::new(program);
            command.current_dir(directory.path()).process_group(0);
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command
        };

        let initialized = command(&programs.join("initdb"))
            .args([
                "--no-sync",
                "--auth=trust",
                "--username=postgres",
                "--no-locale",
                "--encoding=UTF8",
                "--pgdata",
            ])
            .arg(&data)
            .output()?;
        if !initialized.status.success() {
            return Err(PrivatePostgresError::Initialize(
                String::from_utf8_lossy(&initialized.stderr).into_owned(),
            ));
        }

        let mut guard = command(Path::new("/bin/sh"));
        guard
            .arg("-c")
            .arg(GUARD)
            .arg("sh")
            .arg(directory.path())
            .arg(programs.join("postgres"));
        guard.arg("-D").arg(&data).arg("-k").arg(directory.path());
        for setting in [
            "listen_addresses=",
            "fsync=off",
            "autovacuum=off",
            "max_connections=100",
            "shared_buffers=16MB",
        ] {
            guard.args(["-c", setting]);
        }
        for (name, value) in settings {
            if let Some(file) = name.strip_prefix("file:") {
                write_private(&data.join(file), value, user)?;
            } else {
                guard.args(["-c", &format!("{name}={value}")]);
            }
        }
        let guard = guard
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let port = settings.iter().find_map(|(name, value)| {
            if *name == "port" {
                value.parse().ok()
            } else {
                None
            }
        });
        let this = Self {
            guard,
            directory,
            port: port.unwrap_or(5432),
            databases: AtomicU32::new(0),
        };
        this.wait_until_it_answers()?;
        Ok(this)
    }

    /// A fresh, empty database.
    pub fn create_database(&self) -> Result<DatabaseUrl, PrivatePostgresError> {
        let name = format!("t{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.administer(&format!("CREATE DATABASE {name}"))?;
        Ok(self.url(&name))
    }

    /// The address of the database `name`, which need not exist.
    pub fn url(&self, name: &str) -> DatabaseUrl {
        let address = format!(
            "postgres://postgres@/{name}?port={}&host={}",
            self.port,
            self.socket_directory().display()
        );
        address
            .parse()
            .expect("the address of a socket in a temporary directory is a good one")
    }

    /// Where the server's socket is.
    pub fn socket_directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs statements as the server's administrator, outside of any store.
    pub fn administer(&self, sql: &str) -> Result<(), PrivatePostgresError> {
        // On a thread of its own: the client must not run on one that runs asynchronous tasks.
        let outcome = thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.configuration()
                        .connect(postgres::NoTls)?
                        .batch_execute(sql)
                })
                .join()
        });
        outcome
            .expect("the client does not panic")
            .map_err(|error| {
                PrivatePostgresError::Statement(
                    error
                        .as_db_error()
                        .map_or_else(|| error.to_string(), ToString::to_string),
                )
            })
    }

    fn configuration(&self) -> postgres::Config {
        let mut configuration = postgres::Config::new();
        configuration
            .user("postgres")
            .dbname("postgres")
            .port(self.port)
            .host_path(self.socket_directory());
        configuration
    }

    fn wait_until_it_answers(&self) -> Result<(), PrivatePostgresError> {
        for _ in 0..START_TRIES {
            if self.administer("SELECT 1").is_ok() {
                return Ok(());
            }
            thread::sleep(START_PAUSE);
        }
        let log = fs::read_to_string(self.directory.path().join("log"))
            .unwrap_or_else(|error| error.to_string());
        Err(PrivatePostgresError::Start(log))
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// The directory with `initdb` and `postgres` side by side.
fn programs() -> Option<PathBuf> {
    let in_path = env::var_os("PATH")
        .into_iter()
        .flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    let from_path = in_path.filter_map(|directory| {
        directory
            .join("initdb")
            .canonicalize()
            .ok()?
            .parent()
            .map(Path::to_owned)
    });
    let mut packaged: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .collect();
    packaged.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    from_path
        .chain(packaged.into_iter().map(|(_, directory)| directory))
        .find(|directory| directory.join("initdb").exists() && directory.join("postgres").exists())
}

/// `PostgreSQL` refuses to run as root; then it runs as `postgres`, or as `nobody`.
fn unprivileged_user() -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    let own_uid = fs::metadata("/proc/self").ok()?.uid();
    if own_uid != 0 {
        return None;
    }
    let accounts = fs::read_to_string("/etc/passwd").ok()?;
    ["postgres", "nobody"].iter().find_map(|wanted| {
        accounts.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(wanted)).then_some(())?;
            Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
        })
    })
}

fn write_private(path: &Path, text: &str, user: Option<(u32, u32)>) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    match user {
        Some((uid, gid)) => chown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
}
