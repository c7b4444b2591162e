//! Real sockets: what is connected to, what is not, and what is never followed or said.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::body::sample;

/// Answers one request with `answer`; says what was asked.
async fn serve(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), answer: &str) -> String {
    let mut asked = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        asked.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&asked);
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.parse::<usize>().ok());
        let whole = text.split_once("\r\n\r\n").zip(length);
        if read == 0 || whole.is_some_and(|((_, body), length)| body.len() >= length) {
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
            return text.into_owned();
        }
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn delivery(kind: &str, url: &str) -> Delivery {
    sample::delivery(sample::target(kind, url))
}

fn why(delivered: Delivered) -> String {
    match delivered {
        Delivered::Later { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_message_arrives_and_the_answer_is_read() {
    let (listener, address) = listener().await;
    let delivery = delivery(
        "dingtalk",
        &format!("http://{address}/robot?access_token=t"),
    );
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        serve(
            &mut stream,
            &ok(r#"{"errcode":310000,"errmsg":"keywords not in content"}"#),
        )
        .await
    };
    let (delivered, asked) = tokio::join!(deliver(&delivery), server);
    assert_eq!(
        why(delivered),
        "it answered 310000: keywords not in content"
    );
    assert!(
        asked.starts_with("POST /robot?access_token=t&timestamp=1763900100000&sign="),
        "{asked}"
    );
    assert!(
        asked.contains("idempotency-key: channel-01kb000000000000000000000a.7"),
        "{asked}"
    );
    assert!(asked.contains("\"msgtype\":\"text\""), "{asked}");
}

#[tokio::test]
async fn nothing_is_sent_to_a_private_address_unless_it_may() {
    let (listener, address) = listener().await;
    for host in [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "[::ffff:127.0.0.1]",
    ] {
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{host}:{}/canary", address.port());
            let mut delivery = delivery("slack", &url);
            delivery.channel.terms.private_addresses = PrivateAddresses::Refused;
            let why = why(deliver(&delivery).await);
            assert!(
                why.contains("an address of this machine or of a private network"),
                "{url}: {why}"
            );
            assert!(!why.contains("canary"), "{why}");
            let checked = check(&delivery.target, &delivery.channel.terms);
            // What a name stands for is looked at when it is connected to.
            assert_eq!(
                checked.is_err(),
                scheme == "http" || host != "localhost",
                "{url}"
            );
        }
    }
    let nobody = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(nobody.is_err(), "nobody connected");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (listener, address) = listener().await;
    let (other, elsewhere) = self::listener().await;
    let delivery = delivery("slack", &format!("http://{address}/"));
    let answer =
        format!("HTTP/1.1 307 Go\r\nlocation: http://{elsewhere}/\r\ncontent-length: 0\r\n\r\n");
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        serve(&mut stream, &answer).await
    };
    let (delivered, _) = tokio::join!(deliver(&delivery), server);
    assert!(why(delivered).starts_with("it answered 307: redirects are not followed"));
    let nobody = tokio::time::timeout(Duration::from_millis(50), other.accept()).await;
    assert!(nobody.is_err(), "nobody connected");
}

#[tokio::test]
async fn a_name_is_connected_to_where_it_was_seen_to_lead() {
    // A client resolves the name no second time: here it would lead nowhere.
    let (listener, address) = listener().await;
    let url: Url = format!("http://rebound.invalid:{}/", address.port())
        .parse()
        .expect("a URL");
    let client = client(&url, &[address], None).expect("a client");
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        serve(&mut stream, &ok("ok")).await
    };
    let (response, asked) = tokio::join!(client.post(url).body("x").send(), server);
    assert!(response.is_ok());
    assert!(asked.contains("host: rebound.invalid:"), "{asked}");
}

/// An authority, and a server's configuration with a certificate of it for `localhost`.
fn authority() -> (String, Arc<ServerConfig>) {
    let key = KeyPair::generate().expect("a key");
    let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = parameters.self_signed(&key).expect("a certificate").pem();
    let issuer = Issuer::new(parameters, key);
    let server_key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .expect("parameters")
        .signed_by(&server_key, &issuer)
        .expect("a certificate");
    let key = PrivateKeyDer::try_from(server_key.serialize_der()).expect("a key");
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a configuration");
    (pem, Arc::new(config))
}

#[tokio::test]
async fn a_server_is_trusted_through_the_authority_of_its_channel_alone() {
    let (ours, config) = authority();
    let (theirs, _) = authority();
    let (listener, address) = listener().await;
    let acceptor = TlsAcceptor::from(config);
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            if let Ok(mut stream) = acceptor.accept(stream).await {
                serve(&mut stream, &ok("ok")).await;
            }
        }
    });
    let url = format!("https://localhost:{}/services/T/B/canary", address.port());
    let mut delivery = delivery("slack", &url);
    delivery.channel.terms.ca_pem = Some(ours);
    assert_eq!(deliver(&delivery).await, Delivered::Accepted);
    assert_eq!(
        check(&delivery.target, &delivery.channel.terms),
        Ok(format!("https://localhost:{}/…", address.port()))
    );
    for other in [Some(theirs), None] {
        delivery.channel.terms.ca_pem = other;
        let why = why(deliver(&delivery).await);
        assert!(why.contains("certificate"), "{why}");
        assert!(!why.contains("canary"), "{why}");
    }
    delivery.channel.terms.ca_pem = Some("no certificate".into());
    assert!(check(&delivery.target, &delivery.channel.terms).is_err());
    server.abort();
}
