//! The context file: what is written is read again, privately; and which context is meant.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use supernode_cli::context::{ContextError, ContextFile, load, path, resolve, save_at, store};
use supernode_client::Context;

fn context(server: &str) -> Context {
    let ca = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n";
    Context {
        server: server.into(),
        ca: ca.into(),
        token: "to\"ken'".into(),
    }
}

/// A directory that is gone when the test is over, and the context file in it.
fn file() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("deep/er/config.toml");
    (directory, path)
}

/// The environment of a process, as a function.
fn variables<'a>(
    config: &'a Path,
    more: &'a [(&'a str, &'a str)],
) -> impl Fn(&str) -> Option<String> + 'a {
    move |name| match name {
        "SUPERNODE_CONFIG" => Some(config.display().to_string()),
        _ => more
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| (*value).to_owned()),
    }
}

#[test]
fn what_is_saved_is_read_again_and_only_by_its_owner() {
    let (directory, path) = file();
    save_at(&path, "dev", &context("https://127.0.0.1:1"), false).expect("saves");
    save_at(&path, "prod", &context("https://prod:1"), false).expect("saves");
    let found = load(&path).expect("reads");
    assert_eq!(
        found.current.as_deref(),
        Some("dev"),
        "the first one becomes current, the second does not"
    );
    assert_eq!(
        (
            found.contexts["prod"].server.as_str(),
            found.contexts["dev"].token.as_str()
        ),
        ("https://prod:1", "to\"ken'")
    );
    assert_eq!(found.contexts["dev"].ca, context("").ca);
    save_at(&path, "prod", &context("https://prod:2"), true).expect("saves");
    let found = load(&path).expect("reads");
    assert_eq!(
        (
            found.current.as_deref(),
            found.contexts["prod"].server.as_str(),
            found.contexts.len()
        ),
        (Some("prod"), "https://prod:2", 2)
    );
    let mode = |path: &Path| {
        std::fs::metadata(path)
            .expect("exists")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        (mode(&path), mode(path.parent().expect("has one"))),
        (0o600, 0o700)
    );
    let names: Vec<_> = std::fs::read_dir(path.parent().expect("has one"))
        .expect("reads")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(names, ["config.toml"], "nothing is left over");
    drop(directory);
}

#[test]
fn a_loose_mode_is_tightened_when_the_file_is_written() {
    let (_directory, path) = file();
    save_at(&path, "dev", &context("https://a"), true).expect("saves");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("ours");
    store(&path, &load(&path).expect("reads")).expect("saves");
    assert_eq!(
        std::fs::metadata(&path)
            .expect("exists")
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
}

#[test]
fn flag_then_environment_then_current_decides() {
    let (_directory, path) = file();
    for name in ["dev", "prod", "test"] {
        save_at(
            &path,
            name,
            &context(&format!("https://{name}")),
            name == "dev",
        )
        .expect("saves");
    }
    let ca = path.with_file_name("ca.pem");
    std::fs::write(&ca, "PEM").expect("writes");
    let ca = ca.display().to_string();
    let whole = [
        ("SUPERNODE_SERVER", "https://env"),
        ("SUPERNODE_TOKEN", "t"),
        ("SUPERNODE_CA_FILE", ca.as_str()),
        ("SUPERNODE_CONTEXT", "test"),
    ];
    let server = |flag, more: &[(&str, &str)]| {
        resolve(flag, &variables(&path, more)).map(|found| found.context.server)
    };
    assert_eq!(server(Some("prod"), &whole).expect("known"), "https://prod");
    assert_eq!(server(None, &whole).expect("complete"), "https://env");
    assert_eq!(server(None, &whole[3..]).expect("known"), "https://test");
    assert_eq!(server(None, &[]).expect("current"), "https://dev");
    let found = resolve(None, &variables(&path, &whole)).expect("complete");
    assert_eq!(
        (
            found.context.ca.as_str(),
            found.context.token.as_str(),
            found.name
        ),
        ("PEM", "t", None)
    );
}

#[test]
fn a_token_is_never_sent_to_a_server_that_it_was_not_made_for() {
    let (_directory, path) = file();
    save_at(&path, "dev", &context("https://dev"), true).expect("saves");
    let found = resolve(
        None,
        &variables(&path, &[("SUPERNODE_SERVER", "https://other")]),
    );
    assert!(
        matches!(
            found,
            Err(ContextError::Incomplete {
                missing: "SUPERNODE_TOKEN"
            })
        ),
        "{found:?}"
    );
}

#[test]
fn what_is_missing_is_said_with_what_to_do() {
    let (_directory, path) = file();
    let error = resolve(None, &variables(&path, &[]))
        .expect_err("there is none")
        .to_string();
    assert!(
        error.contains("supernode dev") && error.contains("SUPERNODE_SERVER"),
        "{error}"
    );
    save_at(&path, "dev", &context("https://dev"), true).expect("saves");
    let error = resolve(Some("prod"), &variables(&path, &[]))
        .expect_err("unknown")
        .to_string();
    assert!(
        error.contains("`prod`") && error.contains("it has: dev"),
        "{error}"
    );
}

#[test]
fn a_broken_file_is_refused_without_showing_it() {
    let (_directory, path) = file();
    std::fs::create_dir_all(path.parent().expect("has one")).expect("makes");
    std::fs::write(&path, "[contexts.dev]\ntoken = \"s3cret\nserver = 1\n").expect("writes");
    let error = load(&path).expect_err("broken").to_string();
    assert!(
        error.contains("is not a context file") && !error.contains("s3cret"),
        "{error}"
    );
    let error = save_at(&path, "dev", &context("https://dev"), true);
    assert!(
        error.is_err(),
        "a file that we cannot read is not overwritten"
    );
    assert_eq!(
        load(&path.with_file_name("absent.toml")).expect("empty"),
        ContextFile::default()
    );
}

#[test]
fn tokens_do_not_show_in_debug_output() {
    let (_directory, path) = file();
    save_at(&path, "dev", &context("https://dev"), true).expect("saves");
    let shown = format!(
        "{:?} {:?}",
        load(&path).expect("reads"),
        resolve(None, &variables(&path, &[])).expect("current")
    );
    assert!(!shown.contains("ken'"), "{shown}");
}

#[test]
fn the_file_is_in_the_users_configuration_directory() {
    let found = path(&|_| None).expect("the home directory is known");
    assert!(
        found.ends_with("supernode/config.toml"),
        "{}",
        found.display()
    );
}
