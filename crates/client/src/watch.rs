//! Waiting for the next change of an object, as one request that the server holds until then.

use std::time::Duration;

use supernode_api::Watch;
use supernode_api::job::{JobDetail, JobShow};
use supernode_api::operation::{OperationShow, OperationView};
use supernode_types::Generation;

use crate::{Client, ClientError};

/// How long one request waits for a change before it answers that there was none.
pub const LONGEST_WAIT: Duration = Duration::from_secs(20);

fn watch(after: Option<Generation>, wait: Duration) -> Watch {
    let wait_milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    Watch {
        after_generation: after,
        wait_milliseconds: after.map(|_| wait_milliseconds),
    }
}

impl Client {
    /// The operation once its generation is larger than `after`, or as it is after `wait`; at once without `after`.
    pub async fn operation_after(
        &self,
        id: &str,
        after: Option<Generation>,
        wait: Duration,
    ) -> Result<OperationView, ClientError> {
        self.get::<OperationShow>(&[id], &watch(after, wait)).await
    }

    /// The job once its generation is larger than `after`, or as it is after `wait`; at once without `after`.
    pub async fn job_after(
        &self,
        id: &str,
        after: Option<Generation>,
        wait: Duration,
    ) -> Result<JobDetail, ClientError> {
        self.get::<JobShow>(&[id], &watch(after, wait)).await
    }
}
