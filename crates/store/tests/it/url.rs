//! The written forms of a database's address.

use supernode_store::DatabaseUrl;

#[test]
fn sqlite_forms() {
    for (text, shown) in [
        ("sqlite:state.db", "sqlite:state.db"),
        ("sqlite:/var/lib/state.db", "sqlite:/var/lib/state.db"),
        ("sqlite:///var/lib/state.db", "sqlite:/var/lib/state.db"),
        ("sqlite::memory:", "sqlite::memory:"),
    ] {
        assert_eq!(
            text.parse::<DatabaseUrl>()
                .expect("a good address")
                .to_string(),
            shown
        );
    }
    for text in [
        "sqlite:",
        "sqlite://a.db",
        "sqlite:a.db?mode=rwc",
        "sqlite::memory",
        "mysql://a/b",
        "a.db",
        "",
    ] {
        assert!(text.parse::<DatabaseUrl>().is_err(), "{text}");
    }
}

#[test]
fn no_message_has_the_password() {
    for text in [
        "postgres://admin:s3cret@db.example/supernode",
        "postgres://admin@db.example:6432/supernode?password=s3cret",
        "postgres://admin:x@s3cret@db.example/supernode",
        "postgres://admin:s3cret@db.example:s3cret/supernode",
        "postgres://admin:s3cret@db.example/supernode?sslmode=prefer",
        "postgres://admin@db.example/supernode?password=s3cret@x",
        "postgres://admin:s3cret@db.example/supernode?colour=blue",
    ] {
        let shown = match text.parse::<DatabaseUrl>() {
            Ok(url) => format!("{url} {url:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}

#[test]
fn a_connection_that_leaves_the_host_is_verified_unless_told_otherwise() {
    let is_verified = |text: &str| {
        let url = text.parse::<DatabaseUrl>().expect("a good address");
        url.is_verified()
    };
    for verified in [
        "postgres://a@db.example/n",
        "postgres://a@10.1.2.3/n",
        "postgres://a@localhost/n?sslmode=require",
        "postgres://a@localhost/n?sslmode=verify-full",
        "postgres://a@localhost,db.example/n",
        "postgres://a@localhost/n?sslrootcert=%2Fetc%2Fca.pem",
    ] {
        assert!(is_verified(verified), "{verified}");
    }
    for plain in [
        "postgres://a@localhost/n",
        "postgres://a@127.0.0.1:6432/n",
        "postgres://a@[::1]/n",
        "postgres://a@/n?host=/run/postgresql",
        "postgres:///n",
        "postgres://a@db.example/n?sslmode=disable",
        "sqlite:state.db",
    ] {
        assert!(!is_verified(plain), "{plain}");
    }
}
