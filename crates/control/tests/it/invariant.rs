//! What must always hold, looked at after every pass of the loop.

use std::collections::{BTreeMap, BTreeSet};

use supernode_control::query;
use supernode_types::job::RankState;
use supernode_types::node::NodePolicy;
use supernode_types::operation::OperationKind;

use crate::world::World;

impl World {
    pub(crate) fn check(&self) {
        self.check_super_nodes();
        self.check_leases();
    }

    /// A super node has a node, unless it is only just being made or taken apart; no node is claimed by what is not there.
    fn check_super_nodes(&self) {
        let (nodes, super_nodes) =
            self.read(|tx| Ok((query::nodes(tx, false)?, query::super_nodes(tx)?)));
        let open = self.read(|tx| query::operations(tx, None, Some("running"), None, 1000));
        let open: BTreeMap<_, _> = open
            .iter()
            .map(|record| (&record.operation.id, &record.operation))
            .collect();
        for super_node in &super_nodes {
            let has_node = nodes
                .iter()
                .any(|node| node.membership.super_node() == Some(&super_node.id));
            let in_the_making = open.values().any(|operation| {
                let whole = matches!(
                    operation.kind,
                    OperationKind::SuperNodeCreate | OperationKind::SuperNodeDelete
                );
                whole && operation.super_node.as_ref() == Some(&super_node.id)
            });
            assert!(has_node || in_the_making, "{} has no node", super_node.name);
            if let Some(deleting) = &super_node.deleting {
                assert!(
                    open.contains_key(deleting),
                    "{} is being deleted by nobody",
                    super_node.name
                );
            }
        }
        for node in &nodes {
            let super_node = node.membership.super_node();
            assert!(
                super_node.is_none_or(|id| super_nodes.iter().any(|found| found.id == *id)),
                "{node:?}"
            );
            if let NodePolicy::Draining { operation, .. } = &node.policy {
                assert!(
                    open.contains_key(operation),
                    "{} is drained by nobody",
                    node.name
                );
            }
        }
    }

    /// Leases belong to attempts that are under way, all of a gang or none; what runs has a lease.
    fn check_leases(&self) {
        let (leases, jobs) = self.read(|tx| {
            let leases = supernode_store::attempt::lease_list(tx)?;
            Ok((leases, query::jobs(tx, None, Some("active"), None, 1000)?))
        });
        let mut held: BTreeMap<_, usize> = BTreeMap::new();
        for lease in &leases {
            *held.entry(lease.attempt.clone()).or_default() += 1;
        }
        for job in &jobs {
            if let Some(attempt) = job.state.attempt() {
                let ranks = self.ranks(&job.id);
                assert_eq!(
                    held.remove(attempt),
                    Some(ranks.len()),
                    "{} holds a whole gang",
                    job.id
                );
            }
        }
        assert_eq!(held, BTreeMap::new(), "leases of attempts that are over");
        let mut devices = BTreeSet::new();
        for agent in self.agents.values() {
            let ranks = agent
                .ranks
                .iter()
                .filter(|(_, state)| **state == RankState::Running);
            for ((attempt, rank), _) in ranks {
                let lease = leases
                    .iter()
                    .find(|lease| lease.attempt == *attempt && lease.node == agent.id);
                assert!(
                    lease.is_some(),
                    "rank {rank} of {attempt} runs without a lease"
                );
                assert!(devices.insert((agent.id.clone(), attempt.clone(), *rank)));
            }
        }
    }
}
