//! Other processes: this test program again, told by its environment what to do.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdout, Command, Stdio},
    sync::Mutex,
};

use supernode_store::{DatabaseUrl, Store, StoreError, params};

use crate::fixture::{block_on, options};

const ROLE: &str = "SUPERNODE_STORE_TEST_ROLE";
const DATABASE: &str = "SUPERNODE_STORE_TEST_DATABASE";

/// Another process with the database open; killed on drop.
pub(crate) struct OtherProcess {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl OtherProcess {
    pub(crate) fn start(role: &str, database: &str) -> Self {
        let mut child = Command::new(env::current_exe().expect("this program has a path"))
            .args([
                "--exact",
                "child::entry",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(ROLE, role)
            .env(DATABASE, database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started again");
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, lines }
    }

    /// The next line that the process printed and that begins with `word `, without that word; `None` at its end.
    pub(crate) fn line(&mut self, word: &str) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).expect("a readable pipe") == 0 {
                return None;
            }
            // A line that was cut off by the kill says nothing.
            if let Some(rest) = line
                .strip_suffix('\n')
                .and_then(|line| line.strip_prefix(word)?.strip_prefix(' '))
            {
                return Some(rest.to_owned());
            }
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the process runs");
        self.child.wait().expect("it was started here");
    }
}

impl Drop for OtherProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "only as another process of other tests"]
fn entry() {
    let role = env::var(ROLE).expect("started by another test");
    let url: DatabaseUrl = env::var(DATABASE)
        .expect("started by another test")
        .parse()
        .expect("a good address");
    // The test harness has begun a line of its own.
    println!();
    match role.as_str() {
        "hold" => hold(&url),
        "write" => write(&url),
        "write-limited" => write_limited(&url),
        other => panic!("no role {other}"),
    }
}

/// One line for the other test. Whole lines, because the reader counts on them.
fn say(line: &str) {
    static OUTPUT: Mutex<()> = Mutex::new(());
    let _output = OUTPUT.lock().expect("not poisoned");
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(format!("{line}\n").as_bytes())
        .and_then(|()| stdout.flush())
        .expect("the other test reads");
}

fn hold(url: &DatabaseUrl) {
    let _store = Store::open_with(url, options()).unwrap_or_else(|error| panic!("{error}"));
    say(&format!("open {}", std::process::id()));
    let _ = std::io::stdin().read(&mut [0]);
}

/// Writes from many tasks until it is killed, after what is there already, and tells of each acknowledgement.
fn write(url: &DatabaseUrl) {
    const TASKS: i64 = 16;
    let store = Store::open_with(url, options()).unwrap_or_else(|error| panic!("{error}"));
    let last: i64 = store
        .read_inline("last", |tx| {
            tx.query_one("SELECT COALESCE(MAX(id), 0) AS last FROM thing", params![])?
                .get("last")
        })
        .unwrap_or_else(|error: StoreError| panic!("{error}"));
    block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..TASKS {
            let store = store.clone();
            tasks.spawn(async move {
                for round in 0.. {
                    let id = last + 1 + task + round * TASKS;
                    store
                        .write("insert", move |tx| {
                            tx.execute(
                                "INSERT INTO thing (id, name) VALUES ($1, $2)",
                                params![id, format!("n{id}")],
                            )?;
                            tx.execute(
                                "INSERT INTO part (id, thing) VALUES ($1, $2)",
                                params![id, id],
                            )
                        })
                        .await
                        .unwrap_or_else(|error: StoreError| panic!("{error}"));
                    say(&format!("ack {id}"));
                }
            });
        }
        tasks.join_all().await;
    });
}

/// Writes until the operating system refuses to let the log grow, then goes on a little.
fn write_limited(url: &DatabaseUrl) {
    use nix::sys::{
        resource::{Resource, setrlimit},
        signal::{SigHandler, Signal, signal},
    };
    let store = Store::open_with(url, options()).unwrap_or_else(|error| panic!("{error}"));
    // SAFETY: the handler is the predefined "ignore"; no code of ours runs in a signal.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.expect("a signal that can be ignored");
    setrlimit(Resource::RLIMIT_FSIZE, 400_000, 400_000).expect("a limit can be lowered");
    let mut errors = 0;
    for id in 1.. {
        let filler = "x".repeat(2000);
        let outcome = store.write_inline("insert", move |tx| {
            tx.execute(
                "INSERT INTO thing (id, name) VALUES ($1, $2)",
                params![id, format!("{id} {filler}")],
            )
        });
        match outcome {
            Ok(_) => say(&format!("ack {id}")),
            Err(
                error @ (StoreError::Unknown { .. }
                | StoreError::Full { .. }
                | StoreError::Unavailable { .. }),
            ) => {
                say(&format!("error {id} {error}"));
                errors += 1;
                if errors == 3 {
                    break;
                }
            }
            Err(error) => panic!("an error that says nothing about the disk: {error}"),
        }
    }
    say("done 1");
}
