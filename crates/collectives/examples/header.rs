//! Prints the C header. `cargo xtask generate` writes it to `include/`, `cargo xtask ci` compares.

fn main() {
    print!("{}", supernode_collectives::c::header());
}
