//! One fixed story, which can be disturbed at any of its steps: a super node is made, grows, runs a job, gets another environment,
//! shrinks under a running job, and is deleted.

use std::time::Duration;

use supernode_control::scale_up::Selection;
use supernode_types::environment::EnvironmentDocument;
use supernode_types::job::{Job, JobOutcome, JobState};
use supernode_types::node::NodeCondition;
use supernode_types::operation::OperationState;
use supernode_types::super_node::DrainMode;

use crate::TRACE_LINES;
use crate::options::{FaultKind, Options};
use crate::ranks::Program;
use crate::request::Request;
use crate::world::{Violation, World};

const MACHINES: u32 = 4;
/// How long the disturbance lasts: shorter than the fence.
const OUTAGE: Duration = Duration::from_millis(1500);
/// Longer than the story takes, however it is disturbed.
const LONGEST: Duration = Duration::from_mins(10);

/// How the story ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// How many steps it took.
    pub steps: u64,
    /// What did not become what the operator wanted; empty after a good end.
    pub regrets: Vec<String>,
}

/// Runs the story. With a disturbance, that fault happens to that machine (where it is one of a machine) after that many steps.
pub fn run_story(disturbance: Option<(FaultKind, usize, u64)>) -> Result<Ending, Box<Violation>> {
    let mut options = Options::calm(MACHINES);
    options.loop_period = Duration::from_secs(2);
    let mut world = World::new(1, options).traced(TRACE_LINES);
    let mut disturbance = disturbance;
    let mut go_on = |world: &mut World, until: &dyn Fn(&World) -> bool| {
        let latest = world.now + LONGEST;
        while !until(world) && world.now < latest {
            if let Some((kind, machine, _)) =
                disturbance.take_if(|(_, _, step)| *step <= world.steps())
            {
                world.inject(kind, machine, OUTAGE);
            }
            world.step()?;
        }
        Ok::<(), Box<Violation>>(())
    };
    go_on(&mut world, &all_ready)?;
    for chapter in 0.. {
        let Some(request) = chapter_of(chapter) else {
            break;
        };
        let number = world.ask(request);
        go_on(&mut world, &|world| done(world, number))?;
    }
    let latest = world.now + Duration::from_mins(1);
    while world.unrest().is_some() && world.now < latest {
        world.run_until(world.now + Duration::from_secs(1))?;
    }
    let mut regrets: Vec<String> = world.unrest().into_iter().collect();
    let view = &world.check.view;
    regrets.extend(
        view.operations
            .values()
            .filter(|operation| operation.state != OperationState::Succeeded)
            .map(|operation| format!("{} {:?}", operation.kind.word(), operation.state)),
    );
    let succeeded = |job: &Job| {
        matches!(
            job.state,
            JobState::Ended {
                outcome: JobOutcome::Succeeded,
                ..
            }
        )
    };
    regrets.extend(
        view.jobs
            .values()
            .filter(|job| !succeeded(job))
            .map(|job| format!("{} {:?}", job.name, job.state)),
    );
    regrets.extend(
        world
            .client
            .iter()
            .filter_map(|asked| asked.answer.clone()?.err()),
    );
    regrets.extend(
        view.super_nodes
            .values()
            .map(|found| format!("super node {} is still there", found.name)),
    );
    Ok(Ending {
        steps: world.steps(),
        regrets,
    })
}

/// What is asked for, one after the other.
fn chapter_of(number: usize) -> Option<Request> {
    let (super_node, deadline) = (|| "train".to_owned(), Duration::from_mins(2));
    Some(match number {
        0 => Request::Create {
            name: super_node(),
            spec: None,
            selection: Selection::Count(2),
            deadline,
        },
        1 => Request::ScaleUp {
            super_node: super_node(),
            selection: Selection::Count(1),
            deadline,
        },
        2 => submit("first", 2, 1500),
        3 => {
            let document = EnvironmentDocument {
                variables: [("A".to_owned(), "1".to_owned())].into(),
                ..EnvironmentDocument::default()
            };
            Request::SetEnvironment {
                super_node: super_node(),
                document,
                deadline,
            }
        }
        4 => submit("second", 2, 1000),
        5 => {
            let mode = DrainMode::Evict { grace_seconds: 1 };
            Request::ScaleDown {
                super_node: super_node(),
                selection: Selection::Named(vec!["node-1".to_owned()]),
                mode,
                deadline,
            }
        }
        6 => submit("third", 2, 500),
        7 => Request::Delete {
            super_node: super_node(),
            deadline,
        },
        _ => return None,
    })
}

fn submit(name: &str, nodes: u32, milliseconds: u64) -> Request {
    let program = Program {
        run: Some(Duration::from_millis(milliseconds)),
        code: 0,
        heeds: true,
        only_rank: None,
    };
    let spec = supernode_types::job::JobSpec {
        nodes,
        devices: None,
        arguments: program.arguments(),
        environment: std::collections::BTreeMap::new(),
        workdir: None,
        priority: 0,
        time_limit_seconds: None,
        requeue_limit: 3,
        grace_seconds: 1,
        run_as_root: false,
    };
    Request::Submit {
        super_node: "train".to_owned(),
        name: name.to_owned(),
        spec,
    }
}

/// Whether all nodes are there for the first time.
fn all_ready(world: &World) -> bool {
    let ready = world
        .check
        .view
        .nodes
        .values()
        .filter(|node| node.condition == NodeCondition::Ready);
    ready.count() == world.machines.len()
}

/// Whether the story can go on: what a request asked for has come to its end, or was refused.
fn done(world: &World, number: usize) -> bool {
    let Some(answer) = &world.client[number].answer else {
        return false;
    };
    let Ok(value) = answer else { return true };
    let id = value["id"].as_str().unwrap_or_default();
    let view = &world.check.view;
    let operation = id.parse().ok().and_then(|id| view.operations.get(&id));
    let job = id.parse().ok().and_then(|id| view.jobs.get(&id));
    let all_ended = || view.jobs.values().all(|job| job.state.ended());
    // The scale-down comes while the second job runs.
    let enough = |job: &Job| {
        if job.name == "second" {
            job.state.word() == "running" || job.state.ended()
        } else {
            all_ended()
        }
    };
    operation.is_some_and(|operation| operation.state.ended()) || job.is_some_and(|job| enough(job))
}
