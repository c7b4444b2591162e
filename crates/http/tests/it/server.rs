//! Listeners: binding, TLS, shutdown.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use supernode_http::{EdgeOptions, Listener, ListenerOptions, ServeError};
use supernode_types::Clock;

use crate::support::{Certified, connect, edge, eventually, serve, within};
use crate::toy::{Gate, mount};

#[tokio::test]
async fn a_taken_port_is_an_error_at_start() {
    let first = Listener::bind(
        "127.0.0.1:0".parse().expect("an address"),
        ListenerOptions::api(),
    )
    .expect("a free port");
    assert_ne!(first.address().port(), 0);
    let error = Listener::bind(first.address(), ListenerOptions::api()).expect_err("it is taken");
    assert!(
        matches!(error, ServeError::Bind { address, .. } if address == first.address()),
        "{error}"
    );
}

#[tokio::test]
async fn running_requests_end_before_the_server_does() {
    let (edge, gate) = Gate::mount(edge(EdgeOptions::default()));
    let server = serve(edge);
    let request = tokio::spawn(server.request("POST", "/api/v1/wait", "user").send());
    eventually("the start of the handler", || gate.started() == 1).await;
    server.shutdown.cancel();
    // The listener is closed before the request is done.
    within("the listener's end", async {
        while tokio::net::TcpStream::connect(server.address).await.is_ok() {}
    })
    .await;
    gate.open_for_one();
    assert_eq!(
        request
            .await
            .expect("no panic")
            .expect("an answer")
            .status()
            .as_u16(),
        200
    );
    within("the server's end", server.task)
        .await
        .expect("no panic")
        .expect("an orderly end");
}

fn client_config(
    certified: &Certified,
    change: impl FnOnce(&mut rustls::ClientConfig),
) -> Arc<rustls::ClientConfig> {
    let mut config = (*certified.client_config(None)).clone();
    change(&mut config);
    Arc::new(config)
}

#[tokio::test]
async fn the_api_listener_speaks_tls_1_3_and_both_http_versions() {
    let certified = Certified::new();
    let server = certified.serve(
        mount(edge(EdgeOptions::default())).into_router(),
        certified.tls.api(),
        ListenerOptions::api(),
    );
    for (offered, chosen) in [
        (vec!["h2", "http/1.1"], "h2"),
        (vec!["http/1.1"], "http/1.1"),
    ] {
        let config = client_config(&certified, |config| {
            config.alpn_protocols = offered
                .iter()
                .map(|name| name.as_bytes().to_vec())
                .collect();
        });
        let stream = connect(server.address, config).await.expect("a connection");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(chosen.as_bytes()));
        assert_eq!(
            stream.get_ref().1.protocol_version(),
            Some(rustls::ProtocolVersion::TLSv1_3)
        );
    }
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from(
            certified.authority.certificate_der().to_vec(),
        ))
        .expect("a valid root");
    let old = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_protocol_versions(&[&rustls::version::TLS12])
    .expect("the provider has it")
    .with_root_certificates(roots)
    .with_no_client_auth();
    connect(server.address, Arc::new(old))
        .await
        .expect_err("TLS 1.2 is refused");
}

#[tokio::test]
async fn the_certificate_is_replaced_while_listening() {
    let certified = Certified::new();
    let server = certified.serve(
        mount(edge(EdgeOptions::default())).into_router(),
        certified.tls.api(),
        ListenerOptions::api(),
    );
    let shown = async || {
        let stream = connect(server.address, certified.client_config(None))
            .await
            .expect("a connection");
        stream
            .get_ref()
            .1
            .peer_certificates()
            .expect("the server's certificate")[0]
            .to_vec()
    };
    let before = shown().await;
    let names = ["127.0.0.1".to_owned(), "other.example.org".to_owned()];
    let certificate = certified
        .authority
        .server_certificate(&names, certified.clock.now())
        .expect("a new certificate");
    certified
        .tls
        .replace_certificate(&certificate)
        .expect("a usable certificate");
    let after = shown().await;
    assert_ne!(before, after);
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
