//! The simulation as tests.

mod defects;
mod every_step;
mod scenarios;
mod seeds;

// A tenth of the time of a seed goes to the allocator of the C library.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
