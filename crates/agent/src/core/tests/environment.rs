//! The environment of a node as the core sees it: drift, what is missing, leaving.

use super::super::environment::VERIFY_PERIOD;
use super::*;

fn item(state: ItemCondition) -> Vec<ItemState> {
    vec![ItemState {
        item: "file /etc/x".into(),
        state,
    }]
}

#[test]
fn drift_is_reported_and_repaired() {
    let mut rig = Rig::connected(Ledger::default(), Vec::new());
    rig.desired(have(1, 4));
    assert!(matches!(
        std::mem::take(&mut rig.rest)[..],
        [Effect::ApplyEnvironment { .. }]
    ));
    assert_eq!(rig.core.observed().environment_applied, 0);
    rig.core.on_environment_done(
        EnvironmentTask::Apply { generation: 4 },
        Ok(item(ItemCondition::Applied)),
        rig.now,
    );
    rig.go();
    assert_eq!(
        (
            rig.core.observed().environment_applied,
            rig.disk.environment.applied
        ),
        (4, 4)
    );
    rig.quiet();
    rig.desired(keep(2, 4));
    rig.quiet();
    rig.now += VERIFY_PERIOD;
    rig.go();
    assert!(matches!(
        std::mem::take(&mut rig.rest)[..],
        [Effect::VerifyEnvironment { .. }]
    ));
    rig.quiet();
    let drift = item(ItemCondition::Drifted {
        why: "missing".into(),
    });
    rig.core.on_environment_done(
        EnvironmentTask::Verify { generation: 4 },
        Ok(drift.clone()),
        rig.now,
    );
    rig.go();
    assert_eq!(rig.rest, [], "the server hears of it first");
    let told = rig
        .sent
        .last()
        .and_then(|sync| sync.observed.clone())
        .expect("it is reported");
    assert_eq!(
        (told.environment_items, told.environment_applied),
        (drift, 4)
    );
    rig.quiet();
    assert!(matches!(
        std::mem::take(&mut rig.rest)[..],
        [Effect::ApplyEnvironment { .. }]
    ));
    let failed = item(ItemCondition::Failed {
        why: "read-only".into(),
    });
    rig.core.on_environment_done(
        EnvironmentTask::Apply { generation: 4 },
        Ok(failed.clone()),
        rig.now,
    );
    rig.go();
    assert_eq!(
        rig.core.observed().environment_items,
        failed,
        "all was tried: the generation is applied, with a problem"
    );
    assert_eq!(rig.rest, []);
    // Without a connection nobody can hear of it, and it is repaired all the same.
    rig.core.on_disconnected();
    rig.now += VERIFY_PERIOD;
    rig.go();
    rig.rest.clear();
    rig.core.on_environment_done(
        EnvironmentTask::Verify { generation: 4 },
        Ok(failed),
        rig.now,
    );
    rig.go();
    assert_eq!(rig.rest, []);
    rig.now = rig.core.next_wake().expect("the repair");
    rig.go();
    assert!(matches!(rig.rest[..], [Effect::ApplyEnvironment { .. }]));
}

#[test]
fn an_environment_that_is_not_here_is_asked_for() {
    let mut rig = Rig::connected(Ledger::default(), Vec::new());
    assert_eq!(rig.desired(keep(7, 4)), Reception::Accepted);
    rig.quiet();
    rig.now += INTERVAL;
    rig.go();
    let asked = rig.sent.last().expect("a sync");
    assert_eq!(
        (
            asked.stored_generation,
            rig.core.observed().environment_applied
        ),
        (0, 0)
    );
    assert_eq!(rig.rest, []);
    assert_eq!(
        rig.desired(have(7, 4)),
        Reception::Accepted,
        "the same generation, this time with its content"
    );
    assert!(matches!(rig.rest[..], [Effect::ApplyEnvironment { .. }]));
}

#[test]
fn leaving_cleans_and_an_executor_that_cannot_work_is_tried_again() {
    let mut rig = Rig::connected(Ledger::default(), Vec::new());
    rig.desired(have(1, 4));
    rig.rest.clear();
    rig.core.on_environment_done(
        EnvironmentTask::Apply { generation: 4 },
        Err("the record is damaged".into()),
        rig.now,
    );
    rig.go();
    assert_eq!(
        (rig.core.observed().environment_applied, rig.rest.len()),
        (0, 0)
    );
    assert!(rig.core.observed().environment_items[0].problem().is_some());
    rig.quiet();
    rig.now += Duration::from_secs(5);
    rig.go();
    assert!(matches!(
        std::mem::take(&mut rig.rest)[..],
        [Effect::ApplyEnvironment { .. }]
    ));
    // The wish changes while it is applied: what was done is undone.
    rig.desired(desired(2, vec![]));
    rig.core.on_environment_done(
        EnvironmentTask::Apply { generation: 4 },
        Ok(item(ItemCondition::Applied)),
        rig.now,
    );
    rig.go();
    assert_eq!(rig.core.observed().environment_applied, 0);
    assert_eq!(rig.core.observed().environment_items, []);
}

#[test]
fn a_node_is_clean_only_after_it_was_cleaned() {
    let mut rig = Rig::connected(Ledger::default(), Vec::new());
    rig.desired(have(1, 4));
    // The wish changes while the first application is under way: something of it may be there.
    rig.desired(desired(2, vec![]));
    assert_eq!(rig.core.observed().environment_applied, 1);
    rig.core.on_environment_done(
        EnvironmentTask::Apply { generation: 4 },
        Ok(item(ItemCondition::Applied)),
        rig.now,
    );
    rig.go();
    assert_eq!(rig.core.observed().environment_applied, 0);
    // What cannot be taken away is still there.
    let stays = item(ItemCondition::Failed {
        why: "read-only file system".into(),
    });
    rig.core
        .on_environment_done(EnvironmentTask::Clean, Ok(stays), rig.now);
    assert_eq!(rig.core.observed().environment_applied, 1);
    // Another process does not know what this one has left.
    let again = AgentCore::new(options(), rig.disk.clone(), Vec::new());
    assert_eq!(again.observed().environment_applied, 1);
}
