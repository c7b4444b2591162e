//! What actions do to nodes that are tested.

use supernode_store::StoreError;
use supernode_store::stress::stress_result_insert;
use supernode_types::event::{NewEvent, Severity, Subjects};
use supernode_types::node::NodeHealth;
use supernode_types::operation::OperationKind;
use supernode_types::stress::{StressOutcome, StressPlan, StressResult, StressWork, Tier};
use supernode_types::{NodeId, OperationId, StressPlanId, Timestamp};

use super::{Round, missing};

impl Round<'_, '_> {
    /// Leases all devices of a node to a run and tells its agent.
    pub(super) fn begin_stress(&mut self, id: &NodeId, work: StressWork) -> Result<(), StoreError> {
        self.lease_all(&work.operation, id)?;
        self.node(id)?.stress.work = Some(work);
        self.told.insert(id.clone());
        Ok(())
    }

    /// Notes what of a plan is settled, and says so when something was missed.
    pub(super) fn settle_stress_plan(
        &mut self,
        id: &StressPlanId,
        settled: Timestamp,
        next_due: Option<Timestamp>,
        missed: u64,
        why: &str,
    ) -> Result<(), StoreError> {
        let plan = self.plan(id)?;
        plan.settled = settled;
        plan.next_due = next_due;
        plan.missed += missed;
        if missed == 0 {
            return Ok(());
        }
        let subjects = Subjects {
            super_node: Some(plan.super_node.clone()),
            ..Subjects::default()
        };
        let named = plan.terms.notify.clone();
        let runs = if missed == 1 { "run" } else { "runs" };
        let message = format!("{missed} {runs} of stress plan {id} did not take place: {why}");
        let event = NewEvent {
            kind: "stress_plan.missed",
            severity: Severity::Warning,
            message,
            subjects,
        };
        self.tell_also(&event, &named)
    }

    /// Begins the run of a plan on all full members.
    pub(super) fn begin_planned(&mut self, id: &StressPlanId) -> Result<(), StoreError> {
        let plan = self.plan(id)?.clone();
        let members = self.snapshot.members(&plan.super_node);
        let mut nodes: Vec<_> = members
            .map(|node| (node.name.clone(), node.id.clone()))
            .collect();
        nodes.sort();
        let operation = crate::stress_run::planned(&plan, nodes, self.snapshot.now, &*self.entropy);
        self.plan(id)?.last_run = Some(operation.id.clone());
        self.insert_operation(operation)
    }

    fn plan(&mut self, id: &StressPlanId) -> Result<&mut StressPlan, StoreError> {
        self.stress_plans.insert(id.clone());
        let found = self.snapshot.stress_plans.get_mut(id);
        found.ok_or_else(|| missing("stress plan"))
    }

    pub(super) fn stop_stress(&mut self, id: &NodeId, why: String) -> Result<(), StoreError> {
        if let Some(work) = &mut self.node(id)?.stress.work {
            work.stop = Some(why);
            self.told.insert(id.clone());
        }
        Ok(())
    }

    /// Records the outcome unless one is recorded, and gives the leases back.
    pub(super) fn end_stress(
        &mut self,
        operation: &OperationId,
        id: &NodeId,
        outcome: StressOutcome,
    ) -> Result<(), StoreError> {
        let now = self.snapshot.now;
        let work = self.leave_test(operation, id)?;
        let node = self.node(id)?;
        if outcome == StressOutcome::Passed {
            node.stress.last_passed = Some(now);
        }
        let name = node.name.clone();
        let result = self.result(operation, id, work.as_ref(), outcome);
        // What control has judged is recorded already, with everything that was found.
        stress_result_insert(self.tx, &result)?;
        let (kind, severity, what) = words(&result.outcome);
        let message = match result.outcome.detail() {
            Some(detail) => format!("node {name} {what}: {detail}"),
            None => format!("node {name} {what}"),
        };
        let subjects = Subjects {
            operation: Some(operation.clone()),
            ..self.node_subjects(id)
        };
        self.tell(kind, severity, message, subjects)
    }

    /// What came of a node, of which nothing was found.
    pub(super) fn result(
        &self,
        operation: &OperationId,
        node: &NodeId,
        work: Option<&StressWork>,
        outcome: StressOutcome,
    ) -> StressResult {
        StressResult {
            run: operation.clone(),
            node: node.clone(),
            tier: self.tier_of(operation),
            outcome,
            findings: Vec::new(),
            undecided: Vec::new(),
            rounds: work.map_or(0, |work| work.round),
            began_at: work.map(|work| work.began_at),
            ended_at: self.snapshot.now,
        }
    }

    pub(super) fn set_health(
        &mut self,
        id: &NodeId,
        health: &NodeHealth,
        operation: OperationId,
    ) -> Result<(), StoreError> {
        let node = self.node(id)?;
        let name = node.name.clone();
        if matches!(health, NodeHealth::Proven { .. }) {
            node.stress.network_doubt = None;
        }
        if !matches!(health, NodeHealth::Quarantined { .. }) {
            node.stress.replacement = None;
        }
        let was = std::mem::replace(&mut node.health, health.clone());
        let (kind, severity, message) = match health {
            NodeHealth::Quarantined { finding } => (
                "node.quarantined",
                Severity::Error,
                format!("node {name} is quarantined and takes no new work: {finding}"),
            ),
            NodeHealth::Suspect { finding } => (
                "node.suspected",
                Severity::Warning,
                format!("node {name} is suspect: {finding}"),
            ),
            NodeHealth::Proven { .. } if was.rank() > 1 => (
                "node.proven",
                Severity::Info,
                format!("node {name} passed everything and is proven again"),
            ),
            NodeHealth::Proven { .. } | NodeHealth::Unproven => return Ok(()),
        };
        // Whoever is told what the run found is told what that does to the node.
        let subjects = Subjects {
            operation: Some(operation),
            ..self.node_subjects(id)
        };
        self.tell(kind, severity, message, subjects)
    }

    fn tier_of(&self, operation: &OperationId) -> Tier {
        let found = self.snapshot.operations.get(operation);
        match found.map(|operation| &operation.kind) {
            Some(OperationKind::StressRun(run)) => run.tier,
            _ => Tier::Quick,
        }
    }
}

/// What people are told.
fn words(outcome: &StressOutcome) -> (&'static str, Severity, &'static str) {
    match outcome {
        StressOutcome::Passed => ("stress.passed", Severity::Info, "passed its test"),
        StressOutcome::Failed { .. } => ("stress.failed", Severity::Error, "failed its test"),
        StressOutcome::Suspect { .. } => (
            "stress.suspect",
            Severity::Warning,
            "looks suspicious after its test",
        ),
        StressOutcome::Undecided { .. } => (
            "stress.undecided",
            Severity::Warning,
            "was tested and cannot be judged",
        ),
        StressOutcome::Incomplete { .. } => (
            "stress.incomplete",
            Severity::Warning,
            "was not tested to the end",
        ),
        StressOutcome::Skipped { .. } => ("stress.skipped", Severity::Warning, "was not tested"),
    }
}
