//! `supernode environment …`: the network and software configuration of a super node's members.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use supernode_api::environment::{
    EnvironmentDetail, EnvironmentHistory, EnvironmentQuery, EnvironmentRevision, EnvironmentSet,
    EnvironmentShow,
};
use supernode_api::super_node::SuperNodeShow;
use supernode_api::{Nothing, Watch};
use supernode_client::{CallOptions, Client};
use supernode_types::environment::{EnvironmentDocument, EnvironmentFile};

use crate::change::{Precondition, WaitOption, lost_race, pair};
use crate::document;
use crate::failure::Failure;
use crate::operation;
use crate::output::{Look, Table, add, cell, clean, fields, section, state};
use crate::session::Session;

/// The configuration that every member of a super node must have.
#[derive(Debug, clap::Subcommand)]
pub enum EnvironmentCommand {
    /// Show the environment and how each member stands to it
    Show {
        /// The super node's name or id
        super_node: String,
        /// This revision instead of the one in force
        #[arg(long, value_name = "N")]
        revision: Option<i64>,
    },
    /// Write a new revision and roll it out to all members: a whole document, or changes onto the present one
    Set(Box<SetArguments>),
    /// List all revisions
    History {
        /// The super node's name or id
        super_node: String,
    },
}

/// What to write.
#[derive(Debug, clap::Args)]
pub struct SetArguments {
    /// The super node's name or id
    super_node: String,
    /// The whole document, TOML or JSON; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "changes")]
    file: Option<PathBuf>,
    #[command(flatten)]
    changes: Changes,
    #[command(flatten)]
    precondition: Precondition,
    #[command(flatten)]
    wait: WaitOption,
}

/// Changes onto the present revision; each may be given several times.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(id = "changes", multiple = true)]
pub(crate) struct Changes {
    /// Set an environment variable of every job
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    variable: Vec<(String, String)>,
    /// Remove an environment variable
    #[arg(long, value_name = "NAME")]
    unset_variable: Vec<String>,
    /// Set a kernel parameter
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    sysctl: Vec<(String, String)>,
    /// Leave a kernel parameter alone again
    #[arg(long, value_name = "NAME")]
    unset_sysctl: Vec<String>,
    /// Have a file with the content and the mode of a local one
    #[arg(long, value_name = "PATH=LOCALFILE", value_parser = pair)]
    file_entry: Vec<(String, String)>,
    /// No longer have a file
    #[arg(long, value_name = "PATH")]
    remove_file: Vec<String>,
    /// Require a version of a component, for example kernel=6.8.0
    #[arg(long, value_name = "COMPONENT=VERSION", value_parser = pair)]
    required_version: Vec<(String, String)>,
    /// No longer require a version
    #[arg(long, value_name = "COMPONENT")]
    unset_version: Vec<String>,
}

impl Changes {
    fn is_empty(&self) -> bool {
        let Self {
            variable,
            unset_variable,
            sysctl,
            unset_sysctl,
            file_entry,
            remove_file,
            required_version,
            unset_version,
        } = self;
        [variable, sysctl, file_entry, required_version]
            .iter()
            .all(|pairs| pairs.is_empty())
            && [unset_variable, unset_sysctl, remove_file, unset_version]
                .iter()
                .all(|names| names.is_empty())
    }

    /// The document after these changes. `files` are the entries' contents, read before.
    fn onto(
        &self,
        mut document: EnvironmentDocument,
        files: &[EnvironmentFile],
    ) -> EnvironmentDocument {
        document
            .variables
            .retain(|name, _| !self.unset_variable.contains(name));
        document.variables.extend(self.variable.iter().cloned());
        document
            .sysctls
            .retain(|name, _| !self.unset_sysctl.contains(name));
        document.sysctls.extend(self.sysctl.iter().cloned());
        document
            .required_versions
            .retain(|name, _| !self.unset_version.contains(name));
        document
            .required_versions
            .extend(self.required_version.iter().cloned());
        document.files.retain(|file| {
            !self.remove_file.contains(&file.path) && !files.iter().any(|new| new.path == file.path)
        });
        document.files.extend(files.iter().cloned());
        document
    }
}

/// Reads the local file of each entry.
fn entries(pairs: &[(String, String)]) -> Result<Vec<EnvironmentFile>, Failure> {
    pairs
        .iter()
        .map(|(path, local)| {
            let failed = |error: std::io::Error| Failure::File {
                path: local.into(),
                why: error.to_string(),
            };
            let mode = std::fs::metadata(Path::new(local))
                .map_err(failed)?
                .permissions()
                .mode()
                & 0o777;
            let content = std::fs::read_to_string(local).map_err(failed)?;
            Ok(EnvironmentFile {
                path: path.clone(),
                mode: format!("{mode:04o}"),
                content,
            })
        })
        .collect()
}

pub(crate) async fn run(session: &Session<'_>, command: EnvironmentCommand) -> Result<(), Failure> {
    match command {
        EnvironmentCommand::Show {
            super_node,
            revision,
        } => {
            let query = EnvironmentQuery { revision };
            let detail = session
                .client()?
                .get::<EnvironmentShow>(&[&super_node], &query)
                .await?;
            session.print(&detail, |look| show(&detail, look))
        }
        EnvironmentCommand::Set(arguments) => set(session, *arguments).await,
        EnvironmentCommand::History { super_node } => {
            let items = session
                .client()?
                .list::<EnvironmentHistory, _>(&[&super_node], &Nothing {})
                .await?;
            session.print_list(&items, "no revisions", history)
        }
    }
}

async fn set(session: &Session<'_>, arguments: SetArguments) -> Result<(), Failure> {
    let SetArguments {
        super_node,
        file,
        changes,
        precondition,
        wait,
    } = arguments;
    let started = if let Some(file) = file {
        let document: EnvironmentDocument = document::read(&file)?;
        document
            .validate()
            .map_err(|why| Failure::File { path: file, why })?;
        let client = session.client()?;
        client
            .call::<EnvironmentSet>(&[&super_node], &Nothing {}, &document, &precondition.call())
            .await?
    } else {
        if changes.is_empty() {
            return Err(Failure::Usage(
                "say what to set: --file, or at least one change such as --variable NAME=VALUE"
                    .into(),
            ));
        }
        let files = entries(&changes.file_entry)?;
        merge(
            &session.client()?,
            &super_node,
            &changes,
            &files,
            &precondition,
        )
        .await?
    };
    operation::finish(session, &session.client()?, started, wait.wait).await
}

/// Reads the revision in force, changes it and writes it, unless somebody else changed the super node meanwhile.
async fn merge(
    client: &Client,
    super_node: &str,
    changes: &Changes,
    files: &[EnvironmentFile],
    precondition: &Precondition,
) -> Result<supernode_api::operation::OperationView, Failure> {
    let mut tries = 0;
    loop {
        // The generation first: what was read after it is at least as new, so a write between the two is noticed.
        let before = client
            .get::<SuperNodeShow>(&[super_node], &Watch::default())
            .await?
            .view
            .super_node;
        let present = client
            .get::<EnvironmentShow>(&[super_node], &EnvironmentQuery::default())
            .await?;
        let document = changes.onto(present.revision.document, files);
        document.validate().map_err(Failure::Usage)?;
        let generation = precondition.if_generation.unwrap_or(before.generation);
        let options = CallOptions {
            if_match: Some(generation),
            ..precondition.call()
        };
        match client
            .call::<EnvironmentSet>(&[super_node], &Nothing {}, &document, &options)
            .await
        {
            Err(error) if lost_race(&error, precondition, tries) => tries += 1,
            result => return Ok(result?),
        }
    }
}

fn show(detail: &EnvironmentDetail, look: &Look) -> String {
    let EnvironmentRevision {
        revision,
        document,
        actor,
        created_at,
    } = &detail.revision;
    let mut text = fields(&[
        ("revision", revision.to_string()),
        ("written by", actor.clone()),
        ("written", look.moment(*created_at)),
        ("generation", detail.generation.to_string()),
    ]);
    for (head, pairs) in [
        ("variables", &document.variables),
        ("sysctls", &document.sysctls),
        ("required versions", &document.required_versions),
    ] {
        let mut lines = String::new();
        for (name, value) in pairs {
            add(
                &mut lines,
                format_args!("{}={}\n", clean(name), clean(value)),
            );
        }
        text += &section(head, &lines);
    }
    if !document.files.is_empty() {
        let mut table = Table::new(&["FILE", "MODE", "BYTES"]);
        for file in &document.files {
            table.row([cell(&file.path), cell(&file.mode), cell(file.content.len())]);
        }
        text += &section("files", &table.render(look));
    }
    if !detail.members.is_empty() {
        let mut table = Table::new(&["MEMBER", "STATE", "APPLIED", "PROBLEMS"]);
        for member in &detail.members {
            let word = match (
                member.problems.is_empty(),
                member.applied_generation >= detail.generation,
            ) {
                (false, _) => "drifted",
                (true, true) => "applied",
                (true, false) => "pending",
            };
            table.row([
                cell(&member.node),
                state(word),
                cell(member.applied_generation),
                cell(member.problems.join("; ")),
            ]);
        }
        text += &section("members", &table.render(look));
    }
    text
}

fn history(items: &[EnvironmentRevision], look: &Look) -> String {
    let mut table = Table::new(&[
        "REVISION",
        "AGE",
        "ACTOR",
        "VARIABLES",
        "FILES",
        "SYSCTLS",
        "VERSIONS",
    ]);
    for one in items {
        let document = &one.document;
        table.row([
            cell(one.revision),
            cell(look.age(one.created_at)),
            cell(&one.actor),
            cell(document.variables.len()),
            cell(document.files.len()),
            cell(document.sysctls.len()),
            cell(document.required_versions.len()),
        ]);
    }
    table.render(look)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use supernode_types::Timestamp;

    #[test]
    fn changes_replace_what_they_name_and_keep_the_rest() {
        let owned = |text: &str| text.to_owned();
        let present: EnvironmentDocument = crate::sample::answer(&json!({
            "variables": {"A": "1", "B": "2"}, "sysctls": {"x.y": "1"},
            "files": [{"path": "/etc/a", "content": "old"}, {"path": "/etc/b", "content": "b"}, {"path": "/etc/c", "content": "c"}]
        }));
        let changes = Changes {
            variable: vec![(owned("B"), owned("3")), (owned("C"), owned("4"))],
            unset_variable: vec![owned("A")],
            unset_sysctl: vec![owned("x.y")],
            remove_file: vec![owned("/etc/c")],
            required_version: vec![(owned("kernel"), owned("6.8"))],
            ..Changes::default()
        };
        let files = [EnvironmentFile {
            path: owned("/etc/a"),
            mode: owned("0600"),
            content: owned("new"),
        }];
        let expected = crate::sample::answer(&json!({
            "variables": {"B": "3", "C": "4"}, "required_versions": {"kernel": "6.8"},
            "files": [{"path": "/etc/b", "content": "b"}, {"path": "/etc/a", "content": "new", "mode": "0600"}]
        }));
        assert_eq!(changes.onto(present, &files), expected);
        assert!(!changes.is_empty() && Changes::default().is_empty());
    }

    #[test]
    fn the_detail_shows_who_is_behind() {
        let detail: EnvironmentDetail = crate::sample::answer(&json!({
            "revision": 2, "document": {"variables": {"A": "1"}, "files": [{"path": "/etc/a", "content": "abc"}]}, "actor": "ada",
            "created_at": "2025-11-23T12:13:20Z", "generation": 5, "members": [
                {"node": "n1", "applied_generation": 5, "problems": []},
                {"node": "n2", "applied_generation": 4, "problems": []},
                {"node": "n3", "applied_generation": 5, "problems": ["file /etc/a drifted: changed"]}]
        }));
        let text = show(
            &detail,
            &Look {
                now: Timestamp(1_763_900_000_000_000),
                color: false,
            },
        );
        assert!(
            text.ends_with(
                "\nvariables\nA=1\n\nfiles\nFILE    MODE  BYTES\n/etc/a  0644  3\n\nmembers\n\
                 MEMBER  STATE    APPLIED  PROBLEMS\n\
                 n1      applied  5\n\
                 n2      pending  4\n\
                 n3      drifted  5        file /etc/a drifted: changed\n"
            ),
            "{text}"
        );
    }
}
