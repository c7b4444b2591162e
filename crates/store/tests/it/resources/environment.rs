//! Queries of `supernode_store::environment`.

use supernode_store::ConflictKind;
use supernode_store::environment::{
    EnvironmentRecord, environment_generation_next, environment_generation_raise, environment_get,
    environment_insert, environment_list,
};
use supernode_store::super_node::super_node_delete;
use supernode_types::environment::EnvironmentDocument;

use super::sample::{NOW, Sample};
use crate::fixture::{Engine, on_every_engine};

on_every_engine!(
    revisions_are_kept,
    a_revision_is_written_once,
    generations_only_grow
);

fn revision(number: i64) -> EnvironmentRecord {
    EnvironmentRecord {
        revision: number,
        document: EnvironmentDocument {
            variables: [("A".to_owned(), format!("{number} 'x' \u{1F600}"))].into(),
            ..EnvironmentDocument::default()
        },
        actor: "ada".into(),
        created_at: NOW,
    }
}

fn revisions_are_kept(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let id = basics.super_node.id;
    sample.run(move |tx| {
        for number in 1..=3 {
            environment_insert(tx, &id, &revision(number))?;
        }
        assert_eq!(environment_get(tx, &id, 2)?, Some(revision(2)));
        assert_eq!(environment_get(tx, &id, 4)?, None);
        assert_eq!(
            environment_list(tx, &id)?,
            [revision(3), revision(2), revision(1)]
        );
        super_node_delete(tx, &id)?;
        assert_eq!(environment_list(tx, &id)?, []);
        Ok(())
    });
}

fn a_revision_is_written_once(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let id = basics.super_node.id;
    let of = id.clone();
    let twice = sample.conflict(move |tx| {
        environment_insert(tx, &of, &revision(1))?;
        environment_insert(tx, &of, &revision(1))
    });
    assert_eq!(twice, ConflictKind::Unique);
    assert_eq!(
        sample.conflict(move |tx| environment_insert(tx, &id, &revision(0))),
        ConflictKind::Check
    );
}

fn generations_only_grow(engine: Engine) {
    let sample = Sample::new(engine);
    sample.run(|tx| {
        assert_eq!(
            (
                environment_generation_next(tx)?,
                environment_generation_next(tx)?
            ),
            (1, 2)
        );
        assert!(environment_generation_raise(tx, 40)?);
        assert!(!environment_generation_raise(tx, 40)?);
        assert!(!environment_generation_raise(tx, 3)?, "never back");
        assert_eq!(environment_generation_next(tx)?, 41);
        Ok(())
    });
}
