//! The agent port: enrolment, renewal and the sync connection, over real mutual TLS.
