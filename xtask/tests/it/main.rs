//! The program as its users start it.

#![expect(
    clippy::disallowed_methods,
    reason = "deadlines of real processes are in real time"
)]

mod command_line;
mod reaper;
