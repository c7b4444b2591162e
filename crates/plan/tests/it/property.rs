//! What holds whatever happens: the model checks its invariants after every plan, the world checks what really runs after every
//! move, and when the faults stop everything comes to an end by itself.

use proptest::prelude::*;
use supernode_types::job::JobState;
use supernode_types::super_node::DrainMode;

use crate::build::DEADLINE;
use crate::world::{Move, World};

fn drain_mode() -> impl Strategy<Value = DrainMode> {
    prop_oneof![
        Just(DrainMode::Refuse),
        Just(DrainMode::Wait),
        Just(DrainMode::Evict { grace_seconds: 1 })
    ]
}

fn submit() -> impl Strategy<Value = Move> {
    let limit = prop::option::of(10_u64..120);
    (
        0..4_usize,
        1..4_u32,
        prop::option::of(1..3_u32),
        limit,
        0..3_u32,
        -1..2_i32,
    )
        .prop_map(
            |(super_node, nodes, devices, limit, requeue, priority)| Move::Submit {
                super_node,
                nodes,
                devices,
                limit,
                requeue,
                priority,
            },
        )
}

fn moves() -> impl Strategy<Value = Move> {
    let any = 0..16_usize;
    prop_oneof![
        6 => (1..40_u64).prop_map(|seconds| Move::Wait { seconds }),
        8 => Just(Move::SyncAll),
        4 => any.clone().prop_map(Move::Sync),
        2 => any.clone().prop_map(Move::Cut),
        3 => any.clone().prop_map(Move::Heal),
        1 => any.clone().prop_map(Move::Restart),
        1 => Just(Move::RestartServer),
        3 => (any.clone(), prop_oneof![3 => Just(0), 1 => Just(1)]).prop_map(|(rank, code)| Move::Exit { rank, code }),
        6 => submit(),
        1 => any.clone().prop_map(Move::CancelJob),
        1 => any.clone().prop_map(Move::Cordon),
        1 => any.clone().prop_map(Move::Uncordon),
        1 => any.clone().prop_map(Move::Quarantine),
        1 => any.clone().prop_map(Move::Release),
        2 => any.clone().prop_map(Move::Test),
        3 => (any.clone(), 0..6_usize).prop_map(|(node, outcome)| Move::Judge { node, outcome }),
        1 => any.clone().prop_map(Move::Break),
        2 => any.clone().prop_map(Move::Repair),
        2 => (1..4_usize).prop_map(|count| Move::Create { count }),
        2 => (any.clone(), 0..3_usize, 0..2_usize).prop_map(|(super_node, count, provisioned)| Move::ScaleUp { super_node, count, provisioned }),
        2 => (any.clone(), 1..3_usize, drain_mode()).prop_map(|(super_node, count, mode)| Move::ScaleDown { super_node, count, mode }),
        2 => (any.clone(), any.clone(), proptest::bool::ANY, drain_mode()).prop_map(|(super_node, member, admission, mode)| Move::Replace { super_node, member, admission, mode }),
        1 => any.clone().prop_map(Move::ReplaceAutomatically),
        1 => any.clone().prop_map(Move::Delete),
        1 => any.clone().prop_map(Move::ChangeEnvironment),
        1 => any.clone().prop_map(Move::CancelOperation),
        1 => any.clone().prop_map(Move::Remove),
        2 => (any, prop::bool::weighted(0.8)).prop_map(|(provision, works)| Move::Provisioner { provision, works }),
    ]
}

/// How many cases a property is tried with; `PROPTEST_CASES` says more.
pub(crate) fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 4_000, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn whatever_happens_the_invariants_hold_and_everything_ends(
        nodes in 2..8_usize,
        first in 1..4_usize,
        moves in prop::collection::vec(moves(), 1..80),
    ) {
        let mut world = World::new(nodes);
        world.step(&Move::Create { count: first.min(nodes) });
        world.step(&Move::SyncAll);
        for step in &moves {
            world.step(step);
        }
        world.heal();
        // Operations of a world without faults end long before their deadline unless they wait for what never comes.
        let end = world.model.snapshot.now.plus(DEADLINE).plus(supernode_plan::operation::FOLLOW_UP);
        while world.model.snapshot.now < end {
            world.calm();
        }
        prop_assert_eq!(world.open_operations(), Vec::new());
        for job in world.model.snapshot.jobs.values() {
            match &job.state {
                JobState::Queued { reason } => prop_assert!(reason.starts_with("cannot run"), "waits for nothing: {reason}"),
                other => prop_assert!(false, "never ends: {other:?}"),
            }
        }
        prop_assert!(world.model.snapshot.leases.is_empty());
    }
}
