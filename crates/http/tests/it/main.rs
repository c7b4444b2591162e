//! The edge on real sockets with real TLS.

mod agent_sockets;
mod agents;
mod agents_toy;
mod authority;
mod contract;
mod limits;
mod mount;
mod plain;
mod server;
mod sse;
mod support;
mod toy;
