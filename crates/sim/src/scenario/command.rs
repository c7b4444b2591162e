//! The commands of a script.

use std::collections::BTreeMap;
use std::time::Duration;

use supernode_control::scale_up::Selection;
use supernode_types::environment::EnvironmentDocument;
use supernode_types::job::JobSpec;
use supernode_types::super_node::DrainMode;
use supernode_types::time::parse_duration;

use crate::options::FaultKind;
use crate::ranks::Program;
use crate::request::Request;

/// The deadline of every operation of a script.
const DEADLINE: Duration = Duration::from_mins(5);

/// One line of a script.
#[derive(Debug)]
pub(super) enum Command {
    World {
        machines: u32,
        devices: u32,
    },
    Ask(Request),
    Break {
        kind: FaultKind,
        node: Option<String>,
        duration: Duration,
    },
    Wait(Duration),
    WaitFor(String),
    Settle,
    Show,
}

impl Command {
    /// Reads a command.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        Ok(match words.as_slice() {
            ["world", machines, "nodes"] => Self::World {
                machines: number(machines)?,
                devices: 1,
            },
            ["world", machines, "nodes", devices, "devices"] => Self::World {
                machines: number(machines)?,
                devices: number(devices)?,
            },
            ["create", name, which @ ..] => {
                let selection = selection(which)?;
                Self::Ask(Request::Create {
                    name: (*name).to_owned(),
                    spec: None,
                    selection,
                    deadline: DEADLINE,
                })
            }
            ["scale-up", name, which @ ..] => {
                let selection = selection(which)?;
                Self::Ask(Request::ScaleUp {
                    super_node: (*name).to_owned(),
                    selection,
                    deadline: DEADLINE,
                })
            }
            ["scale-down", name, mode, which @ ..] => {
                let (selection, mode) = (selection(which)?, drain_mode(mode)?);
                Self::Ask(Request::ScaleDown {
                    super_node: (*name).to_owned(),
                    selection,
                    mode,
                    deadline: DEADLINE,
                })
            }
            ["delete", name] => Self::Ask(Request::Delete {
                super_node: (*name).to_owned(),
                deadline: DEADLINE,
            }),
            ["environment", name, variable, value] => {
                let variables = [((*variable).to_owned(), (*value).to_owned())].into();
                let document = EnvironmentDocument {
                    variables,
                    ..EnvironmentDocument::default()
                };
                Self::Ask(Request::SetEnvironment {
                    super_node: (*name).to_owned(),
                    document,
                    deadline: DEADLINE,
                })
            }
            ["submit", name, options @ ..] => Self::Ask(submit(name, options)?),
            ["cancel", id] if id.starts_with("job-") => Self::Ask(Request::CancelJob {
                job: (*id).to_owned(),
            }),
            ["cancel", id] => Self::Ask(Request::CancelOperation {
                operation: (*id).to_owned(),
            }),
            ["cordon", node] => Self::Ask(Request::Cordon {
                node: (*node).to_owned(),
                reason: "the fan rattles".into(),
            }),
            ["uncordon", node] => Self::Ask(Request::Uncordon {
                node: (*node).to_owned(),
            }),
            ["remove", node] => Self::Ask(Request::Remove {
                node: (*node).to_owned(),
            }),
            ["kill", "server", "for", time] => Self::Break {
                kind: FaultKind::ServerKill,
                node: None,
                duration: parse_duration(time)?,
            },
            [verb, node, "for", time] => {
                let kind = match *verb {
                    "kill-agent" => FaultKind::AgentKill,
                    "halt-agent" => FaultKind::AgentHalt,
                    "reboot" => FaultKind::Reboot,
                    "cut" => FaultKind::Partition,
                    _ => return Err(format!("`{verb}` is not a fault")),
                };
                Self::Break {
                    kind,
                    node: Some((*node).to_owned()),
                    duration: parse_duration(time)?,
                }
            }
            ["wait", "for", kind] => Self::WaitFor((*kind).to_owned()),
            ["wait", time] => Self::Wait(parse_duration(time)?),
            ["settle"] => Self::Settle,
            ["show"] => Self::Show,
            _ => return Err("this is not a command".into()),
        })
    }
}

fn number(word: &str) -> Result<u32, String> {
    word.parse()
        .map_err(|_| format!("`{word}` is not a number"))
}

fn selection(words: &[&str]) -> Result<Selection, String> {
    match words {
        ["count", count] => Ok(Selection::Count(number(count)?)),
        ["to", count] => Ok(Selection::To(number(count)?)),
        ["node", names @ ..] if !names.is_empty() => Ok(Selection::Named(
            names.iter().map(|name| (*name).to_owned()).collect(),
        )),
        _ => Err("say which nodes: count N, to N, or node NAME...".into()),
    }
}

fn drain_mode(word: &str) -> Result<DrainMode, String> {
    match word {
        "refuse" => Ok(DrainMode::Refuse),
        "wait" => Ok(DrainMode::Wait),
        "evict" => Ok(DrainMode::Evict { grace_seconds: 5 }),
        _ => Err(format!("`{word}` is not a mode: refuse, wait, evict")),
    }
}

/// `nodes N for TIME` and further pairs.
fn submit(super_node: &str, options: &[&str]) -> Result<Request, String> {
    let mut program = Program {
        run: None,
        code: 0,
        heeds: true,
        only_rank: None,
    };
    let mut spec = JobSpec {
        nodes: 1,
        devices: None,
        arguments: Vec::new(),
        environment: BTreeMap::new(),
        workdir: None,
        priority: 0,
        time_limit_seconds: None,
        requeue_limit: 0,
        grace_seconds: 5,
        run_as_root: false,
    };
    let mut name = "train.py".to_owned();
    for pair in options.chunks(2) {
        let [option, value] = pair else {
            return Err(format!("`{}` needs a value", pair.join(" ")));
        };
        match *option {
            "name" => (*value).clone_into(&mut name),
            "nodes" => spec.nodes = number(value)?,
            "devices" => spec.devices = Some(number(value)?),
            "for" => program.run = Some(parse_duration(value)?),
            "exit" => {
                let code = value.parse();
                program.code = code.map_err(|_| format!("`{value}` is not an exit code"))?;
            }
            "requeue" => spec.requeue_limit = number(value)?,
            "limit" => spec.time_limit_seconds = Some(parse_duration(value)?.as_secs()),
            _ => return Err(format!("`{option}` is not an option of a job")),
        }
    }
    spec.arguments = program.arguments();
    Ok(Request::Submit {
        super_node: super_node.to_owned(),
        name,
        spec,
    })
}
