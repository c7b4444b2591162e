//! Queries of `supernode_store::operation`.

use supernode_store::ConflictKind;
use supernode_store::operation::{
    OperationRecord, operation_get, operation_insert, operation_list, operation_list_running,
    operation_update,
};
use supernode_types::operation::OperationState;

use super::sample::{NOW, Sample, after, name, operation};
use crate::fixture::{Engine, on_every_engine};

on_every_engine!(
    an_operation_comes_back_with_the_name_that_its_super_node_had,
    operations_are_listed_by_super_node_and_state,
    a_stale_update_is_a_conflict,
);

fn an_operation_comes_back_with_the_name_that_its_super_node_had(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    sample.run(move |tx| {
        let record = OperationRecord {
            operation: basics.operation.clone(),
            super_node_name: Some(name("train")),
        };
        assert_eq!(operation_get(tx, &basics.operation.id)?, Some(record));
        let without = operation(60, NOW, None);
        operation_insert(tx, &without, None)?;
        let found = operation_get(tx, &without.id)?;
        assert_eq!(
            found,
            Some(OperationRecord {
                operation: without.clone(),
                super_node_name: None
            })
        );
        assert_eq!(operation_get(tx, &operation(61, NOW, None).id)?, None);
        Ok(())
    });
    let again = operation(60, NOW, None);
    assert_eq!(
        sample.conflict(move |tx| operation_insert(tx, &again, None)),
        ConflictKind::Unique
    );
}

fn operations_are_listed_by_super_node_and_state(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let of = basics.super_node.id;
    sample.run(move |tx| {
        let mut all = vec![basics.operation.id.clone()];
        for number in 1..=4 {
            let mut next = operation(60, after(number), (number % 2 == 0).then_some(&of));
            operation_insert(tx, &next, None)?;
            all.push(next.id.clone());
            if number == 4 {
                next.state = OperationState::Failed {
                    reason: "no".into(),
                };
                next.ended_at = Some(after(9));
                operation_update(tx, &mut next)?;
            }
        }
        let ids = |records: Vec<OperationRecord>| {
            records
                .into_iter()
                .map(|record| record.operation.id)
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(operation_list_running(tx)?), all[..4], "oldest first");
        let pick = |numbers: &[usize]| {
            numbers
                .iter()
                .map(|number| all[*number].clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            ids(operation_list(tx, None, None, None, 3)?),
            pick(&[4, 3, 2])
        );
        assert_eq!(
            ids(operation_list(tx, None, None, Some(all[2].as_str()), 3)?),
            pick(&[1, 0])
        );
        assert_eq!(
            ids(operation_list(tx, Some(&of), None, None, 10)?),
            pick(&[4, 2, 0])
        );
        assert_eq!(
            ids(operation_list(tx, Some(&of), Some("running"), None, 10)?),
            pick(&[2, 0])
        );
        assert_eq!(
            ids(operation_list(tx, None, Some("failed"), None, 10)?),
            pick(&[4])
        );
        assert_eq!(
            ids(operation_list(tx, None, Some("nonsense"), None, 10)?),
            []
        );
        Ok(())
    });
}

fn a_stale_update_is_a_conflict(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let (mut fresh, mut stale) = (basics.operation.clone(), basics.operation);
    sample.run(move |tx| operation_update(tx, &mut fresh));
    assert_eq!(
        sample.conflict(move |tx| operation_update(tx, &mut stale)),
        ConflictKind::Check
    );
}
