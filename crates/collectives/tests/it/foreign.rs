//! Programs in other languages, as real processes: the C interface through its header, and PyTorch's data-parallel training.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use supernode_collectives::group::environment::{ADDRESSES, GROUP, KEY, ROOT, unused_root};

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The library for C, which cargo builds beside this test.
fn library() -> PathBuf {
    let program = std::env::current_exe().expect("this binary has a path");
    let library = program.with_file_name("libsupernode_collectives.so");
    assert!(library.exists(), "{} is not there", library.display());
    library
}

fn root() -> SocketAddr {
    unused_root([127, 0, 0, 1].into()).expect("there are free ports")
}

/// Runs a program as every rank and gives what each printed. `timeout` ends what hangs.
fn run(program: &[&str], world: usize, prepare: impl Fn(&mut Command)) -> Vec<String> {
    let ranks: Vec<_> = (0..world)
        .map(|rank| {
            let mut command = Command::new("timeout");
            command
                .arg("120")
                .args(program)
                .env("RANK", rank.to_string())
                .env("WORLD_SIZE", world.to_string())
                .stdout(Stdio::piped());
            prepare(&mut command);
            command.spawn().expect("`timeout` runs")
        })
        .collect();
    ranks
        .into_iter()
        .map(|rank| {
            let output = rank.wait_with_output().expect("it can be waited for");
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).expect("it writes text")
        })
        .collect()
}

#[test]
fn a_program_in_c_gets_sums_and_reasons() {
    let directory = library().parent().expect("it is in a directory").to_owned();
    let program = directory.join(format!("collective-{}", std::process::id()));
    let compiled = Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(Path::new(REPOSITORY).join("examples/collective.c"))
        .arg("-I")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include"))
        .arg(library())
        .output();
    let compiled = compiled.expect("the C compiler that the build needs runs");
    assert!(compiled.status.success(), "{compiled:?}");
    let root = root();
    let outputs = run(&[&program.display().to_string()], 2, |command| {
        command
            .env(ROOT, root.to_string())
            .env(KEY, "c0".repeat(32))
            .env(GROUP, "c")
            .env(ADDRESSES, "127.0.0.1")
            .env("LD_LIBRARY_PATH", &directory);
    });
    std::fs::remove_file(&program).expect("it was compiled");
    for output in outputs {
        assert_eq!(output, "2 20 200\nthere is no such data type\n");
    }
}

#[test]
fn the_header_is_the_one_that_is_checked_in() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/supernode_collectives.h");
    let found = std::fs::read_to_string(path).expect("it is checked in");
    assert!(
        found == supernode_collectives::c::header(),
        "write it anew with: cargo xtask generate"
    );
}

/// The example checks every operator and compares the weights with those of one process.
#[test]
fn pytorch_trains_data_parallel_over_it() {
    let has_torch = |python: &&str| {
        let found = Command::new(python)
            .args(["-c", "import torch.distributed"])
            .output();
        found.is_ok_and(|output| output.status.success())
    };
    let Some(python) = ["python3", "/usr/bin/python3"].into_iter().find(has_torch) else {
        println!("SKIPPED: no python3 with torch; on Debian: apt-get install python3-torch");
        return;
    };
    let example = Path::new(REPOSITORY)
        .join("examples/ddp_supernode.py")
        .display()
        .to_string();
    let port = root().port().to_string();
    let outputs = run(&[python, &example], 2, |command| {
        command
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", &port)
            .env("SUPERNODE_COLLECTIVES_LIBRARY", library())
            .env("PYTHONPATH", Path::new(REPOSITORY).join("python"))
            .env("PYTHONDONTWRITEBYTECODE", "1");
    });
    for output in outputs {
        assert!(output.ends_with("ok\n"), "{output}");
    }
}
