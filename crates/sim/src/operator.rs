//! What a simulated operator asks for next, given what the lists show.

use std::time::Duration;

use supernode_control::node_replace::Wish;
use supernode_control::scale_up::{Selection, Test};
use supernode_types::environment::EnvironmentDocument;
use supernode_types::job::JobSpec;
use supernode_types::node::{Membership, NodePolicy};
use supernode_types::super_node::{DrainMode, SuperNode};

use crate::event::{ClientEvent, Event};
use crate::ranks::Program;
use crate::request::Request;
use crate::world::World;

/// From so many machines on, not more than one more is asked for at once.
const MOST_MACHINES: usize = 8;
/// So many jobs wait at most, so that the end comes.
const MOST_JOBS: usize = 8;

impl World {
    /// Asks for one thing, and comes back later.
    pub(crate) fn operate(&mut self) {
        let Some(pace) = self
            .options
            .requests
            .filter(|_| self.now < self.options.chaos)
        else {
            return;
        };
        if let Some(request) = self.choose_request() {
            self.ask(request);
        }
        let again = self.chance.between(pace);
        self.queue
            .push(self.now + again, Event::Client(ClientEvent::Ask));
    }

    fn choose_request(&mut self) -> Option<Request> {
        let super_nodes: Vec<SuperNode> = self.check.view.super_nodes.values().cloned().collect();
        let Some(super_node) = self.chance.pick(&super_nodes).cloned() else {
            return Some(self.create());
        };
        let name = super_node.name.to_string();
        let active = self
            .check
            .view
            .jobs
            .values()
            .filter(|job| !job.state.ended())
            .count();
        match self.chance.below(100) {
            0..=9 => Some(self.create()),
            10..=49 if active < MOST_JOBS => Some(self.submit(name)),
            50..=59 => Some(Request::ScaleUp {
                super_node: name,
                selection: self.up_selection(),
                deadline: self.deadline(),
            }),
            60..=68 => Some(self.scale_down(&super_node)),
            69..=71 => self.replace(&super_node),
            72..=75 => Some(Request::Delete {
                super_node: name,
                deadline: self.deadline(),
            }),
            76..=80 => Some(self.set_environment(name)),
            10..=49 | 81..=84 => self.cancel_job(),
            85..=89 => {
                let open: Vec<_> = self
                    .check
                    .view
                    .operations
                    .values()
                    .filter(|operation| !operation.state.ended())
                    .collect();
                self.chance
                    .pick(&open)
                    .map(|operation| Request::CancelOperation {
                        operation: operation.id.to_string(),
                    })
            }
            90..=93 => self.node_name().map(|node| Request::Cordon {
                node,
                reason: "the fan rattles".into(),
            }),
            94..=97 => self.cordoned_node().map(|node| Request::Uncordon { node }),
            98 => self.node_name().map(|node| Request::Remove { node }),
            _ => Some(Request::Rename {
                super_node: name,
                name: format!("sn-{}", self.client.len()),
            }),
        }
    }

    fn deadline(&mut self) -> Duration {
        self.chance
            .between((Duration::from_secs(2), Duration::from_secs(20)))
    }

    fn create(&mut self) -> Request {
        let selection = self.up_selection();
        let spec = self.options.two_specs.then(|| {
            if self.chance.percent(50) {
                "small".to_owned()
            } else {
                "large".to_owned()
            }
        });
        Request::Create {
            name: format!("sn-{}", self.client.len()),
            spec,
            selection,
            deadline: self.deadline(),
        }
    }

    fn up_selection(&mut self) -> Selection {
        let most = if self.machines.len() > MOST_MACHINES {
            1
        } else {
            3
        };
        match self.chance.below(10) {
            0..=5 => Selection::Count(self.chance.range(1, most)),
            6 => Selection::To(self.chance.range(1, 4)),
            _ => {
                let spares: Vec<String> = self
                    .check
                    .view
                    .nodes
                    .values()
                    .filter(|node| node.membership == Membership::Spare)
                    .map(|node| node.name.to_string())
                    .collect();
                match self.chance.pick(&spares) {
                    Some(spare) => Selection::Named(vec![spare.clone()]),
                    None => Selection::Count(1),
                }
            }
        }
    }

    fn scale_down(&mut self, super_node: &SuperNode) -> Request {
        let selection = match self.member(super_node) {
            Some(member) if self.chance.percent(40) => Selection::Named(vec![member]),
            _ => Selection::Count(self.chance.range(1, 2)),
        };
        Request::ScaleDown {
            super_node: super_node.name.to_string(),
            selection,
            mode: self.drain_mode(),
            deadline: self.deadline(),
        }
    }

    fn replace(&mut self, super_node: &SuperNode) -> Option<Request> {
        let wish = Wish {
            node: self.member(super_node)?,
            with: None,
            mode: self.drain_mode(),
            test: Test::AsSet,
            deadline: self.deadline(),
        };
        let super_node = super_node.name.to_string();
        Some(Request::Replace { super_node, wish })
    }

    fn member(&mut self, super_node: &SuperNode) -> Option<String> {
        let nodes = self.check.view.nodes.values();
        let members = nodes.filter(|node| node.membership.listed_in(&super_node.id));
        let names: Vec<String> = members.map(|node| node.name.to_string()).collect();
        self.chance.pick(&names).cloned()
    }

    fn drain_mode(&mut self) -> DrainMode {
        match self.chance.below(3) {
            0 => DrainMode::Refuse,
            1 => DrainMode::Wait,
            _ => DrainMode::Evict {
                grace_seconds: self.chance.range(0, 5),
            },
        }
    }

    fn set_environment(&mut self, super_node: String) -> Request {
        let value = self.client.len().to_string();
        let document = EnvironmentDocument {
            variables: [("REVISION".to_owned(), value)].into(),
            ..EnvironmentDocument::default()
        };
        Request::SetEnvironment {
            super_node,
            document,
            deadline: self.deadline(),
        }
    }

    fn submit(&mut self, super_node: String) -> Request {
        let short = self.chance.percent(70);
        let run = match self.chance.below(10) {
            0 => None,
            _ if short => Some(self.chance.milliseconds(10, 4000)),
            _ => Some(self.chance.milliseconds(4000, 10_000)),
        };
        let code = if self.chance.percent(80) {
            0
        } else {
            *self.chance.pick(&[1, 2, 127]).unwrap_or(&1)
        };
        let only_rank = if self.chance.percent(50) {
            Some(self.chance.range(0, 2))
        } else {
            None
        };
        let program = Program {
            run,
            code,
            heeds: self.chance.percent(80),
            only_rank,
        };
        let limited = run.is_none() || self.chance.percent(40);
        let spec = JobSpec {
            nodes: self.chance.range(1, 3),
            devices: if self.chance.percent(50) {
                Some(self.chance.range(1, self.options.devices))
            } else {
                None
            },
            arguments: program.arguments(),
            environment: std::collections::BTreeMap::new(),
            workdir: None,
            priority: i32::try_from(self.chance.range(0, 2)).expect("it is small"),
            time_limit_seconds: limited.then(|| u64::from(self.chance.range(1, 15))),
            requeue_limit: self.chance.range(0, 3),
            grace_seconds: self.chance.range(0, 5),
            run_as_root: false,
        };
        Request::Submit {
            super_node,
            name: format!("job-of-request-{}", self.client.len()),
            spec,
        }
    }

    fn cancel_job(&mut self) -> Option<Request> {
        let open: Vec<_> = self
            .check
            .view
            .jobs
            .values()
            .filter(|job| !job.state.ended())
            .collect();
        self.chance.pick(&open).map(|job| Request::CancelJob {
            job: job.id.to_string(),
        })
    }

    fn node_name(&mut self) -> Option<String> {
        let names: Vec<String> = self
            .check
            .view
            .nodes
            .values()
            .map(|node| node.name.to_string())
            .collect();
        self.chance.pick(&names).cloned()
    }

    fn cordoned_node(&mut self) -> Option<String> {
        let cordoned = |policy: &NodePolicy| matches!(policy, NodePolicy::Cordoned(_));
        let names: Vec<String> = self
            .check
            .view
            .nodes
            .values()
            .filter(|node| cordoned(&node.policy))
            .map(|node| node.name.to_string())
            .collect();
        self.chance.pick(&names).cloned()
    }
}
