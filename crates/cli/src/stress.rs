//! `supernode stress …`: testing nodes, and what came of it.
//!
//! `stress local`, which needs no server, is added by the binary.

mod page;
mod superbench;
mod view;

use std::time::Duration;

use supernode_api::Nothing;
use supernode_api::stress::{
    NodeHealthShow, StressEvidenceList, StressEvidenceQuery, StressRunList, StressRunListQuery,
    StressRunRequest, StressRunShow, StressRunStart, StressRunView,
};
use supernode_client::Client;
use supernode_types::Name;
use supernode_types::stress::{Item, NetworkState, Share, StressOutcome, Tier};

use crate::change::{KeyOption, WaitOption, whole_seconds};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::session::Session;
use crate::{operation, progress, stress_plan};

/// Tests of nodes.
#[derive(Debug, clap::Subcommand)]
pub enum StressCommand {
    /// Test nodes: whole nodes, when nothing runs on them
    Run(Box<RunArguments>),
    /// Show a run with what came of each node
    Show {
        /// Its id
        run: String,
    },
    /// List runs, newest first
    History {
        /// Only of this super node, by name or id
        #[arg(long, value_name = "NAME")]
        super_node: Option<String>,
    },
    /// Schedules: when super nodes test themselves
    #[command(subcommand)]
    Plan(Box<stress_plan::PlanCommand>),
    /// Say in words why a node has the health that it has
    Explain {
        /// Its name or id
        node: String,
    },
    /// Show what the nodes of a run measured, as tables, JSON, an HTML page or for `SuperBench`
    Report {
        /// Its id
        run: String,
        /// Only of this node, by name or id
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
}

impl StressCommand {
    /// Whether it makes a report, which has formats of its own.
    pub(crate) fn is_report(&self) -> bool {
        matches!(self, Self::Report { .. })
    }
}

/// What to test.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true))]
pub struct RunArguments {
    /// All members of this super node, by name or id; with --node, only those of its members
    #[arg(long, value_name = "NAME", group = "which")]
    super_node: Option<String>,
    /// A node by name or id; may be given several times
    #[arg(long, value_name = "NAME", group = "which", value_delimiter = ',')]
    node: Vec<String>,
    /// Components to test: compute, memory, links, network, storage [default: all]
    #[arg(long, value_name = "ITEM,…", value_delimiter = ',')]
    items: Vec<Item>,
    /// How much: quick takes up to two minutes for each node, standard up to twenty, deep hours
    #[arg(long, value_enum, default_value_t = TierName::Quick)]
    tier: TierName,
    /// How many nodes are tested at a time, as a number or a share, for example 10% [default: all]
    #[arg(long, value_name = "K")]
    max_nodes: Option<Share>,
    /// How long busy nodes are waited for; then they are skipped
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = supernode_types::time::parse_duration)]
    window: Duration,
    /// Run each kernel for this time instead of the tier's own, for a try
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3600))]
    kernel_seconds: Option<u32>,
    /// Channels that are told what was found; may be given several times
    #[arg(long, value_name = "CHANNEL", value_delimiter = ',')]
    notify: Vec<Name>,
    #[command(flatten)]
    wait: WaitOption,
    #[command(flatten)]
    key: KeyOption,
}

/// How much is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TierName {
    Quick,
    Standard,
    Deep,
}

impl From<TierName> for Tier {
    fn from(name: TierName) -> Self {
        match name {
            TierName::Quick => Self::Quick,
            TierName::Standard => Self::Standard,
            TierName::Deep => Self::Deep,
        }
    }
}

pub(crate) async fn run(session: &Session<'_>, command: StressCommand) -> Result<(), Failure> {
    let client = session.client()?;
    match command {
        StressCommand::Run(arguments) => start(session, &client, *arguments).await,
        StressCommand::Show { run } => {
            let view = show(&client, &run).await?;
            session.print(&view, |look| view::run(&view, look))
        }
        StressCommand::History { super_node } => {
            let query = StressRunListQuery {
                super_node,
                ..StressRunListQuery::default()
            };
            let items = client.list::<StressRunList, _>(&[], &query).await?;
            session.print_list(&items, "nothing was tested yet", view::history)
        }
        StressCommand::Plan(command) => stress_plan::run(session, &client, *command).await,
        StressCommand::Explain { node } => {
            let view = client.get::<NodeHealthShow>(&[&node], &Nothing {}).await?;
            session.print(&view, |_| view::explanation(&view))
        }
        StressCommand::Report { run, node } => {
            let query = StressEvidenceQuery {
                node,
                ..StressEvidenceQuery::default()
            };
            let items = client
                .list::<StressEvidenceList, _>(&[&run], &query)
                .await?;
            match session.format() {
                Format::Html => {
                    let view = show(&client, &run).await?;
                    output::write(&page::page(&view, &items))
                }
                Format::SuperbenchJsonl => output::write(&superbench::lines(&items)),
                Format::Table | Format::Json => {
                    session.print_list(&items, "nothing was measured", view::report)
                }
            }
        }
    }
}

async fn show(client: &Client, run: &str) -> Result<StressRunView, Failure> {
    Ok(client.get::<StressRunShow>(&[run], &Nothing {}).await?)
}

async fn start(
    session: &Session<'_>,
    client: &Client,
    arguments: RunArguments,
) -> Result<(), Failure> {
    let request = StressRunRequest {
        super_node: arguments.super_node,
        nodes: arguments.node,
        items: arguments.items,
        tier: arguments.tier.into(),
        max_nodes: arguments.max_nodes,
        window_seconds: Some(whole_seconds(arguments.window)),
        kernel_seconds: arguments.kernel_seconds,
        notify: arguments.notify,
    };
    let started = client
        .call::<StressRunStart>(&[], &Nothing {}, &request, &arguments.key.call())
        .await?;
    if !arguments.wait.wait {
        return operation::finish(session, client, started, false).await;
    }
    let ended = progress::watch(client, started).await?;
    let view = show(client, ended.operation.id.as_str()).await?;
    session.print(&view, |look| view::run(&view, look))?;
    progress::outcome(&ended)?;
    verdict(&view)
}

/// A run that found something, or that cannot say that there is nothing, is no success of whoever waited for it.
fn verdict(view: &StressRunView) -> Result<(), Failure> {
    let bad: Vec<String> = view
        .results
        .iter()
        .filter(|result| result.result.outcome != StressOutcome::Passed)
        .map(|result| {
            let outcome = &result.result.outcome;
            let detail = outcome.detail().unwrap_or_default();
            format!("node {} {}: {detail}", result.node_name, outcome.word())
        })
        .collect();
    // A link or a leaf switch is no node's fault, and no success either.
    let network = view
        .network
        .as_ref()
        .and_then(|view| match &view.network.state {
            NetworkState::Judged { verdict } => verdict.findings.first(),
            NetworkState::Testing { .. } => None,
        });
    match bad.first() {
        None => match network {
            Some(finding) => Err(Failure::Failed(format!("network: {}", finding.words))),
            None => Ok(()),
        },
        Some(first) if bad.len() == 1 => Err(Failure::Failed(first.clone())),
        Some(first) => Err(Failure::Failed(format!(
            "{first} (and {} more)",
            bad.len() - 1
        ))),
    }
}
