//! `supernode context …`: which server is talked to.

use serde_json::json;

use crate::context::{self, ContextError};
use crate::failure::Failure;
use crate::output::{Table, cell, fields, or_dash, say};
use crate::session::Session;

/// Which server to talk to.
#[derive(Debug, clap::Subcommand)]
pub enum ContextCommand {
    /// List the contexts of the context file
    #[command(visible_alias = "ls")]
    List,
    /// Make a context the current one
    Use {
        /// Its name
        name: String,
    },
    /// Show which context is in force and where it comes from; never shows the token
    Show,
}

pub(crate) fn run(session: &Session<'_>, command: &ContextCommand) -> Result<(), Failure> {
    match command {
        ContextCommand::List => list(session),
        ContextCommand::Use { name } => choose(session, name),
        ContextCommand::Show => show(session),
    }
}

fn list(session: &Session<'_>) -> Result<(), Failure> {
    let path = context::path(&context::process_variable)?;
    let file = context::load(&path)?;
    let current = |name: &String| file.current.as_ref() == Some(name);
    let items: Vec<_> = file
        .contexts
        .iter()
        .map(
            |(name, entry)| json!({"name": name, "server": entry.server, "current": current(name)}),
        )
        .collect();
    session.print_list(
        &items,
        &format!(
            "{} has no contexts; `supernode dev` makes one",
            path.display()
        ),
        |_, look| {
            let mut table = Table::new(&["CURRENT", "NAME", "SERVER"]);
            for (name, entry) in &file.contexts {
                table.row([
                    cell(if current(name) { "*" } else { "" }),
                    cell(name),
                    cell(&entry.server),
                ]);
            }
            table.render(look)
        },
    )
}

fn choose(session: &Session<'_>, name: &str) -> Result<(), Failure> {
    let path = context::path(&context::process_variable)?;
    let mut file = context::load(&path)?;
    if !file.contexts.contains_key(name) {
        let known = file
            .contexts
            .keys()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ");
        return Err(ContextError::NotFound {
            name: name.to_owned(),
            path,
            known,
        }
        .into());
    }
    file.current = Some(name.to_owned());
    context::store(&path, &file)?;
    for variable in ["SUPERNODE_SERVER", "SUPERNODE_CONTEXT"] {
        if context::process_variable(variable).is_some() {
            say(&format!(
                "note: {variable} is set and goes before the current context"
            ));
        }
    }
    let server = &file.contexts[name].server;
    session.print(
        &json!({"name": name, "server": server, "current": true}),
        |_| format!("using {name} ({server})\n"),
    )
}

fn show(session: &Session<'_>) -> Result<(), Failure> {
    let resolved = session.context()?;
    let value = json!({"name": resolved.name, "server": resolved.context.server, "origin": resolved.origin});
    session.print(&value, |_| {
        fields(&[
            ("name", or_dash(resolved.name.as_ref())),
            ("server", resolved.context.server.clone()),
            ("from", resolved.origin.clone()),
        ])
    })
}
