//! Grows one disk as the agent does, and prints each report as one line of JSON. The tests kill it, and start it again.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use supernode_agent::disk::{DiskExecutor, DiskOptions};
use supernode_types::disk::{DiskReportState, DiskWish};
use supernode_types::time::SystemClock;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [data, place, wish, tools, boot_id] = words.as_slice() else {
        eprintln!("usage: disk_expand DATA PLACE WISH TOOLS BOOT");
        return ExitCode::from(2);
    };
    let options = DiskOptions {
        place: PathBuf::from(place),
        tool_directories: vec![PathBuf::from(tools)],
        restart_program: None,
    };
    let data = PathBuf::from(data);
    let executor = DiskExecutor::open(&data, options, Arc::new(SystemClock), boot_id.clone())
        .expect("the data directory opens");
    if wish == "look" {
        let disk = serde_json::to_string(&executor.look()).expect("plain data");
        println!("{disk}");
        return ExitCode::SUCCESS;
    }
    let wish: DiskWish = serde_json::from_str(wish).expect("it is a wish");
    let done = std::cell::Cell::new(false);
    executor.expand(&wish, &|report| {
        done.set(report.state == DiskReportState::Done);
        println!("{}", serde_json::to_string(&report).expect("plain data"));
    });
    if done.get() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
