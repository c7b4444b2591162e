//! The retry policy of a super node: writing it, showing what it comes to, and giving it to the attempts of jobs.
//!
//! An attempt gets its variables when it starts, and they are stored with it: whatever becomes of the policy, of the environment or of
//! the server, all its ranks have the same values. What a policy comes to is worked out in `supernode_plan::retry_policy`; here are the
//! facts for it.

use std::collections::BTreeMap;

use supernode_plan::retry_policy::{Member, Question, Rendering, findings, inject, render};
use supernode_store::environment::environment_get;
use supernode_store::node::{inventory_get, node_list_of};
use supernode_store::super_node::{super_node_list, super_node_update};
use supernode_store::{StoreError, Tx};
use supernode_types::environment::EnvironmentDocument;
use supernode_types::event::{NewEvent, Severity, Subjects};
use supernode_types::inventory::Inventory;
use supernode_types::job::Job;
use supernode_types::node::Node;
use supernode_types::retry_policy::{
    AttemptRetry, RetryEffect, RetryFinding, RetryPolicy, RetrySettings,
};
use supernode_types::super_node::SuperNode;

use crate::super_node::{find, find_for_change};
use crate::{Intent, Refusal};

/// A policy with what it comes to on the present members.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The super node, with the policy.
    pub super_node: SuperNode,
    /// What its members are told; absent without a policy, and while no member is known.
    pub rendering: Option<Rendering>,
    /// What stands in the way of a job on all of them.
    pub findings: Vec<RetryFinding>,
}

/// The policy and what it comes to.
pub fn show(tx: &mut Tx<'_>, id_or_name: &str) -> Result<Shown, Refusal> {
    let super_node = find(tx, id_or_name)?;
    shown(tx, super_node)
}

/// Writes the policy. It counts for what starts from now on.
pub fn set(
    tx: &mut Tx<'_>,
    intent: &Intent,
    id_or_name: &str,
    policy: RetryPolicy,
) -> Result<Shown, Refusal> {
    let mut super_node = find_for_change(tx, intent, id_or_name)?;
    if super_node.retry_policy.as_ref() != Some(&policy) {
        let message = format!("{}: {}", super_node.name, words(&policy));
        super_node.retry_policy = Some(policy);
        super_node_update(tx, &mut super_node)?;
        let subjects = Subjects {
            super_node: Some(super_node.id.clone()),
            ..Subjects::default()
        };
        let event = NewEvent {
            kind: "super_node.retry_policy_changed",
            severity: Severity::Info,
            message,
            subjects,
        };
        crate::notify::tell(tx, &event, intent.now)?;
    }
    shown(tx, super_node)
}

fn words(policy: &RetryPolicy) -> String {
    let Some(settings) = policy.settings() else {
        return "operators of its jobs are not repeated any more".into();
    };
    let levels: Vec<String> = settings.levels().map(|level| level.to_string()).collect();
    format!(
        "operators of its jobs are repeated up to {} times within {} s ({})",
        settings.max_retries(),
        settings.retry_timeout_seconds(),
        levels.join(", ")
    )
}

fn shown(tx: &mut Tx<'_>, super_node: SuperNode) -> Result<Shown, Refusal> {
    let Some(policy) = super_node.retry_policy.clone() else {
        return Ok(Shown {
            super_node,
            rendering: None,
            findings: Vec::new(),
        });
    };
    let facts = Facts::of_members(tx, &super_node)?;
    let findings = match policy.settings() {
        Some(settings) => facts.findings(settings, facts.count(), &BTreeMap::new()),
        None => Vec::new(),
    };
    Ok(Shown {
        rendering: render(&policy, &facts.members()),
        super_node,
        findings,
    })
}

/// What stands in the way of a job that is submitted now; a strict one is refused for it.
pub(crate) fn check_submit(
    tx: &mut Tx<'_>,
    super_node: &SuperNode,
    nodes: u32,
    job: &BTreeMap<String, String>,
    strict: bool,
) -> Result<Vec<RetryFinding>, Refusal> {
    let Some(settings) = super_node
        .retry_policy
        .as_ref()
        .and_then(RetryPolicy::settings)
    else {
        if strict {
            return Err(Refusal::RetryPrevented {
                message: format!(
                    "the job insists on re-execution, and super node {} has no enabled retry policy; set one with: supernode retry-policy set --super-node {} --enable",
                    super_node.name, super_node.name
                ),
                findings: Vec::new(),
            });
        }
        return Ok(Vec::new());
    };
    let facts = Facts::of_members(tx, super_node)?;
    let found = facts.findings(settings, nodes, job);
    let preventing: Vec<RetryFinding> = found
        .iter()
        .filter(|finding| finding.effect == RetryEffect::Prevents)
        .cloned()
        .collect();
    match preventing.first() {
        Some(first) if strict => Err(Refusal::RetryPrevented {
            message: format!(
                "the job insists on re-execution, and its operators would not be repeated: {}{}",
                first.message,
                match preventing.len() - 1 {
                    0 => String::new(),
                    more => format!(" ({more} more in the details)"),
                }
            ),
            findings: preventing,
        }),
        _ => Ok(found),
    }
}

/// What an attempt on these nodes gets, and what stands in its way. `policy` is that of the super node, or another one for runs whose
/// links must not be healed.
pub(crate) fn for_attempt(
    tx: &mut Tx<'_>,
    policy: &RetryPolicy,
    super_node: &SuperNode,
    nodes: Vec<Node>,
    job: &Job,
) -> Result<(Option<AttemptRetry>, Vec<RetryFinding>), StoreError> {
    let facts = Facts::of_nodes(tx, super_node, nodes)?;
    let own = &job.spec.environment;
    let given = render(policy, &facts.members())
        .map(|rendering| inject(policy, rendering, &facts.environment.variables, own));
    let found = match policy.settings() {
        Some(settings) => facts.findings(settings, facts.count(), own),
        None => Vec::new(),
    };
    Ok((given, found))
}

/// What is known of the nodes that take part, and of what surrounds them.
struct Facts {
    nodes: Vec<(Node, Option<Inventory>)>,
    environment: EnvironmentDocument,
    /// Other super nodes of the same spec with their settings.
    others: Vec<(String, RetrySettings)>,
}

impl Facts {
    fn of_members(tx: &mut Tx<'_>, super_node: &SuperNode) -> Result<Self, StoreError> {
        let mut nodes = node_list_of(tx, &super_node.id)?;
        nodes.retain(|node| node.membership.member_of(&super_node.id));
        Self::of_nodes(tx, super_node, nodes)
    }

    fn of_nodes(
        tx: &mut Tx<'_>,
        super_node: &SuperNode,
        nodes: Vec<Node>,
    ) -> Result<Self, StoreError> {
        let nodes = nodes
            .into_iter()
            .map(|node| {
                let inventory = inventory_get(tx, &node.id)?;
                Ok((node, inventory))
            })
            .collect::<Result<_, StoreError>>()?;
        let revision = environment_get(tx, &super_node.id, super_node.environment_revision)?;
        let others = super_node_list(tx)?
            .into_iter()
            .filter(|other| other.spec == super_node.spec && other.id != super_node.id)
            .filter_map(|other| {
                let settings = other.retry_policy.as_ref()?.settings()?.clone();
                Some((other.name.to_string(), settings))
            })
            .collect();
        Ok(Self {
            nodes,
            environment: revision
                .map_or_else(EnvironmentDocument::default, |revision| revision.document),
            others,
        })
    }

    fn members(&self) -> Vec<Member<'_>> {
        self.nodes
            .iter()
            .map(|(node, inventory)| Member {
                name: node.name.as_str(),
                address: &node.address,
                inventory: inventory.as_ref(),
            })
            .collect()
    }

    fn count(&self) -> u32 {
        u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }

    fn findings(
        &self,
        settings: &RetrySettings,
        nodes: u32,
        job: &BTreeMap<String, String>,
    ) -> Vec<RetryFinding> {
        let differing: Vec<String> = self
            .others
            .iter()
            .filter(|(_, other)| !other.levels().eq(settings.levels()))
            .map(|(name, _)| name.clone())
            .collect();
        findings(&Question {
            settings,
            members: &self.members(),
            nodes,
            environment: &self.environment,
            job,
            differing: &differing,
        })
    }
}
