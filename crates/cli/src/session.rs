//! What one run of a command holds: how to reach the server, and where results go.

use std::io::IsTerminal;

use serde::Serialize;
use supernode_client::Client;
use supernode_types::Clock;
use supernode_types::time::SystemClock;

use crate::Options;
use crate::context::{self, Resolved};
use crate::failure::Failure;
use crate::output::{self, Format, Look, say};

/// One run of a command.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    options: &'a Options,
    look: Look,
}

impl<'a> Session<'a> {
    pub(crate) fn new(options: &'a Options) -> Self {
        let quiet = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let look = Look {
            now: SystemClock.now(),
            color: !quiet && std::io::stdout().is_terminal(),
        };
        Self { options, look }
    }

    /// The context in force.
    pub(crate) fn context(&self) -> Result<Resolved, Failure> {
        Ok(context::resolve(
            self.options.context.as_deref(),
            &context::process_variable,
        )?)
    }

    /// A client of the server in force.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(&self.context()?.context)?)
    }

    pub(crate) fn format(&self) -> Format {
        self.options.output
    }

    pub(crate) fn json(&self) -> bool {
        self.options.output == Format::Json
    }

    /// How tables look in this run.
    pub(crate) fn look(&self) -> &Look {
        &self.look
    }

    /// Prints a result: the API's JSON, or what `table` makes of it.
    pub(crate) fn print<T: Serialize + ?Sized>(
        &self,
        value: &T,
        table: impl FnOnce(&Look) -> String,
    ) -> Result<(), Failure> {
        match self.format() {
            Format::Json => output::write(
                &(serde_json::to_string_pretty(value).expect("results are plain data") + "\n"),
            ),
            // Refused before anything was asked for.
            Format::Table | Format::Html | Format::SuperbenchJsonl => {
                output::write(&table(&self.look))
            }
        }
    }

    /// Prints a list; an empty one as a remark on standard error.
    pub(crate) fn print_list<T: Serialize>(
        &self,
        items: &[T],
        none: &str,
        table: impl FnOnce(&[T], &Look) -> String,
    ) -> Result<(), Failure> {
        if items.is_empty() && !self.json() {
            say(none);
            return Ok(());
        }
        self.print(items, |look| table(items, look))
    }
}
