//! The edge on real sockets with real TLS.

mod agents;
mod authority;
mod contract;
mod limits;
mod mount;
mod plain;
mod server;
mod sse;
mod support;
mod toy;
