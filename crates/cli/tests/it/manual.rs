//! Completion and manual pages, as the process writes them.

use std::process::Stdio;

use crate::process::{command, finish};

#[tokio::test]
async fn every_shell_gets_a_script() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = finish(command(&["completion", shell])).await;
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{shell}");
        assert!(ended.out.contains("super-node"), "{shell}");
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_failure() {
    for arguments in [&["completion", "bash"][..], &["man"]] {
        let mut command = command(arguments);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        command.stdout(Stdio::from(writer));
        let ended = finish(command).await;
        assert_eq!(
            (ended.code, ended.err.as_str()),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
}

#[tokio::test]
async fn manual_pages_are_printed_or_written() {
    let ended = finish(command(&["man", "super-node", "scale-down"])).await;
    assert_eq!(ended.code, Some(0));
    assert!(
        ended.out.contains("supernode-super-node-scale-down") && ended.out.contains("grace"),
        "{}",
        ended.out
    );
    let ended = finish(command(&["man", "super-node", "shrink"])).await;
    assert_eq!(
        (ended.code, ended.err.as_str()),
        (
            Some(2),
            "error: `supernode super-node` has no command `shrink`\n"
        )
    );
    let directory = tempfile::tempdir().expect("a directory");
    let target = directory.path().join("man1");
    let ended = finish(command(&[
        "man",
        "--directory",
        target.to_str().expect("UTF-8"),
    ]))
    .await;
    assert_eq!(ended.code, Some(0));
    for page in [
        "supernode.1",
        "supernode-run.1",
        "supernode-super-node-create.1",
    ] {
        assert!(target.join(page).is_file(), "{page}");
    }
}
