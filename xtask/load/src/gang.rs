//! One large gang: from submitting it until the server says that all its ranks run.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::json;
use supernode_api::Nothing;
use supernode_api::job::{JobCancel, JobList, JobListQuery, JobSubmit, JobSubmitRequest};
use supernode_client::{CallOptions, Client};
use supernode_types::job::JobState;

/// A look costs the server a few rows.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

#[derive(Debug, clap::Args)]
pub(crate) struct GangArguments {
    /// The super node
    #[arg(long)]
    super_node: String,
    /// How many nodes
    #[arg(long)]
    nodes: u32,
    /// Give up after so many seconds
    #[arg(long, default_value_t = 120)]
    patience_seconds: u64,
}

pub(crate) async fn run(arguments: GangArguments) -> Result<()> {
    let client = Client::new(&crate::context()?)?;
    let request = JobSubmitRequest {
        super_node: arguments.super_node.clone(),
        nodes: arguments.nodes,
        // Simulated agents run it until they are told to stop.
        arguments: vec!["/bin/sleep".into(), "infinity".into()],
        ..JobSubmitRequest::default()
    };
    let options = CallOptions::default();
    // The connection is open before the clock starts.
    look(&client, &arguments.super_node).await?;
    let start = Instant::now();
    let view = client
        .call::<JobSubmit>(&[], &Nothing {}, &request, &options)
        .await?;
    let accepted = start.elapsed().as_secs_f64();
    let id = view.job.id.to_string();
    let mut placed = None;
    let running = loop {
        match look(&client, &arguments.super_node).await? {
            Some((found, JobState::Running { .. })) if found == id => {
                break start.elapsed().as_secs_f64();
            }
            Some((found, JobState::Starting { .. })) if found == id => {
                placed.get_or_insert_with(|| start.elapsed().as_secs_f64());
            }
            Some((found, JobState::Queued { .. })) if found == id => {}
            other => bail!("the gang should be starting, the server says {other:?}"),
        }
        if start.elapsed().as_secs() > arguments.patience_seconds {
            bail!(
                "the gang does not run after {} s",
                arguments.patience_seconds
            );
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    };
    client
        .call::<JobCancel>(&[&id], &Nothing {}, &Nothing {}, &options)
        .await?;
    while look(&client, &arguments.super_node).await?.is_some() {
        tokio::time::sleep(BETWEEN_LOOKS * 10).await;
    }
    crate::say(&json!({
        "accepted_seconds": accepted,
        "placed_seconds": placed,
        "running_seconds": running,
        "gone_seconds": start.elapsed().as_secs_f64() - running,
    }));
    Ok(())
}

/// The newest job of the super node that has not ended.
async fn look(client: &Client, super_node: &str) -> Result<Option<(String, JobState)>> {
    let query = JobListQuery {
        super_node: Some(super_node.to_owned()),
        state: Some("active".into()),
        limit: Some(1),
        ..JobListQuery::default()
    };
    let page = client.get::<JobList>(&[], &query).await?;
    Ok(page
        .items
        .into_iter()
        .next()
        .map(|view| (view.job.id.to_string(), view.job.state)))
}
