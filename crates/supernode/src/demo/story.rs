//! The story: form a super node, grow it, run a distributed program, cut its connections, grow a disk below it, refuse to remove a busy node, survive
//! `kill -9`, shrink, find a slow link.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use supernode_api::environment::EnvironmentSet;
use supernode_api::job::{
    JobCancel, JobDetail, JobLog, JobLogQuery, JobShow, JobSubmit, JobSubmitRequest, JobView,
};
use supernode_api::operation::OperationView;
use supernode_api::super_node::{
    ScaleDown, ScaleDownRequest, ScaleUp, ScaleUpRequest, SuperNodeCreate, SuperNodeCreateRequest,
    SuperNodeShow,
};
use supernode_api::{ErrorCode, Nothing, Watch};
use supernode_client::{CallOptions, ClientError};
use supernode_collectives::group::environment::SHARED_MEMORY;
use supernode_types::environment::EnvironmentDocument;
use supernode_types::job::JobState;
use supernode_types::node::Membership;
use supernode_types::operation::OperationState;
use supernode_types::super_node::DrainMode;
use tokio::time::Instant;

use super::stage::{Stage, saw};
use super::{disk, link};
use crate::collective::{Drill, Task};
use crate::dev::call;

const NAME: &str = "train";

/// Tells it.
pub(crate) async fn tell(stage: &mut Stage) -> anyhow::Result<()> {
    start(stage).await?;
    form(stage).await?;
    grow(stage).await?;
    configure(stage).await?;
    compute(stage).await?;
    cut_link(stage).await?;
    let job = occupy(stage).await?;
    expand_disk(stage, &job).await?;
    refuse(stage, &job).await?;
    kill_server(stage, &job).await?;
    kill_agent(stage, &job).await?;
    cancel(stage, &job).await?;
    shrink(stage).await?;
    keep_one(stage).await?;
    link::slow(stage, NAME).await
}

async fn start(stage: &mut Stage) -> anyhow::Result<()> {
    stage.step("start a control plane and four agents, each a process of its own, over mutual TLS");
    let begun = Instant::now();
    stage.start().await?;
    let nodes = stage.nodes().await?;
    ensure!(
        nodes.len() == 4,
        "{} nodes are enrolled, not 4",
        nodes.len()
    );
    saw(
        begun,
        "4 nodes enrolled, inventoried and ready as spares of one spec",
    );
    Ok(())
}

async fn form(stage: &mut Stage) -> anyhow::Result<()> {
    stage.step("form a super node of two nodes: super-node create train --nodes 2 --wait");
    let begun = Instant::now();
    let request = SuperNodeCreateRequest {
        name: NAME.into(),
        count: Some(2),
        ..SuperNodeCreateRequest::default()
    };
    let operation = call::<SuperNodeCreate>(stage.client()?, &[], &request).await?;
    finish(stage, operation).await?;
    ensure!(
        members(stage).await?.len() == 2,
        "there are not two members"
    );
    saw(
        begun,
        &format!("members: {}", members(stage).await?.join(", ")),
    );
    Ok(())
}

async fn grow(stage: &mut Stage) -> anyhow::Result<()> {
    stage.step("grow it by one: super-node scale-up train --count 1 --wait");
    let begun = Instant::now();
    let request = ScaleUpRequest {
        count: Some(1),
        ..ScaleUpRequest::default()
    };
    let operation = call::<ScaleUp>(stage.client()?, &[NAME], &request).await?;
    let why = operation
        .operation
        .targets
        .first()
        .map(|target| target.chosen_because.clone())
        .unwrap_or_default();
    finish(stage, operation).await?;
    ensure!(
        members(stage).await?.len() == 3,
        "there are not three members"
    );
    saw(
        begun,
        &format!(
            "members: {} (chosen: {why})",
            members(stage).await?.join(", ")
        ),
    );
    Ok(())
}

async fn configure(stage: &mut Stage) -> anyhow::Result<()> {
    stage.step("give every member the same environment: a variable of every job");
    let begun = Instant::now();
    let document = EnvironmentDocument {
        variables: [("TRAINING_SITE".into(), "demo".into())].into(),
        ..EnvironmentDocument::default()
    };
    let operation = call::<EnvironmentSet>(stage.client()?, &[NAME], &document).await?;
    finish(stage, operation).await?;
    saw(begun, "revision 2 is applied on all members");
    Ok(())
}

fn ring(stage: &Stage, nodes: u32, seconds: u32) -> JobSubmitRequest {
    JobSubmitRequest {
        super_node: NAME.into(),
        name: Some("ring all-reduce".into()),
        nodes,
        arguments: vec![
            stage.program(),
            "demo-ring".into(),
            "--seconds".into(),
            seconds.to_string(),
        ],
        ..JobSubmitRequest::default()
    }
}

async fn compute(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .step("run a distributed program on three nodes: a ring all-reduce, checked on every rank");
    let begun = Instant::now();
    let job = call::<JobSubmit>(stage.client()?, &[], &ring(stage, 3, 1)).await?;
    let ended = ended(stage, &job).await?;
    ensure!(
        ended.view.job.state.word() == "succeeded",
        "the job {}: {:?}",
        ended.view.job.state.word(),
        ended.view.job.state
    );
    for rank in 0..3 {
        let line = last_line(stage, &job, rank).await?;
        ensure!(line.ends_with("ok"), "rank {rank} said: {line}");
        saw(begun, &line);
    }
    Ok(())
}

async fn cut_link(stage: &mut Stage) -> anyhow::Result<()> {
    stage.step("cut real connections of a job in the middle of its all-reduces: collective drill");
    let begun = Instant::now();
    let task = Task::Drill {
        bytes: 16 << 20,
        cuts: 3,
    };
    let request = JobSubmitRequest {
        super_node: NAME.into(),
        name: Some("drill".into()),
        nodes: 2,
        arguments: vec![
            stage.program(),
            "collective".into(),
            "rank".into(),
            serde_json::to_string(&task)?,
        ],
        // All nodes of the demo are one host, on which there would be no connection to cut.
        environment: [(SHARED_MEMORY.into(), "0".into())].into(),
        ..JobSubmitRequest::default()
    };
    let job = call::<JobSubmit>(stage.client()?, &[], &request).await?;
    let ended = ended(stage, &job).await?;
    let ended = ended.view.job;
    ensure!(
        ended.state.word() == "succeeded" && ended.attempts == 1,
        "the job {} after {} attempts",
        ended.state.word(),
        ended.attempts
    );
    for rank in 0..2 {
        let line = last_line(stage, &job, rank).await?;
        let drill: Drill =
            serde_json::from_str(&line).with_context(|| format!("rank {rank} said: {line}"))?;
        ensure!(drill.wrong == 0, "rank {rank} has wrong bits: {line}");
        ensure!(drill.cuts == 3, "cuts missed the operators: {line}");
        ensure!(drill.resumed > 0, "nothing was resumed: {line}");
        saw(
            begun,
            &format!(
                "rank {rank}: {} all-reduces with the right bits, {} cuts, {} streams resumed, {} KiB sent again, at most {:.1} ms to recover",
                drill.rounds,
                drill.cuts,
                drill.resumed,
                drill.resent_bytes / 1024,
                Duration::from_micros(drill.longest_recovery_microseconds).as_secs_f64() * 1e3
            ),
        );
    }
    Ok(())
}

async fn occupy(stage: &mut Stage) -> anyhow::Result<JobView> {
    stage.step("start a long program on two nodes");
    let begun = Instant::now();
    let job = call::<JobSubmit>(stage.client()?, &[], &ring(stage, 2, 600)).await?;
    let running = running(stage, &job).await?;
    let nodes: Vec<&str> = running
        .ranks
        .iter()
        .map(|rank| rank.node_name.as_str())
        .collect();
    saw(
        begun,
        &format!("{} runs on {}", job.job.id, nodes.join(", ")),
    );
    Ok(job)
}

async fn expand_disk(stage: &mut Stage, job: &JobView) -> anyhow::Result<()> {
    let found = detail(stage, job).await?;
    let first = found.ranks.first().context("the job has no rank")?;
    let (begun, node) = (Instant::now(), first.node_name.to_string());
    disk::expand(stage, &node).await?;
    still_undisturbed(stage, job).await?;
    saw(begun, "the long program runs on, first attempt, all ranks");
    Ok(())
}

async fn refuse(stage: &mut Stage, job: &JobView) -> anyhow::Result<()> {
    stage.step("try to remove a busy node: refused, with the job that stands in the way");
    let begun = Instant::now();
    let busy = detail(stage, job)
        .await?
        .ranks
        .first()
        .context("the job has no rank")?
        .node_name
        .to_string();
    let request = ScaleDownRequest {
        count: None,
        nodes: vec![busy],
        drain: DrainMode::Refuse,
        deadline_seconds: None,
    };
    let answer = stage
        .client()?
        .call::<ScaleDown>(&[NAME], &Nothing {}, &request, &CallOptions::default())
        .await;
    match answer {
        Err(ClientError::Api(error)) if error.code == ErrorCode::JobsRunning => {
            saw(begun, &error.message);
        }
        Err(error) => bail!("another error than expected: {error}"),
        Ok(_) => bail!("a busy node was accepted for removal"),
    }
    Ok(())
}

async fn kill_server(stage: &mut Stage, job: &JobView) -> anyhow::Result<()> {
    stage.step("kill -9 the server while the program runs");
    let begun = Instant::now();
    stage.kill("server").await?;
    stage.answers().await?;
    saw(begun, "the server is back");
    let second = call::<JobSubmit>(stage.client()?, &[], &ring(stage, 1, 0)).await?;
    let done = ended(stage, &second).await?;
    ensure!(
        done.view.job.state.word() == "succeeded",
        "a job after the restart {}",
        done.view.job.state.word()
    );
    saw(begun, "a new job ran on the free node");
    still_undisturbed(stage, job).await?;
    saw(begun, "the long program runs on, first attempt, all ranks");
    Ok(())
}

async fn kill_agent(stage: &mut Stage, job: &JobView) -> anyhow::Result<()> {
    let node = detail(stage, job)
        .await?
        .ranks
        .last()
        .context("the job has no rank")?
        .node_name
        .to_string();
    stage.step(&format!("kill -9 the agent of {node} under a running rank"));
    let begun = Instant::now();
    let before = last_contact(stage, &node).await;
    stage.kill(&node).await?;
    stage
        .until("the agent to be back", || async {
            last_contact(stage, &node)
                .await
                .filter(|at| Some(*at) > before)
        })
        .await?;
    still_undisturbed(stage, job).await?;
    saw(
        begun,
        "the agent is back, found its rank running and left it alone",
    );
    Ok(())
}

async fn cancel(stage: &mut Stage, job: &JobView) -> anyhow::Result<()> {
    stage.step("cancel the long program: every rank ends, every lease is given back");
    let begun = Instant::now();
    call::<JobCancel>(stage.client()?, &[job.job.id.as_str()], &Nothing {}).await?;
    let ended = ended(stage, job).await?;
    ensure!(
        ended.view.job.state.word() == "cancelled",
        "the job {}",
        ended.view.job.state.word()
    );
    let nodes = stage.nodes().await?;
    ensure!(
        nodes.iter().all(|view| view.leased_devices == 0),
        "a lease is left"
    );
    saw(begun, "cancelled; no lease is left");
    Ok(())
}

async fn shrink(stage: &mut Stage) -> anyhow::Result<()> {
    stage.step("drain and remove an idle node: super-node scale-down train --count 1 --wait");
    let begun = Instant::now();
    let request = ScaleDownRequest {
        count: Some(1),
        nodes: Vec::new(),
        drain: DrainMode::Refuse,
        deadline_seconds: None,
    };
    let operation = call::<ScaleDown>(stage.client()?, &[NAME], &request).await?;
    let left = operation
        .target_names
        .first()
        .cloned()
        .flatten()
        .context("the operation names no node")?;
    finish(stage, operation).await?;
    let nodes = stage.nodes().await?;
    let node = nodes
        .iter()
        .find(|view| view.node.name.as_str() == left)
        .context("the removed node is gone")?;
    ensure!(
        node.node.membership == Membership::Spare,
        "{left} is not a spare"
    );
    ensure!(node.node.environment_applied == 0, "{left} was not cleaned");
    saw(
        begun,
        &format!(
            "{left} left, was cleaned of the environment and is a spare; members: {}",
            members(stage).await?.join(", ")
        ),
    );
    Ok(())
}

async fn keep_one(stage: &mut Stage) -> anyhow::Result<()> {
    stage.step("try to remove all nodes: refused, a super node keeps at least one");
    let begun = Instant::now();
    let request = ScaleDownRequest {
        count: Some(2),
        nodes: Vec::new(),
        drain: DrainMode::Refuse,
        deadline_seconds: None,
    };
    match stage
        .client()?
        .call::<ScaleDown>(&[NAME], &Nothing {}, &request, &CallOptions::default())
        .await
    {
        Err(ClientError::Api(error)) if error.code == ErrorCode::LastNode => {
            saw(begun, &error.message);
        }
        Err(error) => bail!("another error than expected: {error}"),
        Ok(_) => bail!("the last node was accepted for removal"),
    }
    Ok(())
}

/// Waits for the end of an operation, which must be success.
async fn finish(stage: &Stage, view: OperationView) -> anyhow::Result<()> {
    let ended = stage.ended(view).await?.operation;
    ensure!(
        ended.state == OperationState::Succeeded,
        "{} ended as {:?}",
        ended.id,
        ended.state
    );
    Ok(())
}

async fn detail(stage: &Stage, job: &JobView) -> anyhow::Result<JobDetail> {
    Ok(stage
        .client()?
        .get::<JobShow>(&[job.job.id.as_str()], &Watch::default())
        .await?)
}

async fn reached(
    stage: &Stage,
    job: &JobView,
    reached: impl Fn(&JobState) -> bool,
) -> anyhow::Result<JobDetail> {
    let mut watch = Watch::default();
    loop {
        let found = stage
            .client()?
            .get::<JobShow>(&[job.job.id.as_str()], &watch)
            .await?;
        if reached(&found.view.job.state) {
            return Ok(found);
        }
        ensure!(
            !found.view.job.state.ended(),
            "{} ended: {:?}",
            job.job.id,
            found.view.job.state
        );
        watch = Watch {
            after_generation: Some(found.view.job.generation),
            wait_milliseconds: Some(10_000),
        };
    }
}

async fn running(stage: &Stage, job: &JobView) -> anyhow::Result<JobDetail> {
    reached(stage, job, |state| {
        matches!(state, JobState::Running { .. })
    })
    .await
}

async fn ended(stage: &Stage, job: &JobView) -> anyhow::Result<JobDetail> {
    reached(stage, job, JobState::ended).await
}

async fn still_undisturbed(stage: &Stage, job: &JobView) -> anyhow::Result<()> {
    let found = detail(stage, job).await?;
    let JobState::Running { .. } = found.view.job.state else {
        bail!("the long program is {:?}", found.view.job.state)
    };
    ensure!(
        found.view.job.attempts == 1,
        "the long program was started {} times",
        found.view.job.attempts
    );
    ensure!(
        found
            .ranks
            .iter()
            .all(|rank| rank.rank.state.word() == "running"),
        "not every rank runs"
    );
    Ok(())
}

async fn members(stage: &Stage) -> anyhow::Result<Vec<String>> {
    let detail = stage
        .client()?
        .get::<SuperNodeShow>(&[NAME], &Watch::default())
        .await?;
    let members = detail
        .nodes
        .iter()
        .filter(|node| matches!(node.membership, Membership::Member { .. }));
    Ok(members.map(|node| node.name.to_string()).collect())
}

async fn last_contact(stage: &Stage, node: &str) -> Option<supernode_types::Timestamp> {
    let nodes = stage.nodes().await.ok()?;
    nodes
        .into_iter()
        .find(|view| view.node.name.as_str() == node)?
        .last_contact_at
}

async fn last_line(stage: &Stage, job: &JobView, rank: u32) -> anyhow::Result<String> {
    let query = JobLogQuery {
        wait_milliseconds: Some(5_000),
        ..JobLogQuery::default()
    };
    let chunk = stage
        .client()?
        .get::<JobLog>(&[job.job.id.as_str(), &rank.to_string()], &query)
        .await?;
    Ok(chunk.content.lines().last().unwrap_or_default().to_owned())
}
