//! Queries of `supernode_store::stress_network`, and results that are said again.

use supernode_store::ConflictKind;
use supernode_store::stress::{stress_result_insert, stress_result_list, stress_result_put};
use supernode_store::stress_network::{
    stress_network_get, stress_network_put, stress_pair_begin, stress_pair_get, stress_pair_insert,
    stress_pair_key, stress_pair_list, stress_pair_list_of, stress_pair_list_open,
    stress_pair_update,
};
use supernode_types::job::GroupKey;
use supernode_types::stress::{
    NetworkState, NetworkVerdict, PairOutcome, PairState, StressNetwork, StressOutcome, StressPair,
    StressResult, Tier,
};

use super::sample::{Basics, NOW, Sample, after, entropy};
use crate::fixture::{Engine, on_every_engine};

on_every_engine!(
    a_network_test_is_replaced_as_it_goes_on,
    a_pair_has_a_key_only_while_it_runs,
    no_node_is_paired_with_itself_and_no_number_is_used_twice,
    what_the_network_adds_replaces_what_came_of_a_node,
);

fn pair(basics: &Basics, number: u32, state: PairState) -> StressPair {
    StressPair {
        run: basics.operation.id.clone(),
        number,
        round: 1,
        asker: basics.nodes[0].id.clone(),
        listener: basics.nodes[1].id.clone(),
        tries: 0,
        state,
    }
}

const WAITING: PairState = PairState::Waiting { after: None };

fn running() -> PairState {
    PairState::Running {
        began_at: NOW,
        port: None,
        said: None,
    }
}

fn a_network_test_is_replaced_as_it_goes_on(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    sample.run(move |tx| {
        let run = &basics.operation.id;
        assert_eq!(stress_network_get(tx, run)?, None);
        let mut network = StressNetwork {
            run: run.clone(),
            nodes: basics.nodes.iter().map(|node| node.id.clone()).collect(),
            leaves: vec![Some("a \u{2028} leaf".into()), None],
            began_at: NOW,
            state: NetworkState::Testing { round: 1 },
        };
        stress_network_put(tx, &network)?;
        let verdict = NetworkVerdict::nothing(2, "disturbed");
        network.state = NetworkState::Judged { verdict };
        stress_network_put(tx, &network)?;
        assert_eq!(stress_network_get(tx, run)?, Some(network));
        Ok(())
    });
}

fn a_pair_has_a_key_only_while_it_runs(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let twice = basics.clone();
    sample.run(move |tx| {
        let run = &basics.operation.id;
        let mut first = pair(&basics, 1, WAITING);
        let second = pair(&basics, 2, WAITING);
        stress_pair_insert(tx, &first)?;
        stress_pair_insert(tx, &second)?;
        assert_eq!(stress_pair_key(tx, run, 1)?, None);
        first.state = running();
        let key = GroupKey::new(&entropy(1));
        stress_pair_begin(tx, &first, &key)?;
        first.tries = 1;
        stress_pair_update(tx, &first)?;
        assert_eq!(stress_pair_key(tx, run, 1)?, Some(key));
        assert_eq!(stress_pair_get(tx, run, 1)?, Some(first.clone()));
        assert_eq!(
            stress_pair_list_open(tx, run)?,
            [first.clone(), second.clone()]
        );
        first.state = PairState::Ended {
            outcome: PairOutcome::Skipped { why: "x".into() },
            ended_at: after(1),
        };
        stress_pair_update(tx, &first)?;
        assert_eq!(stress_pair_key(tx, run, 1)?, None);
        assert_eq!(
            stress_pair_list_open(tx, run)?,
            std::slice::from_ref(&second)
        );
        let all = [first, second];
        assert_eq!(stress_pair_list(tx, run)?, all);
        assert_eq!(stress_pair_list_of(tx, run, &basics.nodes[1].id)?, all);
        Ok(())
    });
    let ended = sample.conflict(move |tx| {
        let again = pair(&twice, 1, running());
        stress_pair_begin(tx, &again, &GroupKey::new(&entropy(2)))
    });
    assert_eq!(ended, ConflictKind::Check, "only a waiting pair begins");
}

fn no_node_is_paired_with_itself_and_no_number_is_used_twice(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let (one, other) = (basics.clone(), basics);
    let alone = sample.conflict(move |tx| {
        let mut alone = pair(&one, 1, WAITING);
        alone.listener = alone.asker.clone();
        stress_pair_insert(tx, &alone)
    });
    assert_eq!(alone, ConflictKind::Check);
    let twice = sample.conflict(move |tx| {
        stress_pair_insert(tx, &pair(&other, 1, WAITING))?;
        stress_pair_insert(tx, &pair(&other, 1, WAITING))
    });
    assert_eq!(twice, ConflictKind::Unique);
}

fn what_the_network_adds_replaces_what_came_of_a_node(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    sample.run(move |tx| {
        let run = &basics.operation.id;
        let mut result = StressResult {
            run: run.clone(),
            node: basics.nodes[0].id.clone(),
            tier: Tier::Quick,
            outcome: StressOutcome::Passed,
            findings: Vec::new(),
            undecided: Vec::new(),
            rounds: 1,
            began_at: Some(NOW),
            ended_at: after(3),
        };
        assert!(stress_result_insert(tx, &result)?);
        let finding = "what n1 sends is slow".into();
        result.outcome = StressOutcome::Failed { finding };
        stress_result_put(tx, &result)?;
        assert_eq!(stress_result_list(tx, run)?, [result]);
        Ok(())
    });
}
