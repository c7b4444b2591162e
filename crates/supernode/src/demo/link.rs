//! A step of the story: one link becomes slow, a stress test names it, and its node is kept out. Where this machine lets nodes have no
//! networks of their own, the step says why, and shows nothing.

use anyhow::{Context as _, bail, ensure};
use supernode_api::Nothing;
use supernode_api::stress::{StressRunRequest, StressRunShow, StressRunStart};
use supernode_api::super_node::{ScaleUp, ScaleUpRequest};
use supernode_client::{CallOptions, ClientError};
use supernode_types::node::Membership;
use supernode_types::stress::{
    Certainty, Item, NetworkFinding, NetworkState, NetworkVerdict, Tier,
};
use tokio::time::Instant;

use super::stage::{Stage, saw};
use crate::dev::call;

/// What every link can send.
pub(crate) const LINK_MEGABITS_PER_SECOND: u32 = 300;
/// What the sick one can.
const SLOW_MEGABITS_PER_SECOND: u32 = 30;
/// Tests that say nothing for certain, because the machine does something else at the same time, are done again.
const MOST_RUNS: u32 = 3;

/// Slows a link of a spare and tests the network between all nodes, for the super node `name`.
pub(crate) async fn slow(stage: &mut Stage, name: &str) -> anyhow::Result<()> {
    let nodes = stage.nodes().await?;
    let sick = nodes
        .iter()
        .rfind(|view| view.node.membership == Membership::Spare)
        .context("there is no spare")?
        .node
        .name
        .to_string();
    stage.step(&format!(
        "make the link of {sick} slow, test the network between all nodes, see it named: stress run --items network"
    ));
    let begun = Instant::now();
    if let Some(why) = stage.no_node_links() {
        saw(
            begun,
            &format!("not shown, because nodes have no links of their own here: {why}"),
        );
        return Ok(());
    }
    stage.limit_link(&sick, SLOW_MEGABITS_PER_SECOND)?;
    saw(
        begun,
        &format!(
            "{sick} can send {SLOW_MEGABITS_PER_SECOND} Mbit/s from now on, the others {LINK_MEGABITS_PER_SECOND}"
        ),
    );
    let names: Vec<String> = nodes
        .iter()
        .map(|view| view.node.name.to_string())
        .collect();
    for _ in 0..MOST_RUNS {
        let verdict = tested(stage, &names).await?;
        let certain = |finding: &&NetworkFinding| finding.certainty == Certainty::Confirmed;
        let Some(finding) = verdict.findings.iter().find(certain) else {
            let why = verdict
                .undecided
                .unwrap_or_else(|| "nothing was certain".into());
            saw(
                begun,
                &format!("something else disturbs this machine, once more: {why}"),
            );
            continue;
        };
        ensure!(
            verdict.findings.len() == 1 && finding.words.contains(&sick),
            "the test found {:?}",
            verdict.findings
        );
        saw(
            begun,
            &format!(
                "{} rounds of pairs, then certain to {:.2} %: {}",
                verdict.rounds,
                finding.confidence * 100.0,
                finding.words
            ),
        );
        return kept_out(stage, name, &sick, begun).await;
    }
    saw(
        begun,
        "not shown: this machine is too busy with something else to test links on it",
    );
    Ok(())
}

async fn tested(stage: &Stage, nodes: &[String]) -> anyhow::Result<NetworkVerdict> {
    let request = StressRunRequest {
        super_node: None,
        nodes: nodes.to_vec(),
        items: vec![Item::Network],
        tier: Tier::Quick,
        max_nodes: None,
        window_seconds: None,
        kernel_seconds: Some(1),
        notify: Vec::new(),
    };
    let run = call::<StressRunStart>(stage.client()?, &[], &request).await?;
    let run = stage.ended(run).await?.operation.id.to_string();
    let shown = stage
        .client()?
        .get::<StressRunShow>(&[&run], &Nothing {})
        .await?;
    match shown.network.map(|network| network.network.state) {
        Some(NetworkState::Judged { verdict }) => Ok(verdict),
        other => bail!("the network was not judged: {other:?}"),
    }
}

async fn kept_out(stage: &Stage, name: &str, sick: &str, begun: Instant) -> anyhow::Result<()> {
    let request = ScaleUpRequest {
        nodes: vec![sick.to_owned()],
        ..ScaleUpRequest::default()
    };
    let answer = stage
        .client()?
        .call::<ScaleUp>(&[name], &Nothing {}, &request, &CallOptions::default())
        .await;
    match answer {
        Err(ClientError::Api(error)) => saw(begun, &error.message),
        Err(error) => bail!("another error than expected: {error}"),
        Ok(_) => bail!("{sick} was taken although it is quarantined"),
    }
    Ok(())
}
