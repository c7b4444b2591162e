//! Queries of `supernode_store::audit`.

use supernode_store::audit::{AuditEntry, audit_insert, audit_list};

use super::sample::{NOW, Sample};
use crate::fixture::{Engine, on_every_engine};

on_every_engine!(
    records_are_numbered_and_read_in_pages,
    an_undone_record_leaves_no_gap
);

fn entry(actor: &str, action: &str) -> AuditEntry {
    AuditEntry {
        sequence: 0,
        at: NOW,
        actor: actor.into(),
        action: action.into(),
        subject: "train".into(),
        request: serde_json::json!({ "count": 1, "text": "ü\u{0}'" }),
        request_id: "r".into(),
    }
}

fn records_are_numbered_and_read_in_pages(engine: Engine) {
    let sample = Sample::new(engine);
    sample.run(|tx| {
        for number in 0..5 {
            audit_insert(
                tx,
                &entry(
                    if number % 2 == 0 { "ada" } else { "bob" },
                    &format!("a{number}"),
                ),
            )?;
        }
        let page = audit_list(tx, None, None, 2)?;
        assert_eq!(
            page.iter()
                .map(|entry| entry.action.as_str())
                .collect::<Vec<_>>(),
            ["a4", "a3"]
        );
        let next = audit_list(tx, Some(page[1].sequence), None, 2)?;
        assert_eq!(
            next.iter()
                .map(|entry| entry.action.as_str())
                .collect::<Vec<_>>(),
            ["a2", "a1"]
        );
        assert_eq!(audit_list(tx, Some(next[1].sequence), None, 10)?.len(), 1);
        let of_bob = audit_list(tx, None, Some("bob"), 10)?;
        assert_eq!(
            of_bob
                .iter()
                .map(|entry| entry.action.as_str())
                .collect::<Vec<_>>(),
            ["a3", "a1"]
        );
        let expected = AuditEntry {
            sequence: of_bob[0].sequence,
            ..entry("bob", "a3")
        };
        assert_eq!(of_bob[0], expected);
        Ok(())
    });
}

fn an_undone_record_leaves_no_gap(engine: Engine) {
    let sample = Sample::new(engine);
    sample.run(|tx| audit_insert(tx, &entry("ada", "first")));
    let undone = sample.store.write_inline("undone", |tx| {
        audit_insert(tx, &entry("ada", "undone"))?;
        Err::<(), _>(supernode_store::StoreError::RowCount { rows: 0, sql: "no" })
    });
    assert!(undone.is_err());
    let sequences = sample.run(|tx| {
        audit_insert(tx, &entry("ada", "second"))?;
        Ok(audit_list(tx, None, None, 10)?
            .iter()
            .map(|entry| entry.sequence)
            .collect::<Vec<_>>())
    });
    assert_eq!(sequences, [2, 1]);
}
