//! Completion scripts and manual pages, made from the command line itself.

use std::path::PathBuf;

use crate::failure::Failure;
use crate::output::{self, say};

/// Which completion script to print.
#[derive(Debug, clap::Args)]
pub struct CompletionArguments {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Which manual pages to make.
#[derive(Debug, clap::Args)]
pub struct ManArguments {
    /// Write the pages of all commands into this directory
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    directory: Option<PathBuf>,
    /// The command whose page is printed, for example `super-node create`; the program's own when absent
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) fn completion(
    arguments: &CompletionArguments,
    mut root: clap::Command,
) -> Result<(), Failure> {
    let name = root.get_name().to_owned();
    // Into memory first: the generator panics when its reader goes away.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut root, name, &mut script);
    output::write_bytes(&script)
}

pub(crate) fn man(arguments: &ManArguments, root: clap::Command) -> Result<(), Failure> {
    if let Some(directory) = &arguments.directory {
        let failed = |error: std::io::Error| Failure::File {
            path: directory.clone(),
            why: error.to_string(),
        };
        std::fs::create_dir_all(directory).map_err(failed)?;
        clap_mangen::generate_to(root, directory).map_err(failed)?;
        say(&format!("manual pages written to {}", directory.display()));
        return Ok(());
    }
    let page = page(root, &arguments.command)?;
    output::write_bytes(&page)
}

fn page(mut root: clap::Command, path: &[String]) -> Result<Vec<u8>, Failure> {
    root.build();
    let mut command = &root;
    for name in path {
        command = command.find_subcommand(name).ok_or_else(|| {
            Failure::Usage(format!(
                "`{}` has no command `{name}`",
                command.get_bin_name().unwrap_or_default()
            ))
        })?;
    }
    let title = command
        .get_bin_name()
        .unwrap_or(command.get_name())
        .replace(' ', "-");
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .title(title)
        .render(&mut page)
        .map_err(Failure::Output)?;
    Ok(page)
}
