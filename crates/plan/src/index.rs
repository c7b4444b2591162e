//! What several planners look up again and again, computed once per plan. Lookups only: nothing iterates over a hash map, so the
//! order of a plan depends on the snapshot alone.

use std::collections::{BTreeSet, HashMap};

use supernode_types::job::Lease;
use supernode_types::node::Node;
use supernode_types::{JobId, NodeId, SuperNodeId};

use crate::Snapshot;

/// A snapshot with its nodes by super node and its leases by node.
#[derive(Debug)]
pub(crate) struct Index<'a> {
    pub(crate) snapshot: &'a Snapshot,
    nodes_of: HashMap<&'a SuperNodeId, Vec<&'a Node>>,
    leases_on: HashMap<&'a NodeId, Vec<&'a Lease>>,
}

impl<'a> Index<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot) -> Self {
        let mut nodes_of: HashMap<_, Vec<_>> = HashMap::new();
        for node in snapshot.nodes.values() {
            if let Some(super_node) = node.membership.super_node() {
                nodes_of.entry(super_node).or_default().push(node);
            }
        }
        let mut leases_on: HashMap<_, Vec<_>> = HashMap::with_capacity(snapshot.nodes.len());
        for lease in &snapshot.leases {
            leases_on.entry(&lease.node).or_default().push(lease);
        }
        for leases in leases_on.values_mut() {
            leases.sort_by_key(|lease| lease.device);
        }
        Self {
            snapshot,
            nodes_of,
            leases_on,
        }
    }

    /// All nodes that belong to, join or leave `super_node`, by id.
    pub(crate) fn nodes_of(&self, super_node: &SuperNodeId) -> &[&'a Node] {
        self.nodes_of.get(super_node).map_or(&[], Vec::as_slice)
    }

    /// The full members of `super_node`, by id.
    pub(crate) fn members_of(&self, super_node: &'a SuperNodeId) -> impl Iterator<Item = &'a Node> {
        self.nodes_of(super_node)
            .iter()
            .copied()
            .filter(move |node| node.membership.member_of(super_node))
    }

    /// The leases on `node`, by device.
    pub(crate) fn leases_on(&self, node: &NodeId) -> &[&'a Lease] {
        self.leases_on.get(node).map_or(&[], Vec::as_slice)
    }

    /// The jobs that hold leases on `node`, by id, each once.
    pub(crate) fn jobs_on(&self, node: &NodeId) -> BTreeSet<&'a JobId> {
        self.leases_on(node)
            .iter()
            .filter_map(|lease| lease.job())
            .collect()
    }
}
