//! Waiting for the next change of an object, as one request that the server holds until then.

use std::sync::{Arc, Mutex, PoisonError};
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

/// One job that several look at: whoever waits for its next change shares one request, however many ranks are followed.
#[derive(Debug, Clone)]
pub struct JobWatch {
    pub(crate) client: Client,
    pub(crate) job: Arc<str>,
    newest: Arc<Mutex<Option<Arc<JobDetail>>>>,
    /// Held by the one that asks.
    asking: Arc<tokio::sync::Mutex<()>>,
}

impl JobWatch {
    /// Nothing is asked yet.
    pub fn new(client: Client, job: &str) -> Self {
        Self {
            client,
            job: job.into(),
            newest: Arc::default(),
            asking: Arc::default(),
        }
    }

    /// The job once its generation is larger than `after`, or as it is after `wait`. Without `after` as it was last seen by anybody.
    pub async fn after(
        &self,
        after: Option<Generation>,
        wait: Duration,
    ) -> Result<Arc<JobDetail>, ClientError> {
        let news =
            |known: &Arc<JobDetail>| after.is_none_or(|after| known.view.job.generation > after);
        if let Some(known) = self.newest().filter(news) {
            return Ok(known);
        }
        let _asking = self.asking.lock().await;
        if let Some(known) = self.newest().filter(news) {
            return Ok(known);
        }
        self.ask(after, wait).await
    }

    /// The job as it is now.
    pub async fn present(&self) -> Result<Arc<JobDetail>, ClientError> {
        self.ask(None, Duration::ZERO).await
    }

    async fn ask(
        &self,
        after: Option<Generation>,
        wait: Duration,
    ) -> Result<Arc<JobDetail>, ClientError> {
        let seen = Arc::new(self.client.job_after(&self.job, after, wait).await?);
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = |known: &Arc<JobDetail>| known.view.job.generation > seen.view.job.generation;
        if !newest.as_ref().is_some_and(newer) {
            *newest = Some(Arc::clone(&seen));
        }
        Ok(seen)
    }

    pub(crate) fn newest(&self) -> Option<Arc<JobDetail>> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.clone()
    }
}
