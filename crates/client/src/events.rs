//! The event stream, without gaps: after a broken connection it goes on behind the last event that arrived.

use std::collections::VecDeque;
use std::time::Duration;

use futures::Stream;
use supernode_api::Method;
use supernode_api::event::{EventList, EventListQuery, STREAM_PATH};
use supernode_types::event::Event;

use crate::sse::Parser;
use crate::{Client, ClientError, http};

/// Silence after which the connection is taken for dead; the server sends a comment more often.
const LONGEST_SILENCE: Duration = Duration::from_secs(45);

/// Reads events as they happen.
#[derive(Debug)]
pub struct EventReader {
    client: Client,
    query: EventListQuery,
    connection: Option<(reqwest::Response, Parser)>,
    ready: VecDeque<Event>,
    failed: Option<ClientError>,
    ended: bool,
}

impl Client {
    /// Events that match `query` and happen after `query.after_sequence`; from now on when that is absent.
    pub fn events(&self, query: EventListQuery) -> EventReader {
        let query = EventListQuery {
            limit: None,
            ..query
        };
        EventReader {
            client: self.clone(),
            query,
            connection: None,
            ready: VecDeque::new(),
            failed: None,
            ended: false,
        }
    }
}

impl EventReader {
    /// The next event; waits for it. An error comes once the server stayed away for longer than the client's limit, or refused.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        let mut first_failure = None;
        let mut tries = 0;
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.query.after_sequence = Some(event.sequence);
                return Ok(event);
            }
            let advanced = match self.failed.take() {
                Some(error) => Err(error),
                None => self.advance().await,
            };
            let error = match advanced {
                Ok(()) => {
                    (first_failure, tries) = (None, 0);
                    continue;
                }
                Err(error) if error.transient() => error,
                Err(error) => return Err(error),
            };
            self.connection = None;
            let now = self.client.now();
            let since = *first_failure.get_or_insert(now);
            let pause = self.client.pause(tries);
            if now.saturating_sub(since) + pause > self.client.limits().retry_for {
                return Err(error);
            }
            tries += 1;
            tokio::time::sleep(pause).await;
        }
    }

    /// The events as a stream that ends after its first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Event, ClientError>> + Send {
        futures::stream::unfold(self, |mut reader| async move {
            if reader.ended {
                return None;
            }
            let item = reader.next().await;
            reader.ended = item.is_err();
            Some((item, reader))
        })
    }

    /// Connects, or reads the next bytes.
    async fn advance(&mut self) -> Result<(), ClientError> {
        let Some((response, parser)) = &mut self.connection else {
            let response = self.connect().await?;
            self.connection = Some((response, Parser::default()));
            return Ok(());
        };
        let server = self.client.server();
        let lost = |why: &str| ClientError::NotReachable {
            server: server.to_owned(),
            why: why.to_owned(),
            idempotency_key: None,
        };
        let wrong = |what: String| ClientError::Protocol {
            server: server.to_owned(),
            what,
        };
        let bytes = tokio::time::timeout(LONGEST_SILENCE, response.chunk())
            .await
            .map_err(|_| lost("the event stream fell silent"))?
            .map_err(|error| {
                ClientError::transport(server, &error, LONGEST_SILENCE.as_secs(), None)
            })?
            .ok_or_else(|| lost("the event stream ended"))?;
        for message in parser
            .feed(&bytes)
            .map_err(|_| wrong("an event is too large".into()))?
        {
            match message.event.as_str() {
                "" | "message" => {
                    let event: Event = serde_json::from_str(&message.data)
                        .map_err(|error| wrong(format!("event: {error}")))?;
                    self.ready.push_back(event);
                }
                // The last frame of a stream that cannot go on, with the body of a refused request.
                "error" => self.failed = Some(http::refusal(server, 503, message.data.as_bytes())),
                _ => {}
            }
        }
        Ok(())
    }

    async fn connect(&mut self) -> Result<reqwest::Response, ClientError> {
        if self.query.after_sequence.is_none() {
            // A fixed place to continue from, so that nothing is lost should the first connection break early.
            let latest = self
                .client
                .get::<EventList>(
                    &[],
                    &EventListQuery {
                        limit: Some(1),
                        ..EventListQuery::default()
                    },
                )
                .await?;
            self.query.after_sequence =
                Some(latest.items.first().map_or(0, |event| event.sequence));
        }
        let server = self.client.server();
        let url = self.client.address(STREAM_PATH, &[])?;
        let request = self
            .client
            .request(Method::Get, url)
            .query(&self.query)
            .header(reqwest::header::ACCEPT, "text/event-stream");
        let seconds = self.client.limits().total.as_secs();
        let mut response = tokio::time::timeout(self.client.limits().total, request.send())
            .await
            .map_err(|_| ClientError::Timeout {
                server: server.to_owned(),
                seconds,
                idempotency_key: None,
            })?
            .map_err(|error| ClientError::transport(server, &error, seconds, None))?;
        match response.status().as_u16() {
            200 => Ok(response),
            status => {
                let body = http::read(server, &mut response, self.client.limits(), None).await?;
                Err(http::refusal(server, status, &body))
            }
        }
    }
}
