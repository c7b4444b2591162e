//! Integration tests of the collectives: the simulated network, and real processes.

mod every_cut;
mod network;
mod random;
mod seeds;
mod workload;
