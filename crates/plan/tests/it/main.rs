//! What the planners decide, rule by rule, and what holds whatever happens.

mod admission;
mod backfill;
mod build;
mod choose;
mod condition;
mod cron;
mod disk_expand;
mod environment;
mod job;
mod model;
mod property;
mod remove;
mod replacement;
mod retry_policy;
mod scale_down;
mod scale_up;
mod schedule;
mod stress_network;
mod stress_plan;
mod stress_run;
mod world;
