//! What actions mean for the network test of a run: one round of pairs in the order of the nodes, then whatever a test has laid down.

use supernode_plan::action::PairEnd;
use supernode_types::stress::{
    Item, NetworkState, NetworkVerdict, PairOutcome, PairPlace, PairState, PairTask, StressNetwork,
    StressOutcome, StressPair, StressProgress, StressWork, Tier,
};
use supernode_types::{NodeId, OperationId};

use super::Model;

impl Model {
    /// Takes a node out of a test, with its leases.
    pub(super) fn leave_test(&mut self, operation: &OperationId, id: &NodeId) {
        if let Some(node) = self.snapshot.nodes.get_mut(id) {
            let of_run = |work: &mut StressWork| work.operation == *operation;
            node.stress.work.take_if(of_run);
        }
        self.snapshot
            .leases
            .retain(|lease| lease.node != *id || lease.operation() != Some(operation));
    }

    pub(super) fn park_stress(
        &mut self,
        operation: &OperationId,
        id: &NodeId,
        outcome: &StressOutcome,
    ) {
        assert!(outcome.tested(), "what was cut short is over");
        assert!(self.node(id).stress.work.is_some(), "it was tested");
        self.leave_test(operation, id);
        let network = self.snapshot.stress_networks.entry(operation.clone());
        let outcomes = &mut network.or_default().outcomes;
        assert_eq!(outcomes.insert(id.clone(), outcome.clone()), None, "once");
    }

    pub(super) fn begin_network(&mut self, operation: &OperationId, nodes: &[NodeId]) {
        let now = self.snapshot.now;
        let network = self.snapshot.stress_networks.entry(operation.clone());
        let network = network.or_default();
        assert_eq!(network.test, None, "it begins once");
        network.test = Some(StressNetwork {
            run: operation.clone(),
            nodes: nodes.to_vec(),
            leaves: vec![None; nodes.len()],
            began_at: now,
            state: NetworkState::Testing { round: 1 },
        });
        network.pairs = (1..)
            .zip(nodes.as_chunks::<2>().0)
            .map(|(number, [asker, listener])| StressPair {
                run: operation.clone(),
                number,
                round: 1,
                asker: asker.clone(),
                listener: listener.clone(),
                tries: 0,
                state: PairState::Waiting { after: None },
            })
            .collect();
        self.judge_network(operation);
    }

    pub(super) fn begin_pair(&mut self, operation: &OperationId, number: u32) {
        let now = self.snapshot.now;
        let pair = self.pair(operation, number);
        assert!(matches!(pair.state, PairState::Waiting { .. }));
        pair.tries += 1;
        assert!(pair.tries <= 2, "begun once more at most");
        pair.state = PairState::Running {
            began_at: now,
            port: None,
            said: None,
        };
        let pair = pair.clone();
        for (id, place) in [
            (pair.asker, PairPlace::Asker),
            (pair.listener, PairPlace::Listener),
        ] {
            let work = StressWork {
                operation: operation.clone(),
                boot_id: self.node(&id).boot_id.clone(),
                began_at: now,
                round: pair.tries,
                pair: Some(PairTask { number, place }),
                tier: Tier::Quick,
                items: vec![Item::Network],
                kernel_seconds: None,
                stop: None,
                progress: StressProgress::Told,
            };
            assert!(
                self.snapshot.leases.iter().all(|lease| lease.node != id),
                "both nodes are free"
            );
            self.begin_stress(&id, &work);
        }
    }

    pub(super) fn end_pair(&mut self, operation: &OperationId, number: u32, end: &PairEnd) {
        let ended_at = self.snapshot.now;
        let pair = self.pair(operation, number);
        let ended = |outcome| PairState::Ended { outcome, ended_at };
        pair.state = match (end, &pair.state) {
            (PairEnd::Again { why }, PairState::Running { .. }) => PairState::Waiting {
                after: Some(why.clone()),
            },
            (
                PairEnd::Said,
                PairState::Running {
                    said: Some(said), ..
                },
            ) => ended(said.clone()),
            (PairEnd::Incomplete { why }, PairState::Running { .. }) => {
                ended(PairOutcome::Incomplete { why: why.clone() })
            }
            (PairEnd::Skipped { why }, PairState::Waiting { .. }) => {
                ended(PairOutcome::Skipped { why: why.clone() })
            }
            (end, state) => panic!("{end:?} of {state:?}"),
        };
        let pair = pair.clone();
        self.ended_pairs.push(pair.clone());
        for id in [&pair.asker, &pair.listener] {
            self.leave_test(operation, id);
        }
        let network = self.snapshot.stress_networks.get_mut(operation);
        let network = network.expect("it is tested");
        network.pairs.retain(|pair| !pair.ended());
        self.judge_network(operation);
    }

    /// With the last pair of the only round it is over.
    fn judge_network(&mut self, operation: &OperationId) {
        let network = self.snapshot.stress_networks.get_mut(operation);
        let network = network.expect("it is tested");
        let test = network.test.as_mut().expect("it has begun");
        if !network.pairs.is_empty() {
            return;
        }
        let measured = |pair: &StressPair| {
            matches!(
                pair.state,
                PairState::Ended {
                    outcome: PairOutcome::Measured(_),
                    ..
                }
            )
        };
        let mut of_run = self
            .ended_pairs
            .iter()
            .filter(|pair| pair.run == *operation);
        let verdict = if of_run.any(measured) {
            NetworkVerdict::default()
        } else {
            NetworkVerdict::nothing(1, "nothing was measured")
        };
        test.state = NetworkState::Judged { verdict };
        for id in &test.nodes {
            let passed = || StressOutcome::Passed;
            let own = network.outcomes.entry(id.clone()).or_insert_with(passed);
            if let Some(found) = self.found.get(id) {
                *own = found.clone();
            }
        }
    }

    pub(crate) fn pair(&mut self, operation: &OperationId, number: u32) -> &mut StressPair {
        let network = self.snapshot.stress_networks.get_mut(operation);
        let mut pairs = network.expect("it is tested").pairs.iter_mut();
        let found = pairs.find(|pair| pair.number == number);
        found.expect("an open pair")
    }

    /// Both nodes of a pair that runs are leased whole, and none of one that waits.
    pub(super) fn check_pairs(&self) {
        for (operation, network) in &self.snapshot.stress_networks {
            for pair in &network.pairs {
                let runs = matches!(pair.state, PairState::Running { .. });
                for id in [&pair.asker, &pair.listener] {
                    let Some(node) = self.snapshot.nodes.get(id) else {
                        continue;
                    };
                    let leases =
                        self.snapshot.leases.iter().filter(|lease| {
                            lease.node == *id && lease.operation() == Some(operation)
                        });
                    let whole = node.device_count as usize;
                    let expected = if runs { whole } else { 0 };
                    assert_eq!(leases.count(), expected, "{pair:?}");
                }
            }
        }
    }
}
