//! Plans of stress tests: each slot is run once or missed once.

use std::time::Duration;

use supernode_plan::stress_plan::look;
use supernode_types::stress::{
    Item, Share, StressOutcome, StressPlan, StressProgress, StressTerms, Tier,
};
use supernode_types::{NodeId, StressPlanId, Timestamp};

use crate::build::limits;
use crate::model::Model;

const HOUR: Duration = Duration::from_hours(1);

struct Case {
    model: Model,
    nodes: Vec<NodeId>,
    plan: StressPlanId,
}

/// A plan that is due at every full hour, ten minutes long.
fn case(paused: bool) -> Case {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(2, 1);
    let now = model.snapshot.now;
    let mut plan = StressPlan {
        id: StressPlanId::new(now, &model.entropy),
        super_node,
        terms: StressTerms {
            cron: "0 * * * *".into(),
            timezone: "UTC".into(),
            tier: Tier::Quick,
            items: vec![Item::Compute],
            max_nodes: Share::ALL,
            window_seconds: 600,
            jitter_seconds: 0,
            max_age_seconds: 3600,
            notify: Vec::new(),
        },
        paused,
        settled: now,
        next_due: None,
        last_run: None,
        missed: 0,
        actor: "ada".into(),
        generation: 1,
        created_at: now,
    };
    plan.next_due = look(&plan, now)
        .expect("a schedule")
        .next
        .filter(|_| !paused);
    let id = plan.id.clone();
    model.snapshot.stress_plans.insert(id.clone(), plan);
    Case {
        model,
        nodes,
        plan: id,
    }
}

impl Case {
    fn plan(&self) -> &StressPlan {
        &self.model.snapshot.stress_plans[&self.plan]
    }

    /// Time passes while nobody looks.
    fn away(&mut self, time: Duration) {
        self.model.advance(time);
        self.model.reconcile();
    }

    fn wait_for_slot(&mut self) {
        let next = self.plan().next_due.expect("it has a next one");
        let wait = next.since(self.model.snapshot.now);
        self.away(wait);
    }

    fn finish(&mut self) {
        for node in self.nodes.clone() {
            if let Some(work) = self.model.node(&node).stress.work.as_mut() {
                let outcome = StressOutcome::Passed;
                work.progress = StressProgress::Judged { outcome };
            }
        }
        self.model.reconcile();
    }

    fn slots(&self) -> Vec<Timestamp> {
        self.model.planned.clone()
    }
}

#[test]
fn each_hour_is_run_once() {
    let mut case = case(false);
    for count in 1..=3 {
        case.wait_for_slot();
        case.model.reconcile();
        assert_eq!(case.slots().len(), count);
        case.finish();
    }
    let gaps: Vec<Duration> = case
        .slots()
        .windows(2)
        .map(|pair| pair[1].since(pair[0]))
        .collect();
    assert_eq!((gaps, case.plan().missed), (vec![HOUR, HOUR], 0));
}

#[test]
fn a_server_that_was_away_runs_what_is_still_in_its_window_and_records_the_rest() {
    let mut case = case(false);
    case.wait_for_slot();
    case.finish();
    case.away(HOUR * 3 + Duration::from_mins(5));
    assert_eq!(
        (case.slots().len(), case.plan().missed),
        (2, 2),
        "five minutes late is in time"
    );
    case.finish();
    case.away(HOUR + Duration::from_mins(15));
    assert_eq!(
        (case.slots().len(), case.plan().missed),
        (2, 3),
        "twenty minutes late is not"
    );
}

#[test]
fn a_slot_that_comes_during_the_run_before_is_missed_and_not_doubled() {
    let mut case = case(false);
    case.wait_for_slot();
    case.wait_for_slot();
    assert_eq!((case.slots().len(), case.plan().missed), (1, 1));
    case.finish();
    case.wait_for_slot();
    assert_eq!((case.slots().len(), case.plan().missed), (2, 1));
}

#[test]
fn a_paused_plan_runs_and_misses_nothing() {
    let mut case = case(true);
    case.away(HOUR * 5);
    assert_eq!((case.slots().len(), case.plan().missed), (0, 0));
}
