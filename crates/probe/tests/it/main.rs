//! Integration tests of discovery: written-down machines, samples of vendor tools, and this machine.

mod ascend;
mod command;
mod layouts;
mod machine;
mod machines;
mod nvidia;
mod nvidia_devices;
mod stress;
mod this_host;
mod vendor_kernel;
