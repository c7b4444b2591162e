//! The simulation as tests.

mod defects;
mod every_step;
mod scenarios;
mod seeds;
