//! Following the output of one rank, from one attempt of its job to the next.

use std::time::Duration;

use futures::Stream;
use supernode_api::ErrorCode;
use supernode_api::job::{JobDetail, JobLog, JobLogQuery, LogChunk};

use crate::watch::{JobWatch, LONGEST_WAIT};
use crate::{Client, ClientError};

/// How long to wait before asking again for output that cannot be read, for example because its node is away.
const PAUSE_UNREADABLE: Duration = Duration::from_secs(1);

/// Reads the output of a rank until its job has ended.
#[derive(Debug)]
pub struct LogFollower {
    watch: JobWatch,
    rank: String,
    attempt: Option<String>,
    offset: u64,
    job_ended: bool,
    finished: bool,
}

impl Client {
    /// The output of `rank` from the beginning of the present (or last) attempt, and of every later attempt.
    pub fn follow_log(&self, job: &str, rank: u32) -> LogFollower {
        JobWatch::new(self.clone(), job).follow_log(rank)
    }
}

impl JobWatch {
    /// [`Client::follow_log`] for one of several ranks.
    pub fn follow_log(&self, rank: u32) -> LogFollower {
        LogFollower {
            watch: self.clone(),
            rank: rank.to_string(),
            // What was last seen is never older than what is read, so a change of it is always to a newer one.
            attempt: self.newest().and_then(|job| present_attempt(&job)),
            offset: 0,
            job_ended: false,
            finished: false,
        }
    }
}

impl LogFollower {
    /// The next piece, never empty; waits for it. `None` when the job has ended and all was read. A changed
    /// [`LogChunk::attempt`] says that the job was started again; an `offset` behind the last `next_offset`, that output was dropped.
    pub async fn next(&mut self) -> Result<Option<LogChunk>, ClientError> {
        while !self.finished {
            let query = JobLogQuery {
                offset: Some(self.offset),
                limit: None,
                wait_milliseconds: Some(u64::try_from(LONGEST_WAIT.as_millis()).expect("20 s fit")),
                attempt: self.attempt.clone(),
            };
            let path = [&*self.watch.job, &self.rank];
            match self.watch.client.get::<JobLog>(&path, &query).await {
                Ok(chunk) => {
                    self.take(&chunk).await?;
                    if !chunk.content.is_empty() {
                        return Ok(Some(chunk));
                    }
                }
                Err(error) if self.may_pass(&error) => self.unreadable(error).await?,
                Err(error) => {
                    self.finished = true;
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// The pieces as a stream that ends after its first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<LogChunk, ClientError>> + Send {
        futures::stream::unfold(self, |mut follower| async move {
            let item = follower.next().await;
            follower.finished |= item.is_err();
            item.transpose().map(|item| (item, follower))
        })
    }

    async fn take(&mut self, chunk: &LogChunk) -> Result<(), ClientError> {
        if self.attempt.is_none() {
            self.attempt.clone_from(&chunk.attempt);
        }
        self.offset = chunk.next_offset;
        if chunk.end {
            self.after_end().await
        } else if chunk.content.is_empty() {
            // Nothing came while the job had already ended: nothing will.
            self.finished = self.job_ended;
            let job = self.watch.present().await?;
            self.learn(&job);
            Ok(())
        } else {
            Ok(())
        }
    }

    /// All of this attempt was read: waits for the next attempt or the end of the job.
    async fn after_end(&mut self) -> Result<(), ClientError> {
        let mut after = None;
        loop {
            let job = self.watch.after(after, LONGEST_WAIT).await?;
            if self.learn(&job) {
                return Ok(());
            }
            if self.job_ended {
                self.finished = true;
                return Ok(());
            }
            after = Some(job.view.job.generation);
        }
    }

    /// The output cannot be read now. It may be later, unless the job has ended or runs elsewhere.
    async fn unreadable(&mut self, error: ClientError) -> Result<(), ClientError> {
        let knew_the_end = self.job_ended;
        let job = self.watch.present().await?;
        if self.learn(&job) {
            return Ok(());
        }
        if knew_the_end {
            self.finished = true;
            return Err(error);
        }
        tokio::time::sleep(PAUSE_UNREADABLE).await;
        Ok(())
    }

    /// Notes what the job says; true if there is a newer attempt than the one that was read, which is then the one to read.
    fn learn(&mut self, job: &JobDetail) -> bool {
        self.job_ended = job.view.job.state.ended();
        let present = present_attempt(job);
        let newer = present.is_some() && self.attempt.is_some() && present != self.attempt;
        if newer {
            self.attempt = present;
            self.offset = 0;
        }
        newer
    }

    fn may_pass(&self, error: &ClientError) -> bool {
        match error.code() {
            Some(ErrorCode::Unavailable | ErrorCode::Conflict) => true,
            Some(ErrorCode::NotFound) => self.attempt.is_some(),
            _ => false,
        }
    }
}

/// The attempt that runs, or ran last.
fn present_attempt(job: &JobDetail) -> Option<String> {
    let running = job.view.job.state.attempt();
    let last = || job.ranks.first().map(|rank| &rank.rank.attempt);
    running.or_else(last).map(ToString::to_string)
}
