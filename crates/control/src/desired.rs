//! What each node should do, worked out from the stored intent whenever it is asked for.
//!
//! It is never stored: what is derived cannot disagree with what it derives from.

use std::collections::BTreeMap;

use supernode_store::attempt::{AttemptRecord, attempt_get, rank_list, rank_list_open_on};
use supernode_store::environment::environment_get;
use supernode_store::job::job_get;
use supernode_store::node::{node_get, node_list_of};
use supernode_store::operation::operation_get;
use supernode_store::super_node::super_node_get;
use supernode_store::{StoreError, Tx};
use supernode_types::agent::{
    Desired, DesiredRank, EnvironmentWish, RankLaunch, RankPlace, RankWish,
};
use supernode_types::environment::{EnvironmentDesired, Member};
use supernode_types::job::{Job, JobState, Rank, StopReason};
use supernode_types::node::{Membership, Node, NodePolicy};
use supernode_types::operation::OperationKind;
use supernode_types::super_node::DrainMode;
use supernode_types::{AttemptId, NodeId, SuperNodeId};

use crate::rank_table::rank_table;

/// What the nodes should do, for each of `nodes` that was not removed.
pub fn desired(
    tx: &mut Tx<'_>,
    nodes: impl IntoIterator<Item = NodeId>,
) -> Result<BTreeMap<NodeId, Desired>, StoreError> {
    let mut builder = Builder::default();
    let mut all = BTreeMap::new();
    for id in nodes {
        let Some(node) = node_get(tx, &id)?.filter(|node| node.policy != NodePolicy::Removed)
        else {
            continue;
        };
        let environment = builder.environment(tx, &node)?;
        let ranks = builder.ranks(tx, &node)?;
        all.insert(
            id,
            Desired {
                generation: node.desired_generation,
                environment,
                ranks,
            },
        );
    }
    Ok(all)
}

/// Shared between the nodes of one call: a gang and a super node are loaded once, however many nodes they have.
#[derive(Default)]
struct Builder {
    environments: BTreeMap<SuperNodeId, Option<EnvironmentDesired>>,
    attempts: BTreeMap<AttemptId, Option<Attempt>>,
}

struct Attempt {
    record: AttemptRecord,
    job: Job,
    /// All devices of the job on each node, also of ranks that have ended.
    devices: BTreeMap<NodeId, Vec<u32>>,
    variables: BTreeMap<String, String>,
    rank_table: Option<serde_json::Value>,
    /// Between the signal and the kill, if the job is being stopped.
    grace_seconds: u32,
}

impl Builder {
    fn environment(&mut self, tx: &mut Tx<'_>, node: &Node) -> Result<EnvironmentWish, StoreError> {
        let (Membership::Joining { super_node, .. } | Membership::Member { super_node }) =
            &node.membership
        else {
            return Ok(EnvironmentWish::Clean);
        };
        Ok(match self.environment_of(tx, super_node)? {
            None => EnvironmentWish::Clean,
            Some(environment) if environment.generation == node.environment_applied => {
                EnvironmentWish::Keep {
                    generation: environment.generation,
                }
            }
            Some(environment) => EnvironmentWish::Have(Box::new(environment.clone())),
        })
    }

    fn environment_of(
        &mut self,
        tx: &mut Tx<'_>,
        super_node: &SuperNodeId,
    ) -> Result<Option<&EnvironmentDesired>, StoreError> {
        if !self.environments.contains_key(super_node) {
            let loaded = load_environment(tx, super_node)?;
            self.environments.insert(super_node.clone(), loaded);
        }
        Ok(self.environments.get(super_node).and_then(Option::as_ref))
    }

    fn ranks(&mut self, tx: &mut Tx<'_>, node: &Node) -> Result<Vec<DesiredRank>, StoreError> {
        let open = rank_list_open_on(tx, &node.id)?;
        let mut ranks = Vec::with_capacity(open.len());
        for rank in open {
            let Some(attempt) = self.attempt(tx, &rank.attempt)? else {
                continue;
            };
            let wish = wish(attempt, &rank);
            ranks.push(DesiredRank {
                attempt: rank.attempt,
                job: rank.job,
                rank: rank.rank,
                boot_id: rank.boot_id,
                wish,
            });
        }
        Ok(ranks)
    }

    fn attempt(&mut self, tx: &mut Tx<'_>, id: &AttemptId) -> Result<Option<&Attempt>, StoreError> {
        if !self.attempts.contains_key(id) {
            let loaded = self.load_attempt(tx, id)?;
            self.attempts.insert(id.clone(), loaded);
        }
        Ok(self.attempts.get(id).and_then(Option::as_ref))
    }

    fn load_attempt(
        &mut self,
        tx: &mut Tx<'_>,
        id: &AttemptId,
    ) -> Result<Option<Attempt>, StoreError> {
        let Some(record) = attempt_get(tx, id)? else {
            return Ok(None);
        };
        let Some(job) = job_get(tx, &record.job)? else {
            return Ok(None);
        };
        let environment = self.environment_of(tx, &job.super_node)?;
        let variables = environment.map(|environment| environment.variables.clone());
        let ranks = rank_list(tx, id)?;
        let mut devices: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
        for rank in &ranks {
            devices
                .entry(rank.node.clone())
                .or_default()
                .push(rank.device);
        }
        Ok(Some(Attempt {
            devices,
            variables: variables.unwrap_or_default(),
            rank_table: rank_table(tx, id, ranks)?,
            grace_seconds: grace_seconds(tx, &job)?,
            record,
            job,
        }))
    }
}

/// The job's own grace time, or that of the drain that evicts it.
fn grace_seconds(tx: &mut Tx<'_>, job: &Job) -> Result<u32, StoreError> {
    if let JobState::Stopping {
        reason: StopReason::Evicted { operation },
        ..
    } = &job.state
        && let Some(drain) = operation_get(tx, operation)?
        && let OperationKind::ScaleDown {
            mode: DrainMode::Evict { grace_seconds },
        } = drain.operation.kind
    {
        return Ok(grace_seconds);
    }
    Ok(job.spec.grace_seconds)
}

fn load_environment(
    tx: &mut Tx<'_>,
    id: &SuperNodeId,
) -> Result<Option<EnvironmentDesired>, StoreError> {
    let Some(super_node) = super_node_get(tx, id)? else {
        return Ok(None);
    };
    let Some(revision) = environment_get(tx, id, super_node.environment_revision)? else {
        return Ok(None);
    };
    let listed = node_list_of(tx, id)?
        .into_iter()
        .filter(|node| node.membership.listed_in(id));
    let document = revision.document;
    Ok(Some(EnvironmentDesired {
        super_node_name: super_node.name.to_string(),
        generation: super_node.environment_generation,
        members: listed
            .map(|node| Member {
                name: node.name.to_string(),
                address: node.address,
            })
            .collect(),
        variables: document.variables,
        files: document.files,
        sysctls: document.sysctls,
        required_versions: document.required_versions,
    }))
}

fn wish(attempt: &Attempt, rank: &Rank) -> RankWish {
    let Attempt { record, job, .. } = attempt;
    if let JobState::Stopping { reason, .. } = &job.state {
        return RankWish::Stop {
            grace_milliseconds: u64::from(attempt.grace_seconds) * 1000,
            why: stop_word(reason).to_owned(),
        };
    }
    let mut environment = attempt.variables.clone();
    environment.extend(job.spec.environment.clone());
    environment.insert("SUPERNODE_JOB_ID".into(), job.id.to_string());
    environment.insert("SUPERNODE_ATTEMPT_ID".into(), record.id.to_string());
    let place = RankPlace {
        local_rank: rank.local_rank,
        local_world_size: record.world_size / record.nodes.max(1),
        node_rank: rank.node_rank,
        nodes: record.nodes,
        world_size: record.world_size,
        master_address: record.master_address.clone(),
        master_port: record.master_port,
        device: rank.device,
        devices: attempt.devices.get(&rank.node).cloned().unwrap_or_default(),
        restart_count: record.number - 1,
    };
    RankWish::Run(Box::new(RankLaunch {
        arguments: job.spec.arguments.clone(),
        environment,
        workdir: job.spec.workdir.clone(),
        run_as_root: job.spec.run_as_root,
        place,
        rank_table: attempt.rank_table.clone(),
    }))
}

fn stop_word(reason: &StopReason) -> &'static str {
    match reason {
        StopReason::RankFailed(_) => "another rank of the job failed",
        StopReason::Cancelled { .. } => "the job was cancelled",
        StopReason::TimeLimit => "the time limit passed",
        StopReason::NodeLost { .. } => "a node of the job was lost",
        StopReason::Evicted { .. } => "the node is being emptied",
    }
}
