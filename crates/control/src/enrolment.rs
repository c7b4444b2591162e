//! How a node gets its first certificate, and the next ones.
//!
//! A join token proves the right to enrol, the machine id ties a name to a machine: the same machine may enrol again under its name
//! (its former certificates are revoked), another machine may not take a name that is in use. The certificate itself is signed by the
//! caller; here its serial is recorded first, so that none is in use that the database does not know.

use std::collections::BTreeMap;

use supernode_store::certificate::{certificate_insert, certificate_revoke_all, certificate_valid};
use supernode_store::node::{NodeOrigin, node_find_named, node_get, node_insert, node_origin};
use supernode_store::provision::{provision_get, provision_update};
use supernode_store::token::{JoinTokenRecord, join_token_find, join_token_use};
use supernode_store::{StoreError, Tx};
use supernode_types::disk::NodeDisk;
use supernode_types::event::{NewEvent, Severity, Subjects};
use supernode_types::node::{
    Membership, Node, NodeCondition, NodeHealth, NodePolicy, Position, SpecMatch,
};
use supernode_types::operation::{Provision, ProvisionState};
use supernode_types::stress::NodeStress;
use supernode_types::{CertificateSerial, Name, NodeId, Timestamp};

use crate::intent::{check_labels, check_name, check_position, is_host};
use crate::{Intent, Refusal};

/// What a new node says of itself.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// Hash of the join token's secret.
    pub join_token_hash: String,
    /// The name that it wants.
    pub name: Name,
    /// The address that other nodes reach it at.
    pub address: String,
    /// Labels, added to the join token's.
    pub labels: BTreeMap<String, String>,
    /// Where it sits, if it knows.
    pub position: Position,
    /// Stable id of the machine.
    pub machine_id: String,
}

/// Enrols a node, or the same machine again. Answers what the certificate has to say.
pub fn enrol(
    tx: &mut Tx<'_>,
    intent: &Intent,
    wish: &Enrolment,
) -> Result<(NodeId, CertificateSerial, Timestamp), Refusal> {
    check(wish)?;
    let token = join_token_find(tx, &wish.join_token_hash, intent.now)?.ok_or_else(not_valid)?;
    let provision = wanted_provision(tx, &token, wish)?;
    let node = match node_find_named(tx, &wish.name)? {
        Some(known) => {
            check_same(tx, &known, &token, wish)?;
            enrol_again(tx, intent, &known)?
        }
        None if join_token_use(tx, &token.id)? => enrol_new(tx, intent, &token, provision, wish)?,
        None => return Err(not_valid()),
    };
    let (serial, ends_at) = certificate(tx, intent, &node)?;
    Ok((node, serial, ends_at))
}

fn not_valid() -> Refusal {
    Refusal::Forbidden("the join token is not valid: it is unknown, revoked, over or used up; make a new one with: supernode join-token create".into())
}

/// The same machine may enrol again, with a token that could enrol a new one or with the one that it came with (an agent that did
/// not get the answer asks again).
fn check_same(
    tx: &mut Tx<'_>,
    known: &Node,
    token: &JoinTokenRecord,
    wish: &Enrolment,
) -> Result<(), Refusal> {
    let origin = node_origin(tx, &known.id)?;
    if origin.machine_id != wish.machine_id {
        return Err(Refusal::AlreadyExists(format!(
            "another machine is enrolled as {}; choose another name or remove that node first",
            known.name
        )));
    }
    if token.uses_left == 0 && origin.join_token != token.id {
        return Err(not_valid());
    }
    Ok(())
}

/// The provision that a provisioner's token belongs to; one that brought a node already brings no second one.
fn wanted_provision(
    tx: &mut Tx<'_>,
    token: &JoinTokenRecord,
    wish: &Enrolment,
) -> Result<Option<Provision>, Refusal> {
    let Some(id) = &token.provision else {
        return Ok(None);
    };
    let provision = provision_get(tx, id)?.ok_or_else(not_valid)?;
    if provision.node_name != wish.name.as_str() {
        return Err(Refusal::Invalid(format!(
            "this join token is for the node {}, not for {}",
            provision.node_name, wish.name
        )));
    }
    if let Some(node) = &provision.node
        && node_find_named(tx, &wish.name)?.is_none_or(|known| known.id != *node)
    {
        return Err(not_valid());
    }
    Ok(Some(provision))
}

fn check(wish: &Enrolment) -> Result<(), Refusal> {
    check_labels(&wish.labels)?;
    check_position(&wish.position)?;
    check_name::<NodeId>(&wish.name)?;
    let machine = &wish.machine_id;
    if machine.is_empty() || machine.len() > 128 || machine.contains(char::is_control) {
        return Err(Refusal::Invalid(
            "machine_id must have 1 to 128 printable characters".into(),
        ));
    }
    if !is_host(&wish.address) {
        return Err(Refusal::Invalid(
            "address must be an IP address or a host name".into(),
        ));
    }
    Ok(())
}

/// The address stays as it is until the agent reports it, so that the other members learn of a new one.
fn enrol_again(tx: &mut Tx<'_>, intent: &Intent, node: &Node) -> Result<NodeId, Refusal> {
    certificate_revoke_all(tx, &node.id, intent.now)?;
    let message = format!(
        "{} enrolled again; its former certificates are revoked",
        node.name
    );
    tell(tx, intent, node, "node.enrolled_again", message)?;
    Ok(node.id.clone())
}

fn enrol_new(
    tx: &mut Tx<'_>,
    intent: &Intent,
    token: &JoinTokenRecord,
    provision: Option<Provision>,
    wish: &Enrolment,
) -> Result<NodeId, Refusal> {
    let mut labels = token.labels.clone();
    labels.extend(wish.labels.clone());
    let own = &wish.position;
    let position = Position {
        hyperplane: own
            .hyperplane
            .clone()
            .or_else(|| token.position.hyperplane.clone()),
        rack: own.rack.clone().or_else(|| token.position.rack.clone()),
        leaf: own.leaf.clone().or_else(|| token.position.leaf.clone()),
    };
    let node = Node {
        id: NodeId::new(intent.now, &*intent.entropy),
        name: wish.name.clone(),
        membership: Membership::Spare,
        spec: SpecMatch::Unknown,
        policy: NodePolicy::InService,
        condition: NodeCondition::Unknown,
        health: NodeHealth::Unproven,
        labels,
        position,
        address: wish.address.clone(),
        device_count: 1,
        boot_id: String::new(),
        agent_version: String::new(),
        provision: token.provision.clone(),
        environment_applied: 0,
        environment_problems: Vec::new(),
        disk: NodeDisk::default(),
        stress: NodeStress::default(),
        desired_generation: 1,
        generation: 1,
        enrolled_at: intent.now,
    };
    let origin = NodeOrigin {
        machine_id: wish.machine_id.clone(),
        join_token: token.id.clone(),
    };
    node_insert(tx, &node, &origin)?;
    if let Some(mut provision) = provision {
        provision.node = Some(node.id.clone());
        // Whatever its provisioner said or did not say: it is there.
        provision.state = ProvisionState::Created;
        provision_update(tx, &provision)?;
    }
    let message = format!("{} enrolled", node.name);
    tell(tx, intent, &node, "node.enrolled", message)?;
    Ok(node.id)
}

fn tell(
    tx: &mut Tx<'_>,
    intent: &Intent,
    node: &Node,
    kind: &'static str,
    message: String,
) -> Result<(), StoreError> {
    let subjects = Subjects {
        node: Some(node.id.clone()),
        ..Subjects::default()
    };
    let event = NewEvent {
        kind,
        severity: Severity::Info,
        message,
        subjects,
    };
    crate::notify::tell(tx, &event, intent.now)
}

fn certificate(
    tx: &mut Tx<'_>,
    intent: &Intent,
    node: &NodeId,
) -> Result<(CertificateSerial, Timestamp), Refusal> {
    let serial = CertificateSerial::new(intent.now, &*intent.entropy);
    let ends_at = intent.now.plus(intent.settings.certificate_lifetime);
    certificate_insert(tx, &serial, node, ends_at)?;
    Ok((serial, ends_at))
}

/// The next certificate of a node that still has a valid one.
pub fn renew(
    tx: &mut Tx<'_>,
    intent: &Intent,
    node: &NodeId,
    present: &CertificateSerial,
) -> Result<(CertificateSerial, Timestamp), Refusal> {
    check_certificate(tx, node, present, intent.now)?;
    certificate(tx, intent, node)
}

/// Refuses a node that was removed, and a certificate that is revoked, over or not ours.
pub fn check_certificate(
    tx: &mut Tx<'_>,
    node: &NodeId,
    serial: &CertificateSerial,
    now: Timestamp,
) -> Result<(), Refusal> {
    let in_service = node_get(tx, node)?.is_some_and(|node| node.policy != NodePolicy::Removed);
    if in_service && certificate_valid(tx, serial, node, now)? {
        Ok(())
    } else {
        Err(Refusal::Forbidden(format!(
            "the certificate of {node} is revoked or over; enrol the node again with a new join token"
        )))
    }
}
