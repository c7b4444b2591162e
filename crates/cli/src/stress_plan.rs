//! `supernode stress plan …`: when super nodes test themselves.

use std::time::Duration;

use supernode_api::Nothing;
use supernode_api::stress_plan::{
    StressPlanCreate, StressPlanDelete, StressPlanList, StressPlanListQuery, StressPlanPatch,
    StressPlanRequest, StressPlanShow, StressPlanUpdate, StressPlanView,
};
use supernode_client::{CallOptions, Client};
use supernode_types::Name;
use supernode_types::stress::{Item, Share, StressTerms};
use supernode_types::time::parse_duration;

use crate::change::{KeyOption, Precondition, whole_seconds};
use crate::failure::Failure;
use crate::output::{Look, Table, cell, fields, or_dash, seconds, state};
use crate::session::Session;
use crate::stress::TierName;

/// Schedules of stress tests.
#[derive(Debug, clap::Subcommand)]
pub enum PlanCommand {
    /// Let a super node test itself on a schedule
    Create {
        /// The super node, by name or id
        #[arg(long, value_name = "NAME")]
        super_node: String,
        /// When: minute, hour, day of the month, month, day of the week, for example "0 2 * * 0"
        #[arg(long, value_name = "EXPRESSION")]
        cron: String,
        #[command(flatten)]
        terms: TermOptions,
        #[command(flatten)]
        key: KeyOption,
    },
    /// List plans with their next times
    #[command(visible_alias = "ls")]
    List {
        /// Only of this super node, by name or id
        #[arg(long, value_name = "NAME")]
        super_node: Option<String>,
    },
    /// Show a plan
    Show {
        /// Its id
        plan: String,
    },
    /// Change a plan; what is not given stays
    Edit {
        /// Its id
        plan: String,
        /// When: minute, hour, day of the month, month, day of the week
        #[arg(long, value_name = "EXPRESSION")]
        cron: Option<String>,
        #[command(flatten)]
        terms: TermOptions,
        #[command(flatten)]
        precondition: Precondition,
    },
    /// Begin no more runs until it is resumed
    Pause {
        /// Its id
        plan: String,
        #[command(flatten)]
        key: KeyOption,
    },
    /// Go on with the next time
    Resume {
        /// Its id
        plan: String,
        #[command(flatten)]
        key: KeyOption,
    },
    /// Delete a plan; its runs stay
    Delete {
        /// Its id
        plan: String,
        #[command(flatten)]
        key: KeyOption,
    },
}

/// What a plan does each time.
#[derive(Debug, clap::Args)]
pub struct TermOptions {
    /// The time zone of --cron, for example Asia/Shanghai [default: UTC]
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// How much is tested [default: standard]
    #[arg(long, value_enum)]
    tier: Option<TierName>,
    /// Components to test: compute, memory, links, network, storage [default: all]
    #[arg(long, value_name = "ITEM,…", value_delimiter = ',')]
    items: Option<Vec<Item>>,
    /// How many nodes are tested at a time, as a number or a share [default: 10%]
    #[arg(long, value_name = "K")]
    max_nodes: Option<Share>,
    /// How long after its time a run may begin and wait for busy nodes [default: 4h]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    window: Option<Duration>,
    /// By how much a run is put off at most, so that not all plans begin at once [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    jitter: Option<Duration>,
    /// How old the last proof of a node may be until its test no longer gives way to jobs [default: 30d]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    max_age: Option<Duration>,
    /// Channels that are told what was found; may be given several times, and `""` is none [default: none]
    #[arg(long, value_name = "CHANNEL", value_delimiter = ',', value_parser = channel_name)]
    notify: Option<Vec<Option<Name>>>,
}

impl TermOptions {
    /// These over those.
    fn over(self, before: StressTerms, cron: Option<String>) -> StressTerms {
        StressTerms {
            cron: cron.unwrap_or(before.cron),
            timezone: self.timezone.unwrap_or(before.timezone),
            tier: self.tier.map_or(before.tier, Into::into),
            items: self.items.unwrap_or(before.items),
            max_nodes: self.max_nodes.unwrap_or(before.max_nodes),
            window_seconds: self.window.map_or(before.window_seconds, whole_seconds),
            jitter_seconds: self.jitter.map_or(before.jitter_seconds, whole_seconds),
            max_age_seconds: self.max_age.map_or(before.max_age_seconds, whole_seconds),
            notify: self
                .notify
                .map_or(before.notify, |names| names.into_iter().flatten().collect()),
        }
    }
}

fn usual(cron: String) -> StressTerms {
    StressTerms {
        cron,
        timezone: "UTC".into(),
        tier: TierName::Standard.into(),
        items: Item::ALL.to_vec(),
        max_nodes: Share::Percent(10),
        window_seconds: 4 * 3600,
        jitter_seconds: 0,
        max_age_seconds: StressTerms::usual_max_age_seconds(),
        notify: Vec::new(),
    }
}

pub(crate) async fn run(
    session: &Session<'_>,
    client: &Client,
    command: PlanCommand,
) -> Result<(), Failure> {
    match command {
        PlanCommand::Create {
            super_node,
            cron,
            terms,
            key,
        } => {
            let terms = terms.over(usual(cron), None);
            let request = StressPlanRequest { super_node, terms };
            let view = client
                .call::<StressPlanCreate>(&[], &Nothing {}, &request, &key.call())
                .await?;
            session.print(&view, |look| line(&view, look))
        }
        PlanCommand::List { super_node } => {
            let query = StressPlanListQuery { super_node };
            let page = client.get::<StressPlanList>(&[], &query).await?;
            session.print_list(&page.items, "no stress plans", list)
        }
        PlanCommand::Show { plan } => {
            let view = client.get::<StressPlanShow>(&[&plan], &Nothing {}).await?;
            session.print(&view, |look| show(&view, look))
        }
        PlanCommand::Edit {
            plan,
            cron,
            terms,
            mut precondition,
        } => {
            let before = client.get::<StressPlanShow>(&[&plan], &Nothing {}).await?;
            // What is not given stays as it was read: another change in between is refused.
            precondition
                .if_generation
                .get_or_insert(before.plan.generation);
            let changed = StressPlanUpdate {
                terms: Some(terms.over(before.plan.terms, cron)),
                paused: None,
            };
            update(session, client, &plan, &precondition.call(), changed).await
        }
        PlanCommand::Pause { plan, key } => {
            update(session, client, &plan, &key.call(), paused(true)).await
        }
        PlanCommand::Resume { plan, key } => {
            update(session, client, &plan, &key.call(), paused(false)).await
        }
        PlanCommand::Delete { plan, key } => {
            let nothing = client
                .call::<StressPlanDelete>(&[&plan], &Nothing {}, &Nothing {}, &key.call())
                .await?;
            session.print(&nothing, |_| format!("{plan} is deleted\n"))
        }
    }
}

async fn update(
    session: &Session<'_>,
    client: &Client,
    plan: &str,
    options: &CallOptions,
    update: StressPlanUpdate,
) -> Result<(), Failure> {
    let view = client
        .call::<StressPlanPatch>(&[plan], &Nothing {}, &update, options)
        .await?;
    session.print(&view, |look| line(&view, look))
}

/// Pauses a plan, or resumes it.
fn paused(paused: bool) -> StressPlanUpdate {
    StressPlanUpdate {
        terms: None,
        paused: Some(paused),
    }
}

fn line(view: &StressPlanView, look: &Look) -> String {
    format!(
        "{} of {}: {}\n",
        view.plan.id,
        view.super_node_name,
        next(view, look)
    )
}

fn next(view: &StressPlanView, look: &Look) -> String {
    match view.upcoming.first() {
        _ if view.plan.paused => "paused".into(),
        Some(slot) => format!("next at {}", look.moment(*slot)),
        None => "never due".into(),
    }
}

fn list(items: &[StressPlanView], look: &Look) -> String {
    let mut table = Table::new(&[
        "PLAN",
        "SUPER NODE",
        "STATE",
        "CRON",
        "ZONE",
        "TIER",
        "AT A TIME",
        "WINDOW",
        "NEXT",
        "LAST RUN",
        "MISSED",
    ]);
    for view in items {
        let plan = &view.plan;
        table.row([
            cell(&plan.id),
            cell(&view.super_node_name),
            state(if plan.paused { "paused" } else { "active" }),
            cell(&plan.terms.cron),
            cell(&plan.terms.timezone),
            cell(plan.terms.tier.name()),
            cell(plan.terms.max_nodes),
            cell(seconds(plan.terms.window_seconds)),
            cell(or_dash(
                view.upcoming.first().map(|slot| look.moment(*slot)),
            )),
            cell(or_dash(plan.last_run.as_ref())),
            cell(plan.missed),
        ]);
    }
    table.render(look)
}

fn show(view: &StressPlanView, look: &Look) -> String {
    let (plan, terms) = (&view.plan, &view.plan.terms);
    let items: Vec<&str> = terms.items.iter().map(|item| item.name()).collect();
    let slots: Vec<String> = view
        .upcoming
        .iter()
        .map(|slot| look.moment(*slot))
        .collect();
    fields(&[
        ("id", plan.id.to_string()),
        ("super node", view.super_node_name.to_string()),
        (
            "state",
            if plan.paused { "paused" } else { "active" }.into(),
        ),
        ("cron", format!("{} {}", terms.cron, terms.timezone)),
        ("next", slots.join(", ")),
        ("tier", terms.tier.name().to_owned()),
        ("items", items.join(",")),
        ("at a time", terms.max_nodes.to_string()),
        ("window", seconds(terms.window_seconds)),
        ("jitter", seconds(terms.jitter_seconds)),
        ("maximum age", seconds(terms.max_age_seconds)),
        ("tells", or_dash(told(terms))),
        ("last run", or_dash(plan.last_run.as_ref())),
        ("missed", plan.missed.to_string()),
        ("made by", plan.actor.clone()),
        ("made", look.moment(plan.created_at)),
    ])
}

fn told(terms: &StressTerms) -> Option<String> {
    let names: Vec<&str> = terms.notify.iter().map(Name::as_str).collect();
    (!names.is_empty()).then(|| names.join(","))
}

/// A name, or nothing: that is how an edit takes all channels away.
fn channel_name(text: &str) -> Result<Option<Name>, String> {
    match text {
        "" => Ok(None),
        name => name.parse().map(Some).map_err(|error| format!("{error}")),
    }
}
