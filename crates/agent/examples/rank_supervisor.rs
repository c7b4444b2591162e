//! The rank supervisor as a program of its own, and a stand-in for an agent that can be killed: what the tests start.
//!
//! `rank_supervisor RANKS --lease FILE` supervises ranks, as `supernode rank-supervisor` does.
//! `rank_supervisor --launch DATA ID FILE` launches the rank that FILE describes and then waits for ever.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use supernode_agent::ranks::{Launch, RankId, Ranks, SupervisorCommand};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["--launch", data, id, file] => launch(Path::new(data), id, Path::new(file)),
        [ranks, "--lease", lease] => {
            supernode_agent::supervisor::main(Path::new(ranks), Path::new(lease))
        }
        _ => {
            eprintln!("usage: rank_supervisor RANKS --lease FILE | --launch DATA ID FILE");
            ExitCode::from(2)
        }
    }
}

fn launch(data: &Path, id: &str, file: &Path) -> ExitCode {
    let program = PathBuf::from("/proc/self/exe");
    let ranks = Ranks::open(
        data,
        SupervisorCommand {
            program,
            arguments: Vec::new(),
        },
    )
    .expect("the data directory opens");
    let launch: Launch = serde_json::from_slice(&std::fs::read(file).expect("the file is there"))
        .expect("it is a launch");
    ranks
        .launch(&RankId::parse(id).expect("it is an id"), &launch)
        .expect("the rank is launched");
    println!("launched");
    loop {
        std::thread::park();
    }
}
