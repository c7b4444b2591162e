//! End-to-end tests: the real binary, real processes, real sockets, a real disk.

mod collective;
mod commands;
mod contract;
mod control_group;
mod disk;
mod documents;
mod harness;
mod jobs;
mod loss;
mod notify;
mod outage;
mod retry_policy;
mod stress;
mod stress_disk;
mod stress_faults;
mod stress_limits;
mod stress_network;
mod stress_run;
