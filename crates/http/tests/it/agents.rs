//! The agent port: enrolment, renewal and the sync connection, over real mutual TLS.

use std::sync::Arc;
use std::time::Duration;

use supernode_api::agent::{Desired, DesiredRank, ENROL_PATH, EnrolResponse, FromAgent, MAXIMUM_FRAME_BYTES, RENEW_PATH, RankWish, SYNC_PATH, ToAgent};
use supernode_api::{ErrorBody, ErrorCode};
use supernode_http::{AgentOptions, EdgeOptions, ListenerOptions, node_identity};
use supernode_types::agent::EnvironmentWish;
use supernode_types::entropy::SystemEntropy;
use supernode_types::{AttemptId, JobId, Timestamp};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::agents_toy::{AgentServer, HELD, Identity, LIFETIME, REFUSED, agent_server, ended, new_request};
use crate::support::{Certified, edge, error_of, eventually, within};
use crate::toy;

fn server() -> AgentServer {
    agent_server(AgentOptions::default())
}

fn acknowledged(sequence: u64) -> ToAgent {
    ToAgent::Acknowledge { sequence, fence_seconds: 5, interval_milliseconds: 1000 }
}

/// The answer of a refused upgrade.
fn refusal(result: Result<crate::agents_toy::Agent, tungstenite::Error>) -> ErrorBody {
    match result {
        Err(tungstenite::Error::Http(response)) => {
            let body: ErrorBody = serde_json::from_slice(response.body().as_deref().unwrap_or_default()).expect("an error body");
            assert_eq!(response.status().as_u16(), body.code.status());
            body
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the connection was not refused"),
    }
}

#[tokio::test]
async fn a_node_enrols_syncs_and_renews() {
    let server = server();
    let identity = server.enrolled().await;
    assert_eq!(server.port.sources.lock().expect("no holder panics")[..], ["127.0.0.1".parse::<std::net::IpAddr>().expect("an address")]);
    let mut agent = server.try_sync(Some(&identity)).await.expect("a connection");
    agent.sync(1).await;
    assert_eq!(agent.receive().await, acknowledged(1));
    agent.send(r#"{"type":"sync","sequence":2,"stored_generation":0,"invented_later":[1]}"#).await;
    assert_eq!(agent.receive().await, acknowledged(2), "unknown fields are ignored");
    agent.send(r#"{"type":"log","request":9,"result":{"Err":"gone"}}"#).await;
    agent.sync(3).await;
    assert_eq!(agent.receive().await, acknowledged(3));
    let link = server.port.links.lock().expect("no holder panics")[0].clone();
    {
        let received = link.received.lock().expect("no holder panics");
        assert!(matches!(received[..], [FromAgent::Sync(_), FromAgent::Sync(_), FromAgent::Log(_), FromAgent::Sync(_)]), "{received:?}");
    }

    let (key, request) = new_request();
    let bundle = format!("{}{}", identity.certificate, identity.key);
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only(reqwest::Certificate::from_pem_bundle(server.certified.authority.certificate_pem().as_bytes()).expect("a certificate"))
        .identity(reqwest::Identity::from_pem(bundle.as_bytes()).expect("an identity"))
        .build()
        .expect("a valid configuration");
    let body = serde_json::json!({"certificate_request": request}).to_string();
    let renew = || client.post(server.server.url(RENEW_PATH)).header("content-type", "application/json").body(body.clone()).send();
    let response = renew().await.expect("an answer");
    assert_eq!(response.status().as_u16(), 200);
    let renewed: EnrolResponse = serde_json::from_str(&response.text().await.expect("a body")).expect("a certificate");
    assert_eq!(renewed.node, link.identity.node);
    let next = Identity { certificate: renewed.certificate, key: key.serialize_pem() };
    let der = CertificateDer::from_pem_slice(next.certificate.as_bytes()).expect("a certificate");
    assert_ne!(node_identity(&der).expect("a node's").serial, link.identity.serial);
    let mut again = server.try_sync(Some(&next)).await.expect("a connection");
    again.sync(1).await;
    assert_eq!(again.receive().await, acknowledged(1));

    // Revoked: present connections are closed by whoever revokes, and nothing new is possible.
    server.port.revoked.lock().expect("no holder panics").insert(link.identity.serial.clone());
    link.close.cancel();
    let (code, reason) = agent.closed().await;
    assert_eq!((code, reason.as_str()), (1008, "the server closed this connection: the node is no longer welcome on it"));
    assert!(refusal(server.try_sync(Some(&identity)).await).message.contains("was revoked"));
    assert_eq!(error_of(renew().await.expect("an answer")).await.1.code, ErrorCode::Forbidden);
}

#[tokio::test]
async fn only_a_certificate_of_ours_opens_the_port() {
    let server = server();
    let body = refusal(server.try_sync(None).await);
    assert_eq!((body.code, body.message.as_str()), (ErrorCode::Unauthenticated, "this needs the node's client certificate; enrol the node first"));
    let response = server.post(RENEW_PATH, &serde_json::json!({"certificate_request": "x"})).await;
    assert_eq!(error_of(response).await.1.code, ErrorCode::Unauthenticated);

    // Another authority's certificate does not even finish the handshake.
    let strange = agent_server(AgentOptions::default()).enrolled().await;
    let refused = server.try_sync(Some(&strange)).await.err().expect("refused");
    assert!(!matches!(refused, tungstenite::Error::Http(_)), "{refused}");
    // Nor does a certificate that this authority made for a server.
    let made = tempfile::tempdir().expect("a temporary directory");
    let authority = supernode_http::Authority::load_or_create(made.path(), Timestamp(1_700_000_000_000_000)).expect("an authority");
    authority.server_certificate(&["localhost".to_owned()], Timestamp(1_700_000_000_000_000)).expect("a certificate");
    let pem = std::fs::read_to_string(made.path().join("server.pem")).expect("readable");
    assert!(server.try_sync(Some(&Identity { certificate: pem.clone(), key: pem })).await.is_err());

    // Nor does one that has ended.
    let identity = server.enrolled().await;
    server.try_sync(Some(&identity)).await.expect("it is good now");
    server.certified.clock.advance(LIFETIME + Duration::from_secs(1));
    let refused = server.try_sync(Some(&identity)).await.err().expect("refused");
    assert!(!matches!(refused, tungstenite::Error::Http(_)), "{refused}");
}

#[tokio::test]
async fn the_api_listener_knows_no_client_certificates() {
    let server = server();
    let identity = server.enrolled().await;
    let routes = toy::mount(edge(EdgeOptions::default())).into_router();
    let api = server.certified.serve(routes, server.certified.tls.api(), ListenerOptions::api());
    let config = server.certified.client_config(Some((&identity.certificate, &identity.key)));
    let stream = crate::support::connect(api.address, config).await.expect("a connection");
    assert!(stream.get_ref().1.handshake_kind().is_some());
    let answer = api.client.get(api.url("/api/v1/things/x")).send().await.expect("an answer");
    assert_eq!(error_of(answer).await.1.code, ErrorCode::Unauthenticated);
}

#[tokio::test]
async fn wrong_requests_get_error_bodies() {
    let server = server();
    let response = server.post(ENROL_PATH, &serde_json::json!({"join_token": 1})).await;
    assert!(error_of(response).await.1.message.contains("join_token: invalid type: integer `1`, expected a string"));
    let response = server.post_enrol("good", "nonsense").await;
    assert!(error_of(response).await.1.message.contains("send a PKCS#10 request in PEM"));
    let response = server.post_enrol("bad", "nonsense").await;
    assert_eq!(error_of(response).await.1.code, ErrorCode::Unauthenticated);
    let response = server.post_enrol("good", &"x".repeat(65_000)).await;
    assert_eq!(error_of(response).await.1.code, ErrorCode::TooLarge);
    let client = &server.server.client;
    let get = async |path: &str| error_of(client.get(server.server.url(path)).send().await.expect("an answer")).await.1.code;
    assert_eq!(get(ENROL_PATH).await, ErrorCode::MethodNotAllowed);
    assert_eq!(get("/api/v1/system").await, ErrorCode::NotFound, "nothing of the API is on this port");
    let untyped = client.post(server.server.url(ENROL_PATH)).body("{}").send().await.expect("an answer");
    assert_eq!(error_of(untyped).await.1.code, ErrorCode::UnsupportedMediaType);

    let identity = server.enrolled().await;
    let bundle = format!("{}{}", identity.certificate, identity.key);
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only(reqwest::Certificate::from_pem_bundle(server.certified.authority.certificate_pem().as_bytes()).expect("a certificate"))
        .identity(reqwest::Identity::from_pem(bundle.as_bytes()).expect("an identity"))
        .build()
        .expect("a valid configuration");
    let (_, body) = error_of(client.get(server.server.url(SYNC_PATH)).send().await.expect("an answer")).await;
    assert!(body.message.starts_with("this path is a WebSocket: "), "{}", body.message);
}

#[tokio::test]
async fn failed_enrolments_are_rationed_and_good_ones_are_not() {
    let server = agent_server(AgentOptions { enrol_burst: 2, enrol_refill: Duration::from_mins(10), ..AgentOptions::default() });
    for _ in 0..4 {
        server.enrolled().await;
    }
    for _ in 0..2 {
        assert_eq!(error_of(server.post_enrol("guess", "x").await).await.1.code, ErrorCode::Unauthenticated);
    }
    let refused = server.post_enrol("good", "x").await;
    let wait: u64 = refused.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((590..=600).contains(&wait), "{wait}");
    let (status, body) = error_of(refused).await;
    assert_eq!((status, body.code), (429, ErrorCode::TooManyRequests));
    assert_eq!(server.port.sources.lock().expect("no holder panics").len(), 6, "the last attempt did not reach the port");
    server.certified.clock.advance(Duration::from_mins(10));
    server.enrolled().await;
}

#[tokio::test]
async fn wrong_frames_close_the_connection_with_a_reason() {
    let server = server();
    let cases: [(Message, u16, &str); 4] = [
        (Message::text("{"), 1007, "the message cannot be read: EOF"),
        (Message::text(r#"{"type":"sync","sequence":"one"}"#), 1007, "the message cannot be read: invalid type"),
        (Message::binary(vec![1, 2]), 1003, "messages are JSON in text frames"),
        (Message::text(format!(r#"{{"type":"sync","sequence":{REFUSED},"stored_generation":0}}"#)), 1008, "this node is another incarnation"),
    ];
    for (frame, code, reason) in cases {
        let (mut agent, link) = server.synced().await;
        futures::SinkExt::send(&mut agent.0, frame).await.expect("the server reads");
        let closed = agent.closed().await;
        assert!(closed.0 == code && closed.1.starts_with(reason), "{closed:?} instead of {code} {reason}");
        ended(&link).await;
    }
    // Too long for a frame: whatever the agent can still read, the session ends.
    let (mut agent, link) = server.synced().await;
    let _ = futures::SinkExt::send(&mut agent.0, Message::text("x".repeat(MAXIMUM_FRAME_BYTES + 1))).await;
    ended(&link).await;
    // The largest frame passes.
    let (mut agent, _link) = server.synced().await;
    let padding = " ".repeat(MAXIMUM_FRAME_BYTES - 52);
    let text = format!(r#"{{"type":"sync","sequence":7,"stored_generation":0{padding}}}"#);
    assert!((MAXIMUM_FRAME_BYTES - 8..=MAXIMUM_FRAME_BYTES).contains(&text.len()), "{}", text.len());
    agent.send(text).await;
    assert_eq!(agent.receive().await, acknowledged(7));
}

#[tokio::test]
async fn silent_agents_are_closed() {
    let server = agent_server(AgentOptions { idle_timeout: Duration::from_millis(300), ..AgentOptions::default() });
    let (mut agent, link) = server.synced().await;
    let (code, reason) = agent.closed().await;
    assert_eq!((code, reason.as_str()), (1008, "no message for 0.3 s"));
    ended(&link).await;
    // An agent whose message is still being handled is not silent.
    let (mut agent, link) = server.synced().await;
    agent.sync(HELD).await;
    eventually("the message", || link.received.lock().expect("no holder panics").len() == 1).await;
    let started = tokio::time::Instant::now();
    eventually("longer than the idle timeout", || started.elapsed() > Duration::from_millis(600)).await;
    server.port.held.add_permits(1);
    assert_eq!(agent.receive().await, acknowledged(HELD));
    assert_eq!(agent.closed().await.0, 1008);
}

fn large() -> ToAgent {
    let now = Timestamp(0);
    let wish = RankWish::Stop { grace_milliseconds: 0, why: "x".repeat(1024 * 1024) };
    let rank = DesiredRank { attempt: AttemptId::new(now, &SystemEntropy), job: JobId::new(now, &SystemEntropy), rank: 0, boot_id: String::new(), wish };
    ToAgent::Desired(Box::new(Desired { generation: 1, environment: EnvironmentWish::Clean, ranks: vec![rank] }))
}

#[tokio::test]
async fn agents_that_do_not_read_are_cut_off() {
    let server = agent_server(AgentOptions { send_timeout: Duration::from_millis(300), ..AgentOptions::default() });
    let (_agent, link) = server.synced().await;
    within("the end of the queue", async { while link.outgoing.send(large()).await.is_ok() {} }).await;
    ended(&link).await;
    eventually("the end of the connection", || server.sockets.open() == 0).await;
}

#[tokio::test]
async fn messages_are_sent_while_one_is_handled() {
    let server = server();
    let (mut agent, link) = server.synced().await;
    agent.sync(HELD).await;
    agent.sync(1).await;
    eventually("the first message", || link.received.lock().expect("no holder panics").len() == 1).await;
    // More than the queue holds, so that the session's own acknowledgement has to wait for room.
    let sender = { let outgoing = link.outgoing.clone(); tokio::spawn(async move { for _ in 0..20 { outgoing.send(large()).await.expect("it is open"); } }) };
    server.port.held.add_permits(1);
    let mut acknowledgements = Vec::new();
    let mut desired = 0;
    while desired < 20 || acknowledgements.len() < 2 {
        match agent.receive().await {
            ToAgent::Desired(_) => desired += 1,
            message => acknowledgements.push(message),
        }
    }
    sender.await.expect("no panic");
    assert_eq!(acknowledgements, [acknowledged(HELD), acknowledged(1)]);
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate_its_agent_or_the_server() {
    let server = server();
    let (mut agent, link) = server.synced().await;
    server.certified.clock.advance(LIFETIME + Duration::from_secs(1));
    agent.sync(1).await;
    let (code, reason) = agent.closed().await;
    assert!(code == 1008 && reason.starts_with("the node's certificate ended at "), "{code} {reason}");
    ended(&link).await;
    assert!(link.received.lock().expect("no holder panics").is_empty(), "what came after the end does not count");

    let (agent, link) = server.synced().await;
    drop(agent);
    ended(&link).await;

    let (mut agent, link) = server.synced().await;
    assert_eq!(server.server.connections.open(), 1 + usize::from(server.sockets.open() > 1), "the socket counts as a connection");
    server.shutdown.cancel();
    let (code, reason) = agent.closed().await;
    assert_eq!((code, reason.as_str()), (1001, "the server ends; connect again"));
    ended(&link).await;
    server.server.shutdown.cancel();
    within("the end of all sockets", server.sockets.ended()).await;
    within("the end of the server", server.server.task).await.expect("no panic").expect("an orderly end");
}

#[tokio::test]
async fn a_handshake_is_needed_for_each_connection() {
    let server = server();
    let identity = server.enrolled().await;
    let config = server.certified.client_config(Some((&identity.certificate, &identity.key)));
    for _ in 0..2 {
        let stream = crate::support::connect(server.server.address, Arc::clone(&config)).await.expect("a connection");
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
        let (mut socket, _) = tokio_tungstenite::client_async(format!("wss://localhost{SYNC_PATH}"), stream).await.expect("a connection");
        // Reads, so that a ticket would have been seen.
        futures::SinkExt::send(&mut socket, Message::text(r#"{"type":"sync","sequence":1,"stored_generation":0}"#)).await.expect("sent");
        within("an answer", futures::StreamExt::next(&mut socket)).await.expect("one").expect("a frame");
    }
}

#[test]
fn certified_servers_are_independent() {
    assert_ne!(Certified::new().authority.fingerprint(), Certified::new().authority.fingerprint());
}
