//! Queries of `supernode_store::super_node`.

use supernode_store::ConflictKind;
use supernode_store::super_node::{
    super_node_delete, super_node_find, super_node_get, super_node_insert, super_node_list,
    super_node_update,
};

use super::sample::{Sample, name, spec, super_node};
use crate::fixture::{Engine, on_every_engine};

on_every_engine!(
    super_nodes_are_found_by_name_and_id,
    names_are_unique_and_specs_are_known,
    a_stale_update_is_a_conflict,
);

fn super_nodes_are_found_by_name_and_id(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    sample.run(move |tx| {
        let other = super_node("big", &basics.spec.id, 20);
        super_node_insert(tx, &other)?;
        assert_eq!(
            super_node_list(tx)?,
            [other.clone(), basics.super_node.clone()]
        );
        assert_eq!(super_node_find(tx, "big")?, Some(other.clone()));
        assert_eq!(super_node_find(tx, other.id.as_str())?, Some(other.clone()));
        let mut renamed = other.clone();
        renamed.name = name("bigger");
        super_node_update(tx, &mut renamed)?;
        assert_eq!(super_node_find(tx, "big")?, None);
        assert_eq!(super_node_get(tx, &other.id)?, Some(renamed));
        super_node_delete(tx, &other.id)?;
        assert_eq!(super_node_get(tx, &other.id)?, None);
        Ok(())
    });
}

fn names_are_unique_and_specs_are_known(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let (twin, ghost) = (
        super_node("train", &basics.spec.id, 21),
        super_node("ghost", &spec("x", 22).id, 23),
    );
    assert_eq!(
        sample.conflict(move |tx| super_node_insert(tx, &twin)),
        ConflictKind::Unique
    );
    assert_eq!(
        sample.conflict(move |tx| super_node_insert(tx, &ghost)),
        ConflictKind::ForeignKey
    );
    let other = super_node("big", &basics.spec.id, 24);
    let taken = sample.conflict(move |tx| {
        super_node_insert(tx, &other)?;
        let mut renamed = other.clone();
        renamed.name = name("train");
        super_node_update(tx, &mut renamed)
    });
    assert_eq!(taken, ConflictKind::Unique);
}

fn a_stale_update_is_a_conflict(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let (mut fresh, mut stale) = (basics.super_node.clone(), basics.super_node);
    sample.run(move |tx| super_node_update(tx, &mut fresh));
    assert_eq!(
        sample.conflict(move |tx| super_node_update(tx, &mut stale)),
        ConflictKind::Check
    );
}
