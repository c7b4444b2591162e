//! Submits over many connections at once, each kept alive and with one request under way, the way a program would.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;
use supernode_api::Nothing;
use supernode_api::job::{JobCancel, JobSubmit, JobSubmitRequest};
use supernode_api::system::SystemShow;
use supernode_client::{CallOptions, Client};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::latency::Latency;

#[derive(Debug, clap::Args)]
pub(crate) struct SubmitArguments {
    /// How many connections
    #[arg(long)]
    connections: u32,
    /// How many jobs, over all connections
    #[arg(long)]
    jobs: u32,
    /// The super node
    #[arg(long)]
    super_node: String,
    /// Cancel the jobs when all were accepted; without it they run
    #[arg(long)]
    cancel: bool,
    /// Program and arguments
    #[arg(required = true, trailing_var_arg = true)]
    arguments: Vec<String>,
}

pub(crate) async fn run(arguments: SubmitArguments) -> Result<()> {
    let context = crate::context()?;
    let request = Arc::new(JobSubmitRequest {
        super_node: arguments.super_node,
        nodes: 1,
        arguments: arguments.arguments,
        ..JobSubmitRequest::default()
    });
    let left = Arc::new(AtomicU32::new(arguments.jobs));
    let latency = Arc::new(Latency::default());
    // All connections are open before the first job is submitted, and all are done before the first is cancelled.
    let phase = Arc::new(Barrier::new(usize::try_from(arguments.connections)? + 1));
    let mut workers = JoinSet::new();
    for _ in 0..arguments.connections {
        // A client of its own each: clones would share connections.
        let worker = Worker {
            client: Client::new(&context)?.with_patience(Duration::ZERO),
            request: Arc::clone(&request),
            left: Arc::clone(&left),
            latency: Arc::clone(&latency),
            phase: Arc::clone(&phase),
            cancel: arguments.cancel,
        };
        workers.spawn(worker.run());
    }
    phase.wait().await;
    let start = Instant::now();
    phase.wait().await;
    let seconds = start.elapsed().as_secs_f64();
    let summary = latency.take();
    while let Some(worker) = workers.join_next().await {
        worker.context("a connection broke down")??;
    }
    crate::say(&json!({
        "jobs": summary.count,
        "seconds": seconds,
        "median_milliseconds": summary.median_milliseconds,
        "p99_milliseconds": summary.p99_milliseconds,
    }));
    Ok(())
}

struct Worker {
    client: Client,
    request: Arc<JobSubmitRequest>,
    left: Arc<AtomicU32>,
    latency: Arc<Latency>,
    phase: Arc<Barrier>,
    cancel: bool,
}

impl Worker {
    async fn run(self) -> Result<()> {
        let open = self.client.get::<SystemShow>(&[], &Nothing {}).await;
        self.phase.wait().await;
        let submitted = match open {
            Ok(_) => self.submit().await,
            Err(error) => Err(error.into()),
        };
        // Also after a failure: the others wait here.
        self.phase.wait().await;
        let submitted = submitted?;
        if self.cancel {
            for id in submitted {
                self.call::<JobCancel>(&[&id], &Nothing {}).await?;
            }
        }
        Ok(())
    }

    async fn submit(&self) -> Result<Vec<String>> {
        let mut submitted = Vec::new();
        while self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok()
        {
            let start = Instant::now();
            let view = self.call::<JobSubmit>(&[], &self.request).await?;
            self.latency.add(start.elapsed());
            submitted.push(view.job.id.to_string());
        }
        Ok(submitted)
    }

    async fn call<O: supernode_api::Operation<Query = Nothing>>(
        &self,
        path: &[&str],
        body: &O::Request,
    ) -> Result<O::Response> {
        Ok(self
            .client
            .call::<O>(path, &Nothing {}, body, &CallOptions::default())
            .await?)
    }
}
