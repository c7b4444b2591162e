//! TLS to `PostgreSQL`: the certificate and the name are verified, always.

use std::net::TcpListener;

use supernode_store::{DatabaseUrl, Store, StoreError, params, testing::PrivatePostgres};

use crate::fixture::options;

struct TlsServer {
    _server: PrivatePostgres,
    directory: tempfile::TempDir,
    port: u16,
}

fn start() -> TlsServer {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join("ca.pem"), cert.pem()).expect("a writable directory");
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("a free port")
        .port();
    let server = PrivatePostgres::start_with(&[
        ("file:server.crt", &cert.pem()),
        ("file:server.key", &signing_key.serialize_pem()),
        (
            "file:pg_hba.conf",
            "local all all trust\nhostssl all all 127.0.0.1/32 trust\n",
        ),
        ("ssl", "on"),
        ("listen_addresses", "127.0.0.1"),
        ("port", &port.to_string()),
    ])
    .unwrap_or_else(|error| panic!("{error}"));
    TlsServer {
        _server: server,
        directory,
        port,
    }
}

#[test]
fn a_verified_server_is_used_and_an_unverified_one_is_not() {
    let server = start();
    let authorities = server.directory.path().join("ca.pem");
    let open = |host: &str, options_text: &str| {
        let url: DatabaseUrl = format!(
            "postgres://postgres@{host}:{}/postgres?{options_text}",
            server.port
        )
        .parse()
        .expect("a good address");
        Store::open_with(&url, options())
    };
    let trusted = format!("sslmode=verify-full&sslrootcert={}", authorities.display());

    let store = open("localhost", &trusted).unwrap_or_else(|error| panic!("{error}"));
    let encrypted = store.read_inline("tls", |tx| {
        let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        tx.query_one(sql, params![])?.get::<bool>("ssl")
    });
    assert_eq!(encrypted, Ok::<_, StoreError>(true));

    let wrong_name = open("127.0.0.1", &trusted).expect_err("the certificate is for localhost");
    assert!(
        wrong_name.to_string().contains("not valid for name"),
        "{wrong_name}"
    );
    let unknown = open("localhost", "sslmode=require")
        .expect_err("the certificate is not signed by a known authority");
    assert!(
        unknown.to_string().contains("invalid peer certificate"),
        "{unknown}"
    );
    let plain = open("localhost", "").expect_err("this server takes no plain connections");
    assert!(matches!(plain, StoreError::Open { .. }), "{plain:?}");
    for written in ["/nowhere/ca.pem", "%2Fnowhere%2Fca.pem"] {
        let no_file = open("localhost", &format!("sslrootcert={written}"))
            .expect_err("there is no such file");
        assert!(
            no_file
                .to_string()
                .contains("sslrootcert /nowhere/ca.pem cannot be used"),
            "{no_file}"
        );
    }
}
