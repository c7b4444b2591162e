//! Queries of `supernode_store::provision`.

use supernode_store::ConflictKind;
use supernode_store::node::node_update;
use supernode_store::operation::operation_update;
use supernode_store::provision::{
    provision_get, provision_insert, provision_list_open, provision_update,
};
use supernode_types::ProvisionId;
use supernode_types::operation::{OperationState, Provision, ProvisionState};

use super::sample::{Basics, NOW, Sample, entropy, operation};
use crate::fixture::{Engine, on_every_engine};

on_every_engine!(a_provision_comes_back_whole, what_still_matters_is_listed);

fn provision(basics: &Basics, state: ProvisionState) -> Provision {
    Provision {
        id: ProvisionId::new(NOW, &entropy(80)),
        operation: basics.operation.id.clone(),
        super_node: basics.super_node.id.clone(),
        node_name: "node-a".into(),
        node: None,
        state,
        calls: 0,
        next_call_at: NOW,
    }
}

fn a_provision_comes_back_whole(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let mut lost = provision(&basics, ProvisionState::Created);
    lost.operation = operation(66, NOW, None).id;
    assert_eq!(
        sample.conflict(move |tx| provision_insert(tx, &lost)),
        ConflictKind::ForeignKey
    );
    sample.run(move |tx| {
        let mut present = provision(
            &basics,
            ProvisionState::Creating {
                message: "new".into(),
            },
        );
        provision_insert(tx, &present)?;
        assert_eq!(provision_get(tx, &present.id)?, Some(present.clone()));
        present.state = ProvisionState::Failed {
            reason: "no quota".into(),
        };
        present.node = Some(basics.nodes[0].id.clone());
        present.calls = 3;
        provision_update(tx, &present)?;
        assert_eq!(provision_get(tx, &present.id)?, Some(present.clone()));
        let unknown = ProvisionId::new(NOW, &entropy(81));
        assert_eq!(provision_get(tx, &unknown)?, None);
        Ok(())
    });
}

fn what_still_matters_is_listed(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    sample.run(move |tx| {
        let message = || "m".to_owned();
        let mut present = provision(&basics, ProvisionState::Failed { reason: message() });
        provision_insert(tx, &present)?;
        assert_eq!(provision_list_open(tx)?.len(), 1, "its operation runs");
        let mut ended = basics.operation.clone();
        ended.state = OperationState::Succeeded;
        operation_update(tx, &mut ended)?;
        let listed = |tx: &mut supernode_store::Tx<'_>, present: &mut Provision, state| {
            present.state = state;
            provision_update(tx, present)?;
            Ok::<_, supernode_store::StoreError>(provision_list_open(tx)? == [present.clone()])
        };
        assert!(listed(
            tx,
            &mut present,
            ProvisionState::Creating { message: message() }
        )?);
        assert!(listed(
            tx,
            &mut present,
            ProvisionState::Deleting { message: message() }
        )?);
        present.node = Some(basics.nodes[0].id.clone());
        for over in [
            ProvisionState::Created,
            ProvisionState::Deleted,
            ProvisionState::Failed { reason: message() },
        ] {
            assert!(!listed(tx, &mut present, over)?);
        }
        let mut node = basics.nodes[0].clone();
        node.policy = node
            .policy
            .drain(basics.operation.id.clone())
            .expect("in service");
        node_update(tx, &mut node)?;
        assert!(
            listed(tx, &mut present, ProvisionState::Created)?,
            "its node is being removed"
        );
        Ok(())
    });
}
