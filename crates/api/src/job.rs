//! Jobs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use supernode_types::Name;
use supernode_types::job::{Job, Rank};
use supernode_types::retry_policy::{AttemptRetry, RetryEvidence};

use crate::{Nothing, Page, Watch, operations};

/// Submits a job.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobSubmitRequest {
    /// Name or id of the super node.
    pub super_node: String,
    /// A name for people; the program's name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How many nodes.
    pub nodes: u32,
    /// Devices per node, one rank each; all of a node when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<u32>,
    /// Program and arguments.
    pub arguments: Vec<String>,
    /// Additional environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Absolute working directory on the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Larger runs first; 0 when absent.
    #[serde(default)]
    pub priority: i32,
    /// Wall time from start after which the job is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit_seconds: Option<u64>,
    /// How often the job may be started again after losing a node; 0 when absent.
    #[serde(default)]
    pub requeue_limit: u32,
    /// Seconds between the stop signal and the kill; 10 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<u32>,
    /// Run as root; admins only.
    #[serde(default)]
    pub run_as_root: bool,
    /// Refuse the job if its operators would not be repeated when a link breaks, instead of warning.
    #[serde(default)]
    pub strict: bool,
}

/// A job in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobView {
    /// The job.
    #[serde(flatten)]
    pub job: Job,
    /// The name of its super node.
    pub super_node_name: Name,
}

/// One job with its ranks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobDetail {
    /// The job.
    #[serde(flatten)]
    pub view: JobView,
    /// The ranks of its present or last attempt.
    pub ranks: Vec<RankView>,
    /// What that attempt got from the retry policy of its super node; absent without a policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<AttemptRetry>,
    /// What the logs of its ranks say of repeated operators.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retry_evidence: Vec<RetryEvidence>,
}

/// A rank with the name of its node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RankView {
    /// The rank.
    #[serde(flatten)]
    pub rank: Rank,
    /// The node's name.
    pub node_name: Name,
}

/// Which jobs to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobListQuery {
    /// Name or id of a super node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub super_node: Option<String>,
    /// A state word, or `active` for all that have not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Continue after this page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Items per page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Which part of a rank's output to read.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobLogQuery {
    /// First byte to read; 0 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Most bytes to read; at most and by default 65,536.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// If nothing is there yet, wait this long for something; at most 30,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_milliseconds: Option<u64>,
    /// The attempt, by id; the present or last one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
}

/// The most bytes in one [`LogChunk`].
pub const MAXIMUM_LOG_CHUNK_BYTES: u32 = 65_536;

/// A piece of a rank's output (standard output and error in order).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogChunk {
    /// The attempt that wrote it; absent while the job waits for its first.
    pub attempt: Option<String>,
    /// Where the content begins; later than asked for when older output was dropped.
    pub offset: u64,
    /// Where to read on.
    pub next_offset: u64,
    /// The output; bytes that are not UTF-8 are replaced.
    pub content: String,
    /// Nothing will follow: the rank has ended and all was read.
    pub end: bool,
}

operations! {
    JobSubmit = "job_submit" Post "/api/v1/jobs" 201 User (Nothing, JobSubmitRequest) -> JobView, "Submit a job.";
    JobList = "job_list" Get "/api/v1/jobs" 200 Viewer (JobListQuery, Nothing) -> Page<JobView>, "List jobs, newest first.";
    JobShow = "job_show" Get "/api/v1/jobs/{job}" 200 Viewer (Watch, Nothing) -> JobDetail, "Show a job with its ranks.";
    JobCancel = "job_cancel" Post "/api/v1/jobs/{job}/cancel" 202 User (Nothing, Nothing) -> JobView, "Cancel a job.";
    JobLog = "job_log" Get "/api/v1/jobs/{job}/ranks/{rank}/log" 200 User (JobLogQuery, Nothing) -> LogChunk, "Read or follow the output of a rank.";
}
