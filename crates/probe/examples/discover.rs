//! Prints what is discovered on this machine, and its usage, as JSON.

use std::io::Write as _;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let tools = supernode_probe::SystemTools::default();
    let inventory = supernode_probe::discover(Path::new("/"), &tools);
    let usage = supernode_probe::usage(Path::new("/"), &tools);
    let document = serde_json::json!({ "inventory": inventory, "usage": usage });
    writeln!(std::io::stdout(), "{document:#}")
}
