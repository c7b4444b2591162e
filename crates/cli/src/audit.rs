//! `supernode audit …`: who asked for what.

use supernode_api::audit::{AuditList, AuditListQuery, AuditRecord};
use supernode_api::page::MAXIMUM_LIMIT;

use crate::failure::Failure;
use crate::output::{Look, Table, cell};
use crate::session::Session;

/// Who asked for what.
#[derive(Debug, clap::Subcommand)]
pub enum AuditCommand {
    /// List audit records, newest first
    #[command(visible_alias = "ls")]
    List {
        /// Only of this actor
        #[arg(long, value_name = "NAME")]
        actor: Option<String>,
        /// Only records before this sequence number
        #[arg(long, value_name = "SEQUENCE")]
        before: Option<i64>,
        /// How many; 0 for all
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
    },
}

pub(crate) async fn run(session: &Session<'_>, command: AuditCommand) -> Result<(), Failure> {
    let AuditCommand::List {
        actor,
        before,
        limit,
    } = command;
    let client = session.client()?;
    let wanted = if limit == 0 { usize::MAX } else { limit };
    let mut before_sequence = before;
    let mut items: Vec<AuditRecord> = Vec::new();
    while items.len() < wanted {
        let size = u32::try_from(wanted - items.len())
            .unwrap_or(MAXIMUM_LIMIT)
            .min(MAXIMUM_LIMIT);
        let query = AuditListQuery {
            before_sequence,
            actor: actor.clone(),
            limit: Some(size),
        };
        let page = client.get::<AuditList>(&[], &query).await?.items;
        let last = page.last().map(|record| record.sequence);
        let full = page.len() >= usize::try_from(size).unwrap_or(usize::MAX);
        items.extend(page);
        match last {
            Some(last) if full && before_sequence.is_none_or(|before| last < before) => {
                before_sequence = Some(last);
            }
            _ => break,
        }
    }
    session.print_list(&items, "no audit records", list)
}

fn list(items: &[AuditRecord], look: &Look) -> String {
    let mut table = Table::new(&["SEQUENCE", "AGE", "ACTOR", "ACTION", "SUBJECT", "REQUEST"]);
    for record in items {
        table.row([
            cell(record.sequence),
            cell(look.age(record.at)),
            cell(&record.actor),
            cell(&record.action),
            cell(&record.subject),
            cell(shortened(&record.request)),
        ]);
    }
    table.render(look)
}

/// The request as one line that fits beside the rest; `--output json` has all of it.
fn shortened(request: &serde_json::Value) -> String {
    const LONGEST: usize = 80;
    let text = request.to_string();
    if text.chars().count() <= LONGEST {
        text
    } else {
        text.chars().take(LONGEST).collect::<String>() + "…"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use supernode_types::Timestamp;

    #[test]
    fn a_long_request_is_shortened() {
        let record: AuditRecord = crate::sample::answer(&json!({
            "sequence": 7, "at": "2025-11-23T12:13:10Z", "actor": "ada", "action": "node_cordon", "subject": "n1",
            "request": {"reason": "é".repeat(100)}, "request_id": "r"
        }));
        let text = list(
            &[record],
            &Look {
                now: Timestamp(1_763_900_000_000_000),
                color: false,
            },
        );
        let expected = format!("{{\"reason\":\"{}…\n", "é".repeat(69));
        assert!(text.ends_with(&expected), "{text}");
    }
}
