//! `supernode node …`: servers that run an agent.

pub(crate) mod view;

use supernode_api::node::{
    NodeCordon, NodeCordonRequest, NodeList, NodeListQuery, NodePatch, NodeRemove, NodeShow,
    NodeUncordon, NodeUpdate, NodeView,
};
use supernode_api::stress::{NodeRelease, NodeReleaseRequest};
use supernode_api::{Nothing, Watch};
use supernode_client::{CallOptions, Client};
use supernode_types::node::Position;

use crate::change::{
    KeyOption, LabelChange, Precondition, WaitOption, apply_labels, label_change, lost_race,
};
use crate::failure::Failure;
use crate::operation;
use crate::output::pairs;
use crate::session::Session;

/// Servers that run an agent.
#[derive(Debug, clap::Subcommand)]
pub enum NodeCommand {
    /// List nodes
    #[command(visible_alias = "ls")]
    List {
        /// Only of this super node; `-` for spares
        #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
        super_node: Option<String>,
        /// Only with this policy: `in_service`, cordoned, draining or removed
        #[arg(long)]
        policy: Option<String>,
        /// Only in this condition: unknown, joining, ready, degraded or lost
        #[arg(long)]
        condition: Option<String>,
        /// Only with this label
        #[arg(long, value_name = "KEY=VALUE")]
        label: Option<String>,
    },
    /// Show a node with its hardware, its leases and what is wrong with it
    Show {
        /// Its name or id
        node: String,
    },
    /// Keep new jobs away from a node; running ones go on
    Cordon {
        /// Its name or id
        node: String,
        /// Shown to everybody who wonders
        #[arg(long, default_value = "cordoned from the command line")]
        reason: String,
        #[command(flatten)]
        key: KeyOption,
    },
    /// Let jobs be placed on a node again
    Uncordon {
        /// Its name or id
        node: String,
        #[command(flatten)]
        key: KeyOption,
    },
    /// Take a suspect or quarantined node back into service without a test; audited with the reason
    Release {
        /// Its name or id
        node: String,
        /// Why it may be trusted
        #[arg(long)]
        reason: String,
        /// Parts were replaced: forget what they were like before
        #[arg(long)]
        repaired: bool,
        #[command(flatten)]
        key: KeyOption,
    },
    /// Set or remove labels
    Label {
        /// The node's name or id
        node: String,
        /// `KEY=VALUE` sets, `KEY-` removes
        #[arg(required = true, value_name = "KEY=VALUE|KEY-", value_parser = label_change)]
        labels: Vec<LabelChange>,
        #[command(flatten)]
        precondition: Precondition,
    },
    /// Say where a node sits in the fabric; an empty value means not known
    Move {
        /// The node's name or id
        node: String,
        #[command(flatten)]
        position: PositionOptions,
        #[command(flatten)]
        precondition: Precondition,
    },
    /// Take a spare out for good: its certificate is revoked, its provisioner gets it back
    Remove {
        /// Its name or id
        node: String,
        #[command(flatten)]
        precondition: Precondition,
        #[command(flatten)]
        wait: WaitOption,
    },
}

/// Where a node sits.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PositionOptions {
    /// The HCCS or NVLink domain
    #[arg(long, value_name = "NAME")]
    hyperplane: Option<String>,
    /// The rack
    #[arg(long, value_name = "NAME")]
    rack: Option<String>,
    /// The leaf switch
    #[arg(long, value_name = "NAME")]
    leaf: Option<String>,
}

impl PositionOptions {
    fn is_empty(&self) -> bool {
        self.hyperplane.is_none() && self.rack.is_none() && self.leaf.is_none()
    }

    /// What is said replaces, the rest stays.
    pub(crate) fn onto(&self, position: &Position) -> Position {
        let part = |said: &Option<String>, present: &Option<String>| match said {
            Some(text) if text.is_empty() => None,
            Some(text) => Some(text.clone()),
            None => present.clone(),
        };
        Position {
            hyperplane: part(&self.hyperplane, &position.hyperplane),
            rack: part(&self.rack, &position.rack),
            leaf: part(&self.leaf, &position.leaf),
        }
    }
}

pub(crate) async fn run(session: &Session<'_>, command: NodeCommand) -> Result<(), Failure> {
    if let NodeCommand::Move { position, .. } = &command
        && position.is_empty()
    {
        return Err(Failure::Usage(
            "say at least one of --hyperplane, --rack and --leaf".into(),
        ));
    }
    let client = session.client()?;
    match command {
        NodeCommand::List {
            super_node,
            policy,
            condition,
            label,
        } => {
            let query = NodeListQuery {
                super_node,
                policy,
                condition,
                label,
                cursor: None,
                limit: None,
            };
            let items = client.list::<NodeList, _>(&[], &query).await?;
            session.print_list(
                &items,
                "no nodes; enrol one with `supernode join-token create`",
                view::list,
            )
        }
        NodeCommand::Show { node } => {
            let detail = client.get::<NodeShow>(&[&node], &Watch::default()).await?;
            session.print(&detail, |look| view::show(&detail, look))
        }
        NodeCommand::Cordon { node, reason, key } => {
            let view = client
                .call::<NodeCordon>(
                    &[&node],
                    &Nothing {},
                    &NodeCordonRequest { reason },
                    &key.call(),
                )
                .await?;
            session.print(&view, |_| {
                format!("{} is {}\n", view.node.name, view.node.policy.word())
            })
        }
        NodeCommand::Uncordon { node, key } => {
            let view = client
                .call::<NodeUncordon>(&[&node], &Nothing {}, &Nothing {}, &key.call())
                .await?;
            session.print(&view, |_| {
                format!("{} is {}\n", view.node.name, view.node.policy.word())
            })
        }
        NodeCommand::Release {
            node,
            reason,
            repaired,
            key,
        } => {
            let request = NodeReleaseRequest { reason, repaired };
            let view = client
                .call::<NodeRelease>(&[&node], &Nothing {}, &request, &key.call())
                .await?;
            session.print(&view, |_| {
                format!("{} is {}\n", view.node.name, view.node.health.word())
            })
        }
        NodeCommand::Label {
            node,
            labels,
            precondition,
        } => {
            let change = |view: &NodeView| NodeUpdate {
                labels: Some(apply_labels(view.node.labels.clone(), &labels)),
                position: None,
            };
            let view = update(&client, &node, &precondition, change).await?;
            session.print(&view, |_| {
                format!(
                    "{} has labels {}\n",
                    view.node.name,
                    pairs(&view.node.labels)
                )
            })
        }
        NodeCommand::Move {
            node,
            position,
            precondition,
        } => {
            let change = |view: &NodeView| NodeUpdate {
                labels: None,
                position: Some(position.onto(&view.node.position)),
            };
            let view = update(&client, &node, &precondition, change).await?;
            session.print(&view, |_| {
                format!(
                    "{} is at {}\n",
                    view.node.name,
                    view::place(&view.node.position)
                )
            })
        }
        NodeCommand::Remove {
            node,
            precondition,
            wait,
        } => {
            let started = client
                .call::<NodeRemove>(&[&node], &Nothing {}, &Nothing {}, &precondition.call())
                .await?;
            operation::finish(session, &client, started, wait.wait).await
        }
    }
}

/// Reads, changes and writes back what nobody else changed meanwhile.
async fn update(
    client: &Client,
    node: &str,
    precondition: &Precondition,
    change: impl Fn(&NodeView) -> NodeUpdate,
) -> Result<NodeView, Failure> {
    let mut tries = 0;
    loop {
        let present = client
            .get::<NodeShow>(&[node], &Watch::default())
            .await?
            .view;
        let generation = precondition
            .if_generation
            .unwrap_or(present.node.generation);
        let options = CallOptions {
            if_match: Some(generation),
            ..precondition.call()
        };
        match client
            .call::<NodePatch>(&[node], &Nothing {}, &change(&present), &options)
            .await
        {
            Err(error) if lost_race(&error, precondition, tries) => tries += 1,
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_changes_only_what_is_said() {
        let options = PositionOptions {
            hyperplane: Some("h1".into()),
            rack: Some(String::new()),
            leaf: None,
        };
        let present = Position {
            hyperplane: None,
            rack: Some("r1".into()),
            leaf: Some("l1".into()),
        };
        let expected = Position {
            hyperplane: Some("h1".into()),
            rack: None,
            leaf: Some("l1".into()),
        };
        assert_eq!(options.onto(&present), expected);
    }
}
