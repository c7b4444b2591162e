//! The audit log.

use supernode_api::audit::{AuditList, AuditRecord};
use supernode_control::query;

use super::Context;
use super::context::{page, page_limit};
use crate::{Edge, Request};

pub(super) fn mount(edge: Edge, context: &Context) -> Edge {
    let context = context.clone();
    edge.operation::<AuditList, _, _>(move |request: Request<AuditList>| {
        let context = context.clone();
        async move {
            let wanted = request.query;
            let limit = page_limit(wanted.limit)?;
            let entries = context
                .read("audit_list", move |tx| {
                    query::audit(
                        tx,
                        wanted.before_sequence,
                        wanted.actor.as_deref(),
                        limit + 1,
                    )
                })
                .await?;
            let records = entries
                .into_iter()
                .map(|entry| AuditRecord {
                    sequence: entry.sequence,
                    at: entry.at,
                    actor: entry.actor,
                    action: entry.action,
                    subject: entry.subject,
                    request: entry.request,
                    request_id: entry.request_id,
                })
                .collect();
            Ok(page(records, limit, |record: &AuditRecord| {
                record.sequence.to_string()
            }))
        }
    })
}
