//! An HTTP server, with or without TLS, that answers as it is told and remembers what it was asked.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::Identity;

/// What it answers from now on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reply {
    Status(u16),
    /// It takes the request and says nothing.
    Nothing,
}

/// What it was asked.
#[derive(Debug, Clone)]
pub(super) struct Request {
    head: String,
    pub(super) body: String,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> &str {
        let found = self.head.lines().find_map(|line| {
            let (known, value) = line.split_once(": ")?;
            known.eq_ignore_ascii_case(name).then_some(value)
        });
        found.unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }
}

#[derive(Debug)]
struct State {
    reply: Reply,
    requests: Vec<Request>,
    connections: usize,
    /// Connections that nobody answers stay open.
    silent: Vec<TcpStream>,
}

pub(super) struct Receiver {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Receiver {
    pub(super) fn start(identity: Option<&Identity>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Arc::new(Mutex::new(State {
            reply: Reply::Status(200),
            requests: Vec::new(),
            connections: 0,
            silent: Vec::new(),
        }));
        let (shared, tls) = (Arc::clone(&state), identity.map(tls));
        // It ends with the process of the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, tls) = (Arc::clone(&shared), tls.clone());
                std::thread::spawn(move || serve(stream, tls, &shared));
            }
        });
        Self { port, state }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn reply(&self, reply: Reply) {
        self.state.lock().expect("no thread panicked").reply = reply;
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.state
            .lock()
            .expect("no thread panicked")
            .requests
            .clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.state.lock().expect("no thread panicked").connections
    }
}

fn tls(identity: &Identity) -> Arc<ServerConfig> {
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.expect("PEM")], key.expect("PEM"))
        .expect("a configuration");
    Arc::new(config)
}

fn serve(stream: TcpStream, tls: Option<Arc<ServerConfig>>, state: &Mutex<State>) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
    state.lock().expect("no thread panicked").connections += 1;
    let silent = stream.try_clone();
    let answer = match tls {
        Some(config) => {
            let connection = ServerConnection::new(config).expect("a connection");
            answer(&mut StreamOwned::new(connection, stream), state)
        }
        None => answer(&mut { stream }, state),
    };
    if let (Some(Reply::Nothing), Ok(stream)) = (answer, silent) {
        state
            .lock()
            .expect("no thread panicked")
            .silent
            .push(stream);
    }
}

/// Reads a request and answers it; says how.
fn answer(stream: &mut (impl Read + Write), state: &Mutex<State>) -> Option<Reply> {
    let request = read(stream)?;
    let reply = {
        let mut state = state.lock().expect("no thread panicked");
        state.requests.push(request);
        state.reply
    };
    if let Reply::Status(status) = reply {
        let text =
            format!("HTTP/1.1 {status} It\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let _ = stream.write_all(text.as_bytes());
        let _ = stream.flush();
    }
    Some(reply)
}

fn read(stream: &mut impl Read) -> Option<Request> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then_some(value)
        });
        let length: usize = length?.parse().ok()?;
        if body.len() >= length {
            return Some(Request {
                head: head.to_owned(),
                body: body.to_owned(),
            });
        }
    }
}
