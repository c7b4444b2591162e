//! Queries of `supernode_store::certificate`.

use supernode_store::ConflictKind;
use supernode_store::certificate::{
    certificate_ends, certificate_insert, certificate_prune, certificate_revoke_all,
    certificate_valid,
};
use supernode_types::CertificateSerial;

use super::sample::{NOW, Sample, after, entropy};
use crate::fixture::{Engine, on_every_engine};

on_every_engine!(
    valid_until_it_ends_or_is_revoked,
    the_newest_end_is_told,
    unknown_nodes_have_none
);

fn serial(seed: u64) -> CertificateSerial {
    CertificateSerial::new(NOW, &entropy(seed))
}

fn valid_until_it_ends_or_is_revoked(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let [first, second] = basics.nodes.map(|node| node.id);
    sample.run(move |tx| {
        certificate_insert(tx, &serial(1), &first, after(60))?;
        certificate_insert(tx, &serial(2), &first, after(120))?;
        certificate_insert(tx, &serial(3), &second, after(60))?;
        assert!(certificate_valid(tx, &serial(1), &first, after(59))?);
        assert!(
            !certificate_valid(tx, &serial(1), &first, after(60))?,
            "over"
        );
        assert!(
            !certificate_valid(tx, &serial(1), &second, NOW)?,
            "of another node"
        );
        assert!(!certificate_valid(tx, &serial(9), &first, NOW)?, "not ours");
        certificate_revoke_all(tx, &first, NOW)?;
        assert!(!certificate_valid(tx, &serial(1), &first, NOW)?);
        assert!(!certificate_valid(tx, &serial(2), &first, NOW)?);
        assert!(
            certificate_valid(tx, &serial(3), &second, NOW)?,
            "only that node's"
        );
        certificate_prune(tx, after(61))?;
        assert!(
            !certificate_valid(tx, &serial(3), &second, NOW)?,
            "forgotten"
        );
        Ok(())
    });
}

fn the_newest_end_is_told(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let [first, second] = basics.nodes.map(|node| node.id);
    sample.run(move |tx| {
        certificate_insert(tx, &serial(1), &first, after(60))?;
        certificate_insert(tx, &serial(2), &first, after(120))?;
        certificate_insert(tx, &serial(3), &second, after(60))?;
        certificate_revoke_all(tx, &second, NOW)?;
        assert_eq!(certificate_ends(tx)?, [(first.clone(), after(120))].into());
        Ok(())
    });
}

fn unknown_nodes_have_none(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let unknown = super::sample::node("n9", 99).id;
    assert_eq!(
        sample.conflict(move |tx| certificate_insert(tx, &serial(1), &unknown, NOW)),
        ConflictKind::ForeignKey
    );
    let first = basics.nodes[0].id.clone();
    let twice = sample.conflict(move |tx| {
        certificate_insert(tx, &serial(1), &first, NOW)?;
        certificate_insert(tx, &serial(1), &first, NOW)
    });
    assert_eq!(twice, ConflictKind::Unique);
}
