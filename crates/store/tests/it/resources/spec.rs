//! Queries of `supernode_store::spec`.

use supernode_store::ConflictKind;
use supernode_store::spec::{SpecRecord, spec_delete, spec_find, spec_insert, spec_list};

use super::sample::{Sample, name, spec};
use crate::fixture::{Engine, on_every_engine};

on_every_engine!(
    specs_are_found_by_name_and_id,
    names_are_unique_and_maxima_positive,
    a_spec_in_use_stays
);

fn specs_are_found_by_name_and_id(engine: Engine) {
    let sample = Sample::new(engine);
    sample.run(|tx| {
        let (first, second) = (spec("b", 1), spec("a", 2));
        spec_insert(tx, &first)?;
        spec_insert(tx, &second)?;
        assert_eq!(spec_list(tx)?, [second.clone(), first.clone()]);
        assert_eq!(spec_find(tx, "b")?, Some(first.clone()));
        assert_eq!(spec_find(tx, second.id.as_str())?, Some(second));
        spec_delete(tx, &first.id)?;
        assert_eq!(spec_find(tx, "b")?, None);
        spec_insert(tx, &first)
    });
}

fn names_are_unique_and_maxima_positive(engine: Engine) {
    let (sample, _) = Sample::with_basics(engine);
    assert_eq!(
        sample.conflict(|tx| spec_insert(tx, &spec("std", 9))),
        ConflictKind::Unique
    );
    let none = SpecRecord {
        maximum_nodes: 0,
        maximum_disk_gib: 1024,
        name: name("none"),
        ..spec("x", 9)
    };
    assert_eq!(
        sample.conflict(move |tx| spec_insert(tx, &none)),
        ConflictKind::Check
    );
}

fn a_spec_in_use_stays(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let id = basics.spec.id;
    assert_eq!(
        sample.conflict(move |tx| spec_delete(tx, &id)),
        ConflictKind::ForeignKey
    );
}
