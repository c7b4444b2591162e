//! The catalogue: what is measured, how often, and what the project wants to reach. One line of the result table each. A figure is a
//! plain number in base units (seconds, per second, bytes); how it looks is the report's business.

use serde::Serialize;

/// What a contender is asked to do once. The answer's unit stands in the suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// One rank on each of `nodes` nodes, started in the foreground (`srun`, `supernode run`): from the start of the client to the
    /// first instruction of the last rank, as seconds. Each rank is `/bin/date +%s%N`.
    GangRun { nodes: u32 },
    /// The same, submitted to the queue (`sbatch`, `supernode job submit`).
    GangSubmit { nodes: u32 },
    /// One command on `nodes` nodes, its output back at the client: wall time of the client as seconds.
    Command { nodes: u32 },
    /// Jobs accepted per second from `connections` clients at once, by library, without starting a process per job. The jobs are held.
    Submit { connections: u32, jobs: u32 },
    /// Jobs accepted per second when each is submitted by a command line process, one after the other. The jobs are held.
    SubmitCommand { jobs: u32 },
    /// One-task jobs per second from the first submit to the end of the last task.
    Jobs { jobs: u32 },
    /// Resident bytes of the node's daemon after work (median over nodes).
    AgentMemory,
    /// Resident bytes of what stays beside each rank while it runs (median over ranks).
    RankMemory,
    /// Resident bytes of the controller after work.
    ControllerMemory,
    /// `kill -9` of the controller, which is started again at once, to the first instruction of a job submitted after it; a job that
    /// was running must still run. Seconds.
    ControllerKill,
    /// `kill -9` of one node's daemon with all its children, to the first instruction of its job on another node. The contender is set
    /// to call a node lost after 10 s. Seconds.
    NodeLoss,
    /// Processor time of the controller, as a share of one core, while so many simulated nodes say once a second that they are there.
    SimulatedShare { agents: u32, seconds: u32 },
    /// Resident bytes of the controller with so many simulated nodes.
    SimulatedMemory { agents: u32 },
    /// One gang over `nodes` of so many simulated nodes: from the submit until the controller says that all ranks run. Seconds.
    SimulatedGang { agents: u32, nodes: u32 },
    /// How many changes were lost when the controller was killed at a random moment after it had acknowledged them.
    Acknowledged { trials: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    /// Shown in milliseconds; less is better.
    Milliseconds,
    /// Shown in seconds; less is better.
    Seconds,
    /// More is better.
    PerSecond,
    /// Shown in MB (10^6 bytes); less is better.
    Megabytes,
    /// Shown in hundredths of one core; less is better.
    Cores,
    /// A number of bad things; less is better.
    Losses,
}

impl Unit {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::PerSecond => "/s",
            Self::Megabytes => "MB",
            Self::Cores => "cores",
            Self::Losses => "lost",
        }
    }

    /// A figure in base units as a table cell.
    pub(crate) fn show(self, figure: f64) -> String {
        match self {
            Self::Milliseconds => format!("{:.0}", figure * 1e3),
            Self::Seconds => format!("{figure:.1}"),
            Self::PerSecond | Self::Losses => format!("{figure:.0}"),
            Self::Cores => format!("{figure:.2}"),
            Self::Megabytes => format!("{:.1}", figure / 1e6),
        }
    }

    fn more_is_better(self) -> bool {
        self == Self::PerSecond
    }

    /// How many times better `ours` is than `theirs`.
    pub(crate) fn advantage(self, ours: f64, theirs: f64) -> f64 {
        if self.more_is_better() {
            ours / theirs
        } else {
            theirs / ours
        }
    }

    pub(crate) fn reaches(self, figure: f64, goal: f64) -> bool {
        if self.more_is_better() {
            figure >= goal
        } else {
            figure <= goal
        }
    }
}

pub(crate) struct Suite {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) unit: Unit,
    /// What the project wants to reach with 32 nodes, in base units.
    pub(crate) goal: Option<f64>,
    question: fn(Scale) -> Question,
    runs: u32,
    quick_runs: u32,
}

/// How much work a run may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) quick: bool,
    /// Real nodes.
    pub(crate) nodes: u32,
    /// Trials of acknowledged changes; as many as fit when absent.
    pub(crate) trials: Option<u32>,
}

impl Scale {
    fn jobs(self, full: u32) -> u32 {
        if self.quick { full / 5 } else { full }
    }

    fn simulated(self, full: u32) -> u32 {
        if self.quick { full / 10 } else { full }
    }

    fn trials(self) -> u32 {
        self.trials.unwrap_or(if self.quick { 20 } else { 200 })
    }
}

/// Simulated nodes of the suites `agents-…`.
const AGENTS: u32 = 10_000;

impl Suite {
    /// 0 with `--quick` for suites that take long.
    pub(crate) fn runs(&self, quick: bool) -> u32 {
        if quick { self.quick_runs } else { self.runs }
    }

    pub(crate) fn question(&self, scale: Scale) -> Question {
        (self.question)(scale)
    }

    /// Whether a person means this suite by `name`: its whole name, or the first words of several.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        let exact = SUITES.iter().any(|suite| suite.name == name);
        let rest = self.name.strip_prefix(name);
        self.name == name || !exact && rest.is_some_and(|rest| rest.starts_with('-'))
    }
}

/// In the order of running: the disturbing ones last.
pub(crate) const SUITES: &[Suite] = &[
    Suite {
        name: "gang-run",
        about: "all nodes, foreground: submit to the last rank's first instruction",
        unit: Unit::Milliseconds,
        goal: Some(0.120),
        question: |scale| Question::GangRun { nodes: scale.nodes },
        runs: 7,
        quick_runs: 3,
    },
    Suite {
        name: "gang-run-4",
        about: "the same on 4 nodes",
        unit: Unit::Milliseconds,
        goal: None,
        question: |scale| Question::GangRun {
            nodes: scale.nodes.min(4),
        },
        runs: 7,
        quick_runs: 3,
    },
    Suite {
        name: "gang-run-1",
        about: "the same on 1 node",
        unit: Unit::Milliseconds,
        goal: None,
        question: |_| Question::GangRun { nodes: 1 },
        runs: 7,
        quick_runs: 3,
    },
    Suite {
        name: "gang-submit",
        about: "all nodes, queued: submit to the last rank's first instruction",
        unit: Unit::Milliseconds,
        goal: Some(0.120),
        question: |scale| Question::GangSubmit { nodes: scale.nodes },
        runs: 5,
        quick_runs: 2,
    },
    Suite {
        name: "command",
        about: "a command on all nodes, output back at the client",
        unit: Unit::Milliseconds,
        goal: Some(0.150),
        question: |scale| Question::Command { nodes: scale.nodes },
        runs: 7,
        quick_runs: 3,
    },
    Suite {
        name: "submit-1",
        about: "jobs accepted per second, 1 connection",
        unit: Unit::PerSecond,
        goal: Some(200.0),
        question: |scale| Question::Submit {
            connections: 1,
            jobs: scale.jobs(500),
        },
        runs: 3,
        quick_runs: 1,
    },
    Suite {
        name: "submit-64",
        about: "jobs accepted per second, 64 connections",
        unit: Unit::PerSecond,
        goal: Some(3000.0),
        question: |scale| Question::Submit {
            connections: 64,
            jobs: scale.jobs(1280),
        },
        runs: 3,
        quick_runs: 1,
    },
    Suite {
        name: "submit-command",
        about: "jobs accepted per second, one client process per job",
        unit: Unit::PerSecond,
        goal: None,
        question: |scale| Question::SubmitCommand {
            jobs: scale.jobs(100),
        },
        runs: 3,
        quick_runs: 1,
    },
    Suite {
        name: "jobs",
        about: "500 one-task jobs end to end, per second",
        unit: Unit::PerSecond,
        goal: Some(150.0),
        question: |scale| Question::Jobs {
            jobs: scale.jobs(500),
        },
        runs: 3,
        quick_runs: 1,
    },
    Suite {
        name: "agent-memory",
        about: "resident memory of the node's daemon",
        unit: Unit::Megabytes,
        goal: Some(12e6),
        question: |_| Question::AgentMemory,
        runs: 1,
        quick_runs: 1,
    },
    Suite {
        name: "rank-memory",
        about: "resident memory of what stays beside each rank",
        unit: Unit::Megabytes,
        goal: None,
        question: |_| Question::RankMemory,
        runs: 1,
        quick_runs: 1,
    },
    Suite {
        name: "controller-memory",
        about: "resident memory of the controller with these nodes",
        unit: Unit::Megabytes,
        goal: None,
        question: |_| Question::ControllerMemory,
        runs: 1,
        quick_runs: 1,
    },
    Suite {
        name: "controller-kill",
        about: "kill -9 of the controller to the first new job, none lost",
        unit: Unit::Seconds,
        goal: Some(1.5),
        question: |_| Question::ControllerKill,
        runs: 5,
        quick_runs: 1,
    },
    Suite {
        name: "node-loss",
        about: "node lost (10 s detection) to its job running elsewhere",
        unit: Unit::Seconds,
        goal: Some(12.0),
        question: |_| Question::NodeLoss,
        runs: 2,
        quick_runs: 0,
    },
    Suite {
        name: "agents-share",
        about: "controller with 10,000 simulated nodes at 1 Hz: share of a core",
        unit: Unit::Cores,
        goal: Some(0.25),
        question: |scale| Question::SimulatedShare {
            agents: scale.simulated(AGENTS),
            seconds: if scale.quick { 10 } else { 60 },
        },
        runs: 1,
        quick_runs: 0,
    },
    Suite {
        name: "agents-memory",
        about: "the same: resident memory",
        unit: Unit::Megabytes,
        goal: Some(250e6),
        question: |scale| Question::SimulatedMemory {
            agents: scale.simulated(AGENTS),
        },
        runs: 1,
        quick_runs: 0,
    },
    Suite {
        name: "agents-gang-1000",
        about: "one gang of 1,000 simulated nodes: submit to all ranks running",
        unit: Unit::Seconds,
        goal: Some(1.0),
        question: |scale| Question::SimulatedGang {
            agents: scale.simulated(AGENTS),
            nodes: scale.simulated(1000),
        },
        runs: 5,
        quick_runs: 0,
    },
    Suite {
        name: "agents-gang-5000",
        about: "one gang of 5,000 simulated nodes: submit to all ranks running",
        unit: Unit::Seconds,
        goal: Some(4.0),
        question: |scale| Question::SimulatedGang {
            agents: scale.simulated(AGENTS),
            nodes: scale.simulated(5000),
        },
        runs: 3,
        quick_runs: 0,
    },
    Suite {
        name: "acknowledged",
        about: "kill -9 of the controller 0-6 s after an acknowledged change: what was lost",
        unit: Unit::Losses,
        goal: Some(0.0),
        question: |scale| Question::Acknowledged {
            trials: scale.trials(),
        },
        runs: 1,
        quick_runs: 0,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = SUITES.iter().map(|suite| suite.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SUITES.len());
    }

    #[test]
    fn a_prefix_names_several_suites_unless_it_is_one() {
        let named = |name: &str| -> Vec<&str> {
            let found = SUITES.iter().filter(|suite| suite.is_named(name));
            found.map(|suite| suite.name).collect()
        };
        assert_eq!(named("gang-run"), ["gang-run"]);
        assert_eq!(named("agents").len(), 4);
        assert_eq!(named("submit"), ["submit-1", "submit-64", "submit-command"]);
        assert!(named("agent-mem").is_empty());
    }

    #[test]
    fn figures_look_right_and_compare_the_right_way() {
        assert_eq!(Unit::Milliseconds.show(0.3204), "320");
        assert_eq!(Unit::Megabytes.show(6_200_000.0), "6.2");
        assert!((Unit::Milliseconds.advantage(0.1, 0.4) - 4.0).abs() < 1e-9);
        assert!((Unit::PerSecond.advantage(300.0, 100.0) - 3.0).abs() < 1e-9);
        assert!(Unit::PerSecond.reaches(200.0, 200.0) && !Unit::PerSecond.reaches(199.0, 200.0));
        assert!(Unit::Seconds.reaches(1.5, 1.5) && !Unit::Seconds.reaches(1.6, 1.5));
    }

    #[test]
    fn quick_is_less_work_on_the_nodes_given() {
        let jobs = SUITES
            .iter()
            .find(|suite| suite.name == "jobs")
            .expect("is there");
        let scale = |quick, nodes| Scale {
            quick,
            nodes,
            trials: None,
        };
        assert_eq!(jobs.question(scale(false, 8)), Question::Jobs { jobs: 500 });
        assert_eq!(jobs.question(scale(true, 8)), Question::Jobs { jobs: 100 });
        let gang = SUITES
            .iter()
            .find(|suite| suite.name == "gang-run-4")
            .expect("is there");
        assert_eq!(
            gang.question(scale(false, 2)),
            Question::GangRun { nodes: 2 }
        );
    }
}
