//! Everything at random: people, networks, machines and restarts, from a seed. After every step the invariants hold
//! ([`World::pass`] checks them), and when the faults stop everything comes to rest: no operation hangs, no lease leaks.

use std::time::Duration;

use supernode_control::scale_up::Selection;
use supernode_control::{environment, node, query};
use supernode_types::entropy::SeededEntropy;
use supernode_types::environment::EnvironmentDocument;
use supernode_types::job::JobSpec;
use supernode_types::operation::OperationState;
use supernode_types::super_node::DrainMode;
use supernode_types::{Entropy, JobId, OperationId};

use crate::world::{Engine, World, job_spec};

struct Storm {
    world: World,
    dice: SeededEntropy,
    jobs: Vec<JobId>,
    operations: Vec<OperationId>,
    enrolled: usize,
}

impl Storm {
    fn roll(&self, sides: u64) -> u64 {
        self.dice.next_u64() % sides
    }

    fn count(&self, most: u64) -> u32 {
        u32::try_from(1 + self.roll(most)).expect("small")
    }

    fn pick(&self, all: &[String]) -> Option<String> {
        let length = u64::try_from(all.len()).expect("small");
        (length > 0).then(|| all[usize::try_from(self.roll(length)).expect("small")].clone())
    }

    fn super_node(&self) -> Option<String> {
        let all = self.world.read(query::super_nodes);
        self.pick(
            &all.iter()
                .map(|found| found.name.to_string())
                .collect::<Vec<_>>(),
        )
    }

    fn agent(&self) -> Option<String> {
        self.pick(&self.world.agents.keys().cloned().collect::<Vec<_>>())
    }

    /// What a person asks for. Refusals are answers, too.
    fn ask(&mut self) {
        let Some(super_node) = self.super_node() else {
            let created = self.world.create(
                &format!("s{}", self.roll(3)),
                Selection::Count(self.count(3)),
            );
            self.operations
                .extend(created.ok().map(|operation| operation.id));
            return;
        };
        let count = Selection::Count(self.count(2));
        let operation = match self.roll(12) {
            0 => self.world.create(&format!("s{}", self.roll(3)), count).ok(),
            1 | 2 => self.world.scale_up(&super_node, count).ok(),
            3 => self
                .world
                .scale_down(&super_node, count, DrainMode::Refuse)
                .ok(),
            4 => self
                .world
                .scale_down(&super_node, count, DrainMode::Wait)
                .ok(),
            5 => self
                .world
                .scale_down(&super_node, count, DrainMode::Evict { grace_seconds: 1 })
                .ok(),
            6 => self.world.delete(&super_node).ok(),
            7 => self.change_environment(&super_node),
            8 => self.agent().and_then(|node| self.world.remove(&node).ok()),
            _ => {
                let spec = JobSpec {
                    requeue_limit: 2,
                    ..job_spec(self.count(3))
                };
                self.jobs
                    .extend(self.world.submit(&super_node, spec).ok().map(|job| job.id));
                None
            }
        };
        self.operations
            .extend(operation.map(|operation| operation.id));
    }

    fn change_environment(
        &self,
        super_node: &str,
    ) -> Option<supernode_types::operation::Operation> {
        let document = EnvironmentDocument {
            variables: [("A".to_owned(), self.roll(9).to_string())].into(),
            ..EnvironmentDocument::default()
        };
        let super_node = super_node.to_owned();
        let limit = Duration::from_mins(15);
        let set = self.world.change("environment_set", move |tx, intent| {
            environment::set(tx, intent, &super_node, &document, limit)
        });
        set.ok()
    }

    fn cancel(&mut self) {
        if self.roll(2) == 0 {
            let number = self.roll(u64::try_from(self.operations.len().max(1)).expect("small"));
            if let Some(id) = self.operations.get(usize::try_from(number).expect("small")) {
                let _ = self.world.cancel(id);
            }
        } else {
            let number = self.roll(u64::try_from(self.jobs.len().max(1)).expect("small"));
            if let Some(id) = self.jobs.get(usize::try_from(number).expect("small")) {
                let _ = self.world.cancel_job(id);
            }
        }
    }

    fn break_something(&mut self) {
        let Some(name) = self.agent() else { return };
        match self.roll(9) {
            0 => self.world.agent(&name).connected = false,
            1 | 2 => self.world.agent(&name).connected = true,
            3 => self.world.agent(&name).reboot(),
            4 => self.world.agent(&name).stuck ^= true,
            5 => self.world.agent(&name).frozen ^= true,
            6 => {
                let _ = self.world.cordon(&name, "storm");
            }
            7 => self.uncordon(&name),
            _ => self.world.agent(&name).fail_item("file /x", "storm"),
        }
    }

    fn uncordon(&self, name: &str) {
        let name = name.to_owned();
        let _ = self.world.change("node_uncordon", move |tx, intent| {
            node::uncordon(tx, intent, &name).map(drop)
        });
    }

    fn end_some_ranks(&mut self) {
        let code = i32::from(self.roll(5) == 0);
        if let Some(name) = self.agent() {
            let agent = self.world.agent(&name);
            if let Some(rank) = agent.running().first() {
                agent.exit(*rank, code, &["storm"]);
            }
        }
    }

    fn wait(&mut self) {
        let seconds = [1, 3, 12, 60, 900][usize::try_from(self.roll(5)).expect("small")];
        self.world.wait(seconds);
        // Whoever has been cut off for long enough has stopped its ranks.
        if seconds >= 10 {
            for agent in self
                .world
                .agents
                .values_mut()
                .filter(|agent| !agent.connected)
            {
                agent.fence();
            }
        }
    }

    fn step(&mut self) {
        match self.roll(10) {
            0..3 => self.ask(),
            3 => self.cancel(),
            4 | 5 => self.break_something(),
            6 => self.end_some_ranks(),
            7 => self.wait(),
            8 if self.roll(3) == 0 => self.world.restart(),
            8 if self.enrolled < 10 => {
                self.enrolled += 1;
                self.world.enrol(&format!("n{}", self.enrolled));
            }
            _ => {}
        }
        if self.roll(3) == 0 {
            self.world.pass();
        } else {
            self.world.round();
        }
    }

    /// The faults stop.
    fn heal(&mut self) {
        for name in self.world.agents.keys().cloned().collect::<Vec<_>>() {
            let agent = self.world.agent(&name);
            (agent.connected, agent.stuck, agent.frozen) = (true, false, false);
            agent.items.clear();
            agent.act();
        }
        for _ in 0..12 {
            self.world.settle();
            // Also a cordon that only came back when a drain ended.
            for name in self.world.agents.keys().cloned().collect::<Vec<_>>() {
                self.uncordon(&name);
            }
            for agent in self.world.agents.values_mut() {
                while let Some(rank) = agent.running().first() {
                    agent.exit(*rank, 0, &[]);
                }
            }
            self.world.wait(130);
        }
    }

    fn check_rest(&self, seed: u64) {
        for id in &self.operations {
            let operation = self.world.operation(id);
            assert!(operation.state.ended(), "seed {seed}: {operation:?}");
            if let OperationState::Failed { reason } = &operation.state {
                assert!(!reason.is_empty(), "seed {seed}: {operation:?}");
            }
        }
        for node in self.world.nodes() {
            assert_eq!(node.condition.word(), "ready", "seed {seed}: {node:?}");
            assert!(node.policy.schedulable(), "seed {seed}: {node:?}");
        }
        for id in &self.jobs {
            let job = self.world.job(id);
            if !job.state.ended() {
                // Only one that asks for more than there is may still wait, and says so.
                let reason = self.world.queue_reason(id);
                assert!(reason.contains("cannot run"), "seed {seed}: {id}: {reason}");
            }
        }
        assert_eq!(self.world.leased(), 0, "seed {seed}");
    }
}

fn storm(engine: Engine, seed: u64, steps: usize) {
    // Shown when it fails.
    println!("seed {seed}");
    let mut world = World::with_spares(engine, 6);
    world.created("s0", 2);
    let dice = SeededEntropy::new(seed);
    let mut storm = Storm {
        world,
        dice,
        jobs: Vec::new(),
        operations: Vec::new(),
        enrolled: 6,
    };
    for _ in 0..steps {
        storm.step();
    }
    storm.heal();
    storm.check_rest(seed);
}

/// How many seeds; more with `STORM_SEEDS=1000`.
fn seeds(default: u64) -> u64 {
    let wanted = std::env::var("STORM_SEEDS").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn a_storm_leaves_nothing_behind_on_sqlite() {
    for seed in 0..seeds(8) {
        storm(Engine::Sqlite, seed, 120);
    }
}

#[test]
fn a_storm_leaves_nothing_behind_on_postgres() {
    storm(Engine::Postgres, 100, 60);
}
