//! The loop of one sync connection: text frames in, text frames out, and an end for agents that are silent, slow or no longer welcome.
//!
//! One task per connection, and what it holds while idle is its socket and a timer. A frame is handled before the next is read, so an
//! agent can never have more than one message in the server's memory.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use supernode_api::ErrorCode;
use supernode_api::agent::{FromAgent, ToAgent};
use supernode_types::Clock;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::{AgentConnection, BoxFuture, Failure, NodeIdentity};

/// How long the other side has to take the close frame and to answer it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The most bytes that a close frame may give as its reason.
const MAXIMUM_REASON_BYTES: usize = 123;

/// How patient a connection is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SocketLimits {
    /// Without a message.
    pub(crate) idle: Duration,
    /// Until a message was taken.
    pub(crate) send: Duration,
}

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// The agent closed it, or the network did: nobody is there to be told.
    Gone,
    /// The server closes it, with a code and a reason.
    Close(u16, String),
}

/// Runs until the connection ends; then the session is dropped.
pub(crate) async fn run(
    mut socket: WebSocket,
    mut connection: AgentConnection,
    identity: NodeIdentity,
    limits: SocketLimits,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
) {
    tracing::debug!(node = %identity.node, certificate = %identity.serial, "agent connected");
    let end = converse(
        &mut socket,
        &mut connection,
        &identity,
        limits,
        clock.as_ref(),
        &shutdown,
    )
    .await;
    // The session learns at once, not after the farewell.
    drop(connection);
    match end {
        End::Gone => tracing::debug!(node = %identity.node, "agent disconnected"),
        End::Close(code, reason) => {
            tracing::info!(node = %identity.node, code, reason, "agent connection closed");
            farewell(&mut socket, code, &reason).await;
        }
    }
}

async fn converse(
    socket: &mut WebSocket,
    connection: &mut AgentConnection,
    identity: &NodeIdentity,
    limits: SocketLimits,
    clock: &dyn Clock,
    shutdown: &CancellationToken,
) -> End {
    let AgentConnection {
        session,
        outgoing,
        close,
    } = connection;
    let mut handling: Option<BoxFuture<'static, Result<(), Failure>>> = None;
    let mut silent_until = Instant::now() + limits.idle;
    // Made once: to wait anew with every message of every agent would mean a queue for the locks that they share.
    let mut ended = pin!(shutdown.cancelled());
    let mut closed = pin!(close.cancelled());
    let mut alarm = pin!(sleep_until(silent_until));
    loop {
        tokio::select! {
            biased;
            () = &mut ended => return End::Close(close_code::AWAY, "the server ends; connect again".to_owned()),
            () = &mut closed => {
                return End::Close(close_code::POLICY, "the server closed this connection: the node is no longer welcome on it".to_owned());
            }
            handled = async { handling.as_mut().expect("polled only while there is one").await }, if handling.is_some() => {
                handling = None;
                silent_until = Instant::now() + limits.idle;
                if let Err(failure) = handled {
                    return refused(failure);
                }
            }
            message = outgoing.recv() => match message {
                Some(message) => if let Some(end) = send(socket, &message, limits.send).await {
                    return end;
                },
                None => return End::Close(close_code::NORMAL, "the server has nothing more to say".to_owned()),
            },
            frame = socket.recv(), if handling.is_none() => {
                silent_until = Instant::now() + limits.idle;
                if clock.now() >= identity.not_after {
                    return End::Close(close_code::POLICY, format!("the node's certificate ended at {}", identity.not_after));
                }
                match read(frame) {
                    Ok(Some(message)) => handling = Some(Arc::clone(session).received(message)),
                    Ok(None) => {}
                    Err(end) => return end,
                }
            }
            () = &mut alarm, if handling.is_none() => {
                if Instant::now() >= silent_until {
                    return End::Close(close_code::POLICY, format!("no message for {} s", limits.idle.as_secs_f64()));
                }
                // Set too early on purpose: an alarm that rings now and then is cheaper than one that is set with every message.
                alarm.as_mut().reset(silent_until);
            }
        }
    }
}

/// The message in a frame; none for pings, which the library answers.
fn read(frame: Option<Result<Message, axum::Error>>) -> Result<Option<FromAgent>, End> {
    match frame {
        None | Some(Ok(Message::Close(_))) => Err(End::Gone),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
        Some(Ok(Message::Binary(_))) => Err(End::Close(
            close_code::UNSUPPORTED,
            "messages are JSON in text frames".to_owned(),
        )),
        Some(Ok(Message::Text(text))) => serde_json::from_str(&text).map(Some).map_err(|error| {
            End::Close(
                close_code::INVALID,
                format!("the message cannot be read: {error}"),
            )
        }),
        Some(Err(error)) => Err(End::Close(
            close_code::SIZE,
            format!("the frame cannot be read: {error}"),
        )),
    }
}

async fn send(socket: &mut WebSocket, message: &ToAgent, limit: Duration) -> Option<End> {
    let text = serde_json::to_string(message).expect("the contract's types serialize");
    match timeout(limit, socket.send(Message::Text(text.into()))).await {
        Ok(Ok(())) => None,
        Ok(Err(_)) => Some(End::Gone),
        Err(_) => Some(End::Close(
            close_code::POLICY,
            format!("a message was not taken for {} s", limit.as_secs_f64()),
        )),
    }
}

fn refused(failure: Failure) -> End {
    match failure.code {
        ErrorCode::Internal => {
            tracing::error!(cause = failure.cause(), "agent session failed");
            End::Close(
                close_code::ERROR,
                "the server met a bug; its log has more".to_owned(),
            )
        }
        ErrorCode::Unavailable | ErrorCode::UnknownOutcome => {
            End::Close(close_code::AGAIN, failure.message)
        }
        _ => End::Close(close_code::POLICY, failure.message),
    }
}

async fn farewell(socket: &mut WebSocket, code: u16, reason: &str) {
    let frame = CloseFrame {
        code,
        reason: shortened(reason).into(),
    };
    let goodbye = async {
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            // Reading on until the other side has closed: closing with unread bytes would throw our frame away.
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    // An agent that does not answer is cut off all the same.
    let _ = timeout(CLOSE_TIMEOUT, goodbye).await;
}

fn shortened(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAXIMUM_REASON_BYTES)]
}
