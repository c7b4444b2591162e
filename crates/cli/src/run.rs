//! `supernode run`: submit, show the output of all ranks as it comes, end with the job's exit code.
//!
//! The first Ctrl-C (or SIGTERM, or a reader that goes away) cancels the job and stays until it has ended; the second leaves.

use std::sync::Arc;
use std::time::Duration;

use supernode_api::Nothing;
use supernode_api::job::{JobCancel, JobDetail, JobSubmit, LogChunk};
use supernode_client::{CallOptions, Client, ClientError, JobWatch, LONGEST_WAIT};
use supernode_types::job::JobState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::failure::{Failure, refusal};
use crate::job::view::detail_of;
use crate::job::{JobOptions, conclude, write_chunk};
use crate::log_output::Interleaver;
use crate::output::{self, clean, say};
use crate::progress::PATIENCE;
use crate::session::Session;

/// What to run and where.
#[derive(Debug, clap::Args)]
pub struct RunArguments {
    /// Working directory on the nodes; `-` for a fresh one of the job [default: the current directory]
    #[arg(long, value_name = "DIR", allow_hyphen_values = true)]
    workdir: Option<String>,
    #[command(flatten)]
    job: JobOptions,
}

/// How long the last output is waited for once the job has ended.
const LAST_OUTPUT: Duration = Duration::from_secs(10);
/// A job that is queued for longer gets a line that says why.
const QUIET_QUEUE: Duration = Duration::from_secs(1);

pub(crate) async fn run(session: &Session<'_>, arguments: RunArguments) -> Result<(), Failure> {
    let request = arguments.job.request(workdir(arguments.workdir)?);
    let client = session.client()?;
    // Listened to from here on, so that no Ctrl-C falls between submitting and watching.
    let interrupts = Interrupts::new()?;
    let view = client
        .call::<JobSubmit>(&[], &Nothing {}, &request, &arguments.job.call())
        .await?;
    crate::retry_policy::warn(&view.job.retry_findings);
    let follower = Follower {
        cancels: true,
        interrupts: Some(interrupts),
        ..Follower::new(view.job.id.as_str(), None)
    };
    follow_output(session, &client, follower).await
}

fn workdir(said: Option<String>) -> Result<Option<String>, Failure> {
    match said {
        Some(text) if text == "-" => Ok(None),
        Some(text) => Ok(Some(text)),
        None => {
            let present = std::env::current_dir().map_err(|error| {
                Failure::Usage(format!("the current directory: {error}; use --workdir"))
            })?;
            present
                .into_os_string()
                .into_string()
                .map(Some)
                .map_err(|_| {
                    Failure::Usage(
                        "the path of the current directory is not UTF-8; use --workdir".into(),
                    )
                })
        }
    }
}

/// SIGINT and SIGTERM.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::Failed(format!("signals cannot be received: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// How the output of a job is followed.
pub(crate) struct Follower {
    job: String,
    rank: Option<u32>,
    /// Whether an interrupt cancels the job, and the exit code is the job's.
    cancels: bool,
    interrupts: Option<Interrupts>,
}

impl Follower {
    /// Follows without owning: an interrupt leaves the job alone, its end is not our failure.
    pub(crate) fn new(job: &str, rank: Option<u32>) -> Self {
        Self {
            job: job.to_owned(),
            rank,
            cancels: false,
            interrupts: None,
        }
    }
}

/// Something that a rank's reader has to say.
enum Piece {
    Output(u32, LogChunk),
    Unreadable(u32, ClientError),
    Closed(u32),
}

pub(crate) async fn follow_output(
    session: &Session<'_>,
    client: &Client,
    follower: Follower,
) -> Result<(), Failure> {
    let client = client.clone().with_patience(PATIENCE);
    let interrupts = match follower.interrupts {
        Some(interrupts) => interrupts,
        None => Interrupts::new()?,
    };
    let (sender, pieces) = mpsc::channel(64);
    let mut follow = Follow {
        session,
        client,
        job: follower.job,
        rank: follower.rank,
        cancels: follower.cancels,
        output: Interleaver::new(1),
        readers: None,
        sender: Some(sender),
        pieces,
        interrupts,
        cancelled: false,
        attempts: 0,
        said: String::new(),
        closed_pipe: false,
    };
    let detail = follow.until_ended().await.inspect_err(|error| {
        if matches!(error, Failure::Client(_)) {
            say(&format!(
                "the job may go on; see it with `supernode job show {}`",
                follow.job
            ));
        }
    })?;
    follow.last_output().await?;
    if !follow.cancels {
        return if follow.closed_pipe {
            Err(Failure::ClosedPipe)
        } else {
            Ok(())
        };
    }
    if session.json() {
        session.print(&*detail, |_| String::new())?;
    }
    conclude(&detail)
}

struct Follow<'a> {
    session: &'a Session<'a>,
    client: Client,
    job: String,
    rank: Option<u32>,
    cancels: bool,
    output: Interleaver,
    /// Ranks whose output is still being read, once reading has begun.
    readers: Option<usize>,
    sender: Option<mpsc::Sender<Piece>>,
    pieces: mpsc::Receiver<Piece>,
    interrupts: Interrupts,
    cancelled: bool,
    attempts: u32,
    said: String,
    closed_pipe: bool,
}

impl Follow<'_> {
    /// Shows output until the job has ended.
    async fn until_ended(&mut self) -> Result<Arc<JobDetail>, Failure> {
        let watch = JobWatch::new(self.client.clone(), &self.job);
        let mut detail = watch.after(None, LONGEST_WAIT).await?;
        // A job that starts at once needs no remark; one that waits gets it after the first wait without news.
        let mut wait = QUIET_QUEUE;
        loop {
            self.start_readers(&watch, &detail);
            if detail.view.job.state.ended() {
                return Ok(detail);
            }
            let generation = detail.view.job.generation;
            let next = watch.after(Some(generation), wait);
            tokio::pin!(next);
            detail = loop {
                tokio::select! {
                    next = &mut next => break next?,
                    Some(piece) = self.pieces.recv() => self.show(piece)?,
                    () = self.interrupts.next() => self.interrupted()?,
                }
            };
            if wait == LONGEST_WAIT || detail.view.job.generation == generation {
                wait = LONGEST_WAIT;
                self.remark(&detail);
            }
        }
    }

    /// Shows what the ranks had still to say.
    async fn last_output(&mut self) -> Result<(), Failure> {
        self.sender = None;
        let deadline = tokio::time::sleep(LAST_OUTPUT);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                piece = self.pieces.recv() => match piece {
                    Some(piece) => self.show(piece)?,
                    None => return Ok(()),
                },
                () = &mut deadline => {
                    let readers = self.readers.unwrap_or(0);
                    say(&format!("note: the last output of {readers} ranks did not come; try `supernode job logs {}`", self.job));
                    return Ok(());
                }
                () = self.interrupts.next() => return Err(Failure::Interrupted),
            }
        }
    }

    /// Starts a reader for each rank once the ranks are known.
    fn start_readers(&mut self, watch: &JobWatch, detail: &JobDetail) {
        if self.attempts > 0 && detail.view.job.attempts > self.attempts {
            say(&format!(
                "note: the job was started again (attempt {})",
                detail.view.job.attempts
            ));
        }
        self.attempts = detail.view.job.attempts;
        let Some(sender) = self.sender.as_ref().filter(|_| self.readers.is_none()) else {
            return;
        };
        let ranks: Vec<u32> = detail
            .ranks
            .iter()
            .map(|rank| rank.rank.rank)
            .filter(|rank| self.rank.is_none_or(|wanted| wanted == *rank))
            .collect();
        self.readers = Some(ranks.len()).filter(|count| *count > 0);
        self.output = Interleaver::new(ranks.len());
        for rank in ranks {
            let mut reader = watch.follow_log(rank);
            let sender = sender.clone();
            tokio::spawn(async move {
                loop {
                    let (piece, last) = match reader.next().await {
                        Ok(Some(chunk)) => (Piece::Output(rank, chunk), false),
                        Ok(None) => (Piece::Closed(rank), true),
                        Err(error) => (Piece::Unreadable(rank, error), true),
                    };
                    if sender.send(piece).await.is_err() || last {
                        return;
                    }
                }
            });
        }
    }

    fn show(&mut self, piece: Piece) -> Result<(), Failure> {
        let result = match piece {
            Piece::Output(rank, chunk) if !self.closed_pipe => {
                // In JSON the result on standard output is the job alone when we own it; its output goes beside it.
                if self.session.json() && self.cancels {
                    say(chunk.content.trim_end_matches('\n'));
                    Ok(())
                } else {
                    write_chunk(self.session, &mut self.output, rank, &chunk)
                }
            }
            Piece::Output(..) => Ok(()),
            Piece::Closed(rank) => {
                self.readers = self.readers.map(|count| count - 1);
                let rest = self.output.close(rank);
                if self.closed_pipe {
                    Ok(())
                } else {
                    output::write(&rest)
                }
            }
            Piece::Unreadable(rank, error) => {
                self.readers = self.readers.map(|count| count - 1);
                say(&format!(
                    "note: the output of rank {rank} cannot be read: {}",
                    clean(&error.to_string())
                ));
                Ok(())
            }
        };
        match result {
            Err(Failure::ClosedPipe) if self.cancels => {
                self.closed_pipe = true;
                if self.cancelled {
                    Ok(())
                } else {
                    self.interrupted()
                }
            }
            other => other,
        }
    }

    /// Cancels the first time, leaves the second time.
    fn interrupted(&mut self) -> Result<(), Failure> {
        if !self.cancels {
            return Err(Failure::Interrupted);
        }
        if self.cancelled {
            say(&format!(
                "leaving; the job is being cancelled, see `supernode job show {}`",
                self.job
            ));
            return Err(Failure::Interrupted);
        }
        self.cancelled = true;
        say(&format!(
            "cancelling {} (Ctrl-C again leaves without waiting)",
            self.job
        ));
        let (client, job) = (self.client.clone(), self.job.clone());
        tokio::spawn(async move {
            match client
                .call::<JobCancel>(&[&job], &Nothing {}, &Nothing {}, &CallOptions::default())
                .await
            {
                // It has ended by itself meanwhile.
                Ok(_)
                | Err(ClientError::Api(supernode_api::ErrorBody {
                    code: supernode_api::ErrorCode::Conflict,
                    ..
                })) => {}
                Err(ClientError::Api(body)) => say(&refusal(&body)),
                Err(error) => say(&format!(
                    "error: the job cannot be cancelled: {}",
                    clean(&error.to_string())
                )),
            }
        });
        Ok(())
    }

    /// Says where the job stands, if that is news.
    fn remark(&mut self, detail: &JobDetail) {
        let state = &detail.view.job.state;
        if !matches!(state, JobState::Queued { .. } | JobState::Stopping { .. }) {
            return;
        }
        let line = format!("{} is {}: {}", self.job, state.word(), detail_of(state));
        if line != self.said {
            say(&line);
            self.said = line;
        }
    }
}
