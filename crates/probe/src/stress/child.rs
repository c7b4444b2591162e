//! The parent's side: starts a kernel as a child process, hears its events, and makes sure that it ends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use supernode_types::Clock;

use super::kernel::Order;
use super::sample::{Ended, Event};
pub use supernode_verdict::outcome::Outcome;

/// After the order to stop a child has so long; then it is killed. Longer than it needs to end itself.
const KILL_AFTER: Duration = Duration::from_secs(9);
/// How often it is asked whether to stop.
const TICK: Duration = Duration::from_millis(100);
/// Bytes of an event at most.
const MOST_LINE: u64 = 1 << 20;
/// Bytes of complaints that are kept.
const MOST_COMPLAINTS: u64 = 4096;
/// Where the linker looks for libraries.
const LIBRARIES: &str = "LD_LIBRARY_PATH";
/// Events on their way at most; a kernel waits for a parent that does not listen.
const MOST_WAITING: usize = 1024;

/// How kernels are started: this program, as the hidden sub-command.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// A kernel that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    events: Receiver<Event>,
    complaints: std::thread::JoinHandle<String>,
    /// It ends itself after so long, unless it hangs or somebody stopped it.
    limit: Duration,
    reaped: bool,
}

/// What came of waiting for an event.
#[derive(Debug, PartialEq)]
pub enum Heard {
    /// An event.
    Event(Event),
    /// Nothing in this time.
    Nothing,
    /// It will say no more.
    Closed,
}

impl Launcher {
    /// Starts a kernel.
    pub fn start(&self, order: &Order) -> std::io::Result<Running> {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            // Where libraries of devices are is the one thing that the machine's owner may have to say.
            .envs(std::env::var_os(LIBRARIES).map(|path| (LIBRARIES, path)))
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut input = child.stdin.take().expect("it was asked for");
        let output = child.stdout.take().expect("it was asked for");
        let errors = child.stderr.take().expect("it was asked for");
        let (sender, events) = sync_channel(MOST_WAITING);
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = String::new();
            loop {
                line.clear();
                let read = (&mut output).take(MOST_LINE).read_line(&mut line);
                let Ok(event) = serde_json::from_str(&line) else {
                    // The end, or a line cut off by it.
                    if read.is_ok_and(|bytes| bytes > 0) {
                        continue;
                    }
                    return;
                };
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        let complaints = std::thread::spawn(move || {
            let mut text = Vec::new();
            let mut errors = errors.take(MOST_COMPLAINTS);
            let _ = errors.read_to_end(&mut text);
            let _ = std::io::copy(&mut errors.into_inner(), &mut std::io::sink());
            String::from_utf8_lossy(&text).trim().to_owned()
        });
        let line = serde_json::to_string(order).expect("an order is plain data") + "\n";
        // A child that is gone already says so by its silence.
        let _ = input.write_all(line.as_bytes());
        Ok(Running {
            child,
            input: Some(input),
            events,
            complaints,
            limit: Duration::from_secs(u64::from(order.limit_seconds)),
            reaped: false,
        })
    }
}

impl Running {
    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the next event.
    pub fn next(&self, patience: Duration) -> Heard {
        match self.events.recv_timeout(patience) {
            Ok(event) => Heard::Event(event),
            Err(RecvTimeoutError::Timeout) => Heard::Nothing,
            Err(RecvTimeoutError::Disconnected) => Heard::Closed,
        }
    }

    /// Tells it to stop; events still come.
    pub fn stop(&mut self) {
        self.input = None;
    }

    /// Hears the rest and waits for the end. `told` is asked every tenth of a second whether to stop it before. At most
    /// ten seconds after that, or after its limit, it is gone.
    pub fn finish(
        mut self,
        clock: &dyn Clock,
        outcome: &mut Outcome,
        mut told: impl FnMut() -> bool,
    ) {
        let begun = clock.monotonic();
        let mut asked = begun;
        let mut stopped_at = None;
        let mut died = None;
        loop {
            match self.next(TICK) {
                Heard::Event(event) => outcome.take(event),
                Heard::Nothing => {}
                Heard::Closed => break,
            }
            let now = clock.monotonic();
            if now.saturating_sub(asked) < TICK {
                continue;
            }
            asked = now;
            match stopped_at {
                None if told() => {
                    self.stop();
                    stopped_at = Some(now);
                    outcome.ended = Ended::Incomplete("stopped before its end".into());
                }
                None if now.saturating_sub(begun) >= self.limit => {
                    self.stop();
                    stopped_at = Some(now);
                }
                Some(stopped_at) if now.saturating_sub(stopped_at) >= KILL_AFTER => {
                    died = Some(self.why_killed());
                    self.kill();
                    break;
                }
                _ => {}
            }
        }
        self.stop();
        if died.is_none() {
            let status = self.child.wait();
            self.reaped = status.is_ok();
            died = status
                .ok()
                .and_then(|status| status.signal())
                .map(|signal| format!("killed by signal {signal}"));
        }
        if let (Some(why), Ended::Incomplete(_)) = (died, &outcome.ended) {
            outcome.ended = Ended::Incomplete(why);
        }
        // A child that had nothing to say may have complained.
        if matches!(outcome.ended, Ended::Incomplete(_)) && self.complaints.is_finished() {
            let complaints =
                std::mem::replace(&mut self.complaints, std::thread::spawn(String::new));
            let text = complaints.join().unwrap_or_default();
            if !text.is_empty() {
                outcome.remarks.push(text);
            }
        }
    }

    fn why_killed(&self) -> String {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", self.id()));
        // The state is the first word behind the name, which may contain anything.
        let state = state.unwrap_or_default();
        let state = state
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next());
        match state {
            Some('T' | 't') => "killed: somebody had stopped it",
            Some('D') => "killed: it hung in the kernel of the machine",
            _ => "killed: it did not stop when told",
        }
        .to_owned()
    }

    /// Kills it and whatever it started. A child that hangs in the kernel of the machine is left to it.
    fn kill(&self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            // Reaps it if it is gone; one that hangs stays until we end.
            let _ = self.child.try_wait();
        }
    }
}
