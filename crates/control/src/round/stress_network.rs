//! What actions do to the network test of a stress run: its pairs, and what is said of the network when a round of them is over.
//!
//! The round is judged in the transaction in which its last pair ends, from what is stored, with the functions of `supernode-verdict`.
//! So after a crash there are either the pairs of the next round, or none of them and a round that is not over.

use supernode_plan::action::PairEnd;
use supernode_store::attempt::{lease_insert, lease_release_run};
use supernode_store::stress::{stress_result_insert, stress_result_list, stress_result_put};
use supernode_store::stress_network::{
    stress_network_put, stress_pair_begin, stress_pair_insert, stress_pair_list, stress_pair_update,
};
use supernode_store::{ConflictKind, StoreError};
use supernode_types::event::{NewEvent, Severity, Subjects};
use supernode_types::job::{GroupKey, Lease, LeaseHolder};
use supernode_types::operation::OperationKind;
use supernode_types::stress::{
    Certainty, NetworkState, NetworkVerdict, PairOutcome, PairPlace, PairState, PairTask,
    StressNetwork, StressOutcome, StressPair, StressProgress, StressResult, StressRun, StressWork,
};
use supernode_types::{NodeId, OperationId};
use supernode_verdict::network::run::{Member, Next, Rounds, Test, next, seed};

use super::{Round, missing};
use crate::stress_network::after;

impl Round<'_, '_> {
    /// A node was tested alone; its run goes on with the network, and nobody holds the node meanwhile.
    pub(super) fn park_stress(
        &mut self,
        operation: &OperationId,
        id: &NodeId,
        outcome: StressOutcome,
    ) -> Result<(), StoreError> {
        let work = self.leave_test(operation, id)?;
        let result = self.result(operation, id, work.as_ref(), outcome.clone());
        // What control has judged is recorded already, with everything that was found.
        stress_result_insert(self.tx, &result)?;
        let network = self.snapshot.stress_networks.entry(operation.clone());
        let outcomes = &mut network.or_default().outcomes;
        outcomes.entry(id.clone()).or_insert(outcome);
        Ok(())
    }

    /// Writes down who is paired and makes the first pairs.
    pub(super) fn begin_network(
        &mut self,
        operation: &OperationId,
        nodes: Vec<NodeId>,
    ) -> Result<(), StoreError> {
        let leaf = |id: &NodeId| self.snapshot.nodes.get(id)?.position.leaf.clone();
        let known: Option<Vec<String>> = nodes.iter().map(leaf).collect();
        let leaves = match known {
            Some(leaves) => leaves.into_iter().map(Some).collect(),
            None => vec![None; nodes.len()],
        };
        let network = StressNetwork {
            run: operation.clone(),
            nodes,
            leaves,
            began_at: self.snapshot.now,
            state: NetworkState::Testing { round: 0 },
        };
        self.go_on(network)
    }

    /// Leases both nodes of a pair to the run and tells the listener.
    pub(super) fn begin_pair(
        &mut self,
        operation: &OperationId,
        number: u32,
    ) -> Result<(), StoreError> {
        let run = self.run(operation)?.clone();
        let key = GroupKey::new(&*self.entropy);
        let now = self.snapshot.now;
        let pair = self.pair(operation, number)?;
        pair.tries += 1;
        pair.state = PairState::Running {
            began_at: now,
            port: None,
            said: None,
        };
        let pair = pair.clone();
        for (id, place) in [
            (&pair.asker, PairPlace::Asker),
            (&pair.listener, PairPlace::Listener),
        ] {
            self.lease_all(operation, id)?;
            let node = self.node(id)?;
            node.stress.work = Some(StressWork {
                operation: operation.clone(),
                boot_id: node.boot_id.clone(),
                began_at: now,
                round: pair.tries,
                pair: Some(PairTask { number, place }),
                tier: run.tier,
                items: vec![supernode_types::stress::Item::Network],
                kernel_seconds: run.kernel_seconds,
                stop: None,
                progress: StressProgress::Told,
            });
            self.told.insert(id.clone());
        }
        stress_pair_begin(self.tx, &pair, &key)
    }

    /// Leases all devices of a node to a run.
    pub(super) fn lease_all(
        &mut self,
        operation: &OperationId,
        id: &NodeId,
    ) -> Result<(), StoreError> {
        let devices = self.node(id)?.device_count;
        for device in 0..devices {
            let lease = Lease {
                node: id.clone(),
                device,
                holder: LeaseHolder::Stress {
                    operation: operation.clone(),
                },
            };
            if !lease_insert(self.tx, &lease)? {
                let what = format!("lease on device {device} of {id}");
                let kind = ConflictKind::Unique;
                return Err(StoreError::Conflict { kind, what });
            }
            self.snapshot.leases.push(lease);
        }
        Ok(())
    }

    /// Gives back what a node holds for a run; answers the test that it was in. The agent starts nothing while a kernel of it runs, so the
    /// devices are free for whoever comes next.
    pub(super) fn leave_test(
        &mut self,
        operation: &OperationId,
        id: &NodeId,
    ) -> Result<Option<StressWork>, StoreError> {
        let node = self.node(id)?;
        let work = node
            .stress
            .work
            .take_if(|work| work.operation == *operation);
        if work.is_some() {
            lease_release_run(self.tx, operation, id)?;
            self.snapshot
                .leases
                .retain(|lease| lease.node != *id || lease.operation() != Some(operation));
            self.told.insert(id.clone());
        }
        Ok(work)
    }

    /// Ends a pair, or puts it back to be begun again; the last one of a round is what the network is judged after.
    pub(super) fn end_pair(
        &mut self,
        operation: &OperationId,
        number: u32,
        end: PairEnd,
    ) -> Result<(), StoreError> {
        let now = self.snapshot.now;
        let pair = self.pair(operation, number)?;
        let said = match &pair.state {
            PairState::Running { said, .. } => said.clone(),
            PairState::Waiting { .. } | PairState::Ended { .. } => None,
        };
        let ended = |outcome| PairState::Ended {
            outcome,
            ended_at: now,
        };
        pair.state = match end {
            PairEnd::Again { why } => PairState::Waiting { after: Some(why) },
            PairEnd::Said => ended(said.ok_or_else(|| missing("outcome"))?),
            PairEnd::Incomplete { why } => ended(PairOutcome::Incomplete { why }),
            PairEnd::Skipped { why } => ended(PairOutcome::Skipped { why }),
        };
        let pair = pair.clone();
        stress_pair_update(self.tx, &pair)?;
        for id in [&pair.asker, &pair.listener] {
            // One that was removed holds nothing.
            let in_it = self.snapshot.nodes.get(id).is_some_and(|node| {
                let task = node
                    .stress
                    .work
                    .as_ref()
                    .and_then(|work| work.pair.as_ref());
                task.is_some_and(|task| task.number == number)
            });
            if in_it {
                self.leave_test(operation, id)?;
            }
        }
        let network = self.snapshot.stress_networks.get_mut(operation);
        let network = network.ok_or_else(|| missing("network test"))?;
        network.pairs.retain(|pair| !pair.ended());
        if !network.pairs.is_empty() {
            return Ok(());
        }
        let test = network.test.clone();
        self.go_on(test.ok_or_else(|| missing("network test"))?)
    }

    /// Makes the pairs of the next round, or says what came of the network.
    fn go_on(&mut self, mut network: StressNetwork) -> Result<(), StoreError> {
        let run = network.run.clone();
        let pairs = stress_pair_list(self.tx, &run)?;
        let members: Vec<Member> = network
            .nodes
            .iter()
            .zip(&network.leaves)
            .map(|(id, leaf)| Member {
                id: id.clone(),
                name: self.name_of(id),
                leaf: leaf.clone(),
            })
            .collect();
        let judged = next(&Test {
            members: &members,
            pairs: &pairs,
            rounds: Rounds::of(self.run(&run)?.tier),
            seed: seed(run.as_str()),
        });
        let mut open = Vec::new();
        match judged {
            Next::Round(ends) => {
                let before = pairs.last();
                let round = before.map_or(0, |pair| pair.round) + 1;
                let first = before.map_or(0, |pair| pair.number) + 1;
                for (number, (asker, listener)) in (first..).zip(ends) {
                    let pair = StressPair {
                        run: run.clone(),
                        number,
                        round,
                        asker,
                        listener,
                        tries: 0,
                        state: PairState::Waiting { after: None },
                    };
                    stress_pair_insert(self.tx, &pair)?;
                    open.push(pair);
                }
                network.state = NetworkState::Testing { round };
            }
            Next::Judged(verdict) => {
                self.record_network(&network, &verdict)?;
                network.state = NetworkState::Judged { verdict };
            }
        }
        stress_network_put(self.tx, &network)?;
        let known = self.snapshot.stress_networks.entry(run).or_default();
        known.pairs = open;
        known.test = Some(network);
        Ok(())
    }

    /// Takes what came of the network into what came of each node, and tells what is no node's.
    fn record_network(
        &mut self,
        network: &StressNetwork,
        verdict: &NetworkVerdict,
    ) -> Result<(), StoreError> {
        let run = &network.run;
        let now = self.snapshot.now;
        let alone: Vec<StressResult> = stress_result_list(self.tx, run)?;
        for id in &network.nodes {
            let own = alone.iter().find(|result| result.node == *id).cloned();
            let empty = || StressResult {
                began_at: Some(network.began_at),
                rounds: 1,
                ..self.result(run, id, None, StressOutcome::Passed)
            };
            let tested_alone = own.is_some();
            let result = own.unwrap_or_else(empty);
            let result = after(result, verdict, tested_alone, now);
            stress_result_put(self.tx, &result)?;
            let outcomes = self.snapshot.stress_networks.entry(run.clone());
            let outcomes = &mut outcomes.or_default().outcomes;
            outcomes.insert(id.clone(), result.outcome);
            if verdict.findings_on(id).next().is_some() && self.snapshot.nodes.contains_key(id) {
                self.node(id)?.stress.network_doubt = Some(run.clone());
            }
        }
        let shared = verdict
            .findings
            .iter()
            .filter(|finding| finding.place.node().is_none() || finding.nodes.len() > 1);
        let words: Vec<&str> = shared
            .clone()
            .map(|finding| finding.words.as_str())
            .collect();
        if words.is_empty() {
            return Ok(());
        }
        let sure = shared
            .clone()
            .any(|finding| finding.certainty == Certainty::Confirmed);
        let operation = self.snapshot.operations.get(run);
        let subjects = Subjects {
            operation: Some(run.clone()),
            super_node: operation.and_then(|operation| operation.super_node.clone()),
            ..Subjects::default()
        };
        let event = NewEvent {
            kind: "stress.network",
            severity: if sure {
                Severity::Error
            } else {
                Severity::Warning
            },
            message: format!("the network test of {run} found: {}", words.join("; ")),
            subjects,
        };
        self.tell_also(&event, &[])
    }

    fn name_of(&self, id: &NodeId) -> String {
        let node = self.snapshot.nodes.get(id);
        node.map_or_else(|| id.to_string(), |node| node.name.to_string())
    }

    fn run(&self, operation: &OperationId) -> Result<&StressRun, StoreError> {
        let found = self.snapshot.operations.get(operation);
        match found.map(|operation| &operation.kind) {
            Some(OperationKind::StressRun(run)) => Ok(run),
            _ => Err(missing("stress run")),
        }
    }

    fn pair(
        &mut self,
        operation: &OperationId,
        number: u32,
    ) -> Result<&mut StressPair, StoreError> {
        let network = self.snapshot.stress_networks.get_mut(operation);
        let mut pairs = network.into_iter().flat_map(|network| &mut network.pairs);
        pairs
            .find(|pair| pair.number == number)
            .ok_or_else(|| missing("stress pair"))
    }
}
