//! Calls provisioners for the wishes that are due, and writes down what they said.

use std::time::Duration;

use supernode_store::provision::{provision_get, provision_join_token, provision_list_open, provision_update};
use supernode_store::spec::spec_find;
use supernode_store::super_node::super_node_get;
use supernode_store::token::join_token_replace_secret;
use supernode_store::{StoreError, Tx};
use supernode_types::operation::{Provision, ProvisionState};
use supernode_types::{Entropy, Timestamp};

use super::{JoinParameters, ProvisionAction, ProvisionAnswer, ProvisionRequest, Provisioner, exec, local};
use crate::Control;

/// How often a provisioner that fails is called before a wish is given up.
const MAXIMUM_CALLS: u32 = 6;
/// How long a new node has to enrol after a call.
const JOIN_TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Makes a secret and its hash; the way secrets look belongs to the HTTP edge.
pub type SecretHash = fn(&dyn Entropy) -> (String, String);

/// Calls the provisioner for every wish that is due. `join` says how new nodes find this server.
pub async fn run_due(control: &Control, join: &JoinParameters, make_secret: SecretHash) -> Result<(), StoreError> {
    if control.settings().provisioner == Provisioner::Pool {
        return Ok(());
    }
    let now = control.clock().now();
    let open = control.store().read("provision_list_open", |tx| provision_list_open(tx)).await?;
    for provision in open {
        let due = matches!(provision.state, ProvisionState::Creating { .. } | ProvisionState::Deleting { .. }) && provision.next_call_at <= now;
        if due {
            run_one(control, join, make_secret, provision).await?;
        }
    }
    Ok(())
}

async fn run_one(control: &Control, join: &JoinParameters, make_secret: SecretHash, provision: Provision) -> Result<(), StoreError> {
    let action = match provision.state {
        ProvisionState::Creating { .. } => ProvisionAction::Create,
        _ => ProvisionAction::Delete,
    };
    let (secret, hash) = make_secret(&**control.entropy());
    let now = control.clock().now();
    let wish = provision.clone();
    let prepared = control.store().write("provision_prepare", move |tx| prepare(tx, &wish, action, &hash, now)).await?;
    let Some((super_node, spec)) = prepared else { return Ok(()) };
    let request = ProvisionRequest {
        version: 1,
        action,
        request_id: provision.id.to_string(),
        node_name: provision.node_name.clone(),
        super_node,
        spec,
        join: (action == ProvisionAction::Create).then(|| JoinParameters { token: secret, ..join.clone() }),
    };
    let answer = call(&control.settings().provisioner, &request).await;
    let now = control.clock().now();
    control.store().write("provision_answer", move |tx| record(tx, &provision, action, &answer, now)).await?;
    control.hub().wake_loop();
    Ok(())
}

/// Gives the node's join token a new secret. Nothing when the wish is no longer what it was.
fn prepare(tx: &mut Tx<'_>, wish: &Provision, action: ProvisionAction, secret_hash: &str, now: Timestamp) -> Result<Option<(String, serde_json::Value)>, StoreError> {
    let Some(present) = provision_get(tx, &wish.id)? else { return Ok(None) };
    if std::mem::discriminant(&present.state) != std::mem::discriminant(&wish.state) {
        return Ok(None);
    }
    if action == ProvisionAction::Create {
        let token = provision_join_token(tx, &wish.id)?;
        join_token_replace_secret(tx, &token, secret_hash, now.plus(JOIN_TOKEN_LIFETIME))?;
    }
    let super_node = super_node_get(tx, &wish.super_node)?;
    let spec = match &super_node {
        Some(super_node) => spec_find(tx, super_node.spec.as_str())?,
        None => None,
    };
    let spec = spec.map_or(serde_json::Value::Null, |spec| serde_json::json!({ "name": spec.name, "definition": spec.definition }));
    Ok(Some((super_node.map(|super_node| super_node.name.to_string()).unwrap_or_default(), spec)))
}

async fn call(provisioner: &Provisioner, request: &ProvisionRequest) -> ProvisionAnswer {
    match provisioner {
        Provisioner::Pool => ProvisionAnswer::Refused("this server has no provisioner".into()),
        Provisioner::Local { directory } => match &request.join {
            Some(join) => local::create(directory, &request.node_name, join),
            None => local::delete(directory, &request.node_name),
        },
        Provisioner::Exec { command, time_limit } => exec::call(command, *time_limit, request).await,
    }
}

fn record(tx: &mut Tx<'_>, wish: &Provision, action: ProvisionAction, answer: &ProvisionAnswer, now: Timestamp) -> Result<(), StoreError> {
    let Some(mut provision) = provision_get(tx, &wish.id)? else { return Ok(()) };
    if std::mem::discriminant(&provision.state) != std::mem::discriminant(&wish.state) {
        // Cancelled while the provisioner was being asked: the new wish is called for next, whatever this answer was.
        return Ok(());
    }
    let waiting = |message: String| match action {
        ProvisionAction::Create => ProvisionState::Creating { message },
        ProvisionAction::Delete => ProvisionState::Deleting { message },
    };
    match answer {
        ProvisionAnswer::Done => {
            provision.state = if action == ProvisionAction::Create { ProvisionState::Created } else { ProvisionState::Deleted };
        }
        ProvisionAnswer::Pending(message) => {
            provision.state = waiting(message.clone());
            provision.next_call_at = now.plus(Duration::from_secs(2));
        }
        ProvisionAnswer::Retry(reason) => {
            provision.calls += 1;
            if provision.calls >= MAXIMUM_CALLS && action == ProvisionAction::Create {
                provision.state = ProvisionState::Failed { reason: format!("{reason} ({} calls)", provision.calls) };
            } else {
                provision.state = waiting(format!("call {} failed: {reason}", provision.calls));
                provision.next_call_at = now.plus(back_off(provision.calls));
            }
        }
        ProvisionAnswer::Refused(reason) => provision.state = ProvisionState::Failed { reason: reason.clone() },
    }
    provision_update(tx, &provision)
}

/// 1, 2, 4, … seconds, at most five minutes.
fn back_off(calls: u32) -> Duration {
    Duration::from_secs(1 << calls.saturating_sub(1).min(8)).min(Duration::from_secs(300))
}
