//! Tests of the agent's executors with real processes and real files.

mod environment;
mod ranks;
mod supervisor;
mod support;
