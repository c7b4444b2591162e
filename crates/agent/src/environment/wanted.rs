//! What an environment means on disk: pure, so that applying and verifying cannot disagree.

use std::collections::BTreeSet;

use supernode_types::environment::{EnvironmentDesired, EnvironmentFile};

use super::{hosts, text};

/// The variables of the super node.
pub(super) const VARIABLES: &str = "etc/supernode/env";
/// The kernel parameters, for the next boot.
pub(super) const SYSCTLS: &str = "etc/sysctl.d/90-supernode.conf";

/// Files that other parts of the system depend on to let people in; an environment never writes them.
const PROTECTED: [&str; 9] = [
    "etc/passwd",
    "etc/shadow",
    "etc/group",
    "etc/gshadow",
    "etc/sudoers",
    "etc/sudoers.d",
    "etc/pam.d",
    "etc/ld.so.preload",
    "etc/fstab",
];

/// A file as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WantedFile {
    /// Relative to the system root.
    pub path: String,
    pub content: String,
    pub mode: u32,
}

/// Everything that should be on disk, each by item; what cannot be says why.
#[derive(Debug)]
pub(super) struct Wanted {
    pub files: Vec<(String, Result<WantedFile, String>)>,
    /// The block for the hosts file; `None` if there are no members.
    pub hosts: Option<Result<String, String>>,
    /// The paths that the environment names, also those that it cannot have.
    pub named: BTreeSet<String>,
}

impl Wanted {
    pub(super) fn of(desired: &EnvironmentDesired, allowed_prefixes: &[String]) -> Self {
        let mut files = Vec::new();
        if !desired.variables.is_empty() {
            let content = text::variables(&desired.variables);
            let file = content.map(|content| WantedFile {
                path: VARIABLES.into(),
                content,
                mode: 0o644,
            });
            files.push(("variables".to_owned(), file));
        }
        if !desired.sysctls.is_empty() {
            let file = WantedFile {
                path: SYSCTLS.into(),
                content: text::sysctls(&desired.sysctls),
                mode: 0o644,
            };
            files.push(("sysctl record".to_owned(), Ok(file)));
        }
        for file in &desired.files {
            files.push((
                format!("file {}", file.path),
                wanted_file(file, allowed_prefixes),
            ));
        }
        let mut named: BTreeSet<String> = desired
            .files
            .iter()
            .map(|file| file.path.trim_start_matches('/').to_owned())
            .collect();
        named.extend(
            files
                .iter()
                .filter_map(|(_, file)| Some(file.as_ref().ok()?.path.clone())),
        );
        let hosts = (!desired.members.is_empty())
            .then(|| hosts::block(&desired.super_node_name, &desired.members));
        Self {
            files,
            hosts,
            named,
        }
    }
}

fn wanted_file(file: &EnvironmentFile, allowed_prefixes: &[String]) -> Result<WantedFile, String> {
    let Some(path) = file.path.strip_prefix('/') else {
        return Err("the path is not absolute".into());
    };
    if path
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == "..")
        || path.contains('\0')
    {
        return Err("the path must be plain, without `..`, `.` and empty parts".into());
    }
    let below = |prefix: &str| {
        path.strip_prefix(prefix.trim_matches('/'))
            .is_some_and(|rest| rest.starts_with('/'))
    };
    if !allowed_prefixes.iter().any(|prefix| below(prefix)) {
        return Err(format!(
            "files may only be below {} on this node",
            allowed_prefixes.join(", ")
        ));
    }
    if path == super::HOSTS || path == VARIABLES || path == SYSCTLS {
        return Err("this file is made from members, variables and sysctls; change those".into());
    }
    if PROTECTED
        .iter()
        .any(|protected| path == *protected || below(protected))
    {
        return Err("this file decides who may log in or how the host starts; an environment does not write it".into());
    }
    let mode = u32::from_str_radix(&file.mode, 8)
        .ok()
        .filter(|mode| *mode <= 0o777);
    let Some(mode) = mode else {
        return Err(format!(
            "mode `{}` is not an octal mode between 0000 and 0777",
            file.mode
        ));
    };
    Ok(WantedFile {
        path: path.to_owned(),
        content: file.content.clone(),
        mode,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_in_allowed_places_are_wanted() {
        let allowed = ["/etc".to_owned(), "/opt".to_owned()];
        let check = |path: &str, mode: &str| {
            wanted_file(
                &EnvironmentFile {
                    path: path.into(),
                    mode: mode.into(),
                    content: String::new(),
                },
                &allowed,
            )
        };
        assert_eq!(
            check("/etc/app/a.conf", "0640").expect("it is fine").path,
            "etc/app/a.conf"
        );
        for bad in [
            "/etc",
            "/etcetera/x",
            "/usr/bin/x",
            "/etc/../root/x",
            "/etc//x",
            "etc/x",
            "/etc/hosts",
            "/etc/supernode/env",
        ] {
            assert!(check(bad, "0644").is_err(), "{bad}");
        }
        for bad in ["/etc/passwd", "/etc/sudoers.d/me", "/etc/ld.so.preload"] {
            assert!(
                check(bad, "0644")
                    .expect_err("protected")
                    .contains("log in"),
                "{bad}"
            );
        }
        for bad in ["4755", "0888", "", "rw"] {
            assert!(check("/etc/x", bad).is_err(), "{bad}");
        }
    }
}
