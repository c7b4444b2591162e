//! `supernode super-node …`: create, scale, rename, delete.

mod view;

use std::time::Duration;

use supernode_api::operation::OperationView;
use supernode_api::super_node::{
    NodeReplace, NodeReplacePlan, NodeReplaceRequest, ScaleDown, ScaleDownPlan, ScaleDownRequest,
    ScalePlan, ScaleUp, ScaleUpPlan, ScaleUpRequest, SuperNodeCreate, SuperNodeCreatePlan,
    SuperNodeCreateRequest, SuperNodeDelete, SuperNodeList, SuperNodePatch, SuperNodeShow,
    SuperNodeUpdate, SuperNodeView,
};
use supernode_api::{Nothing, Operation, Watch};
use supernode_client::{CallOptions, Client};
use supernode_types::super_node::{DrainMode, Replacement};

use crate::change::{
    DeadlineOption, KeyOption, LabelChange, Precondition, WaitOption, apply_labels, label_change,
    lost_race, pair, whole_seconds_u32,
};
use crate::failure::Failure;
use crate::operation;
use crate::output::pairs;
use crate::session::Session;

/// Groups of nodes of one spec.
#[derive(Debug, clap::Subcommand)]
pub enum SuperNodeCommand {
    /// List super nodes
    #[command(visible_alias = "ls")]
    List,
    /// Show a super node with its members and open operations
    Show {
        /// Its name or id
        super_node: String,
    },
    /// Create a super node from spares of one spec
    Create(Box<CreateArguments>),
    /// Add nodes
    ScaleUp(Box<ScaleUpArguments>),
    /// Remove nodes
    ScaleDown(Box<ScaleDownArguments>),
    /// Put a spare in the place of a member, which leaves when the spare has joined
    Replace(Box<ReplaceArguments>),
    /// Say who replaces members that a test has quarantined
    Replacement {
        /// Its name or id
        super_node: String,
        /// Who does it
        #[arg(value_enum)]
        by: ReplacedBy,
        #[command(flatten)]
        precondition: Precondition,
    },
    /// Give it another name
    Rename {
        /// Its name or id
        super_node: String,
        /// The new name
        name: String,
        #[command(flatten)]
        precondition: Precondition,
    },
    /// Set or remove labels
    Label {
        /// Its name or id
        super_node: String,
        /// `KEY=VALUE` sets, `KEY-` removes
        #[arg(required = true, value_name = "KEY=VALUE|KEY-", value_parser = label_change)]
        labels: Vec<LabelChange>,
        #[command(flatten)]
        precondition: Precondition,
    },
    /// Release all nodes and forget it; refused while jobs run on it
    Delete {
        /// Its name or id
        super_node: String,
        #[command(flatten)]
        precondition: Precondition,
        #[command(flatten)]
        wait: WaitOption,
    },
}

/// What every command that scales takes.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ScaleOptions {
    /// Show what would happen and why each node was chosen; change nothing
    #[arg(long, conflicts_with = "wait")]
    plan: bool,
    #[command(flatten)]
    wait: WaitOption,
    #[command(flatten)]
    deadline: DeadlineOption,
    #[command(flatten)]
    key: KeyOption,
}

/// How to create a super node.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub struct CreateArguments {
    /// Its name
    name: String,
    /// How many nodes; the spares are chosen
    #[arg(long, value_name = "N", group = "which", value_parser = clap::value_parser!(u32).range(1..))]
    nodes: Option<u32>,
    /// A node by name or id; may be given several times
    #[arg(long, value_name = "NAME", group = "which", value_delimiter = ',')]
    node: Vec<String>,
    /// The spec of its nodes; not needed when only one is declared, or with --node
    #[arg(long, value_name = "NAME")]
    spec: Option<String>,
    /// A label; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    #[command(flatten)]
    scale: ScaleOptions,
}

/// How to add nodes.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub struct ScaleUpArguments {
    /// The super node's name or id
    super_node: String,
    /// How many more
    #[arg(long, value_name = "N", group = "which", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// To how many in all
    #[arg(long, value_name = "N", group = "which", value_parser = clap::value_parser!(u32).range(1..))]
    to: Option<u32>,
    /// A spare by name or id; may be given several times
    #[arg(long, value_name = "NAME", group = "which", value_delimiter = ',')]
    node: Vec<String>,
    /// Let them join without the test that the server asks for; an event and the audit log say who did
    #[arg(long)]
    skip_admission: bool,
    #[command(flatten)]
    scale: ScaleOptions,
}

/// How running jobs are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// Refuse when a job runs on a target; the answer lists the jobs
    Refuse,
    /// Wait for the jobs to finish, until the deadline
    Wait,
    /// Signal the jobs, wait the grace time, kill and requeue them
    Evict,
}

/// How to remove nodes.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub struct ScaleDownArguments {
    /// The super node's name or id
    super_node: String,
    /// How many
    #[arg(long, value_name = "N", group = "which", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// A member by name or id; may be given several times
    #[arg(long, value_name = "NAME", group = "which", value_delimiter = ',')]
    node: Vec<String>,
    /// How running jobs are treated
    #[arg(long, value_enum, default_value_t = Mode::Refuse)]
    mode: Mode,
    /// With `--mode evict`: time between the signal and the kill [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = supernode_types::time::parse_duration)]
    grace: Option<Duration>,
    #[command(flatten)]
    scale: ScaleOptions,
}

/// How to replace a member.
#[derive(Debug, clap::Args)]
pub struct ReplaceArguments {
    /// The super node's name or id
    super_node: String,
    /// The member that leaves, by name or id
    #[arg(long, value_name = "NAME")]
    node: String,
    /// The spare that joins, by name or id; chosen when not given
    #[arg(long, value_name = "NAME")]
    with: Option<String>,
    /// How running jobs on the member are treated
    #[arg(long, value_enum, default_value_t = Mode::Refuse)]
    mode: Mode,
    /// With `--mode evict`: time between the signal and the kill [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = supernode_types::time::parse_duration)]
    grace: Option<Duration>,
    /// Let the spare join without the test that the server asks for; an event and the audit log say who did
    #[arg(long)]
    skip_admission: bool,
    #[command(flatten)]
    scale: ScaleOptions,
}

/// Who replaces members that a test has quarantined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ReplacedBy {
    /// An operator, with `supernode super-node replace`
    Manual,
    /// The server: a spare that fits joins as soon as there is one; jobs on the member finish
    Automatic,
}

const DEFAULT_GRACE: Duration = Duration::from_secs(30);

pub(crate) async fn run(session: &Session<'_>, command: SuperNodeCommand) -> Result<(), Failure> {
    match command {
        SuperNodeCommand::List => {
            let items = session
                .client()?
                .list::<SuperNodeList, _>(&[], &Nothing {})
                .await?;
            session.print_list(
                &items,
                "no super nodes; make one with `supernode super-node create NAME --nodes N`",
                view::list,
            )
        }
        SuperNodeCommand::Show { super_node } => {
            let detail = session
                .client()?
                .get::<SuperNodeShow>(&[&super_node], &Watch::default())
                .await?;
            session.print(&detail, |look| view::show(&detail, look))
        }
        SuperNodeCommand::Create(arguments) => create(session, *arguments).await,
        SuperNodeCommand::ScaleUp(arguments) => scale_up(session, *arguments).await,
        SuperNodeCommand::ScaleDown(arguments) => scale_down(session, *arguments).await,
        SuperNodeCommand::Replace(arguments) => replace(session, *arguments).await,
        SuperNodeCommand::Replacement {
            super_node,
            by,
            precondition,
        } => {
            let request = SuperNodeUpdate {
                replacement: Some(match by {
                    ReplacedBy::Manual => Replacement::Manual,
                    ReplacedBy::Automatic => Replacement::Automatic,
                }),
                ..SuperNodeUpdate::default()
            };
            let client = session.client()?;
            let view = client
                .call::<SuperNodePatch>(&[&super_node], &Nothing {}, &request, &precondition.call())
                .await?;
            session.print(&view, |_| {
                format!(
                    "replacement of quarantined members of {} is {}\n",
                    view.super_node.name,
                    view.super_node.replacement.word()
                )
            })
        }
        SuperNodeCommand::Rename {
            super_node,
            name,
            precondition,
        } => {
            let request = SuperNodeUpdate {
                name: Some(name),
                ..SuperNodeUpdate::default()
            };
            let client = session.client()?;
            let view = client
                .call::<SuperNodePatch>(&[&super_node], &Nothing {}, &request, &precondition.call())
                .await?;
            session.print(&view, |_| {
                format!("{super_node} is now {}\n", view.super_node.name)
            })
        }
        SuperNodeCommand::Label {
            super_node,
            labels,
            precondition,
        } => {
            let view = label(&session.client()?, &super_node, &labels, &precondition).await?;
            session.print(&view, |_| {
                format!(
                    "{} has labels {}\n",
                    view.super_node.name,
                    pairs(&view.super_node.labels)
                )
            })
        }
        SuperNodeCommand::Delete {
            super_node,
            precondition,
            wait,
        } => {
            let client = session.client()?;
            let started = client
                .call::<SuperNodeDelete>(
                    &[&super_node],
                    &Nothing {},
                    &Nothing {},
                    &precondition.call(),
                )
                .await?;
            operation::finish(session, &client, started, wait.wait).await
        }
    }
}

async fn create(session: &Session<'_>, arguments: CreateArguments) -> Result<(), Failure> {
    let CreateArguments {
        name,
        nodes,
        node,
        spec,
        label,
        scale,
    } = arguments;
    let request = SuperNodeCreateRequest {
        name,
        spec,
        count: nodes,
        nodes: node,
        labels: label.into_iter().collect(),
        deadline_seconds: scale.deadline.seconds(),
    };
    plan_or_start::<SuperNodeCreatePlan, SuperNodeCreate>(session, &[], &request, "joins", &scale)
        .await
}

async fn scale_up(session: &Session<'_>, arguments: ScaleUpArguments) -> Result<(), Failure> {
    let ScaleUpArguments {
        super_node,
        count,
        to,
        node,
        skip_admission,
        scale,
    } = arguments;
    let request = ScaleUpRequest {
        count,
        to,
        nodes: node,
        skip_admission,
        deadline_seconds: scale.deadline.seconds(),
    };
    plan_or_start::<ScaleUpPlan, ScaleUp>(session, &[&super_node], &request, "joins", &scale).await
}

async fn scale_down(session: &Session<'_>, arguments: ScaleDownArguments) -> Result<(), Failure> {
    let ScaleDownArguments {
        super_node,
        count,
        node,
        mode,
        grace,
        scale,
    } = arguments;
    let drain = drain(mode, grace)?;
    let request = ScaleDownRequest {
        count,
        nodes: node,
        drain,
        deadline_seconds: scale.deadline.seconds(),
    };
    plan_or_start::<ScaleDownPlan, ScaleDown>(session, &[&super_node], &request, "leaves", &scale)
        .await
}

async fn replace(session: &Session<'_>, arguments: ReplaceArguments) -> Result<(), Failure> {
    let ReplaceArguments {
        super_node,
        node,
        with,
        mode,
        grace,
        skip_admission,
        scale,
    } = arguments;
    let request = NodeReplaceRequest {
        node,
        with,
        drain: drain(mode, grace)?,
        skip_admission,
        deadline_seconds: scale.deadline.seconds(),
    };
    plan_or_start::<NodeReplacePlan, NodeReplace>(
        session,
        &[&super_node],
        &request,
        "joins",
        &scale,
    )
    .await
}

/// Shows what would happen, or starts it and waits for it where that is asked for. `verb` says what the nodes of the plan do.
async fn plan_or_start<P, S>(
    session: &Session<'_>,
    path: &[&str],
    request: &S::Request,
    verb: &str,
    scale: &ScaleOptions,
) -> Result<(), Failure>
where
    P: Operation<Query = Nothing, Request = S::Request, Response = ScalePlan>,
    S: Operation<Query = Nothing, Response = OperationView>,
{
    let client = session.client()?;
    let key = scale.key.call();
    if scale.plan {
        let plan = client.call::<P>(path, &Nothing {}, request, &key).await?;
        return session.print(&plan, |look| view::show_plan(&plan, verb, look));
    }
    let started = client.call::<S>(path, &Nothing {}, request, &key).await?;
    operation::finish(session, &client, started, scale.wait.wait).await
}

pub(crate) fn drain(mode: Mode, grace: Option<Duration>) -> Result<DrainMode, Failure> {
    match (mode, grace) {
        (Mode::Refuse, None) => Ok(DrainMode::Refuse),
        (Mode::Wait, None) => Ok(DrainMode::Wait),
        (Mode::Evict, grace) => Ok(DrainMode::Evict {
            grace_seconds: whole_seconds_u32(grace.unwrap_or(DEFAULT_GRACE)),
        }),
        (Mode::Refuse | Mode::Wait, Some(_)) => {
            Err(Failure::Usage("--grace goes with --mode evict only".into()))
        }
    }
}

async fn label(
    client: &Client,
    name: &str,
    labels: &[LabelChange],
    precondition: &Precondition,
) -> Result<SuperNodeView, Failure> {
    let mut tries = 0;
    loop {
        let present = client
            .get::<SuperNodeShow>(&[name], &Watch::default())
            .await?
            .view
            .super_node;
        let request = SuperNodeUpdate {
            labels: Some(apply_labels(present.labels, labels)),
            ..SuperNodeUpdate::default()
        };
        let generation = precondition.if_generation.unwrap_or(present.generation);
        let options = CallOptions {
            if_match: Some(generation),
            ..precondition.call()
        };
        match client
            .call::<SuperNodePatch>(&[name], &Nothing {}, &request, &options)
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
    fn grace_belongs_to_eviction() {
        assert!(matches!(
            drain(Mode::Evict, None),
            Ok(DrainMode::Evict { grace_seconds: 30 })
        ));
        assert!(matches!(
            drain(Mode::Evict, Some(Duration::from_millis(1500))),
            Ok(DrainMode::Evict { grace_seconds: 2 })
        ));
        assert!(matches!(drain(Mode::Wait, None), Ok(DrainMode::Wait)));
        assert!(drain(Mode::Refuse, Some(Duration::ZERO)).is_err());
    }
}
