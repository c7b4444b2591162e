//! Peers that ask for too much, too slowly, or too often.

use std::time::Duration;

use supernode_api::ErrorCode;
use supernode_http::{EdgeOptions, ListenerOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{edge, error_of, eventually, serve, serve_with, within};
use crate::toy::{Gate, mount};

const ORDER: &str = "/api/v1/things/x/order";

#[tokio::test]
async fn no_more_requests_run_at_once_than_allowed() {
    let (edge, gate) = Gate::mount(mount(edge(EdgeOptions {
        maximum_running_requests: 1,
        ..EdgeOptions::default()
    })));
    let server = serve(edge);
    let waiting = tokio::spawn(server.request("POST", "/api/v1/wait", "user").send());
    eventually("the start of the first", || gate.started() == 1).await;
    let refused = server
        .request("GET", "/api/v1/things/x", "viewer")
        .send()
        .await
        .expect("an answer");
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(error_of(refused).await.1.code, ErrorCode::TooManyRequests);
    gate.open_for_one();
    assert_eq!(
        waiting
            .await
            .expect("no panic")
            .expect("an answer")
            .status()
            .as_u16(),
        200
    );
    assert_eq!(
        server
            .request("GET", "/api/v1/things/x", "viewer")
            .send()
            .await
            .expect("an answer")
            .status()
            .as_u16(),
        200
    );
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_announced_or_not() {
    let server = serve(mount(edge(EdgeOptions {
        maximum_body_bytes: 100,
        ..EdgeOptions::default()
    })));
    let order = || {
        server
            .request("POST", ORDER, "user")
            .header("content-type", "application/json")
    };
    let fits = format!("{{\"count\":1,\"note\":\"{}\"}}", "x".repeat(79));
    assert_eq!(fits.len(), 100);
    assert_eq!(
        order()
            .body(fits.clone())
            .send()
            .await
            .expect("an answer")
            .status()
            .as_u16(),
        201
    );
    let announced = order()
        .body(format!("{fits} "))
        .send()
        .await
        .expect("an answer");
    assert_eq!(error_of(announced).await.1.code, ErrorCode::TooLarge);
    let chunks = futures::stream::iter((0..30).map(|_| Ok::<_, std::io::Error>("12345")));
    let streamed = order()
        .body(reqwest::Body::wrap_stream(chunks))
        .send()
        .await
        .expect("an answer");
    let (status, body) = error_of(streamed).await;
    assert_eq!(
        (status, body.message.as_str()),
        (413, "the body is larger than 100 bytes")
    );
}

#[tokio::test]
async fn a_body_that_trickles_in_is_given_up() {
    let server = serve(mount(edge(EdgeOptions {
        body_timeout: Duration::from_millis(200),
        ..EdgeOptions::default()
    })));
    let chunks = futures::StreamExt::chain(
        futures::stream::iter([Ok::<_, std::io::Error>("{")]),
        futures::stream::pending(),
    );
    let request = server
        .request("POST", ORDER, "user")
        .header("content-type", "application/json")
        .body(reqwest::Body::wrap_stream(chunks));
    let (_, body) = error_of(request.send().await.expect("an answer")).await;
    assert!(
        body.message.contains("did not arrive within 0.2 s"),
        "{}",
        body.message
    );
}

/// Writes what it is given and waits until the server closes.
async fn closed_after(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    bytes: &[u8],
) {
    stream
        .write_all(bytes)
        .await
        .expect("the server reads the first bytes");
    let mut rest = Vec::new();
    // Both an orderly end and a reset are fine; what counts is that it ends.
    let _ = within("the end of the connection", stream.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn peers_that_take_their_time_are_cut_off() {
    let options = ListenerOptions {
        handshake_timeout: Duration::from_millis(200),
        header_timeout: Duration::from_millis(200),
        ..ListenerOptions::api()
    };
    let server = serve_with(mount(edge(EdgeOptions::default())), options);
    // No handshake at all, and half of one.
    closed_after(
        TcpStream::connect(server.address)
            .await
            .expect("a connection"),
        b"",
    )
    .await;
    closed_after(
        TcpStream::connect(server.address)
            .await
            .expect("a connection"),
        b"\x16\x03\x01\x02",
    )
    .await;
    // A handshake, then nothing, half a method (which could still become HTTP/2), half a head.
    for start in [
        &b""[..],
        b"PRI",
        b"GET / HT",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-slow: ",
    ] {
        closed_after(server.connect().await.expect("a connection"), start).await;
    }
    // A whole request, then half of the next.
    closed_after(
        server.connect().await.expect("a connection"),
        b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\nGET / HT",
    )
    .await;
    // HTTP/2 that says hello and nothing more.
    closed_after(
        server.connect().await.expect("a connection"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    )
    .await;
    eventually("the end of all connections", || {
        server.connections.open() == 0
    })
    .await;
    assert_eq!(
        server
            .request("GET", "/api/v1/things/x", "viewer")
            .send()
            .await
            .expect("others are served")
            .status()
            .as_u16(),
        200
    );
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_cut_off() {
    let options = ListenerOptions {
        write_timeout: Duration::from_millis(200),
        ..ListenerOptions::api()
    };
    let server = serve_with(mount(edge(EdgeOptions::default())), options);
    let mut greedy = server.connect().await.expect("a connection");
    greedy.write_all(b"GET /api/v1/large HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer viewer\r\n\r\n").await.expect("a request");
    let mut first = [0; 15];
    greedy
        .read_exact(&mut first)
        .await
        .expect("the answer begins");
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    eventually("the end of the connection", || {
        server.connections.open() == 0
    })
    .await;
}

#[tokio::test]
async fn no_more_connections_than_allowed() {
    let options = ListenerOptions {
        maximum_connections: 2,
        ..ListenerOptions::api()
    };
    let server = serve_with(mount(edge(EdgeOptions::default())), options);
    let first = server.connect().await.expect("the first");
    let second = server.connect().await.expect("the second");
    server
        .connect()
        .await
        .expect_err("there is no room for a third");
    assert_eq!(server.connections.open(), 2);
    drop(first);
    eventually("the end of the first", || server.connections.open() == 1).await;
    let _third = server.connect().await.expect("there is room again");
    drop(second);
}

#[tokio::test]
async fn a_head_over_the_limit_is_refused() {
    let options = ListenerOptions {
        maximum_header_bytes: 8192,
        ..ListenerOptions::api()
    };
    let server = serve_with(mount(edge(EdgeOptions::default())), options);
    let large = server
        .request("GET", "/api/v1/things/x", "viewer")
        .header("x-large", "x".repeat(20_000))
        .send()
        .await;
    let status = large.map(|response| response.status().as_u16());
    assert!(!matches!(status, Ok(200)), "{status:?}");
    assert_eq!(
        server
            .request("GET", "/api/v1/things/x", "viewer")
            .send()
            .await
            .expect("others are served")
            .status()
            .as_u16(),
        200
    );
}
