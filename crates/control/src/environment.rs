//! Environment revisions of a super node.

use std::time::Duration;

use supernode_store::Tx;
use supernode_store::environment::{
    EnvironmentRecord, environment_get, environment_insert, environment_list,
};
use supernode_types::environment::{EnvironmentDocument, MAXIMUM_DOCUMENT_BYTES};
use supernode_types::operation::{Operation, OperationKind};
use supernode_types::super_node::SuperNode;

use crate::round::Round;
use crate::super_node::{find, find_for_change};
use crate::{Intent, Refusal, operation};

/// One revision; the one in force when `revision` is absent.
pub fn show(
    tx: &mut Tx<'_>,
    id_or_name: &str,
    revision: Option<i64>,
) -> Result<(SuperNode, EnvironmentRecord), Refusal> {
    let super_node = find(tx, id_or_name)?;
    let wanted = revision.unwrap_or(super_node.environment_revision);
    let record = environment_get(tx, &super_node.id, wanted)?.ok_or_else(|| {
        Refusal::not_found(
            "environment revision",
            "environment",
            &format!("{wanted} of {}", super_node.name),
        )
    })?;
    Ok((super_node, record))
}

/// All revisions, newest first.
pub fn history(tx: &mut Tx<'_>, id_or_name: &str) -> Result<Vec<EnvironmentRecord>, Refusal> {
    let super_node = find(tx, id_or_name)?;
    Ok(environment_list(tx, &super_node.id)?)
}

/// Writes a new revision and starts to roll it out.
pub fn set(
    tx: &mut Tx<'_>,
    intent: &Intent,
    id_or_name: &str,
    document: &EnvironmentDocument,
    deadline: Duration,
) -> Result<Operation, Refusal> {
    document.validate().map_err(Refusal::Invalid)?;
    let size = serde_json::to_string(document).map_or(usize::MAX, |text| text.len());
    if size > MAXIMUM_DOCUMENT_BYTES {
        return Err(Refusal::Invalid(format!(
            "the environment has {size} bytes; {MAXIMUM_DOCUMENT_BYTES} is the most"
        )));
    }
    let super_node = find_for_change(tx, intent, id_or_name)?;
    let mut round = Round::of(tx, intent)?;
    let revision = super_node.environment_revision + 1;
    let record = EnvironmentRecord {
        revision,
        document: document.clone(),
        actor: intent.actor.clone(),
        created_at: intent.now,
    };
    environment_insert(round.tx(), &super_node.id, &record)?;
    round.environment_changed(&super_node.id)?;
    let changed = round.super_node(&super_node.id)?;
    changed.environment_revision = revision;
    let kind = OperationKind::EnvironmentChange {
        revision,
        environment_generation: changed.environment_generation,
    };
    let mut operation = operation::begin(intent, kind, Some(super_node.id.clone()), deadline);
    for node in round.snapshot.listed(&super_node.id) {
        let node = Some(node.id.clone());
        operation::add_target(&mut operation, node, None, "member of the super node");
    }
    round.insert_operation(operation.clone())?;
    round.finish()?;
    Ok(operation)
}
