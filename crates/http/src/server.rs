//! Listeners: bound first, so that the address is known and a taken port is an error at start, then served until shutdown.
//!
//! A peer has to finish its handshake, its first request and every later request head in time, and to read what it is sent; otherwise it
//! is cut off. Connections over the limit are closed at once. Bytes from strangers never become log lines above debug level.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::tls_rustls::RustlsAcceptor;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::ListenerTls;
use crate::guard::GuardAcceptor;

/// Connections that the kernel holds before they are accepted; many agents come back at once after a restart.
const BACKLOG: u32 = 4096;

/// Limits of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerOptions {
    /// The most connections at once.
    pub maximum_connections: usize,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long a request's head may take, also the first; an HTTP/1.1 connection that is idle for as long is closed.
    pub header_timeout: Duration,
    /// How long a peer may refuse to read.
    pub write_timeout: Duration,
    /// The most bytes in a request's head.
    pub maximum_header_bytes: usize,
}

impl ListenerOptions {
    /// For people and programs.
    pub fn api() -> Self {
        Self {
            maximum_connections: 4096,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            maximum_header_bytes: 32 * 1024,
        }
    }

    /// For agents: one connection each, kept.
    pub fn agents() -> Self {
        Self {
            maximum_connections: 16_384,
            header_timeout: Duration::from_secs(10),
            maximum_header_bytes: 16 * 1024,
            ..Self::api()
        }
    }
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be used.
    #[error("cannot listen on {address}; is another server running there?")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Serving broke off.
    #[error("the listener on {address} broke off")]
    Serve {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// A bound port that nobody is served on yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    options: ListenerOptions,
    room: Arc<Semaphore>,
}

/// Counts the connections of a listener.
#[derive(Debug, Clone)]
pub struct Connections {
    room: Arc<Semaphore>,
    maximum: usize,
}

impl Connections {
    /// How many are open now.
    pub fn open(&self) -> usize {
        self.maximum - self.room.available_permits()
    }
}

impl Listener {
    /// Binds `address`; port 0 takes a free one. Must be called in a tokio runtime.
    pub fn bind(address: SocketAddr, options: ListenerOptions) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Bind { address, source };
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }
        .map_err(failed)?;
        socket.set_reuseaddr(true).map_err(failed)?;
        socket.bind(address).map_err(failed)?;
        let socket = socket.listen(BACKLOG).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let room = Arc::new(Semaphore::new(options.maximum_connections));
        Ok(Self {
            socket,
            address,
            options,
            room,
        })
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Counts the connections, also those that became `WebSocket`s.
    pub fn connections(&self) -> Connections {
        Connections {
            room: Arc::clone(&self.room),
            maximum: self.options.maximum_connections,
        }
    }

    /// Serves `routes` until `shutdown` is cancelled. Then nothing new is accepted, requests may end for `grace`, and what is left is
    /// cut off.
    pub async fn serve(
        self,
        routes: Router,
        tls: ListenerTls,
        shutdown: CancellationToken,
        grace: Duration,
    ) -> Result<(), ServeError> {
        let Self {
            socket,
            address,
            options,
            room,
        } = self;
        let guard = GuardAcceptor {
            room,
            write_timeout: options.write_timeout,
        };
        let acceptor = RustlsAcceptor::new(tls.0)
            .handshake_timeout(options.handshake_timeout)
            .acceptor(guard);
        let handle = Handle::new();
        let mut server = axum_server::Server::from_listener(socket)
            .acceptor(acceptor)
            .handle(handle.clone())
            .first_request_timeout(options.header_timeout)
            .accept_error_handler(accept_failed);
        let builder = server.http_builder();
        builder
            .http1()
            .header_read_timeout(options.header_timeout)
            .max_buf_size(options.maximum_header_bytes);
        builder
            .http2()
            .max_concurrent_streams(100)
            .max_header_list_size(u32::try_from(options.maximum_header_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(options.header_timeout)
            .keep_alive_timeout(options.header_timeout);
        let mut serving = std::pin::pin!(
            server.serve(routes.into_make_service_with_connect_info::<SocketAddr>())
        );
        let ended = tokio::select! {
            ended = &mut serving => ended,
            () = shutdown.cancelled() => {
                handle.graceful_shutdown(Some(grace));
                serving.await
            }
        };
        ended.map_err(|source| ServeError::Serve { address, source })
    }
}

fn accept_failed(peer: Option<&SocketAddr>, error: &io::Error) {
    if let Some(peer) = peer {
        tracing::debug!(%peer, %error, "connection refused");
    } else {
        // Accepting itself failed, for example because this process has no file descriptor left.
        tracing::warn!(%error, "cannot accept connections");
    }
}
