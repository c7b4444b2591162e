//! Integration tests of the collectives: the simulated network, and real processes.

mod every_cut;
mod network;
mod processes;
mod proxy;
mod random;
mod real;
mod seeds;
mod workload;
