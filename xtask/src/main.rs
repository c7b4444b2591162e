//! All automation of the repository: `cargo xtask ci`, `cargo xtask bench`, `cargo xtask generate`.
//!
//! One program instead of shell scripts, so that a laptop and the build server run exactly the same steps and so that the
//! steps themselves are type-checked and tested. It refuses to read standard input: nothing here ever asks a question.

#![expect(
    clippy::disallowed_methods,
    reason = "automation measures real time; nothing here is simulated"
)]

mod bench;
mod ci;
mod metadata;
mod processes;
mod tidy;
mod workspace;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  ci [--only STEP]... [--list]     every check, in order; stops at the first failure
  generate                         write the generated files that are checked in (docs/openapi.json, ...)
  bench [--only SUITE]... [--quick] [--nodes N] [--trials N] [--contender NAME]... [--binary FILE] [--json FILE] [--list]
                                   measure this project beside its peers and print one table
  bench stress [--pairs N] [--kernel FILE] [--directory DIR]
                                   the stress kernels beside OpenBLAS, STREAM, iperf3 and fio, as ratios
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = arguments
        .split_first()
        .map_or(("help", &[][..]), |(command, rest)| {
            (command.as_str(), rest)
        });
    let result = match command {
        "ci" => ci::main(rest),
        "generate" => ci::generated::write_all(),
        "bench" => bench::main(rest),
        processes::REAPER_COMMAND => processes::reaper_main(rest),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        other => {
            eprint!("unknown command `{other}`\n\n{USAGE}");
            Ok(ExitCode::from(2))
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
