//! Reading a rank's output from the node that keeps it.

use std::time::Duration;

use supernode_api::ErrorCode;
use supernode_api::job::{JobLogQuery, LogChunk, MAXIMUM_LOG_CHUNK_BYTES};
use supernode_control::hub::LogRequest;
use supernode_control::{Refusal, job, query};
use supernode_types::AttemptId;
use supernode_types::job::Rank;
use tokio::time::Instant;

use super::Context;
use crate::Failure;

/// How long an agent may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait for new output.
const MAXIMUM_WAIT: Duration = Duration::from_secs(30);
/// How often a waiting reader asks the agent again.
const POLL: Duration = Duration::from_millis(50);

/// Which output, and who asks.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    pub(super) job: String,
    pub(super) rank: u32,
    /// Refused when somebody else owns the job.
    pub(super) owner_only: Option<String>,
}

/// What is known of the rank at one moment.
struct Found {
    ended: bool,
    attempt: Option<AttemptId>,
    rank: Option<(Rank, String)>,
}

pub(super) async fn read(
    context: &Context,
    reader: Reader,
    wanted: &JobLogQuery,
) -> Result<LogChunk, Failure> {
    let offset = wanted.offset.unwrap_or(0);
    let limit = wanted.limit.unwrap_or(MAXIMUM_LOG_CHUNK_BYTES);
    if limit == 0 || limit > MAXIMUM_LOG_CHUNK_BYTES {
        return Err(Failure::invalid_request(format!(
            "limit must be between 1 and {MAXIMUM_LOG_CHUNK_BYTES}"
        )));
    }
    let wait = Duration::from_millis(wanted.wait_milliseconds.unwrap_or(0));
    if wait > MAXIMUM_WAIT {
        return Err(Failure::invalid_request(format!(
            "wait_milliseconds is at most {}",
            MAXIMUM_WAIT.as_millis()
        )));
    }
    let attempt = match &wanted.attempt {
        Some(text) => Some(
            text.parse::<AttemptId>()
                .map_err(|error| Failure::invalid_request(error.to_string()))?,
        ),
        None => None,
    };
    let deadline = Instant::now() + wait;
    loop {
        let found = find(context, reader.clone(), attempt.clone()).await?;
        let chunk = ask(context, &found, offset, limit).await?;
        if chunk.end || !chunk.content.is_empty() || Instant::now() >= deadline {
            return Ok(chunk);
        }
        tokio::time::sleep_until(deadline.min(Instant::now() + POLL)).await;
    }
}

async fn find(
    context: &Context,
    reader: Reader,
    attempt: Option<AttemptId>,
) -> Result<Found, Failure> {
    context
        .read("job_log", move |tx| {
            let job = job::find(tx, &reader.job)?;
            if let Some(owner) = &reader.owner_only
                && *owner != job.owner
            {
                return Err(Refusal::Forbidden(format!(
                    "job {} belongs to {}; only its owner or an operator may read its output",
                    job.id, job.owner
                )));
            }
            let attempt = match &attempt {
                Some(attempt) => Some(attempt.clone()),
                None => query::last_attempt(tx, &job)?,
            };
            let ranks = match &attempt {
                Some(attempt) => query::ranks_of_attempt(tx, &job, attempt)?,
                None => Vec::new(),
            };
            let count = ranks.len();
            let rank = ranks.into_iter().find(|rank| rank.rank == reader.rank);
            if attempt.is_some() && rank.is_none() {
                return Err(Refusal::not_found(
                    "rank",
                    "job",
                    &format!("{} of {} (it has {count})", reader.rank, job.id),
                ));
            }
            let rank = match rank {
                Some(rank) => {
                    let node = supernode_control::node::find(tx, rank.node.as_str())?
                        .name
                        .to_string();
                    Some((rank, node))
                }
                None => None,
            };
            Ok(Found {
                ended: job.state.ended(),
                attempt,
                rank,
            })
        })
        .await
}

async fn ask(
    context: &Context,
    found: &Found,
    offset: u64,
    limit: u32,
) -> Result<LogChunk, Failure> {
    let (Some(attempt), Some((rank, node))) = (&found.attempt, &found.rank) else {
        return Ok(LogChunk {
            attempt: None,
            offset,
            next_offset: offset,
            content: String::new(),
            end: found.ended,
        });
    };
    let unavailable = |why: &str| {
        Failure::new(
            ErrorCode::Unavailable,
            format!(
                "the output of rank {} is kept on node {node}: {why}",
                rank.rank
            ),
        )
    };
    let Some(link) = context.control.hub().link(&rank.node) else {
        return Err(unavailable(
            "its agent is not connected; ask again when it is back",
        ));
    };
    let answer = link.read_log(LogRequest {
        attempt: attempt.clone(),
        rank: rank.rank,
        offset,
        limit,
    });
    let bytes = match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(Ok(Ok(bytes))) => bytes,
        // Not launched yet: there will be output, or the rank ends.
        Ok(Ok(Err(_))) if !rank.state.ended() => {
            return Ok(LogChunk {
                attempt: Some(attempt.to_string()),
                offset,
                next_offset: offset,
                ..LogChunk::default()
            });
        }
        Ok(Ok(Err(why))) if found.ended || rank.state.ended() => {
            tracing::debug!(%why, "no output");
            return Ok(LogChunk {
                attempt: Some(attempt.to_string()),
                offset,
                next_offset: offset,
                content: String::new(),
                end: true,
            });
        }
        Ok(Ok(Err(why))) => return Err(unavailable(&why)),
        Ok(Err(_)) => return Err(unavailable("its agent disconnected; ask again")),
        Err(_) => return Err(unavailable("its agent did not answer in time; ask again")),
    };
    Ok(LogChunk {
        attempt: Some(attempt.to_string()),
        offset: bytes.offset,
        next_offset: bytes.next_offset,
        content: bytes.content,
        end: bytes.end,
    })
}
