//! A real mail server with TLS, both ways, that asks for a login and puts the first mail off.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use super::{cancelled_run, delivered, file, identity, make};
use crate::harness::Dev;

const SERVER: &str = r#"
import pathlib, ssl, sys, threading
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

mode, port, directory = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(directory / "mail.pem", directory / "mail.key")

class Handler:
    async def handle_DATA(self, server, session, envelope):
        seen = len(list(directory.glob("mail-*")))
        (directory / f"mail-{seen}").write_bytes(envelope.content)
        return "451 4.7.1 come again later" if seen == 0 else "250 2.0.0 taken"

def login(server, session, envelope, mechanism, data):
    good = data.login == b"ada" and data.password == b"canary-password"
    return AuthResult(success=good, handled=False)

more = {
    "implicit": dict(ssl_context=context, auth_require_tls=False),
    "starttls": dict(tls_context=context, require_starttls=True),
}[mode]
controller = Controller(Handler(), hostname="127.0.0.1", port=port, server_hostname="localhost",
                        authenticator=login, auth_required=True, **more)
controller.start()
(directory / "ready").write_text("")
threading.Event().wait()
"#;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A Python that has the library: the one of PATH, or Debian's, whose packages another one does not see.
fn python() -> Option<&'static str> {
    ["python3", "/usr/bin/python3"].into_iter().find(|python| {
        let mut command = Command::new(python);
        command
            .args(["-c", "import aiosmtpd"])
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

fn mail_arrives(mode: &str) {
    let Some(python) = python() else {
        eprintln!("skipped: no Python here has aiosmtpd");
        return;
    };
    let dev = Dev::start(1);
    let identity = identity();
    file(&dev, "mail.pem", &identity.certificate);
    file(&dev, "mail.key", &identity.key);
    let script = file(&dev, "mail.py", SERVER);
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener
            .local_addr()
            .expect("it is bound")
            .port()
            .to_string()
    };
    let directory = dev.path().join(".");
    let child = Command::new(python)
        .arg(script)
        .args([mode, &port])
        .arg(&directory)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("Python starts");
    let _server = Server(child);
    dev.until("the mail server", || {
        dev.path().join("ready").exists().then_some(())
    });

    let ca = file(&dev, "ca.pem", &identity.ca);
    let wrong = file(&dev, "wrong", "canary-wrong\n");
    let password = file(&dev, "password", "canary-password\n");
    let [ca, wrong, password] = [&ca, &wrong, &password].map(|path| path.to_str().expect("UTF-8"));
    let channel = |name: &str, more: &[&str]| {
        let words = [
            "--kind",
            "email",
            "--mail-host",
            "localhost",
            "--mail-port",
            &port,
            "--mail-tls",
            mode,
            "--mail-from",
            "Supernode <ops@example.org>",
            "--mail-to",
            "ada@example.org",
            "--mail-user",
            "ada",
        ];
        make(&dev, name, &[&words[..], more].concat());
    };
    channel("strange", &["--mail-password-file", password]);
    let refused = dev.refused(1, &["channel", "test", "strange"]);
    assert!(
        refused.contains("certificate"),
        "the host's authorities do not know it: {refused}"
    );
    channel("wrong", &["--mail-password-file", wrong, "--ca-file", ca]);
    let refused = dev.refused(1, &["channel", "test", "wrong"]);
    assert!(refused.contains("535"), "{refused}");

    channel("mail", &["--mail-password-file", password, "--ca-file", ca]);
    cancelled_run(&dev, "mail");
    let message = delivered(&dev, "mail");
    assert_eq!(message["attempts"], 2, "put off once: {message}");
    let read = |number: u32| {
        fs::read_to_string(dev.path().join(format!("mail-{number}"))).expect("a mail")
    };
    let (first, second) = (read(0), read(1));
    assert_eq!(first, second, "the same mail again");
    // Long lines are broken on the wire.
    let second = second.replace("=\r\n", "").replace("=\n", "");
    let id = format!(
        "Message-ID: <{}@example.org>",
        message["id"].as_str().expect("an id")
    );
    for part in [
        id.as_str(),
        "Auto-Submitted: auto-generated",
        "[warning]",
        "node-1",
    ] {
        assert!(second.contains(part), "{part} in\n{second}");
    }
    assert!(!dev.path().join("mail-2").exists(), "told once");
    for text in [
        dev.ok(&["channel", "show", "mail", "--output", "json"]),
        dev.all_logs(),
    ] {
        assert!(!text.contains("canary"), "{text}");
    }
}

#[test]
fn mail_arrives_over_starttls() {
    mail_arrives("starttls");
}

#[test]
fn mail_arrives_over_implicit_tls() {
    mail_arrives("implicit");
}
