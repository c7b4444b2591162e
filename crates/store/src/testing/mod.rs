//! What tests of other crates need from a database: a private `PostgreSQL` server.
//!
//! Not behind a feature: it is small, and one feature set means that every dependency is compiled once.

mod private_postgres;

pub use private_postgres::{PrivatePostgres, PrivatePostgresError};
