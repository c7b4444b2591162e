//! The client against a real TLS server that does what a script says.

mod call;
mod enrolment;
mod follow;
mod server;
