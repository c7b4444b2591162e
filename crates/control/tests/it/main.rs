//! The control plane against real databases, with agents, clocks and provisioners that the tests hold in their hands. Every case
//! runs on `SQLite` and on a private `PostgreSQL` server.

mod agent;
mod world;

mod audit;
mod disk_expand;
mod enrolment;
mod environment;
mod job;
mod job_loss;
mod metrics;
mod node;
mod node_replace;
mod notify;
mod provision;
mod provisioner;
mod report;
mod restart;
mod retry_policy;
mod scale_down;
mod scale_up;
mod spec;
mod storm;
mod stress_network;
mod stress_plan;
mod stress_run;
mod super_node;
