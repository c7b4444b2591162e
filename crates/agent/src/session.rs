//! The connection to the server: one WebSocket over mutual TLS, opened again and again.
//!
//! It carries messages and knows nothing of what they mean. A server that is restarted is found again within a tenth of a second or so:
//! the first tries come fast and are spread by chance, later ones up to 2 s apart. A server that refuses this node (it was removed, its
//! certificate revoked) is asked again slowly, for as long as the agent runs: an operator may change his mind.
//!
//! It refuses: another authority than ours, TLS below 1.3, frames above the protocol's limit, binary frames.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use supernode_api::ErrorBody;
use supernode_api::agent::{FromAgent, MAXIMUM_FRAME_BYTES, SYNC_PATH, ToAgent};
use supernode_types::Entropy;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::identity::jittered;

/// For each of: the TCP connection, the TLS handshake, the WebSocket handshake.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A server that does not take a message for this long is as good as gone.
const SEND_LIMIT: Duration = Duration::from_secs(10);
const SHORTEST_PAUSE: Duration = Duration::from_millis(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How many tries are made before the pause grows.
const TRIES_AT_EACH_PAUSE: u32 = 2;
/// Between two tries where the server refuses the node.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);
/// How many messages may wait to be sent.
const QUEUE: usize = 64;

/// What happens on the connection, in order.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    /// There is one; what is put in here is sent on it. Dropping it closes the connection, and another is opened.
    Connected(mpsc::Sender<FromAgent>),
    /// A message came.
    Received(ToAgent),
    /// It is gone.
    Disconnected,
}

/// Opens connections to one server.
#[derive(Debug)]
pub(crate) struct Session {
    /// `host:port`.
    pub(crate) server: String,
    /// How to open them; a new value closes the present one and opens the next at once.
    pub(crate) tls: watch::Receiver<Arc<ClientConfig>>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) events: mpsc::Sender<SessionEvent>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("`{0}` is not an address; write host:port")]
    Address(String),
    #[error("cannot reach {server}: {why}")]
    Unreachable { server: String, why: String },
    #[error("{server} refuses this node: {why}")]
    Refused { server: String, why: String },
}

/// How a connection ended.
enum End {
    /// The other side of our queue is gone: the agent ends, or gave the connection up.
    Dropped,
    /// There is a new certificate to show.
    NewIdentity,
    /// The server or the network ended it.
    Lost(String),
}

type Socket = WebSocketStream<TlsStream<TcpStream>>;

impl Session {
    /// Connects for as long as somebody listens.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new();
        let mut told = Told::default();
        while !self.events.is_closed() {
            match self.connect().await {
                Ok(socket) => {
                    told.connected(&self.server);
                    let (end, heard) = self.converse(socket).await;
                    if self.events.send(SessionEvent::Disconnected).await.is_err() {
                        return;
                    }
                    if heard {
                        backoff = Backoff::new();
                    }
                    match end {
                        End::NewIdentity => continue,
                        End::Dropped if self.events.is_closed() => return,
                        End::Dropped => tracing::warn!(
                            server = self.server,
                            "the server was silent for too long; connecting again"
                        ),
                        End::Lost(why) => tracing::info!(
                            server = self.server,
                            why,
                            "the connection to the server is gone; connecting again"
                        ),
                    }
                }
                Err(error) => {
                    told.failed(&error);
                    if let ConnectError::Refused { .. } = error {
                        backoff.refused();
                    }
                }
            }
            let pause = jittered(backoff.next(), &*self.entropy);
            // A new certificate is worth a try at once.
            let _ = timeout(pause, self.tls.changed()).await;
        }
    }

    async fn connect(&mut self) -> Result<Socket, ConnectError> {
        let unreachable = |why: String| ConnectError::Unreachable {
            server: self.server.clone(),
            why,
        };
        let late = |_| unreachable(format!("no answer within {} s", CONNECT_LIMIT.as_secs()));
        let (host, _) = self
            .server
            .rsplit_once(':')
            .ok_or_else(|| ConnectError::Address(self.server.clone()))?;
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|_| ConnectError::Address(self.server.clone()))?;
        let request = format!("wss://{}{SYNC_PATH}", self.server);
        let config = Arc::clone(&self.tls.borrow_and_update());
        let tcp = timeout(CONNECT_LIMIT, TcpStream::connect(&self.server))
            .await
            .map_err(late)?
            .map_err(|error| unreachable(error.to_string()))?;
        tcp.set_nodelay(true)
            .map_err(|error| unreachable(error.to_string()))?;
        let tls = TlsConnector::from(config).connect(name, tcp);
        let tls = timeout(CONNECT_LIMIT, tls)
            .await
            .map_err(late)?
            .map_err(|error| unreachable(tls_reason(&error)))?;
        let limits = WebSocketConfig::default()
            .read_buffer_size(4096)
            .write_buffer_size(0)
            .max_message_size(Some(MAXIMUM_FRAME_BYTES))
            .max_frame_size(Some(MAXIMUM_FRAME_BYTES));
        let handshake = tokio_tungstenite::client_async_with_config(request, tls, Some(limits));
        match timeout(CONNECT_LIMIT, handshake).await.map_err(late)? {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(response)) => {
                let status = response.status();
                let body: Option<ErrorBody> = response
                    .body()
                    .as_deref()
                    .and_then(|body| serde_json::from_slice(body).ok());
                let why = body.map_or_else(|| format!("status {status}"), |body| body.message);
                if matches!(status.as_u16(), 401 | 403 | 404 | 410) {
                    Err(ConnectError::Refused {
                        server: self.server.clone(),
                        why,
                    })
                } else {
                    Err(unreachable(why))
                }
            }
            Err(tungstenite::Error::Io(error)) => Err(unreachable(tls_reason(&error))),
            Err(error) => Err(unreachable(error.to_string())),
        }
    }

    /// Carries messages until the connection ends; also says whether the server ever said anything.
    async fn converse(&mut self, mut socket: Socket) -> (End, bool) {
        let (sender, mut queue) = mpsc::channel(QUEUE);
        if self
            .events
            .send(SessionEvent::Connected(sender))
            .await
            .is_err()
        {
            return (End::Dropped, false);
        }
        let mut heard = false;
        let end = loop {
            tokio::select! {
                message = queue.recv() => match message {
                    Some(message) => if let Err(why) = send(&mut socket, &message).await {
                        break End::Lost(why);
                    },
                    None => break End::Dropped,
                },
                frame = socket.next() => match read(frame) {
                    Ok(Some(message)) => {
                        heard = true;
                        if self.events.send(SessionEvent::Received(message)).await.is_err() {
                            break End::Dropped;
                        }
                    }
                    Ok(None) => {}
                    Err(why) => break End::Lost(why),
                },
                changed = self.tls.changed() => match changed {
                    Ok(()) => break End::NewIdentity,
                    // Nobody renews any more: the agent ends.
                    Err(_) => break End::Dropped,
                },
            }
        };
        // The server learns at once that we are gone; one that does not listen learns it from the closed socket.
        let _ = timeout(Duration::from_millis(200), socket.close(None)).await;
        (end, heard)
    }
}

async fn send(socket: &mut Socket, message: &FromAgent) -> Result<(), String> {
    let text = serde_json::to_string(message).expect("the contract's types serialize");
    match timeout(SEND_LIMIT, socket.send(Message::Text(text.into()))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!(
            "a message was not taken for {} s",
            SEND_LIMIT.as_secs()
        )),
    }
}

/// The message in a frame; none for what the library answers, and for messages of a newer server.
fn read(frame: Option<Result<Message, tungstenite::Error>>) -> Result<Option<ToAgent>, String> {
    match frame {
        None => Err("closed without a word".into()),
        Some(Err(error)) => Err(error.to_string()),
        Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
            Ok(message) => Ok(Some(message)),
            Err(error) => {
                tracing::warn!(%error, "a message of the server cannot be understood; is it newer than this agent?");
                Ok(None)
            }
        },
        Some(Ok(Message::Close(Some(frame)))) => Err(format!(
            "the server closed it: {} ({})",
            frame.reason,
            u16::from(frame.code)
        )),
        Some(Ok(Message::Close(None))) => Err("the server closed it".into()),
        Some(Ok(Message::Binary(_))) => Err("it carried a binary frame".into()),
        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(None),
    }
}

/// What TLS says, without what the layers above it add.
fn tls_reason(error: &io::Error) -> String {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .map_or_else(|| error.to_string(), |inner| format!("TLS failed: {inner}"))
}

/// How long to wait before the next try.
#[derive(Debug)]
struct Backoff {
    pause: Duration,
    tries: u32,
}

impl Backoff {
    fn new() -> Self {
        Self {
            pause: SHORTEST_PAUSE,
            tries: 0,
        }
    }

    fn refused(&mut self) {
        self.pause = REFUSED_PAUSE;
    }

    fn next(&mut self) -> Duration {
        if self.pause == REFUSED_PAUSE {
            return std::mem::replace(self, Self::new()).pause;
        }
        if self.tries == TRIES_AT_EACH_PAUSE {
            self.tries = 0;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        self.tries += 1;
        self.pause
    }
}

/// Says each thing once and not with every try.
#[derive(Debug, Default)]
struct Told {
    refusal: Option<String>,
    failures: u32,
}

impl Told {
    /// After about half a minute of tries, the operator should know.
    const WORTH_A_WARNING: u32 = 25;

    fn connected(&mut self, server: &str) {
        tracing::info!(server, "connected to the server");
        *self = Self::default();
    }

    fn failed(&mut self, error: &ConnectError) {
        self.failures += 1;
        let why = error.to_string();
        match error {
            ConnectError::Refused { .. } | ConnectError::Address(_)
                if self.refusal.as_ref() != Some(&why) =>
            {
                tracing::warn!(
                    why,
                    "the server does not accept this node; trying again every {} s",
                    REFUSED_PAUSE.as_secs()
                );
                self.refusal = Some(why);
            }
            _ if self.failures == 1 => {
                tracing::info!(why, "no connection to the server; trying again");
            }
            _ if self.failures == Self::WORTH_A_WARNING => {
                tracing::warn!(why, "still no connection to the server");
            }
            _ => tracing::debug!(why, "no connection to the server"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_tries_are_fast_and_later_ones_two_seconds_apart() {
        let mut backoff = Backoff::new();
        let pauses: Vec<u64> = (0..14)
            .map(|_| u64::try_from(backoff.next().as_millis()).expect("small"))
            .collect();
        assert_eq!(
            pauses,
            [
                60, 60, 120, 120, 240, 240, 480, 480, 960, 960, 1920, 1920, 2000, 2000
            ]
        );
        backoff.refused();
        assert_eq!(backoff.next(), REFUSED_PAUSE);
        assert_eq!(backoff.next(), SHORTEST_PAUSE);
    }
}
