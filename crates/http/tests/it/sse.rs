//! The event stream.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use supernode_api::ErrorCode;
use supernode_api::event::STREAM_PATH;
use supernode_http::{Edge, EdgeOptions, EventSubscription, Failure};
use supernode_types::Timestamp;
use supernode_types::entropy::SystemEntropy;
use supernode_types::event::{Event, Severity, Subjects};
use tokio_util::sync::CancellationToken;

use crate::support::{Server, Tokens, edge, error_of, serve, within};

fn event(sequence: i64) -> Event {
    let message = format!("event\n{sequence}");
    Event {
        sequence,
        at: Timestamp(0),
        kind: "toy.happened".to_owned(),
        severity: Severity::Info,
        message,
        subjects: Subjects::default(),
    }
}

/// Five events, then silence.
fn five(
    subscription: &EventSubscription,
) -> impl futures::Stream<Item = Result<Event, Failure>> + Send + use<> {
    let after = subscription.query.after_sequence.unwrap_or(5);
    futures::stream::iter(
        (1..=5)
            .filter(move |sequence| *sequence > after)
            .map(|sequence| Ok(event(sequence))),
    )
}

fn mount(edge: Edge) -> Edge {
    edge.events(|subscription| {
        let events = five(&subscription);
        Box::pin(async move { Ok(events.chain(futures::stream::pending()).boxed()) })
    })
}

struct Reader {
    chunks: futures::stream::BoxStream<'static, String>,
    text: String,
}

impl Reader {
    async fn open(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let chunks = response
            .bytes_stream()
            .filter_map(async |chunk| Some(String::from_utf8_lossy(&chunk.ok()?).into_owned()));
        Self {
            chunks: chunks.boxed(),
            text: String::new(),
        }
    }

    /// Reads until `text` has come.
    async fn until(&mut self, text: &str) -> &str {
        while !self.text.contains(text) {
            let chunk = within(text, self.chunks.next()).await;
            self.text.push_str(
                &chunk.unwrap_or_else(|| panic!("the stream ended before `{text}`: {}", self.text)),
            );
        }
        &self.text
    }

    async fn rest(mut self) -> String {
        while let Some(chunk) = within("the end of the stream", self.chunks.next()).await {
            self.text.push_str(&chunk);
        }
        self.text
    }

    fn ids(&self) -> Vec<&str> {
        self.text
            .lines()
            .filter_map(|line| line.strip_prefix("id: "))
            .collect()
    }
}

fn subscribe(server: &Server, query: &str) -> reqwest::RequestBuilder {
    server.request("GET", &format!("{STREAM_PATH}{query}"), "viewer")
}

#[tokio::test]
async fn a_stream_continues_where_the_client_was() {
    let server = serve(mount(edge(EdgeOptions::default())));
    let mut reader = Reader::open(subscribe(&server, "?after_sequence=2")).await;
    let text = reader.until("id: 5").await;
    assert!(text.starts_with("retry: 2000\n"), "{text}");
    assert!(text.contains("data: {\"sequence\":3,"), "{text}");
    assert_eq!(reader.ids(), ["3", "4", "5"]);

    let mut reader =
        Reader::open(subscribe(&server, "?after_sequence=2").header("last-event-id", "4")).await;
    reader.until("id: 5").await;
    assert_eq!(reader.ids(), ["5"]);
    // A browser repeats its first address when it comes back; what it saw since counts.
    let mut reader =
        Reader::open(subscribe(&server, "?after_sequence=3").header("last-event-id", "1")).await;
    reader.until("id: 5").await;
    assert_eq!(reader.ids(), ["4", "5"]);
}

#[tokio::test]
async fn wrong_subscriptions_are_refused() {
    let server = serve(mount(edge(EdgeOptions::default())));
    let code = async |request: reqwest::RequestBuilder| {
        error_of(request.send().await.expect("an answer"))
            .await
            .1
            .code
    };
    assert_eq!(
        code(subscribe(&server, "").header("last-event-id", "x")).await,
        ErrorCode::InvalidRequest
    );
    assert_eq!(
        code(subscribe(&server, "?no_such=1")).await,
        ErrorCode::InvalidRequest
    );
    assert_eq!(
        code(server.request("GET", STREAM_PATH, "nobody")).await,
        ErrorCode::Unauthenticated
    );
}

#[tokio::test]
async fn streams_are_bounded() {
    let server = serve(mount(edge(EdgeOptions {
        maximum_streams: 1,
        ..EdgeOptions::default()
    })));
    let mut first = Reader::open(subscribe(&server, "")).await;
    first.until(": open").await;
    let refused = subscribe(&server, "").send().await.expect("an answer");
    assert_eq!(error_of(refused).await.1.code, ErrorCode::TooManyRequests);
    drop(first);
    within("room for another", async {
        while subscribe(&server, "")
            .send()
            .await
            .expect("an answer")
            .status()
            .as_u16()
            != 200
        {}
    })
    .await;
}

#[tokio::test]
async fn a_stream_ends_with_the_server_or_the_token() {
    let (tokens, shutdown) = (Tokens::new(), CancellationToken::new());
    let options = EdgeOptions {
        stream_keep_alive: Duration::from_millis(50),
        ..EdgeOptions::default()
    };
    let server = serve(mount(Edge::new(
        tokens.clone(),
        Arc::new(SystemEntropy),
        options,
        shutdown.clone(),
    )));
    let mut revoked = Reader::open(subscribe(&server, "")).await;
    let mut kept = Reader::open(server.request("GET", STREAM_PATH, "admin")).await;
    revoked.until(": alive").await;
    tokens.revoke("viewer");
    let text = revoked.rest().await;
    assert!(
        text.contains("event: error\ndata: {\"code\":\"unauthenticated\""),
        "{text}"
    );
    kept.until(": alive").await;
    shutdown.cancel();
    assert!(!kept.rest().await.contains("event: error"));
}

#[tokio::test]
async fn a_stream_that_fails_says_so() {
    let server = serve(edge(EdgeOptions::default()).events(|subscription| {
        let events = five(&subscription).chain(futures::stream::iter([Err(Failure::unavailable(
            "the database is away",
        ))]));
        Box::pin(async move { Ok(events.boxed()) })
    }));
    let reader = Reader::open(subscribe(&server, "?after_sequence=4")).await;
    let text = reader.rest().await;
    assert!(
        text.contains("id: 5") && text.contains("event: error\ndata: {\"code\":\"unavailable\""),
        "{text}"
    );
}
