//! Tests of the agent's executors with real processes and real files.

mod agent;
mod disk;
mod environment;
mod jobs;
mod ranks;
mod server;
mod session;
mod supervisor;
mod support;
