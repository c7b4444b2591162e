//! Queries of `supernode_store::retry_evidence`.

use supernode_store::ConflictKind;
use supernode_store::attempt::{lease_insert, lease_release, rank_insert};
use supernode_store::retry_evidence::{
    retry_evidence_count, retry_evidence_count_links, retry_evidence_list, retry_evidence_put,
};
use supernode_types::Timestamp;
use supernode_types::retry_policy::{RetryEvidence, RetryOutcome, RetrySighting};

use super::sample::{Sample, attempt, lease, rank};
use crate::fixture::{Engine, on_every_engine};

on_every_engine!(
    the_newest_evidence_stays,
    evidence_is_counted_by_node_and_link,
    evidence_belongs_to_an_attempt,
);

fn seen(rank: u32, outcome: RetryOutcome, link: &str, count: u64, at: i64) -> RetryEvidence {
    RetryEvidence {
        rank,
        sighting: RetrySighting {
            outcome,
            link: link.to_owned(),
            count,
            line: format!("line {count}"),
        },
        first_at: Timestamp(at),
        last_at: Timestamp(at),
    }
}

fn the_newest_evidence_stays(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    sample.run(move |tx| {
        let id = &basics.attempt.id;
        for outcome in RetryOutcome::ALL {
            retry_evidence_put(tx, id, &seen(1, outcome, "", 1, 10))?;
        }
        retry_evidence_put(tx, id, &seen(0, RetryOutcome::Started, "a b", 1, 10))?;
        retry_evidence_put(tx, id, &seen(0, RetryOutcome::Started, "a b", 4, 20))?;
        let all = retry_evidence_list(tx, id)?;
        assert_eq!(all.len(), 7);
        let first = RetryEvidence {
            first_at: Timestamp(10),
            ..seen(0, RetryOutcome::Started, "a b", 4, 20)
        };
        assert_eq!(all[0], first);
        assert_eq!(retry_evidence_list(tx, &attempt(&basics.job.id, 9).id)?, []);
        Ok(())
    });
}

fn evidence_is_counted_by_node_and_link(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let [first, second] = basics.nodes.clone().map(|node| node.id);
    sample.run(move |tx| {
        assert_eq!(retry_evidence_count(tx)?, []);
        let id = &basics.attempt.id;
        for (number, node) in [(5, &first), (6, &first), (7, &second)] {
            rank_insert(tx, &rank(&basics.attempt, number, node))?;
        }
        retry_evidence_put(tx, id, &seen(5, RetryOutcome::Started, "a b", 2, 1))?;
        retry_evidence_put(tx, id, &seen(6, RetryOutcome::Started, "a c", 3, 1))?;
        retry_evidence_put(tx, id, &seen(7, RetryOutcome::Refused, "", 1, 1))?;
        let mut expected = vec![
            (first.clone(), RetryOutcome::Started, 5),
            (second.clone(), RetryOutcome::Refused, 1),
        ];
        expected.sort_by(|left, right| left.0.cmp(&right.0));
        assert_eq!(retry_evidence_count(tx)?, expected);
        assert_eq!(retry_evidence_count_links(tx, 9)?, [], "it holds no lease");
        lease_insert(tx, &lease(&basics.attempt, &first, 0))?;
        let links = retry_evidence_count_links(tx, 9)?;
        assert_eq!(
            links,
            [
                (first.clone(), "a b".to_owned(), RetryOutcome::Started, 2),
                (first.clone(), "a c".to_owned(), RetryOutcome::Started, 3)
            ]
        );
        assert_eq!(retry_evidence_count_links(tx, 1)?.len(), 1);
        lease_release(tx, id)
    });
}

fn evidence_belongs_to_an_attempt(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let ghost = attempt(&basics.job.id, 9).id;
    let conflict = sample.conflict(move |tx| {
        retry_evidence_put(tx, &ghost, &seen(0, RetryOutcome::Started, "", 1, 1))
    });
    assert_eq!(conflict, ConflictKind::ForeignKey);
}
