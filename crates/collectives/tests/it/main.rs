//! Integration tests of the collectives: the simulated network, real sockets, real processes, real links.

mod every_cut;
mod foreign;
mod namespaces;
mod network;
mod part;
mod processes;
mod proxy;
mod random;
mod real;
mod seeds;
mod workload;
