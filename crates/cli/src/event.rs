//! `supernode event …`: what happened.

use supernode_api::event::{EventList, EventListQuery};
use supernode_api::page::MAXIMUM_LIMIT;
use supernode_types::event::{Event, Subjects};

use crate::failure::Failure;
use crate::output::{self, Look, NOTHING, Table, cell, clean, state};
use crate::progress::PATIENCE;
use crate::session::Session;

/// What happened.
#[derive(Debug, clap::Subcommand)]
pub enum EventCommand {
    /// List the latest events, newest first; with --after all later ones, oldest first
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        filter: Filter,
        /// Only events after this sequence number
        #[arg(long, value_name = "SEQUENCE")]
        after: Option<i64>,
        /// How many
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAXIMUM_LIMIT)), conflicts_with = "after")]
        limit: u32,
    },
    /// Print events as they happen, until Ctrl-C; with --output json one object per line
    Watch {
        #[command(flatten)]
        filter: Filter,
        /// Begin after this sequence number instead of now
        #[arg(long, value_name = "SEQUENCE")]
        after: Option<i64>,
    },
}

/// Which events.
#[derive(Debug, Clone, clap::Args)]
pub struct Filter {
    /// Only about this node, super node, job or operation, by id
    #[arg(long, value_name = "ID")]
    subject: Option<String>,
    /// This and worse: info, warning or error
    #[arg(long, value_name = "LEVEL")]
    severity: Option<String>,
}

pub(crate) async fn run(session: &Session<'_>, command: EventCommand) -> Result<(), Failure> {
    let client = session.client()?;
    match command {
        EventCommand::List {
            filter,
            after,
            limit,
        } => {
            let limit = if after.is_some() {
                MAXIMUM_LIMIT
            } else {
                limit
            };
            let mut query = EventListQuery {
                after_sequence: after,
                subject: filter.subject,
                severity: filter.severity,
                limit: Some(limit),
            };
            let mut items = Vec::new();
            loop {
                let page = client.get::<EventList>(&[], &query).await?.items;
                let full = page.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
                let last = page.last().map(|event| event.sequence);
                items.extend(page);
                match last {
                    Some(last)
                        if full && query.after_sequence.is_some_and(|after| last > after) =>
                    {
                        query.after_sequence = Some(last);
                    }
                    _ => break,
                }
            }
            session.print_list(&items, "no events", list)
        }
        EventCommand::Watch { filter, after } => {
            let query = EventListQuery {
                after_sequence: after,
                subject: filter.subject,
                severity: filter.severity,
                limit: None,
            };
            let mut reader = client.with_patience(PATIENCE).events(query);
            loop {
                let event = reader.next().await?;
                if session.json() {
                    output::write(&(serde_json::to_string(&event).expect("plain data") + "\n"))?;
                } else {
                    output::write(&line(&event))?;
                }
            }
        }
    }
}

fn about(subjects: &Subjects) -> String {
    let Subjects {
        node,
        super_node,
        job,
        operation,
    } = subjects;
    let ids: Vec<&str> = [
        job.as_ref().map(supernode_types::JobId::as_str),
        node.as_ref().map(supernode_types::NodeId::as_str),
        super_node
            .as_ref()
            .map(supernode_types::SuperNodeId::as_str),
        operation.as_ref().map(supernode_types::OperationId::as_str),
    ]
    .into_iter()
    .flatten()
    .collect();
    if ids.is_empty() {
        NOTHING.to_owned()
    } else {
        ids.join(",")
    }
}

fn line(event: &Event) -> String {
    format!(
        "{} {} {} {}\n",
        event.at,
        event.severity.word(),
        clean(&event.kind),
        clean(&event.message)
    )
}

fn list(items: &[Event], look: &Look) -> String {
    let mut table = Table::new(&["SEQUENCE", "AGE", "SEVERITY", "KIND", "MESSAGE", "ABOUT"]);
    for event in items {
        table.row([
            cell(event.sequence),
            cell(look.age(event.at)),
            state(event.severity.word()),
            cell(&event.kind),
            cell(&event.message),
            cell(about(&event.subjects)),
        ]);
    }
    table.render(look)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use supernode_types::Timestamp;

    #[test]
    fn an_event_is_a_line() {
        let event: Event = crate::sample::answer(&json!({
            "sequence": 7, "at": "2025-11-23T12:13:10Z", "kind": "node.lost", "severity": "warning", "message": "n2 is silent",
            "node": "node-01kb000000000000000000000a"
        }));
        assert_eq!(
            line(&event),
            "2025-11-23T12:13:10.000000Z warning node.lost n2 is silent\n"
        );
        assert_eq!(
            list(
                &[event],
                &Look {
                    now: Timestamp(1_763_900_000_000_000),
                    color: false
                }
            ),
            "SEQUENCE  AGE  SEVERITY  KIND       MESSAGE       ABOUT\n\
             7         10s  warning   node.lost  n2 is silent  node-01kb000000000000000000000a\n"
        );
    }
}
