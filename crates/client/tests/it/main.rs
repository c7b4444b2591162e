//! The client against a real TLS server that does what a script says.

mod call;
mod enrolment;
mod follow;
#[expect(dead_code, reason = "the command line's tests use more of it")]
mod server;
