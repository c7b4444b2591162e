//! Queries of `supernode_store::event`.

use supernode_store::event::{
    event_insert, event_last_sequence, event_list_after, event_list_latest, event_prune,
};
use supernode_types::event::{NewEvent, Severity, Subjects};

use super::sample::{Basics, NOW, Sample, after};
use crate::fixture::{Engine, on_every_engine};

on_every_engine!(
    events_are_read_from_both_ends,
    events_are_found_by_subject_and_severity,
    old_ones_are_forgotten
);

fn event(message: &str, severity: Severity, subjects: Subjects) -> NewEvent {
    NewEvent {
        kind: "test.event",
        severity,
        message: message.into(),
        subjects,
    }
}

fn plain(number: i64) -> NewEvent {
    event(&number.to_string(), Severity::Info, Subjects::default())
}

fn events_are_read_from_both_ends(engine: Engine) {
    let sample = Sample::new(engine);
    sample.run(|tx| {
        assert_eq!(event_last_sequence(tx)?, 0);
        for number in 1..=5 {
            assert_eq!(event_insert(tx, &plain(number), NOW)?, number);
        }
        assert_eq!(event_last_sequence(tx)?, 5);
        let later = event_list_after(tx, 2, None, Severity::Info, 2)?;
        assert_eq!(
            later.iter().map(|event| event.sequence).collect::<Vec<_>>(),
            [3, 4]
        );
        assert_eq!(
            (
                later[0].kind.as_str(),
                later[0].message.as_str(),
                later[0].at
            ),
            ("test.event", "3", NOW)
        );
        let latest = event_list_latest(tx, None, Severity::Info, 2)?;
        assert_eq!(
            latest
                .iter()
                .map(|event| event.sequence)
                .collect::<Vec<_>>(),
            [5, 4]
        );
        assert_eq!(event_list_after(tx, 5, None, Severity::Info, 2)?, []);
        Ok(())
    });
}

fn events_are_found_by_subject_and_severity(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let Basics {
        nodes,
        super_node,
        job,
        operation,
        ..
    } = basics;
    sample.run(move |tx| {
        let all = Subjects {
            node: Some(nodes[0].id.clone()),
            super_node: Some(super_node.id.clone()),
            job: Some(job.id.clone()),
            operation: Some(operation.id.clone()),
        };
        event_insert(tx, &event("all", Severity::Error, all.clone()), NOW)?;
        let other = Subjects {
            node: Some(nodes[1].id.clone()),
            ..Subjects::default()
        };
        event_insert(tx, &event("other", Severity::Warning, other), NOW)?;
        event_insert(tx, &event("none", Severity::Info, Subjects::default()), NOW)?;
        for subject in [
            nodes[0].id.as_str(),
            super_node.id.as_str(),
            job.id.as_str(),
            operation.id.as_str(),
        ] {
            let found = event_list_after(tx, 0, Some(subject), Severity::Info, 10)?;
            assert_eq!(
                found,
                event_list_latest(tx, Some(subject), Severity::Info, 10)?
            );
            assert_eq!(found.len(), 1);
            assert_eq!(
                (&found[0].subjects, found[0].severity),
                (&all, Severity::Error)
            );
        }
        for (severity, count) in [
            (Severity::Info, 3),
            (Severity::Warning, 2),
            (Severity::Error, 1),
        ] {
            assert_eq!(event_list_after(tx, 0, None, severity, 10)?.len(), count);
            assert_eq!(event_list_latest(tx, None, severity, 10)?.len(), count);
        }
        assert_eq!(
            event_list_latest(tx, Some("nothing"), Severity::Info, 10)?,
            []
        );
        Ok(())
    });
}

fn old_ones_are_forgotten(engine: Engine) {
    let sample = Sample::new(engine);
    sample.run(|tx| {
        event_insert(tx, &plain(1), NOW)?;
        event_insert(tx, &plain(2), after(60))?;
        event_prune(tx, after(60))?;
        assert_eq!(event_list_after(tx, 0, None, Severity::Info, 10)?.len(), 1);
        event_prune(tx, after(61))?;
        assert_eq!(
            event_insert(tx, &plain(3), after(70))?,
            3,
            "a number is never used twice"
        );
        Ok(())
    });
}
