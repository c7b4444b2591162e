//! The agent port: who may enrol, renew and connect, over real mutual TLS.

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use supernode_api::agent::{ENROL_PATH, EnrolResponse, FromAgent, RENEW_PATH, SYNC_PATH};
use supernode_api::{ErrorBody, ErrorCode};
use supernode_http::{AgentOptions, EdgeOptions, ListenerOptions, node_identity};
use supernode_types::Timestamp;
use tokio_tungstenite::tungstenite;

use crate::agents_toy::{Identity, LIFETIME, acknowledged, agent_server, new_request, server};
use crate::support::{Certified, edge, error_of};
use crate::toy;

/// The answer of a refused upgrade.
fn refusal(result: Result<crate::agents_toy::Agent, tungstenite::Error>) -> ErrorBody {
    match result {
        Err(tungstenite::Error::Http(response)) => {
            let body: ErrorBody =
                serde_json::from_slice(response.body().as_deref().unwrap_or_default())
                    .expect("an error body");
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
    assert_eq!(
        server.port.sources.lock().expect("no holder panics")[..],
        ["127.0.0.1".parse::<std::net::IpAddr>().expect("an address")]
    );
    let mut agent = server
        .try_sync(Some(&identity))
        .await
        .expect("a connection");
    agent.sync(1).await;
    assert_eq!(agent.receive().await, acknowledged(1));
    agent
        .send(r#"{"type":"sync","sequence":2,"stored_generation":0,"invented_later":[1]}"#)
        .await;
    assert_eq!(
        agent.receive().await,
        acknowledged(2),
        "unknown fields are ignored"
    );
    agent
        .send(r#"{"type":"log","request":9,"result":{"Err":"gone"}}"#)
        .await;
    agent.sync(3).await;
    assert_eq!(agent.receive().await, acknowledged(3));
    let link = server.port.links.lock().expect("no holder panics")[0].clone();
    {
        let received = link.received.lock().expect("no holder panics");
        assert!(
            matches!(
                received[..],
                [
                    FromAgent::Sync(_),
                    FromAgent::Sync(_),
                    FromAgent::Log(_),
                    FromAgent::Sync(_)
                ]
            ),
            "{received:?}"
        );
    }

    let (key, request) = new_request();
    let bundle = format!("{}{}", identity.certificate, identity.key);
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only(
            reqwest::Certificate::from_pem_bundle(
                server.certified.authority.certificate_pem().as_bytes(),
            )
            .expect("a certificate"),
        )
        .identity(reqwest::Identity::from_pem(bundle.as_bytes()).expect("an identity"))
        .build()
        .expect("a valid configuration");
    let body = serde_json::json!({"certificate_request": request}).to_string();
    let renew = || {
        client
            .post(server.server.url(RENEW_PATH))
            .header("content-type", "application/json")
            .body(body.clone())
            .send()
    };
    let response = renew().await.expect("an answer");
    assert_eq!(response.status().as_u16(), 200);
    let renewed: EnrolResponse =
        serde_json::from_str(&response.text().await.expect("a body")).expect("a certificate");
    assert_eq!(renewed.node, link.identity.node);
    let next = Identity {
        certificate: renewed.certificate,
        key: key.serialize_pem(),
    };
    let der = CertificateDer::from_pem_slice(next.certificate.as_bytes()).expect("a certificate");
    assert_ne!(
        node_identity(&der).expect("a node's").serial,
        link.identity.serial
    );
    let mut again = server.try_sync(Some(&next)).await.expect("a connection");
    again.sync(1).await;
    assert_eq!(again.receive().await, acknowledged(1));

    // Revoked: present connections are closed by whoever revokes, and nothing new is possible.
    server
        .port
        .revoked
        .lock()
        .expect("no holder panics")
        .insert(link.identity.serial.clone());
    link.close.cancel();
    let (code, reason) = agent.closed().await;
    assert_eq!(
        (code, reason.as_str()),
        (
            1008,
            "the server closed this connection: the node is no longer welcome on it"
        )
    );
    assert!(
        refusal(server.try_sync(Some(&identity)).await)
            .message
            .contains("was revoked")
    );
    assert_eq!(
        error_of(renew().await.expect("an answer")).await.1.code,
        ErrorCode::Forbidden
    );
}

#[tokio::test]
async fn only_a_certificate_of_ours_opens_the_port() {
    let server = server();
    let body = refusal(server.try_sync(None).await);
    assert_eq!(
        (body.code, body.message.as_str()),
        (
            ErrorCode::Unauthenticated,
            "this needs the node's client certificate; enrol the node first"
        )
    );
    let response = server
        .post(RENEW_PATH, &serde_json::json!({"certificate_request": "x"}))
        .await;
    assert_eq!(error_of(response).await.1.code, ErrorCode::Unauthenticated);

    // Another authority's certificate does not even finish the handshake.
    let strange = agent_server(AgentOptions::default()).enrolled().await;
    let refused = server
        .try_sync(Some(&strange))
        .await
        .err()
        .expect("refused");
    assert!(!matches!(refused, tungstenite::Error::Http(_)), "{refused}");
    // Nor does a certificate that this authority made for a server.
    let made = tempfile::tempdir().expect("a temporary directory");
    let authority =
        supernode_http::Authority::load_or_create(made.path(), Timestamp(1_700_000_000_000_000))
            .expect("an authority");
    authority
        .server_certificate(&["localhost".to_owned()], Timestamp(1_700_000_000_000_000))
        .expect("a certificate");
    let pem = std::fs::read_to_string(made.path().join("server.pem")).expect("readable");
    assert!(
        server
            .try_sync(Some(&Identity {
                certificate: pem.clone(),
                key: pem
            }))
            .await
            .is_err()
    );

    // Nor does one that has ended.
    let identity = server.enrolled().await;
    server
        .try_sync(Some(&identity))
        .await
        .expect("it is good now");
    server
        .certified
        .clock
        .advance(LIFETIME + Duration::from_secs(1));
    let refused = server
        .try_sync(Some(&identity))
        .await
        .err()
        .expect("refused");
    assert!(!matches!(refused, tungstenite::Error::Http(_)), "{refused}");
}

#[tokio::test]
async fn the_api_listener_knows_no_client_certificates() {
    let server = server();
    let identity = server.enrolled().await;
    let routes = toy::mount(edge(EdgeOptions::default())).into_router();
    let api = server
        .certified
        .serve(routes, server.certified.tls.api(), ListenerOptions::api());
    let config = server
        .certified
        .client_config(Some((&identity.certificate, &identity.key)));
    let stream = crate::support::connect(api.address, config)
        .await
        .expect("a connection");
    assert!(stream.get_ref().1.handshake_kind().is_some());
    let answer = api
        .client
        .get(api.url("/api/v1/things/x"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(error_of(answer).await.1.code, ErrorCode::Unauthenticated);
}

#[tokio::test]
async fn wrong_requests_get_error_bodies() {
    let server = server();
    let response = server
        .post(ENROL_PATH, &serde_json::json!({"join_token": 1}))
        .await;
    assert!(
        error_of(response)
            .await
            .1
            .message
            .contains("join_token: invalid type: integer `1`, expected a string")
    );
    let response = server.post_enrol("good", "nonsense").await;
    assert!(
        error_of(response)
            .await
            .1
            .message
            .contains("send a PKCS#10 request in PEM")
    );
    let response = server.post_enrol("bad", "nonsense").await;
    assert_eq!(error_of(response).await.1.code, ErrorCode::Unauthenticated);
    let response = server.post_enrol("good", &"x".repeat(66_000)).await;
    assert_eq!(error_of(response).await.1.code, ErrorCode::TooLarge);
    let client = &server.server.client;
    let get = async |path: &str| {
        error_of(
            client
                .get(server.server.url(path))
                .send()
                .await
                .expect("an answer"),
        )
        .await
        .1
        .code
    };
    assert_eq!(get(ENROL_PATH).await, ErrorCode::MethodNotAllowed);
    assert_eq!(
        get("/api/v1/system").await,
        ErrorCode::NotFound,
        "nothing of the API is on this port"
    );
    let untyped = client
        .post(server.server.url(ENROL_PATH))
        .body("{}")
        .send()
        .await
        .expect("an answer");
    assert_eq!(
        error_of(untyped).await.1.code,
        ErrorCode::UnsupportedMediaType
    );

    let identity = server.enrolled().await;
    let bundle = format!("{}{}", identity.certificate, identity.key);
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only(
            reqwest::Certificate::from_pem_bundle(
                server.certified.authority.certificate_pem().as_bytes(),
            )
            .expect("a certificate"),
        )
        .identity(reqwest::Identity::from_pem(bundle.as_bytes()).expect("an identity"))
        .build()
        .expect("a valid configuration");
    let (_, body) = error_of(
        client
            .get(server.server.url(SYNC_PATH))
            .send()
            .await
            .expect("an answer"),
    )
    .await;
    assert!(
        body.message.starts_with("this path is a WebSocket: "),
        "{}",
        body.message
    );
}

#[tokio::test]
async fn failed_enrolments_are_rationed_and_good_ones_are_not() {
    let server = agent_server(AgentOptions {
        enrol_burst: 2,
        enrol_refill: Duration::from_mins(10),
        ..AgentOptions::default()
    });
    for _ in 0..4 {
        server.enrolled().await;
    }
    for _ in 0..2 {
        assert_eq!(
            error_of(server.post_enrol("guess", "x").await).await.1.code,
            ErrorCode::Unauthenticated
        );
    }
    let refused = server.post_enrol("good", "x").await;
    let wait: u64 = refused.headers()["retry-after"]
        .to_str()
        .expect("text")
        .parse()
        .expect("seconds");
    assert!((590..=600).contains(&wait), "{wait}");
    let (status, body) = error_of(refused).await;
    assert_eq!((status, body.code), (429, ErrorCode::TooManyRequests));
    assert_eq!(
        server.port.sources.lock().expect("no holder panics").len(),
        6,
        "the last attempt did not reach the port"
    );
    server.certified.clock.advance(Duration::from_mins(10));
    server.enrolled().await;
}

#[test]
fn certified_servers_are_independent() {
    assert_ne!(
        Certified::new().authority.fingerprint(),
        Certified::new().authority.fingerprint()
    );
}
