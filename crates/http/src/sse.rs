//! The event stream: `GET /api/v1/events/stream` as server-sent events.
//!
//! Each event carries its sequence as id, so a client that comes back with `Last-Event-ID` (browsers do by themselves) continues where
//! it was. The stream holds nothing: events are pulled when the socket can take them, and a client that stops reading is closed by the
//! listener. At every keep-alive the token is looked up again, so a revoked token loses its stream too.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::response::sse::{Event as Frame, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use supernode_api::Role;
use supernode_api::event::{EventListQuery, STREAM_PATH};
use supernode_types::event::Event;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::layer::RequestId;
use crate::mount::{Shared, detached};
use crate::query::QueryReader;
use crate::{BoxFuture, Caller, Edge, Failure};

/// The events of one subscriber, oldest first.
pub type EventStream = BoxStream<'static, Result<Event, Failure>>;

/// What a subscriber asks for.
#[derive(Debug)]
pub struct EventSubscription {
    /// Who asks; the role is enough.
    pub caller: Caller,
    /// Which events. `after_sequence` is the later of the query's and `Last-Event-ID`; without either only new events are wanted.
    pub query: EventListQuery,
    /// Finds the request in the log.
    pub request_id: String,
}

const OPERATION: &str = "event_stream";
/// How long a client waits before it connects again.
const RECONNECT: Duration = Duration::from_secs(2);

impl Edge {
    /// Mounts the event stream. `subscribe` gives the events of one subscriber, after `query.after_sequence` and then as they happen.
    #[must_use]
    pub fn events(
        mut self,
        subscribe: impl Fn(EventSubscription) -> BoxFuture<'static, Result<EventStream, Failure>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let shared = self.shared.clone();
        let subscribe = Arc::new(subscribe);
        let reader = Arc::new(QueryReader::of::<EventListQuery>());
        let streams = Arc::new(Semaphore::new(shared.options.maximum_streams));
        let route = get(move |request: Request| {
            let (shared, subscribe, reader, streams) = (
                shared.clone(),
                Arc::clone(&subscribe),
                Arc::clone(&reader),
                Arc::clone(&streams),
            );
            async move {
                let id = RequestId::of(request.extensions());
                match open(
                    shared,
                    reader,
                    streams,
                    subscribe.as_ref(),
                    request,
                    id.clone(),
                )
                .await
                {
                    Ok(response) => response,
                    Err(failure) => failure.respond(&id),
                }
            }
        });
        self.router = self.router.route(STREAM_PATH, route);
        self
    }
}

async fn open(
    shared: Shared,
    reader: Arc<QueryReader>,
    streams: Arc<Semaphore>,
    subscribe: &(impl Fn(EventSubscription) -> BoxFuture<'static, Result<EventStream, Failure>> + Sync),
    request: Request,
    id: RequestId,
) -> Result<Response, Failure> {
    let caller = shared
        .authorize(request.headers(), Role::Viewer, OPERATION)
        .await?;
    let mut query: EventListQuery = reader
        .read(request.uri())
        .map_err(Failure::invalid_request)?;
    query.after_sequence = query.after_sequence.max(last_event_id(request.headers())?);
    let permit = streams.try_acquire_owned().map_err(|_| {
        let message = format!(
            "{} event streams are open already; close one or list events instead",
            shared.options.maximum_streams
        );
        Failure::too_many_requests(message, Duration::from_secs(5))
    })?;
    let subscription = EventSubscription {
        caller,
        query,
        request_id: id.to_string(),
    };
    let events = detached(OPERATION, subscribe(subscription)).await?;
    let subscriber = Subscriber {
        shared,
        headers: request.headers().clone(),
        id,
        events,
        opened: false,
        ended: false,
        check_at: Instant::now(),
        _permit: permit,
    };
    Ok(Sse::new(frames(subscriber)).into_response())
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, Failure> {
    let Some(value) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let sequence = value
        .to_str()
        .ok()
        .and_then(|text| text.parse::<i64>().ok());
    sequence.map(Some).ok_or_else(|| {
        Failure::invalid_request(
            "the header `last-event-id` must be the sequence of an event, a number",
        )
    })
}

struct Subscriber {
    shared: Shared,
    headers: HeaderMap,
    id: RequestId,
    events: EventStream,
    opened: bool,
    ended: bool,
    check_at: Instant,
    _permit: OwnedSemaphorePermit,
}

fn frames(subscriber: Subscriber) -> impl Stream<Item = Result<Frame, Infallible>> {
    futures::stream::unfold(subscriber, |mut subscriber| async move {
        let frame = subscriber.next().await?;
        Some((Ok(frame), subscriber))
    })
}

impl Subscriber {
    async fn next(&mut self) -> Option<Frame> {
        if self.ended {
            return None;
        }
        if !self.opened {
            self.opened = true;
            self.check_at = Instant::now() + self.shared.options.stream_keep_alive;
            return Some(Frame::default().retry(RECONNECT).comment("open"));
        }
        tokio::select! {
            biased;
            () = self.shared.shutdown.cancelled() => None,
            () = tokio::time::sleep_until(self.check_at) => self.keep_alive().await,
            event = self.events.next() => match event? {
                Ok(event) => Some(event_frame(&event)),
                Err(failure) => Some(self.last(failure)),
            },
        }
    }

    async fn keep_alive(&mut self) -> Option<Frame> {
        self.check_at = Instant::now() + self.shared.options.stream_keep_alive;
        match self
            .shared
            .authorize(&self.headers, Role::Viewer, OPERATION)
            .await
        {
            Ok(_) => Some(Frame::default().comment("alive")),
            Err(failure) => Some(self.last(failure)),
        }
    }

    /// The last frame of a stream that cannot go on: an event of the type `error` with the body that a failed request would have.
    fn last(&mut self, failure: Failure) -> Frame {
        self.ended = true;
        let body = failure.into_body(&self.id);
        Frame::default()
            .event("error")
            .json_data(body)
            .expect("an error body serializes to one line")
    }
}

fn event_frame(event: &Event) -> Frame {
    Frame::default()
        .id(event.sequence.to_string())
        .json_data(event)
        .expect("an event serializes to one line")
}
