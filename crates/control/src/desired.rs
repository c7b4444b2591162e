//! What each node should do, worked out from the stored intent whenever it is asked for.
//!
//! It is never stored: what is derived cannot disagree with what it derives from.

use std::collections::BTreeMap;
use std::sync::Arc;

use supernode_store::attempt::{AttemptRecord, attempt_get, rank_list_of, rank_list_open_on};
use supernode_store::environment::environment_get;
use supernode_store::job::job_get;
use supernode_store::node::{node_get, node_list_of};
use supernode_store::operation::operation_get;
use supernode_store::stress_network::{stress_pair_get, stress_pair_key};
use supernode_store::super_node::super_node_get;
use supernode_store::{StoreError, Tx};
use supernode_types::agent::{
    Desired, DesiredRank, EnvironmentWish, RankLaunch, RankPlace, RankWish,
};
use supernode_types::disk::DiskWork;
use supernode_types::environment::{EnvironmentDesired, EnvironmentDocument, Member};
use supernode_types::job::{Job, JobState, Rank, StopReason};
use supernode_types::node::{Membership, Node, NodePolicy};
use supernode_types::stress::{PairPlace, PairSide, PairState, PairTask, PairWish, StressWish};
use supernode_types::super_node::SuperNode;
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
                disk_expand: node.disk.work.as_ref().and_then(DiskWork::wish),
                stress: stress(tx, &node)?,
            },
        );
    }
    Ok(all)
}

/// Shared between the nodes of one call: a gang and a super node are loaded once, however many nodes they have. The members of a
/// super node and the ranks of a gang are loaded only where they are needed: most nodes ask alone, and have what they need.
#[derive(Default)]
struct Builder {
    super_nodes: BTreeMap<SuperNodeId, Option<Intended>>,
    environments: BTreeMap<SuperNodeId, Arc<EnvironmentDesired>>,
    attempts: BTreeMap<AttemptId, Option<Attempt>>,
}

/// A super node with the environment revision in force.
#[derive(Clone)]
struct Intended {
    super_node: SuperNode,
    document: EnvironmentDocument,
}

struct Attempt {
    record: AttemptRecord,
    job: Job,
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
        let Some(intended) = self.intended(tx, super_node)? else {
            return Ok(EnvironmentWish::Clean);
        };
        let generation = intended.super_node.environment_generation;
        if generation == node.environment_applied {
            return Ok(EnvironmentWish::Keep { generation });
        }
        if !self.environments.contains_key(super_node)
            && let Some(intended) = self.intended(tx, super_node)?.cloned()
        {
            let environment = environment(tx, intended)?;
            self.environments
                .insert(super_node.clone(), Arc::new(environment));
        }
        let found = self.environments.get(super_node);
        Ok(found.map_or(EnvironmentWish::Clean, |environment| {
            EnvironmentWish::Have(Arc::clone(environment))
        }))
    }

    fn intended(
        &mut self,
        tx: &mut Tx<'_>,
        id: &SuperNodeId,
    ) -> Result<Option<&Intended>, StoreError> {
        if !self.super_nodes.contains_key(id) {
            let loaded = load_intended(tx, id)?;
            self.super_nodes.insert(id.clone(), loaded);
        }
        Ok(self.super_nodes.get(id).and_then(Option::as_ref))
    }

    fn ranks(&mut self, tx: &mut Tx<'_>, node: &Node) -> Result<Vec<DesiredRank>, StoreError> {
        let open = rank_list_open_on(tx, &node.id)?;
        let mut ranks = Vec::with_capacity(open.len());
        for rank in &open {
            let Some(attempt) = self.attempt(tx, rank)? else {
                continue;
            };
            let devices = devices(tx, attempt, rank, &open)?;
            ranks.push(DesiredRank {
                attempt: rank.attempt.clone(),
                job: rank.job.clone(),
                rank: rank.rank,
                boot_id: rank.boot_id.clone(),
                wish: wish(attempt, rank, devices),
            });
        }
        Ok(ranks)
    }

    fn attempt(&mut self, tx: &mut Tx<'_>, rank: &Rank) -> Result<Option<&Attempt>, StoreError> {
        if !self.attempts.contains_key(&rank.attempt) {
            let loaded = self.load_attempt(tx, rank)?;
            self.attempts.insert(rank.attempt.clone(), loaded);
        }
        Ok(self.attempts.get(&rank.attempt).and_then(Option::as_ref))
    }

    fn load_attempt(
        &mut self,
        tx: &mut Tx<'_>,
        rank: &Rank,
    ) -> Result<Option<Attempt>, StoreError> {
        let Some(record) = attempt_get(tx, &rank.attempt)? else {
            return Ok(None);
        };
        let Some(job) = job_get(tx, &record.job)? else {
            return Ok(None);
        };
        let intended = self.intended(tx, &job.super_node)?;
        Ok(Some(Attempt {
            variables: intended.map_or_else(BTreeMap::new, |intended| {
                intended.document.variables.clone()
            }),
            rank_table: rank_table(tx, rank)?,
            grace_seconds: grace_seconds(tx, &job)?,
            record,
            job,
        }))
    }
}

/// What the node has to test. Of a pair only the two that are in it learn the key, and the asker not before its partner listens.
fn stress(tx: &mut Tx<'_>, node: &Node) -> Result<Option<StressWish>, StoreError> {
    let Some(work) = &node.stress.work else {
        return Ok(None);
    };
    let Some(PairTask { number, place }) = &work.pair else {
        return Ok(work.wish(None));
    };
    let pair = stress_pair_get(tx, &work.operation, *number)?;
    let key = stress_pair_key(tx, &work.operation, *number)?;
    let (Some(pair), Some(key)) = (pair, key) else {
        return Ok(None);
    };
    let side = match (place, &pair.state) {
        (PairPlace::Listener, PairState::Running { .. }) => PairSide::Listen {
            address: node.address.clone(),
        },
        (
            PairPlace::Asker,
            PairState::Running {
                port: Some(port), ..
            },
        ) => match node_get(tx, &pair.listener)? {
            Some(listener) => PairSide::Ask {
                peer: listener.name.to_string(),
                address: listener.address,
                port: *port,
            },
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    let number = *number;
    Ok(work.wish(Some(PairWish { number, key, side })))
}

/// All devices of the job on the node of `rank`; a rank of it that has ended keeps its place.
fn devices(
    tx: &mut Tx<'_>,
    attempt: &Attempt,
    rank: &Rank,
    open: &[Rank],
) -> Result<Vec<u32>, StoreError> {
    let same = open.iter().filter(|other| other.attempt == rank.attempt);
    let devices: Vec<u32> = same.map(|rank| rank.device).collect();
    if u32::try_from(devices.len()) == Ok(local_world_size(&attempt.record)) {
        return Ok(devices);
    }
    let all = rank_list_of(tx, &rank.attempt, &rank.node)?;
    Ok(all.into_iter().map(|rank| rank.device).collect())
}

fn local_world_size(record: &AttemptRecord) -> u32 {
    record.world_size / record.nodes.max(1)
}

fn load_intended(tx: &mut Tx<'_>, id: &SuperNodeId) -> Result<Option<Intended>, StoreError> {
    let Some(super_node) = super_node_get(tx, id)? else {
        return Ok(None);
    };
    let revision = environment_get(tx, id, super_node.environment_revision)?;
    Ok(revision.map(|revision| Intended {
        super_node,
        document: revision.document,
    }))
}

/// What the members have to have, the list of them included.
fn environment(tx: &mut Tx<'_>, intended: Intended) -> Result<EnvironmentDesired, StoreError> {
    let Intended {
        super_node,
        document,
    } = intended;
    let nodes = node_list_of(tx, &super_node.id)?.into_iter();
    let listed = nodes.filter(|node| node.membership.listed_in(&super_node.id));
    let member = |node: Node| Member {
        name: node.name.to_string(),
        address: node.address,
    };
    Ok(EnvironmentDesired {
        super_node_name: super_node.name.to_string(),
        generation: super_node.environment_generation,
        members: listed.map(member).collect(),
        variables: document.variables,
        files: document.files,
        sysctls: document.sysctls,
        required_versions: document.required_versions,
    })
}

/// The job's own grace time, or that of the drain that evicts it.
fn grace_seconds(tx: &mut Tx<'_>, job: &Job) -> Result<u32, StoreError> {
    if let JobState::Stopping {
        reason: StopReason::Evicted { operation },
        ..
    } = &job.state
        && let Some(drain) = operation_get(tx, operation)?
        && let Some(grace_seconds) = drain.operation.kind.eviction_grace_seconds()
    {
        return Ok(grace_seconds);
    }
    Ok(job.spec.grace_seconds)
}

fn wish(attempt: &Attempt, rank: &Rank, devices: Vec<u32>) -> RankWish {
    let Attempt { record, job, .. } = attempt;
    if let JobState::Stopping { reason, .. } = &job.state {
        return RankWish::Stop {
            grace_milliseconds: u64::from(attempt.grace_seconds) * 1000,
            why: stop_word(reason).to_owned(),
        };
    }
    let mut environment = attempt.variables.clone();
    // Whoever had set one of these when the attempt started has it; a later change of the environment does not come between ranks.
    if let Some(retry) = &record.retry {
        environment.extend(retry.variables.clone());
    }
    environment.extend(job.spec.environment.clone());
    environment.insert("SUPERNODE_JOB_ID".into(), job.id.to_string());
    environment.insert("SUPERNODE_ATTEMPT_ID".into(), record.id.to_string());
    let place = RankPlace {
        local_rank: rank.local_rank,
        local_world_size: local_world_size(record),
        node_rank: rank.node_rank,
        nodes: record.nodes,
        world_size: record.world_size,
        master_address: record.master_address.clone(),
        master_port: record.master_port,
        device: rank.device,
        devices,
        restart_count: record.number - 1,
    };
    RankWish::Run(Box::new(RankLaunch {
        arguments: job.spec.arguments.clone(),
        environment,
        workdir: job.spec.workdir.clone(),
        run_as_root: job.spec.run_as_root,
        place,
        group_key: record.group_key.clone(),
        retry_log: record.retry.as_ref().map(|retry| retry.library),
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
