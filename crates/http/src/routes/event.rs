//! Events: the list and the stream.

use futures::StreamExt;
use futures::stream;
use supernode_api::Page;
use supernode_api::event::{EventList, EventListQuery};
use supernode_control::query;
use supernode_types::event::{Event, Severity};

use super::Context;
use super::context::{page_limit, whole};
use crate::{Edge, EventStream, EventSubscription, Failure, Request};

/// How many events a stream reads at once.
const BATCH: u32 = 200;

pub(super) fn mount(edge: Edge, context: &Context) -> Edge {
    let (list, streamed) = (context.clone(), context.clone());
    edge.operation::<EventList, _, _>(move |request: Request<EventList>| {
        let context = list.clone();
        async move { list_events(&context, request.query).await }
    })
    .events(move |subscription: EventSubscription| {
        let context = streamed.clone();
        Box::pin(async move { subscribe(context, subscription.query).await })
    })
}

fn severity(text: Option<&str>) -> Result<Severity, Failure> {
    match text {
        None | Some("info") => Ok(Severity::Info),
        Some("warning") => Ok(Severity::Warning),
        Some("error") => Ok(Severity::Error),
        Some(_) => Err(Failure::invalid_request(
            "severity must be info, warning or error",
        )),
    }
}

async fn list_events(context: &Context, wanted: EventListQuery) -> Result<Page<Event>, Failure> {
    let (limit, severity) = (
        page_limit(wanted.limit)?,
        severity(wanted.severity.as_deref())?,
    );
    let events = context
        .read("event_list", move |tx| {
            query::events(
                tx,
                wanted.after_sequence,
                wanted.subject.as_deref(),
                severity,
                limit,
            )
        })
        .await?;
    Ok(whole(events))
}

async fn subscribe(context: Context, wanted: EventListQuery) -> Result<EventStream, Failure> {
    let severity = severity(wanted.severity.as_deref())?;
    let start = match wanted.after_sequence {
        Some(sequence) => sequence,
        None => context.read("event_last", query::last_event).await?,
    };
    let changes = context.control.hub().changes();
    let state = Follower {
        context,
        subject: wanted.subject,
        severity,
        after: start,
        changes,
    };
    let batches = stream::unfold(state, |mut follower| async move {
        let batch = follower.next().await;
        Some((batch, follower))
    });
    let events = batches.flat_map(|batch| match batch {
        Ok(events) => stream::iter(events.into_iter().map(Ok).collect::<Vec<_>>()),
        Err(failure) => stream::iter(vec![Err(failure)]),
    });
    Ok(events.boxed())
}

struct Follower {
    context: Context,
    subject: Option<String>,
    severity: Severity,
    after: i64,
    changes: tokio::sync::watch::Receiver<u64>,
}

impl Follower {
    /// The next events, once there are some.
    async fn next(&mut self) -> Result<Vec<Event>, Failure> {
        loop {
            self.changes.mark_unchanged();
            let (after, subject, severity) = (self.after, self.subject.clone(), self.severity);
            let events = self
                .context
                .read("event_stream", move |tx| {
                    query::events(tx, Some(after), subject.as_deref(), severity, BATCH)
                })
                .await?;
            if let Some(last) = events.last() {
                self.after = last.sequence;
                return Ok(events);
            }
            if self.changes.changed().await.is_err() {
                return Err(Failure::unavailable("the server is ending"));
            }
        }
    }
}
