//! Queries of `supernode_store::node`.

use supernode_store::ConflictKind;
use supernode_store::node::{
    inventory_get, inventory_put, node_find, node_find_named, node_get, node_insert, node_list,
    node_list_of, node_list_removed, node_origin, node_update,
};
use supernode_types::inventory::Inventory;
use supernode_types::node::{Membership, Node, NodePolicy};

use super::sample::{NOW, Sample, after, name, node, origin};
use crate::fixture::{Engine, on_every_engine};

on_every_engine!(
    a_node_comes_back_whole,
    a_name_is_free_again_when_its_node_was_removed,
    a_spare_has_no_super_node,
    nodes_are_listed_by_super_node_and_removal,
    a_stale_update_is_a_conflict,
    an_inventory_is_replaced,
);

fn a_node_comes_back_whole(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    sample.run(move |tx| {
        let [first, _] = &basics.nodes;
        assert_eq!(node_get(tx, &first.id)?.as_ref(), Some(first));
        assert_eq!(node_find(tx, "n1")?.as_ref(), Some(first));
        assert_eq!(node_find(tx, first.id.as_str())?.as_ref(), Some(first));
        assert_eq!(node_find_named(tx, &name("n1"))?.as_ref(), Some(first));
        assert_eq!(node_find(tx, "n9")?, None);
        assert_eq!(
            node_find_named(tx, &name(first.id.as_str()))?,
            None,
            "an id is not a name"
        );
        assert_eq!(node_origin(tx, &first.id)?, origin());
        Ok(())
    });
}

fn a_name_is_free_again_when_its_node_was_removed(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    assert_eq!(
        sample.conflict(|tx| node_insert(tx, &node("n1", 50), &origin())),
        ConflictKind::Unique
    );
    let mut gone = basics.nodes[0].clone();
    sample.run(move |tx| {
        gone.policy = NodePolicy::Removed;
        node_update(tx, &mut gone)?;
        assert_eq!(node_find(tx, "n1")?, None);
        assert_eq!(
            node_find(tx, gone.id.as_str())?,
            Some(gone.clone()),
            "kept for the history"
        );
        let next = node("n1", 50);
        node_insert(tx, &next, &origin())?;
        assert_eq!(node_find(tx, "n1")?, Some(next.clone()));
        assert_eq!(node_list_removed(tx)?, [gone.clone()]);
        // A second one of the same name may be removed, too.
        let mut next = next;
        next.policy = NodePolicy::Removed;
        node_update(tx, &mut next)?;
        assert_eq!(node_list_removed(tx)?.len(), 2);
        Ok(())
    });
    let mut back = basics.nodes[1].clone();
    let taken = sample.conflict(move |tx| {
        node_insert(tx, &node("n1", 51), &origin())?;
        back.name = name("n1");
        node_update(tx, &mut back)
    });
    assert_eq!(taken, ConflictKind::Unique);
}

fn member(node: &Node, super_node: &supernode_types::super_node::SuperNode) -> Node {
    Node {
        membership: Membership::Member {
            super_node: super_node.id.clone(),
        },
        ..node.clone()
    }
}

fn a_spare_has_no_super_node(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let mut lost = member(
        &basics.nodes[0],
        &super::sample::super_node("ghost", &basics.spec.id, 70),
    );
    assert_eq!(
        sample.conflict(move |tx| node_update(tx, &mut lost)),
        ConflictKind::ForeignKey
    );
    let mut good = member(&basics.nodes[0], &basics.super_node);
    let id = basics.super_node.id;
    sample.run(move |tx| node_update(tx, &mut good));
    let kept = sample.conflict(move |tx| supernode_store::super_node::super_node_delete(tx, &id));
    assert_eq!(kept, ConflictKind::ForeignKey, "while a node belongs to it");
}

fn nodes_are_listed_by_super_node_and_removal(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    sample.run(move |tx| {
        node_insert(tx, &node("a0", 52), &origin())?;
        let names = |nodes: Vec<Node>| {
            nodes
                .iter()
                .map(|node| node.name.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(node_list(tx)?), ["a0", "n1", "n2"]);
        node_update(tx, &mut member(&basics.nodes[1], &basics.super_node))?;
        let operation = basics.operation.id.clone();
        let super_node = basics.super_node.id.clone();
        let mut joining = basics.nodes[0].clone();
        joining.membership = Membership::Joining {
            super_node,
            operation,
        };
        node_update(tx, &mut joining)?;
        assert_eq!(
            names(node_list_of(tx, &basics.super_node.id)?),
            ["n1", "n2"]
        );
        assert_eq!(names(node_list_removed(tx)?), Vec::<String>::new());
        Ok(())
    });
}

fn a_stale_update_is_a_conflict(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let (mut fresh, mut stale) = (basics.nodes[0].clone(), basics.nodes[0].clone());
    sample.run(move |tx| {
        node_update(tx, &mut fresh)?;
        assert_eq!(fresh.generation, 2);
        Ok(())
    });
    assert_eq!(
        sample.conflict(move |tx| node_update(tx, &mut stale)),
        ConflictKind::Check
    );
}

fn an_inventory_is_replaced(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let id = basics.nodes[0].id.clone();
    sample.run(move |tx| {
        assert_eq!(inventory_get(tx, &id)?, None);
        for kernel in ["6.1", "6.8 \u{1F600}"] {
            let inventory = Inventory {
                kernel: kernel.into(),
                memory_bytes: u64::MAX,
                ..Inventory::default()
            };
            inventory_put(tx, &id, &inventory, NOW)?;
            assert_eq!(inventory_get(tx, &id)?, Some(inventory));
        }
        Ok(())
    });
    let unknown = node("n9", 99).id;
    let refused =
        sample.conflict(move |tx| inventory_put(tx, &unknown, &Inventory::default(), after(1)));
    assert_eq!(refused, ConflictKind::ForeignKey);
}
