//! Queries of `supernode_store::attempt`.

use std::collections::BTreeMap;

use supernode_store::ConflictKind;
use supernode_store::attempt::{
    attempt_get, attempt_insert, attempt_master_ports, lease_insert, lease_list, lease_list_on,
    lease_release, rank_advance, rank_insert, rank_list, rank_list_of, rank_list_open_on,
    rank_list_placed,
};
use supernode_types::job::{RankEnd, RankState};

use super::sample::{Sample, attempt, lease, rank};
use crate::fixture::{Engine, on_every_engine};

on_every_engine!(
    a_device_has_one_lease,
    leases_end_with_their_attempt,
    ranks_only_go_forward,
    no_node_speaks_for_a_rank_of_another,
    ranks_are_found_by_attempt_and_node,
    an_attempt_comes_back_whole,
    unknown_owners_are_refused,
);

fn a_device_has_one_lease(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let [first, second] = basics.nodes.clone().map(|node| node.id);
    let other = attempt(&basics.job.id, 2);
    sample.run(move |tx| {
        attempt_insert(tx, &other)?;
        assert!(lease_insert(tx, &lease(&basics.attempt, &first, 0))?);
        assert!(!lease_insert(tx, &lease(&other, &first, 0))?, "taken");
        assert!(
            !lease_insert(tx, &lease(&basics.attempt, &first, 0))?,
            "also by itself"
        );
        assert!(
            lease_insert(tx, &lease(&other, &first, 1))?,
            "another device"
        );
        assert!(
            lease_insert(tx, &lease(&other, &second, 0))?,
            "another node"
        );
        let all = lease_list(tx)?;
        let mut sorted = all.clone();
        sorted.sort_by_key(|lease| (lease.node.clone(), lease.device));
        assert_eq!(all, sorted);
        assert_eq!(all.len(), 3);
        assert_eq!(
            lease_list_on(tx, &first)?,
            [lease(&basics.attempt, &first, 0), lease(&other, &first, 1)]
        );
        Ok(())
    });
}

fn leases_end_with_their_attempt(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let node = basics.nodes[0].id.clone();
    sample.run(move |tx| {
        let other = attempt(&basics.job.id, 2);
        attempt_insert(tx, &other)?;
        lease_insert(tx, &lease(&basics.attempt, &node, 0))?;
        lease_insert(tx, &lease(&other, &node, 1))?;
        let ports: BTreeMap<_, _> = [
            (basics.attempt.id.clone(), 29_999),
            (other.id.clone(), 29_999),
        ]
        .into();
        assert_eq!(attempt_master_ports(tx)?, ports);
        lease_release(tx, &basics.attempt.id)?;
        assert_eq!(lease_list(tx)?, [lease(&other, &node, 1)]);
        assert_eq!(attempt_master_ports(tx)?.len(), 1);
        lease_release(tx, &basics.attempt.id)
    });
}

fn ranks_only_go_forward(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let node = basics.nodes[0].id.clone();
    sample.run(move |tx| {
        let id = basics.attempt.id.clone();
        rank_insert(tx, &rank(&basics.attempt, 0, &node))?;
        let ended = |code| RankState::Ended {
            end: RankEnd::Exited { code },
            last_lines: vec!["bye \u{1F600}".into()],
        };
        assert!(!rank_advance(tx, &node, &id, 0, &RankState::Assigned)?);
        assert!(rank_advance(tx, &node, &id, 0, &RankState::Running)?);
        assert!(
            !rank_advance(tx, &node, &id, 0, &RankState::Running)?,
            "nothing new"
        );
        assert!(
            !rank_advance(tx, &node, &id, 0, &RankState::Assigned)?,
            "never back"
        );
        assert!(rank_advance(tx, &node, &id, 0, &ended(3))?);
        for late in [RankState::Assigned, RankState::Running, ended(0)] {
            assert!(
                !rank_advance(tx, &node, &id, 0, &late)?,
                "an end is for good"
            );
        }
        assert_eq!(rank_list(tx, &id)?[0].state, ended(3));
        assert!(
            !rank_advance(tx, &node, &id, 7, &RankState::Running)?,
            "there is no such rank"
        );
        rank_insert(tx, &rank(&basics.attempt, 1, &node))?;
        assert!(
            rank_advance(tx, &node, &id, 1, &ended(0))?,
            "an end may come first"
        );
        Ok(())
    });
}

fn no_node_speaks_for_a_rank_of_another(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let [first, second] = basics.nodes.clone().map(|node| node.id);
    sample.run(move |tx| {
        rank_insert(tx, &rank(&basics.attempt, 0, &first))?;
        let lost = RankState::Ended {
            end: RankEnd::Fenced,
            last_lines: Vec::new(),
        };
        assert!(!rank_advance(tx, &second, &basics.attempt.id, 0, &lost)?);
        assert_eq!(
            rank_list(tx, &basics.attempt.id)?[0].state,
            RankState::Assigned
        );
        Ok(())
    });
}

fn ranks_are_found_by_attempt_and_node(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let [first, second] = basics.nodes.clone().map(|node| node.id);
    sample.run(move |tx| {
        let ranks = [
            rank(&basics.attempt, 0, &first),
            rank(&basics.attempt, 1, &first),
            rank(&basics.attempt, 2, &second),
        ];
        for rank in ranks.iter().rev() {
            rank_insert(tx, rank)?;
        }
        assert_eq!(rank_list(tx, &basics.attempt.id)?, ranks);
        assert_eq!(rank_list_open_on(tx, &first)?, ranks[..2]);
        assert_eq!(
            rank_list_placed(tx)?,
            BTreeMap::new(),
            "without a lease it is not placed"
        );
        lease_insert(tx, &lease(&basics.attempt, &first, 0))?;
        assert_eq!(
            rank_list_placed(tx)?,
            [(basics.attempt.id.clone(), ranks.to_vec())].into()
        );
        let ended = RankState::Ended {
            end: RankEnd::Exited { code: 0 },
            last_lines: Vec::new(),
        };
        rank_advance(tx, &first, &basics.attempt.id, 0, &ended)?;
        assert_eq!(rank_list_open_on(tx, &first)?, ranks[1..2]);
        let all = rank_list_of(tx, &basics.attempt.id, &first)?;
        assert_eq!(all.len(), 2, "also the one that has ended");
        Ok(())
    });
}

fn an_attempt_comes_back_whole(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let twice = basics.attempt.clone();
    assert!(twice.retry.is_some());
    let without = attempt(&basics.job.id, 2);
    assert_eq!(without.retry, None);
    sample.run(move |tx| {
        attempt_insert(tx, &without)?;
        assert_eq!(attempt_get(tx, &without.id)?, Some(without.clone()));
        assert_eq!(
            attempt_get(tx, &basics.attempt.id)?,
            Some(basics.attempt.clone())
        );
        let unknown = attempt(&basics.job.id, 9).id;
        assert_eq!(attempt_get(tx, &unknown)?, None);
        Ok(())
    });
    let same_number = supernode_store::attempt::AttemptRecord {
        id: attempt(&twice.job, 9).id,
        ..twice
    };
    assert_eq!(
        sample.conflict(move |tx| attempt_insert(tx, &same_number)),
        ConflictKind::Unique
    );
}

fn unknown_owners_are_refused(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let unknown = super::sample::node("n9", 99).id;
    let (attempt_record, node) = (basics.attempt.clone(), unknown);
    let wrong_node = sample.conflict(move |tx| rank_insert(tx, &rank(&attempt_record, 0, &node)));
    assert_eq!(wrong_node, ConflictKind::ForeignKey);
    let ghost = attempt(&basics.job.id, 9);
    let node = basics.nodes[0].id.clone();
    let wrong_attempt = sample.conflict(move |tx| lease_insert(tx, &lease(&ghost, &node, 0)));
    assert_eq!(wrong_attempt, ConflictKind::ForeignKey);
}
