//! Scripted scenarios: commands with the output that they had, in one text file, which is documentation and test at once.
//!
//! ```text
//! # What this shows.
//! > world 3 nodes
//! > create train count 2
//! accepted op-1: super_node_create
//! > wait 1s
//!    0.3 s  node.joined             node-1 is a member now
//! ```
//! A line that begins with `> ` is a command, one that begins with `#` is for people, everything else is output. The world is calm:
//! nothing fails but what the script breaks, and everything takes the same time always. What must always hold is checked here too.

mod command;
mod names;

use std::time::Duration;

use supernode_control::query;
use supernode_types::event::{Event, Severity};
use supernode_types::job::JobState;
use supernode_types::node::Membership;

use crate::TRACE_LINES;
use crate::options::Options;
use crate::world::{Violation, World};
use command::Command;
use names::Names;

/// Longer than anything in a script takes.
const LONGEST_WAIT: Duration = Duration::from_mins(30);

/// Why a scenario has no output.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// A line that is no command.
    #[error("line {line}: `{text}`: {why}")]
    Command {
        /// Its number, from 1.
        line: usize,
        /// What it says.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// Something did not hold.
    #[error("line {line}: {violation}")]
    Violation {
        /// After which command.
        line: usize,
        /// What.
        violation: Box<Violation>,
    },
}

/// Runs the commands of a scenario and answers the whole text as it should be.
pub fn replay(text: &str) -> Result<String, ScenarioError> {
    let mut out = String::new();
    let mut stage: Option<Stage> = None;
    for (number, line) in text.lines().enumerate() {
        if line.starts_with('#') || line.is_empty() {
            out.push_str(line);
            out.push('\n');
        }
        let Some(words) = line.strip_prefix("> ") else {
            continue;
        };
        out.push_str(line);
        out.push('\n');
        let wrong = |why: String| ScenarioError::Command {
            line: number + 1,
            text: line.to_owned(),
            why,
        };
        match (Command::parse(words).map_err(wrong)?, &mut stage) {
            (Command::World { machines, devices }, stage @ None) => {
                *stage = Some(Stage::new(machines, devices));
            }
            (Command::World { .. }, Some(_)) => {
                return Err(wrong("there is a world already".into()));
            }
            (_, None) => return Err(wrong("begin with: world 4 nodes".into())),
            (command, Some(stage)) => {
                let said = stage
                    .run(command)
                    .map_err(|violation| ScenarioError::Violation {
                        line: number + 1,
                        violation,
                    })?;
                for line in said {
                    out.push_str(line.trim_end());
                    out.push('\n');
                }
            }
        }
    }
    Ok(out)
}

/// A world with a script.
struct Stage {
    world: World,
    names: Names,
    /// The last event that was told.
    told: i64,
}

impl Stage {
    fn new(machines: u32, devices: u32) -> Self {
        let mut options = Options::calm(machines);
        options.devices = devices;
        Self {
            world: World::new(1, options).traced(TRACE_LINES),
            names: Names::default(),
            told: 0,
        }
    }

    fn run(&mut self, command: Command) -> Result<Vec<String>, Box<Violation>> {
        let mut said = Vec::new();
        match command {
            Command::World { .. } => {}
            Command::Ask(request) => {
                let number = self.world.ask(self.names.resolve(request));
                while self.world.client[number].answer.is_none() {
                    self.world.step()?;
                }
                said.push(match &self.world.client[number].answer {
                    Some(Ok(value)) => accepted(value),
                    Some(Err(refusal)) => format!("refused: {refusal}"),
                    None => String::new(),
                });
            }
            Command::Break {
                kind,
                node,
                duration,
            } => {
                let machine = node.and_then(|node| {
                    self.world
                        .machines
                        .iter()
                        .position(|machine| machine.name.as_str() == node)
                });
                self.world.inject(kind, machine.unwrap_or(0), duration);
            }
            Command::Wait(duration) => self.world.run_until(self.world.now + duration)?,
            Command::WaitFor(kind) => {
                let latest = self.world.now + LONGEST_WAIT;
                while self.world.now < latest
                    && !self.events().iter().any(|(_, found, _)| *found == kind)
                {
                    self.world.step()?;
                }
                if self.world.now >= latest {
                    said.push(format!("{kind} does not happen"));
                }
            }
            Command::Settle => {
                let latest = self.world.now + LONGEST_WAIT;
                while self.world.now < latest && self.world.unrest().is_some() {
                    self.world
                        .run_until(self.world.now + Duration::from_millis(100))?;
                }
                if let Some(what) = self.world.unrest() {
                    said.push(format!("does not come to rest: {what}"));
                }
            }
            Command::Show => return Ok(self.show()),
        }
        for (time, kind, message) in self.events() {
            said.push(format!("{time:>6.1} s  {kind:<24} {message}"));
        }
        self.told = self.news().last().map_or(self.told, |event| event.sequence);
        Ok(said
            .into_iter()
            .map(|line| self.names.shorten(&line, &self.world.check.view))
            .collect())
    }

    /// What happened since it was told last: seconds, kind, message.
    fn events(&self) -> Vec<(f64, String, String)> {
        let seconds = |at: supernode_types::Timestamp| at.since(crate::clock::BEGIN).as_secs_f64();
        self.news()
            .into_iter()
            .map(|event| (seconds(event.at), event.kind, event.message))
            .collect()
    }

    fn news(&self) -> Vec<Event> {
        let told = self.told;
        let found = self.world.store.read_inline("events", move |tx| {
            query::events(tx, Some(told), None, Severity::Info, 100_000)
        });
        found.expect("the store is in memory")
    }

    /// Nodes, jobs and open operations.
    fn show(&self) -> Vec<String> {
        let view = &self.world.check.view;
        let name = |id| {
            view.super_nodes
                .get(id)
                .map_or_else(|| format!("{id}"), |found| found.name.to_string())
        };
        let mut lines = Vec::new();
        for machine in &self.world.machines {
            let Some(node) = machine.node().and_then(|node| view.nodes.get(node)) else {
                continue;
            };
            let belongs = match &node.membership {
                Membership::Spare => "spare".to_owned(),
                Membership::Joining { super_node, .. } => format!("joining {}", name(super_node)),
                Membership::Member { super_node } => format!("member of {}", name(super_node)),
                Membership::Leaving { super_node, .. } => format!("leaving {}", name(super_node)),
            };
            let ranks = machine.processes.len();
            lines.push(format!(
                "{:<8} {:<18} {:<12} {:<9} {ranks} rank(s)",
                node.name,
                belongs,
                node.policy.word(),
                node.condition.word()
            ));
        }
        for job in view.jobs.values() {
            let reason = if let JobState::Queued { reason } = &job.state {
                format!(": {reason}")
            } else {
                String::new()
            };
            lines.push(format!(
                "{} {} after {} attempt(s), {} requeue(s){reason}",
                job.id,
                job.state.word(),
                job.attempts,
                job.requeues
            ));
        }
        for operation in view.operations.values() {
            lines.push(format!(
                "{} {} {}",
                operation.id,
                operation.kind.word(),
                operation.state.word()
            ));
        }
        let mut names = self.names.clone();
        lines.iter().map(|line| names.shorten(line, view)).collect()
    }
}

/// What was accepted, in short.
fn accepted(value: &serde_json::Value) -> String {
    let word = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let what = if word("kind").is_empty() {
        word("name")
    } else {
        word("kind")
    };
    format!("accepted {}: {what}", word("id"))
}
