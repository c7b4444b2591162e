//! Queries of `supernode_store::idempotency`.

use supernode_store::ConflictKind;
use supernode_store::idempotency::{
    Remembered, idempotency_get, idempotency_prune, idempotency_put,
};

use super::sample::{NOW, Sample, after};
use crate::fixture::{Engine, on_every_engine};

on_every_engine!(
    an_answer_is_remembered_by_actor_and_key,
    a_key_is_written_once
);

fn remembered(digest: &str) -> Remembered {
    Remembered {
        digest: digest.into(),
        response: serde_json::json!({ "id": digest, "list": [1, null] }).to_string(),
    }
}

fn an_answer_is_remembered_by_actor_and_key(engine: Engine) {
    let sample = Sample::new(engine);
    sample.run(|tx| {
        idempotency_put(tx, "ada", "k", &remembered("a"), NOW)?;
        idempotency_put(tx, "bob", "k", &remembered("b"), after(60))?;
        assert_eq!(idempotency_get(tx, "ada", "k")?, Some(remembered("a")));
        assert_eq!(idempotency_get(tx, "bob", "k")?, Some(remembered("b")));
        assert_eq!(idempotency_get(tx, "ada", "other")?, None);
        idempotency_prune(tx, after(60))?;
        assert_eq!(idempotency_get(tx, "ada", "k")?, None);
        assert_eq!(idempotency_get(tx, "bob", "k")?, Some(remembered("b")));
        Ok(())
    });
}

fn a_key_is_written_once(engine: Engine) {
    let sample = Sample::new(engine);
    let twice = sample.conflict(|tx| {
        idempotency_put(tx, "ada", "k", &remembered("a"), NOW)?;
        idempotency_put(tx, "ada", "k", &remembered("a"), NOW)
    });
    assert_eq!(twice, ConflictKind::Unique);
}
