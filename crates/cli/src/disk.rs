//! `supernode disk …`: what the system disks of nodes are made of, and growing them.

mod view;

use std::time::Duration;

use supernode_api::Nothing;
use supernode_api::disk::{DiskExpand, DiskExpandRequest, DiskList, DiskListQuery, DiskPlan};
use supernode_types::disk::parse_size;

use crate::change::{DeadlineOption, KeyOption, WaitOption};
use crate::failure::Failure;
use crate::operation;
use crate::session::Session;
use crate::super_node::{Mode, drain};

/// System disks of nodes.
#[derive(Debug, clap::Subcommand)]
pub enum DiskCommand {
    /// Show the layout of system disks as a tree, how full they are, and whether they can grow
    Show {
        /// Only of this node, by name or id
        #[arg(long, value_name = "NAME", conflicts_with = "super_node")]
        node: Option<String>,
        /// Only of the nodes of this super node, by name or id
        #[arg(long, value_name = "NAME")]
        super_node: Option<String>,
    },
    /// Grow system disks: device, partition, volume and file system
    Expand(Box<ExpandArguments>),
}

/// How to grow system disks.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub struct ExpandArguments {
    /// A node by name or id; may be given several times
    #[arg(long, value_name = "NAME", group = "which", value_delimiter = ',')]
    node: Vec<String>,
    /// All members of this super node, by name or id
    #[arg(long, value_name = "NAME", group = "which")]
    super_node: Option<String>,
    /// The size to have: whole GiB, for example 500GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: u64,
    /// Show what would happen, or why it is refused; change nothing
    #[arg(long, conflicts_with = "wait")]
    plan: bool,
    /// Restart nodes where growth needs it, after they were drained
    #[arg(long)]
    allow_restart: bool,
    /// How jobs on a node that has to restart are treated [default: refuse]
    #[arg(long, value_enum, requires = "allow_restart")]
    mode: Option<Mode>,
    /// With --mode evict: time between the signal and the kill [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = supernode_types::time::parse_duration)]
    grace: Option<Duration>,
    /// How many nodes restart at a time; with --fail-fast, how many are in work at a time [default: 1]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    parallel: Option<u32>,
    /// Begin no further node once one has failed
    #[arg(long)]
    fail_fast: bool,
    #[command(flatten)]
    wait: WaitOption,
    #[command(flatten)]
    deadline: DeadlineOption,
    #[command(flatten)]
    key: KeyOption,
}

pub(crate) async fn run(session: &Session<'_>, command: DiskCommand) -> Result<(), Failure> {
    match command {
        DiskCommand::Show { node, super_node } => {
            let query = DiskListQuery {
                node,
                super_node,
                ..DiskListQuery::default()
            };
            let items = session.client()?.list::<DiskList, _>(&[], &query).await?;
            session.print_list(&items, "no nodes", view::list)
        }
        DiskCommand::Expand(arguments) => expand(session, *arguments).await,
    }
}

async fn expand(session: &Session<'_>, arguments: ExpandArguments) -> Result<(), Failure> {
    let drain = match (arguments.mode, arguments.grace) {
        (Some(mode), grace) => Some(drain(mode, grace)?),
        (None, Some(_)) => {
            return Err(Failure::Usage("--grace goes with --mode evict only".into()));
        }
        (None, None) => None,
    };
    let request = DiskExpandRequest {
        nodes: arguments.node,
        super_node: arguments.super_node,
        size_bytes: arguments.size,
        allow_restart: arguments.allow_restart,
        drain,
        parallel: arguments.parallel,
        fail_fast: arguments.fail_fast,
        deadline_seconds: arguments.deadline.seconds(),
    };
    let client = session.client()?;
    if arguments.plan {
        let plan = client
            .call::<DiskPlan>(&[], &Nothing {}, &request, &arguments.key.call())
            .await?;
        return session.print(&plan, |look| view::plan(&plan, look));
    }
    let started = client
        .call::<DiskExpand>(&[], &Nothing {}, &request, &arguments.key.call())
        .await?;
    operation::finish(session, &client, started, arguments.wait.wait).await
}
