//! A stress kernel as a process of its own, for the tests of this crate. Reads an order from standard input; see
//! `supernode_probe::stress::kernel`.

fn main() -> std::process::ExitCode {
    supernode_probe::stress::kernel::main()
}
