//! Messages that arrive: a real HTTPS receiver that fails, hangs and sees the server killed; a real mail server; a real Alertmanager.

mod alertmanager;
mod mail;
mod receiver;

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;

use crate::harness::Dev;
use receiver::{Receiver, Reply};

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// An authority, and a certificate of it for `localhost` with its key, all PEM.
struct Identity {
    ca: String,
    certificate: String,
    key: String,
}

fn identity() -> Identity {
    let ca_key = KeyPair::generate().expect("a key");
    let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = parameters
        .self_signed(&ca_key)
        .expect("a certificate")
        .pem();
    let issuer = Issuer::new(parameters, ca_key);
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .expect("parameters")
        .signed_by(&key, &issuer)
        .expect("a certificate");
    Identity {
        ca,
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    }
}

/// Writes a file for a command; answers its path.
fn file(dev: &Dev, name: &str, content: &str) -> PathBuf {
    let path = dev.path().join(name);
    fs::write(&path, content).expect("own directory");
    path
}

/// Makes a channel with these options beside the usual ones of tests.
fn make(dev: &Dev, name: &str, words: &[&str]) {
    let mut all = vec![
        "channel",
        "create",
        name,
        "--allow-private-addresses",
        "--digest",
        "1s",
    ];
    all.extend(words);
    dev.ok(&all);
}

/// A run that is cancelled, which its channels are told: `stress.incomplete`.
fn cancelled_run(dev: &Dev, channels: &str) -> String {
    let run = dev.json(&[
        "stress",
        "run",
        "--node",
        "node-1",
        "--items",
        "compute",
        "--kernel-seconds",
        "120",
        "--notify",
        channels,
    ]);
    let run = run["id"].as_str().expect("an id").to_owned();
    dev.until("the run to begin", || {
        let shown = dev.json(&["stress", "show", &run]);
        let step = shown["operation"]["targets"][0]["state"]["step"].to_string();
        step.contains("is tested").then_some(())
    });
    dev.ok(&["operation", "cancel", &run, "--wait"]);
    run
}

/// What a channel was told of runs, newest first.
fn messages(dev: &Dev, channel: &str) -> Vec<Value> {
    let shown = dev.json(&["channel", "show", channel]);
    let all = shown["messages"].as_array().cloned().unwrap_or_default();
    all.into_iter()
        .filter(|message| message["topic"] != "trial")
        .collect()
}

/// The only message of a channel, when it has arrived.
fn delivered(dev: &Dev, channel: &str) -> Value {
    dev.until(&format!("{channel} to be told"), || {
        let all = messages(dev, channel);
        assert!(all.len() <= 1, "one message: {all:?}");
        let message = all.into_iter().next()?;
        (message["state"] == "delivered").then_some(message)
    })
}

#[test]
fn a_message_arrives_once_though_its_receiver_fails_and_the_server_is_killed() {
    let dev = Dev::start(1);
    let identity = identity();
    let receiver = Receiver::start(Some(&identity));
    // This one takes connections and never says a word.
    let dead = Receiver::start(None);
    dead.reply(Reply::Nothing);
    let url = format!(
        "https://localhost:{}/hook?token=canary-url",
        receiver.port()
    );
    let url = file(&dev, "url", &url);
    let key = file(&dev, "key", KEY);
    let ca = file(&dev, "ca.pem", &identity.ca);
    let [url, key, ca] = [&url, &key, &ca].map(|path| path.to_str().expect("UTF-8"));
    make(
        &dev,
        "ops",
        &[
            "--kind",
            "webhook",
            "--url-file",
            url,
            "--key-file",
            key,
            "--ca-file",
            ca,
        ],
    );
    let silent = format!("http://127.0.0.1:{}", dead.port());
    make(&dev, "dead", &["--kind", "alertmanager", "--url", &silent]);

    // The trial: signed, as Python computes it.
    let said = dev.ok(&["channel", "test", "ops"]);
    let trial = receiver.requests().remove(0);
    assert!(said.contains(trial.header("webhook-id")), "{said}");
    assert_eq!(trial.header("webhook-signature"), signature(&trial));
    receiver.reply(Reply::Status(503));
    let refused = dev.refused(1, &["channel", "test", "ops"]);
    assert!(refused.contains("it answered 503"), "{refused}");
    let before = receiver.requests().len();

    cancelled_run(&dev, "ops,dead");
    let requests = |count: usize| {
        dev.until(&format!("{count} more requests"), || {
            (receiver.requests().len() >= before + count).then_some(())
        });
    };
    requests(1);
    receiver.reply(Reply::Nothing);
    let hanging = receiver.requests().len() + 1 - before;
    requests(hanging);
    let pid = dev.pid("server");
    dev.signal("server", "KILL");
    receiver.reply(Reply::Status(200));
    dev.until("another server", || {
        (dev.pid("server") != pid).then_some(())
    });
    let message = delivered(&dev, "ops");
    assert!(message["attempts"].as_u64() >= Some(3), "{message}");
    let id = message["id"].as_str().expect("an id");
    let sent: Vec<_> = receiver.requests().split_off(before);
    for request in &sent {
        assert_eq!(request.header("webhook-id"), id, "one message, one id");
        assert_eq!(request.header("idempotency-key"), id);
        assert_eq!(request.body, sent[0].body, "the same content each time");
        assert_eq!(request.header("webhook-signature"), signature(request));
    }
    let body: Value = serde_json::from_str(&sent[0].body).expect("JSON");
    let notices = body["data"]["notices"].as_array().expect("a list");
    let kinds: Vec<&Value> = notices.iter().map(|notice| &notice["kind"]).collect();
    assert_eq!(kinds, ["stress.incomplete"], "{body}");
    assert_eq!(notices[0]["node"], "node-1");

    // Nothing comes again, and nobody was held up.
    let quiet = receiver.requests().len();
    dev.until("an attempt at the other channel to end", || {
        let shown = dev.json(&["channel", "show", "dead"]);
        (shown["state"]["failures"].as_u64() > Some(0)).then_some(())
    });
    assert_eq!(receiver.requests().len(), quiet);
    nothing_secret_is_said(&dev);
    let waiting = dev.json(&["channel", "show", "dead"]);
    assert_eq!(waiting["pending"], 1, "{waiting}");
    dev.ok(&["channel", "delete", "dead"]);
    dev.refused(3, &["channel", "show", "dead"]);
}

fn signature(request: &receiver::Request) -> String {
    let program = "
import base64, hashlib, hmac, sys
key = base64.b64decode(sys.argv[1].removeprefix('whsec_'))
signed = f'{sys.argv[2]}.{sys.argv[3]}.{sys.argv[4]}'.encode()
print('v1,' + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode(), end='')
";
    let output = std::process::Command::new("python3")
        .args(["-c", program, KEY])
        .args([
            request.header("webhook-id"),
            request.header("webhook-timestamp"),
            &request.body,
        ])
        .output()
        .expect("Python is installed");
    String::from_utf8(output.stdout).expect("ASCII")
}

/// Neither the address nor the key is in anything that is shown, logged or kept for auditors.
fn nothing_secret_is_said(dev: &Dev) {
    let texts = [
        dev.ok(&["channel", "list"]),
        dev.ok(&["channel", "list", "--output", "json"]),
        dev.ok(&["channel", "show", "ops", "--output", "json"]),
        dev.ok(&["audit", "list", "--output", "json"]),
        dev.ok(&["event", "list", "--output", "json"]),
        dev.all_logs(),
    ];
    for text in texts {
        assert!(
            !text.contains("canary") && !text.contains("MfKQ9r8"),
            "{text}"
        );
    }
}

#[test]
fn a_channel_leads_to_no_private_address_unless_an_admin_lets_it() {
    let dev = Dev::start(1);
    let receiver = Receiver::start(None);
    let literal = format!("https://127.0.0.1:{}", receiver.port());
    let words = [
        "channel",
        "create",
        "ops",
        "--kind",
        "alertmanager",
        "--url",
    ];
    let refused = dev.refused(2, &[&words[..], &[&literal]].concat());
    assert!(refused.contains("--allow-private-addresses"), "{refused}");
    // What a name stands for is looked at when it is connected to.
    let name = format!("https://localhost:{}", receiver.port());
    dev.ok(&[&words[..], &[&name]].concat());
    let refused = dev.refused(1, &["channel", "test", "ops"]);
    assert!(
        refused.contains("an address of this machine or of a private network"),
        "{refused}"
    );
    assert_eq!(receiver.connections(), 0);

    let token = dev.json(&["token", "create", "operator", "--role", "operator"]);
    let secret = token["secret"].as_str().expect("a secret").to_owned();
    let refused = dev.refused_as(
        &secret,
        3,
        &[
            "channel",
            "create",
            "mine",
            "--kind",
            "alertmanager",
            "--url",
            &literal,
            "--allow-private-addresses",
        ],
    );
    assert!(refused.contains("only an admin"), "{refused}");
    make(
        &dev,
        "mine",
        &[
            "--kind",
            "alertmanager",
            "--url",
            &format!("http://127.0.0.1:{}", receiver.port()),
        ],
    );
    dev.ok(&["channel", "test", "mine"]);
    let audit = dev.ok(&["audit", "list", "--output", "json"]);
    assert!(
        audit.contains("\"private_addresses\": \"allowed\"")
            || audit.contains("\"private_addresses\":\"allowed\""),
        "{audit}"
    );
}
